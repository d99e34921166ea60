"""All speed benchmarks, one command: `make bench`, or `python -m benchmarks --only training --runs 5`.

Prints a table and writes benchmarks/results/DATE-MACHINE.json: hardware, versions, date, `ratios` (baseline ÷ ours,
medians over paired runs) and every single run. What the figures mean is told in docs/lab/performance.md. Each part is a
process of its own, as training and evaluating are for a user: nothing that one leaves in memory speeds up the next.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import evaluation, field, growth, likelihood, loss_memory, sampling, training
from benchmarks.timing import machine
from benchmarks.work import MODEL, load_texts

PARTS = ("training", "field", "smollm2", "evaluation", "memory", "sampling", "likelihood", "linearity", "size")
GOALS: dict[str, float] = {
    "ME+GD": 8, "NPO+GD": 10, "DPO+GD": 12, "IDK+AP": 9, "evaluation": 6, "second_evaluation": 8,
    "loss_memory": 8, "loss_time": 1 / 1.3, "sampling": 2, "likelihood": 1 / 1.3,
    **{f"SmolLM2 {method}": 2.5 for method in ("NPO+GD", "SIMNPO+GD", "WGA+GD", "ALTPO+GD")}, "SmolLM2 UNDIAL+GD": 2,
    "SmolLM2 RMU+REP": 3, **{f"SmolLM2 {method} as in the paper": 10 for method in field.PAPERS},
    f"SmolLM2 {field.GRU}": 1 / 1.3,
}  # fmt: skip
"""What is aimed at; of the field's methods on the tiny model nothing in particular."""


def run_part(part: str, tofu: Path | None, runs: int) -> tuple[dict[str, float], Any]:
    """Ratios, if the part has any, and all that was measured: in this process."""
    if part == "memory":
        return loss_memory.benchmark(runs)
    if part == "sampling":
        return sampling.benchmark(runs)
    texts = load_texts(tofu)
    if part == "training":
        return training.benchmark(texts, runs)
    if part in ("field", "smollm2"):
        return field.benchmark(texts, runs, real=part == "smollm2")
    if part == "evaluation":
        return evaluation.benchmark(texts, runs)
    if part == "likelihood":
        return likelihood.benchmark(texts, runs)
    return {}, growth.linearity(texts, runs) if part == "linearity" else growth.size(texts)


def in_a_process_of_its_own(part: str, options: argparse.Namespace) -> tuple[dict[str, float], Any]:
    command = [sys.executable, "-m", "benchmarks", "--only", part, "--runs", str(options.runs)]
    command += [] if options.tofu is None else ["--tofu", str(options.tofu)]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "part.json"
        subprocess.run([*command, "--part", str(file)], check=True)
        ratios, details = json.loads(file.read_text(encoding="utf-8"))
    return ratios, details


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="the parts to run")
    parser.add_argument("--runs", type=int, default=5, help="paired runs of each")
    parser.add_argument("--tofu", type=Path, help="folder with TOFU's files; built-in rows stand in for them")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder of the results")
    parser.add_argument("--part", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.tofu is not None and not options.tofu.is_dir():
        parser.error(f"--tofu {options.tofu} is not a folder: name the one that holds forget01.json and retain90.json")
    if options.part is not None:
        made = run_part(options.only[0], options.tofu, options.runs)
        options.part.write_text(json.dumps(made), encoding="utf-8")
        return
    about, texts = machine(), load_texts(options.tofu).name
    ratios: dict[str, float] = {}
    runs: dict[str, Any] = {}
    for part in options.only:
        found, runs[part] = in_a_process_of_its_own(part, options)
        ratios |= found
    print("\n| work | baseline ÷ ours | at least |\n|---|---|---|")
    for name, ratio in ratios.items():
        print(f"| {name} | {ratio:.2f} | {format(GOALS[name], '.3g') if name in GOALS else '–'} |")
    result = {
        "machine": about,
        "texts": texts,
        "model": MODEL,
        "runs_each": options.runs,
        "ratios": ratios,
        "runs": runs,
    }
    only = "" if options.only == list(PARTS) else "-" + "-".join(options.only)
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / f"{about['date']}-{about['cores']}-core-{about['machine']}{only}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"\nwritten to {path}")


if __name__ == "__main__":
    main()
