"""One run's directory as a report shows it, with what it lacks."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unlearner.files import read_jsonl
from unlearner.report.contents import Measurement, Run
from unlearner.report.titles import renamed, set_names
from unlearner.results.layout import EvaluationDirectory, RunDirectory


def read_run(run: RunDirectory, name: str, *, rows: bool = True) -> Run:
    """A run directory; `rows`: with its records."""
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
    log = [row for row in read_jsonl(run.log) if isinstance(row, dict)]
    if forgets:
        if not log:
            missing.append("log.jsonl is missing: there are no training curves.")
        if not run.is_finished:
            missing.append("The run has not finished: repeat its command to continue it.")
        if not measured:
            missing.append("The run was not to measure the model (--evaluate none): there is nothing to compare.")
    return Run(name, command, about, before, epochs, after, log, missing)


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
        if expected:
            missing.append(f"The evaluation {when} is missing: it was not done, or was cut short.")
        return None
    if ability := read_object(evaluation.ability):
        tasks = ability.get("tasks", {}).items()
        summary["ability"] = {f"{t}, {m.removesuffix(',none')}": v for t, found in tasks for m, v in found.items()}
    if not rows:
        return Measurement(summary)
    found = [
        {**row, "set": names.get(row["set"], row["set"])} for row in evaluation.read_records() if "generation" in row
    ]
    if not found:
        missing.append(f"The records of the evaluation {when} are missing: its answers cannot be shown.")
    return Measurement(summary, found)


def _summary(evaluation: EvaluationDirectory, names: Mapping[str, str]) -> dict[str, Any] | None:
    summary = read_object(evaluation.summary)
    return renamed(summary, names) if summary and isinstance(summary.get("sets"), dict) else None


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
