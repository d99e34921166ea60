"""A bench's directory as parts of a report: a part for each split, a run for each method."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from unlearner.report.contents import Measurement, Part, Retention, Run
from unlearner.report.means import mean, mean_run
from unlearner.report.runs import read_measurement, read_object, read_run
from unlearner.report.titles import set_names
from unlearner.report.tuning import tuning_lines, tuning_sentences
from unlearner.results.layout import BenchDirectory, CellDirectory


def read_bench(bench: BenchDirectory, about: Mapping[str, Any]) -> tuple[list[Part], list[tuple[str, str]]]:
    """A part for every split, in it a run for every method, the mean over its seeds; and which cells are not there."""
    continual = about["scenario"] == "continual"
    read_cell: Callable[..., Run | str] = _continual_cell if continual else _cell
    source = f"{about.get('published_model')}, {about.get('published_source')}"
    other = plain_name(about.get("published_model")) not in plain_name(about.get("model"))
    tuning = read_object(bench.tuning) or {}
    parts, missing = [], []
    for split in about["splits"]:
        runs = []
        for method in about["methods"]:
            cells: list[Run] = []
            for seed in about["seeds"]:
                cell = bench.cell(method, split, seed)
                if failed := read_object(cell.failed):
                    found: Run | str = f"failed: {failed.get('error')}"
                else:
                    found = read_cell(cell, method, rows=not cells) if cell.path.is_dir() else "has not begun."
                if isinstance(found, str):
                    missing.append((f"{method}, {split}, seed {seed}", found))
                else:
                    cells.append(found)
                    missing += [(f"{method}, {split}, seed {seed}", sentence) for sentence in found.missing]
            if cells:
                runs.append(mean_run(cells, method) if len(about["seeds"]) > 1 else replace(cells[0], label=method))
        published = {m: splits[split] for m, splits in about.get("published", {}).items() if split in splits}
        step = "task" if continual else "epoch"
        if runs:
            parts.append(
                Part(
                    split,
                    runs,
                    list(about["seeds"]),
                    step,
                    published,
                    source if published else "",
                    other,
                    tuning_lines(tuning, split),
                    tuning_sentences(tuning, [split]),
                )
            )
    return parts, missing


def _cell(cell: CellDirectory, method: str, *, rows: bool) -> Run | str:
    """A finished cell, or what it lacks."""
    run = read_run(cell, method, rows=rows, weights=False)
    if run.before is None or run.after is None or not cell.is_finished:
        return "has not finished: repeat the bench's command to continue it."
    return run


def _continual_cell(cell: CellDirectory, method: str, *, rows: bool) -> Run | str:
    """The tasks of a finished cell as one run: before the first task, after every task, after the last.

    After a task, forget efficacy and the metrics of the forget set are means over the sets of all tasks so far, as they
    are answered then; before, they are of the first task's set.
    """
    held = read_object(cell.retention)
    if held is None:
        return f"has not finished ({cell.finished_tasks} tasks are done): repeat the bench's command to continue it."
    tasks = held["tasks"]
    retention = Retention(tasks, held["before"]["forget_efficacy"], held["forget_efficacy"])
    first = read_run(cell.task(1), method, rows=rows, weights=False)
    names = set_names(first.config)
    steps = {}
    for number in range(1, len(tasks) + 1):
        with_rows, run = rows and number == len(tasks), cell.task(number)
        looked = [*(run.earlier(task) for task in tasks[: number - 1]), run]
        found = [m for each in looked if (m := read_measurement(each, "", [], True, with_rows, names)) is not None]
        if first.before is None or len(found) < number:
            return "lacks the evaluations of some of its tasks."
        steps[number] = _joined(found, retention.efficacy[number - 1], tasks[:number])
    assert first.before is not None
    before = _joined([first.before], retention.before[:1], tasks[:1])
    return replace(first, before=before, steps=steps, after=steps[len(tasks)], missing=[], retention=retention)


def _joined(found: Sequence[Measurement], efficacy: list[float], tasks: list[str]) -> Measurement:
    """The forget sets of all tasks together, with all else from the last evaluation."""
    last = found[-1].summary
    sets = {**last["sets"], "forget": mean(found).summary["sets"]["forget"]}
    counts = {**last["counts"], "forget": sum(m.count("forget") for m in found)}
    asked = [
        {**row, "set": f"forget, task {task}"}
        for task, m in zip(tasks, found, strict=True)
        for row in m.rows
        if row["set"] == "forget"
    ]
    kept = [row for row in found[-1].rows if row["set"] != "forget"]
    summary = {**last, "sets": sets, "counts": counts, "forget_efficacy": fmean(efficacy), "intervals": {}}
    return Measurement(summary, asked + kept)


def plain_name(model: Any) -> str:
    return str(model).lower().replace("-", "")
