"""One run's directory as a report shows it, with what it lacks."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unlearner.report.contents import Measurement, Run
from unlearner.report.searched import read_searched
from unlearner.report.titles import renamed, set_names
from unlearner.results.evidence import changed
from unlearner.results.layout import EvaluationDirectory, RunDirectory
from unlearner.results.records import with_ids


def read_run(run: RunDirectory, name: str, *, rows: bool = True, weights: bool = True) -> Run:
    """A run directory; `rows`: with its records. Of a finished one it is told what was changed since; `weights`: the
    contents of the model made are compared too."""
    about = read_about(run)
    missing: list[str] = []
    if about is None or not isinstance(about.get("config"), dict):
        missing.append("run.json is missing or cannot be read: options, versions and hashes are not known.")
        about = {}
    command = about.get("command") or ("forget" if run.before.path.is_dir() else "evaluate")
    config = about.get("config", {})
    measured, names = config.get("evaluate") != "none", set_names(config)
    forgets = command == "forget"
    before = read_measurement(run.before, "before unlearning", missing, measured, rows, names) if forgets else None
    after = read_measurement(run, "after unlearning" if forgets else "of the model", missing, measured, rows, names)
    summaries = {number: _summary(evaluation, names) for number, evaluation in run.epochs.items()}
    epochs = {number: Measurement(summary) for number, summary in summaries.items() if summary is not None}
    log, broken = _rows(run.log)
    if broken:
        missing.append("log.jsonl is damaged or cannot be read: training curves end where it is.")
    missing += [f"{what}: it was changed after the run had finished." for what in changed(run, weights=weights)]
    if forgets:
        if not log and not broken:
            missing.append("log.jsonl is missing: there are no training curves.")
        if not run.is_finished:
            missing.append("The run has not finished: repeat its command to continue it.")
        if not measured:
            missing.append("The run did not measure the model (--evaluate none): there is nothing to compare.")
    searched = read_searched(run, missing) if forgets else None
    return Run(name, command, about, before, epochs, after, log, missing, searched=searched)


def read_measurement(
    evaluation: EvaluationDirectory,
    when: str,
    missing: list[str],
    expected: bool,
    rows: bool,
    names: Mapping[str, str],
) -> Measurement | None:
    """An evaluation, its sets called by `names`, or None; what is `expected` but not there is named in `missing`."""
    summary = _summary(evaluation, names)
    if summary is None:
        if evaluation.summary.exists():
            missing.append(f"The summary of the evaluation {when} is damaged or cannot be read.")
        elif expected:
            missing.append(f"The evaluation {when} is missing: it was not done, or was cut short.")
        return None
    benchmarks = summary.get("benchmarks", {})
    if benchmarks:
        figures = ((f"{n}, {f}", v) for n, of in benchmarks.items() for f, v in of["figures"].items())
        summary["benchmark"] = {name.replace("_", " "): value for name, value in figures}
    theirs = {name for of in benchmarks.values() for name in of["sets"]}
    if ability := read_object(evaluation.ability):
        tasks = ability.get("tasks", {}).items()
        summary["ability"] = {f"{t}, {m.removesuffix(',none')}": v for t, found in tasks for m, v in found.items()}
    if not rows:
        return Measurement(summary)
    lines, broken = _rows(evaluation.records)
    rows_read = (row for row in with_ids(lines) if _is_row(row) and row["set"] not in theirs)
    found = [{**row, "set": names.get(row["set"], row["set"])} for row in rows_read]
    count = sum(summary.get("counts", {}).values())
    if broken or 0 < len(found) < count:
        missing.append(
            f"The records of the evaluation {when} are damaged or cut: {len(found)} of {count} rows can be read."
        )
    elif not found:
        missing.append(f"The records of the evaluation {when} are missing: its answers cannot be shown.")
    return Measurement(summary, found)


def _rows(file: Path) -> tuple[list[dict[str, Any]], bool]:
    """The rows of a file up to the first that is damaged, and whether one is; a torn last line is none."""
    rows: list[dict[str, Any]] = []
    try:
        for line in file.read_bytes().split(b"\n")[:-1]:
            row = json.loads(line)
            if not isinstance(row, dict):
                return rows, True
            rows.append(row)
    except FileNotFoundError:
        return rows, False
    except (OSError, ValueError):
        return rows, True
    return rows, False


def _is_row(row: dict[str, Any]) -> bool:
    return "generation" in row and isinstance(row.get("set"), str) and isinstance(row.get("answer"), str)


def _summary(evaluation: EvaluationDirectory, names: Mapping[str, str]) -> dict[str, Any] | None:
    held = read_object(evaluation.summary)
    return renamed(held, names) if held is not None and _is_summary(held) else None


def _is_summary(held: dict[str, Any]) -> bool:
    sets, counts, intervals = held.get("sets"), held.get("counts", {}), held.get("intervals", {})
    if not (isinstance(sets, dict) and isinstance(counts, dict) and isinstance(intervals, dict)):
        return False
    tables = [*sets.values(), counts]
    figures = [held.get("model_utility"), held.get("forget_efficacy")]
    return all(isinstance(table, dict) for table in tables) and all(
        value is None or isinstance(value, int | float)
        for value in (*figures, *(value for table in tables for value in table.values()))
    )


def read_about(run: RunDirectory) -> dict[str, Any] | None:
    """run.json, None where it cannot be read. Raises UserError where a newer version wrote it."""
    try:
        return dict(run.read_manifest())
    except (OSError, ValueError):
        return None


def read_object(file: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
