"""The field's methods, and the continual scenario, on TOFU's text with a model that knows a part of it by heart.

    python -m benchmarks.tiny_tofu path/to/tofu runs/tiny-tofu --jobs 2
    python -m benchmarks.tiny_tofu path/to/tofu runs/smollm2 --model smollm2 --seeds 1001 --jobs 2

A slice of TOFU is written to runs/tiny-tofu/data in TOFU's own layout: forget01's ten tasks (20 authors, 400
questions), the first 18 authors of retain90 (360), real authors and world facts as they are. A new Llama of 4 million
parameters learns all of it; SmolLM2-135M-Instruct learns 400: the first task (2 authors, 40 questions), which is all
that there is of forget01 then, and the retain set. Then

- `fictitious`: every method forgets the first task, at the best of equally many settings of its own grid, tried on a
  seed of its own; SmolLM2, for which that takes too long here, at the better of two learning rates, on one seed;
- `continual`: some pairs, with DUALOPTIM and without, forget three tasks one after another.

Every command is printed before it runs, and repeating it goes on where it was. Writes PART.md, a table each.
"""

import argparse
import csv
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

from unlearner.bench.cells import own_pairs
from unlearner.bench.tuning import score
from unlearner.commands.main import main
from unlearner.evaluation.result import markdown_table
from unlearner.files import read_json, read_jsonl, write_jsonl, write_text
from unlearner.results.layout import BenchDirectory

KEPT = 360
METHODS = (
    "GA+GD", "NPO+GD", "NPO+KL", "ME+GD", "DPO+GD", "IDK+GD", "IDK+AP", "SIMNPO+GD", "TNPO+GD", "WTNPO+GD", "WGA+GD",
    "SATIMP+GD", "UL+GD", "CEU+GD", "UNILOGIT+GD", "UNDIAL+GD", "JENSUN+JS", "PDU+DUAL", "FLAT+GD", "LLMU", "MP-ME",
    "MP-IDK", "NPO+GD+GRU", "NPO+GD+BLUR", "NPO+GD+SAM", "NPO+GD+DUALOPTIM", "ALTPO+GD", "RMU+REP", "ARMU+REP", "RR",
)  # fmt: skip


class Model(NamedTuple):
    """What is taught, and how it is made to forget."""

    teaching: str
    """Of `unlearner finetune`; {data} is the folder of the slice."""
    own: str
    """Options of single methods."""
    rates: tuple[str, ...]
    """In the place of those in the methods' grids."""
    searched: bool
    """Whether settings are drawn from each method's grid; otherwise every rate is run, and the better one is told."""
    forgetting: str
    """Of every run."""
    kept: int
    """Rows of each set that is to be kept, in evaluation."""
    parts: tuple[str, ...] = ("fictitious", "continual")
    forgotten: int | None = None
    """Rows of forget01; None for all."""


MODELS = {
    "tiny": Model(
        "--model new:hidden=256,layers=4,heads=4,vocabulary=2048 --data {data}:forget01 {data}:retain90 "
        "{data}:real_authors_perturbed {data}:world_facts_perturbed --learning-rate 1e-3 --epochs 25",
        "max_new_tokens=64 samples=2 layer=2 layers=1,2",
        ("5e-5", "1e-4", "2e-4", "4e-4"),
        True,
        "--epochs 5 --max-new-tokens 64",
        80,
    ),
    "smollm2": Model(
        "--model builtin:smollm2 --data {data}:forget01[:40] {data}:retain90 --learning-rate 1e-4 --epochs 5",
        "max_new_tokens=64 samples=4",
        ("5e-5", "1.5e-4"),
        False,
        "--epochs 2 --max-new-tokens 48",
        15,
        ("fictitious",),
        40,
    ),
}  # fmt: skip
"""The tiny Llama has 4 layers, SmolLM2 has 30; both write short answers."""
METRICS = (
    "rouge", "probability", "truth_ratio", "token_entropy", "cosine_similarity", "entailment", "extraction_strength",
    "exact_memorization",
)  # fmt: skip
PAIRS = ("ME+GD", "NPO+GD", "SIMNPO+GD", "ALTPO+GD")
FIGURES = {
    "model_utility": "MU",
    "forget_efficacy": "FE",
    "forget.extraction_strength": "ES, forget",
    "retain.extraction_strength": "ES, retain",
    "forget.exact_memorization": "EM, forget",
    "retain.exact_memorization": "EM, retain",
}


