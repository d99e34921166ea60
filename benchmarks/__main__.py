"""All speed benchmarks, one command: `make bench`, or `python -m benchmarks --only training --runs 5`.

Prints a table and writes benchmarks/results/DATE-MACHINE.json: hardware, versions, date, `ratios` (baseline ÷ ours,
medians over paired runs) and every single run. What the figures mean is told in docs/performance.md.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks import evaluation, growth, loss_memory, training
from benchmarks.timing import machine
from benchmarks.work import MODEL, load_texts

PARTS = ("training", "evaluation", "memory", "linearity", "size")
GOALS = {
    "ME+GD": 8, "NPO+GD": 10, "DPO+GD": 12, "IDK+AP": 9, "evaluation": 6, "second_evaluation": 8,
    "loss_memory": 8, "loss_time": 1 / 1.3,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="the parts to run")
    parser.add_argument("--runs", type=int, default=5, help="paired runs of each")
    parser.add_argument("--tofu", type=Path, help="folder with TOFU's files; built-in rows stand in for them")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder of the results")
    options = parser.parse_args()
    if options.tofu is not None and not options.tofu.is_dir():
        parser.error(f"--tofu {options.tofu} is no folder: name the one that holds forget01.json and retain90.json")
    texts = load_texts(options.tofu)
    result: dict[str, Any] = {"machine": machine(), "texts": texts.name, "model": MODEL, "runs_each": options.runs}
    ratios: dict[str, float] = {}
    runs: dict[str, Any] = {}
    if "training" in options.only:
        found, runs["training"] = training.benchmark(texts, options.runs)
        ratios |= found
    if "evaluation" in options.only:
        found, runs["evaluation"] = evaluation.benchmark(texts, options.runs)
        ratios |= found
    if "memory" in options.only:
        found, runs["memory"] = loss_memory.benchmark(options.runs)
        ratios |= found
    if "linearity" in options.only:
        runs["linearity"] = growth.linearity(texts, options.runs)
    if "size" in options.only:
        runs["size"] = growth.size(texts)
    print("\n| work | baseline ÷ ours | at least |\n|---|---|---|")
    for name, ratio in ratios.items():
        print(f"| {name} | {ratio:.2f} | {GOALS[name]:.3g} |")
    about = result["machine"]
    part = "" if options.only == list(PARTS) else "-" + "-".join(options.only)
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / f"{about['date']}-{about['cores']}-core-{about['machine']}{part}.json"
    path.write_text(json.dumps({**result, "ratios": ratios, "runs": runs}, indent=1) + "\n", encoding="utf-8")
    print(f"\nwritten to {path}")


if __name__ == "__main__":
    main()
