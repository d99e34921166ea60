"""Bench directories out of real runs: cells in the layout of `unlearner bench`, made by `forget` and `evaluate`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from unlearner.config import EvaluateConfig, ForgetConfig
from unlearner.evaluation.evaluate import evaluate
from unlearner.files import read_json, write_json
from unlearner.training.forget import forget


def make_bench(
    output: Path,
    scenario: str,
    base: ForgetConfig,
    splits: Mapping[str, str],
    *,
    methods: Sequence[str],
    seeds: Sequence[int],
    tasks: Sequence[str] = (),
    published: Mapping[str, Any] | None = None,
) -> Path:
    """Every method on every split (name and forget source) with every seed; with `tasks`, one run a task in turn."""
    about = {"scenario": scenario, "data": "builtin:", "model": base.model, "methods": list(methods)}
    source = {"published_source": "arXiv 2504.15827, Table 4", "published_model": "Llama-2-7B"} if published else {}
    output.mkdir(parents=True, exist_ok=True)
    write_json(
        output / "bench.json",
        {**about, "splits": list(splits), "seeds": list(seeds), "published": published or {}, **source},
    )
    for method in methods:
        for split, forgotten in splits.items():
            for seed in seeds:
                cell = output / "cells" / method / split / f"seed-{seed}"
                config = replace(base, method=method, forget=forgotten, seed=seed, output=str(cell))
                if tasks:
                    _continual(config, cell, list(tasks))
                else:
                    forget(config)
    return output


def fail(output: Path, method: str, split: str, seed: int, error: str) -> None:
    """A cell that failed."""
    cell = output / "cells" / method / split / f"seed-{seed}"
    cell.mkdir(parents=True, exist_ok=True)
    write_json(cell / "failed.json", {"error": error})


def _continual(config: ForgetConfig, cell: Path, tasks: list[str]) -> None:
    """One task after another, each from the last one's model, and after each a look at all tasks so far."""
    model, rows, utility, known = config.model, [], [], []
    for number, task in enumerate(tasks):
        place = cell / f"task-{number + 1:02d}"
        result = forget(replace(config, model=model, task=task, output=str(place)))
        assert result.before is not None and result.after is not None
        model = str(result.model)
        known.append(result.before["forget_efficacy"])
        earlier = [_efficacy(config, model, t, place / "earlier" / t) for t in tasks[:number]]
        rows.append([*earlier, result.after["forget_efficacy"]])
        utility.append(result.after["model_utility"])
    start = read_json(cell / "task-01" / "before" / "summary.json")
    before = {"forget_efficacy": known, "model_utility": start["model_utility"]}
    write_json(
        cell / "retention.json",
        {"tasks": tasks, "forget_efficacy": rows, "model_utility": utility, "before": before},
    )


def _efficacy(config: ForgetConfig, model: str, task: str, place: Path) -> float:
    summary = evaluate(
        EvaluateConfig(
            model=model, forget=config.forget, task=task, output=str(place), judge=config.judge,
            max_new_tokens=config.max_new_tokens,
        )
    )  # fmt: skip
    return float(summary["forget_efficacy"])