def write_slice(tofu: Path, folder: Path, forgotten: int | None = None) -> None:
    """TOFU's files for the split forget01, or its first rows, the retain set cut down to its first 360 questions."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("forget01", "forget01_perturbed"):
        write_jsonl(folder / f"{name}.json", read_jsonl(tofu / f"{name}.json")[:forgotten])
    for name in ("real_authors_perturbed", "world_facts_perturbed"):
        write_jsonl(folder / f"{name}.json", read_jsonl(tofu / f"{name}.json"))
    kept = read_jsonl(tofu / "retain90.json")[:KEPT]
    asked = {row["question"] for row in kept}
    perturbed = [row for row in read_jsonl(tofu / "retain_perturbed.json") if row["question"] in asked]
    write_jsonl(folder / "retain90.json", kept)
    write_jsonl(folder / "retain_perturbed.json", perturbed)


def run(command: str) -> None:
    print(f"\n$ unlearner {command}", flush=True)
    main(shlex.split(command))


def teaching(data: Path, target: Path, *more: str, model: str = "tiny") -> str:
    """The command by which a model learns the slice by heart."""
    what = MODELS[model].teaching.format(data=data)
    return f"finetune {what} --batch-size 16 --gradient-accumulation-steps 1 {' '.join(more)} --output {target}"


def finished(bench: BenchDirectory) -> list[dict[str, str]]:
    """The rows of results.csv whose run came to an end."""
    with bench.results("csv").open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if row["status"] == "finished"]


def mean(rows: Sequence[Mapping[str, str]], name: str) -> str:
    values = [float(row[name]) for row in rows if row.get(name)]
    if not values:
        return "–"
    return f"{fmean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


def fictitious_table(bench: BenchDirectory) -> str:
    """A row a method: the setting chosen, the figures after it, and at how many settings it comes near its best."""
    lines = []
    rows = finished(bench)
    for method, splits in read_json(bench.tuning).items():
        (told,) = splits.values()
        mine = [row for row in rows if row["method"] == method]
        chosen = ", ".join(f"{name} {value}" for name, value in (told["chosen"] or {}).items())
        spread = told["spread"]
        near = f"{spread['near']} of {spread['trials']}, {spread['median']:.2f}" if spread else "–"
        lines.append([method, chosen, *(mean(mine, name) for name in FIGURES), near])
    return _by_efficacy(["method", "chosen", *FIGURES.values(), "settings near the best, median"], lines, rows)


def _by_efficacy(heads: Sequence[str], lines: list[list[str]], rows: Sequence[Mapping[str, str]]) -> str:
    """A table whose fourth column is forget efficacy, the most first, and what was before."""
    lines.sort(key=lambda line: "" if line[3] == "–" else line[3], reverse=True)
    before = " / ".join(mean(rows[:1], f"{name}_before") for name in ("model_utility", "forget_efficacy"))
    return f"{markdown_table(heads, lines)}\n\nBefore: MU / FE {before}."


def criterion(row: Mapping[str, str]) -> tuple[float, float]:
    """The bench's: the larger, the better."""
    before, after, efficacy = (float(row[n]) for n in ("model_utility_before", "model_utility", "forget_efficacy"))
    return score((before, after, efficacy)) or (0.0, 0.0)


def rates_table(found: Mapping[str, BenchDirectory]) -> str:
    """A row a method: its figures at the better rate, by the rule of the bench, and MU / FE at every rate."""
    at = {rate: {row["method"]: row for row in finished(bench)} for rate, bench in found.items()}
    lines = []
    for method in dict.fromkeys(method for of in at.values() for method in of):
        runs = {rate: [of[method]] for rate, of in at.items() if method in of}
        rate = max(runs, key=lambda r: criterion(*runs[r]))
        each = (" / ".join(mean(runs.get(r, []), name) for name in ("model_utility", "forget_efficacy")) for r in found)
        lines.append([method, rate, *(mean(runs[rate], name) for name in FIGURES), *each])
    heads = ["method", "learning rate", *FIGURES.values(), *(f"MU / FE, {rate}" for rate in found)]
    return _by_efficacy(heads, lines, [row for of in at.values() for row in of.values()])


def continual_table(bench: BenchDirectory) -> str:
    """MU, and FE over all tasks so far, after each task."""
    rows = finished(bench)
    tasks = sorted({row["task"] for row in rows})
    lines = [
        [method, title, *(mean([r for r in rows if (r["method"], r["task"]) == (method, t)], name) for t in tasks)]
        for method in sorted({row["method"] for row in rows})
        for name, title in (("model_utility", "MU"), ("forget_efficacy_tasks", "FE"))
    ]
    return markdown_table(["method", "", *(f"task {task}" for task in tasks)], lines)


def everything(options: argparse.Namespace) -> None:
    data, target, model = options.output / "data", options.output / "target", MODELS[options.model]
    write_slice(options.tofu, data, model.forgotten)
    run(teaching(data, target, model=options.model))
    settings = (
        f"--data {data} --model {target}/model --splits forget01 {model.forgetting} --batch-size 4 --judge offline "
        f"--gradient-accumulation-steps 1 --jobs {options.jobs} --seeds {' '.join(options.seeds)}"
    )
    measured = f"--metrics {' '.join(METRICS)} --eval-limit {model.kept}"
    tuned = f"--tune learning_rate={','.join(model.rates)} --tune-budget {options.budget}"
    of_part = {
        "fictitious": f"{tuned} {measured}" if model.searched else measured,
        "continual": "--eval-limit 40 --learning-rate 2e-4 --tasks 3",
    }
    with_without = [name for pair in PAIRS for name in (pair, f"{pair}+DUALOPTIM")]

    def bench(part: str, folder: Path, more: str = "") -> BenchDirectory:
        methods = options.methods or (METHODS if part == "fictitious" else with_without)
        own = dict.fromkeys(pair for method in methods for pair in own_pairs(method, model.own.split()))
        more += f" --method-options {' '.join(own)}" if own else ""
        run(f"bench {part} {settings} {of_part[part]}{more} --methods {' '.join(methods)} --output {folder}")
        return BenchDirectory(folder)

    for part in options.parts or model.parts:
        folder = options.output / part
        if part == "continual":
            table = continual_table(bench(part, folder))
        elif model.searched:
            table = fictitious_table(bench(part, folder))
        else:
            table = rates_table({r: bench(part, folder / r, f" --learning-rate {r}") for r in model.rates})
        print(f"\n{table}\n")
        write_text(options.output / f"{part}.md", table + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, prog="python -m benchmarks.tiny_tofu", formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("tofu", type=Path, help="folder with TOFU's files")
    parser.add_argument("output", type=Path, help="folder of all runs and tables")
    parser.add_argument("--model", choices=MODELS, default="tiny")
    parser.add_argument("--parts", nargs="+", choices=("fictitious", "continual"), help="by default all of the model's")
    parser.add_argument("--methods", nargs="+", help="only these")
    parser.add_argument("--budget", default="6", help="of tuning, where settings are searched: so many, or a time")
    parser.add_argument("--seeds", nargs="+", default=["1001", "1002", "1003"])
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    everything(parser.parse_args())
