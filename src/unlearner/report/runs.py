"""One run's directory as a report shows it, with what it lacks."""

import json
from pathlib import Path
from typing import Any

from unlearner.evaluation.ability import FILE as ABILITY
from unlearner.files import read_jsonl
from unlearner.report.contents import Measurement, Run


def read_run(folder: Path, name: str, *, rows: bool = True) -> Run:
    """A run directory; `rows`: with its records."""
    about = read_object(folder / "run.json")
    missing: list[str] = []
    if about is None or not isinstance(about.get("config"), dict):
        missing.append("run.json is missing or cannot be read: options, versions and hashes are not known.")
        about = {}
    command = about.get("command") or ("forget" if (folder / "before").is_dir() else "evaluate")
    measured = about.get("config", {}).get("evaluate") != "none"
    forgets = command == "forget"
    before = read_measurement(folder / "before", "before unlearning", missing, measured, rows) if forgets else None
    after = read_measurement(folder, "after unlearning" if forgets else "of the model", missing, measured, rows)
    epochs = {}
    for file in (folder / "epochs").glob("*/summary.json"):
        summary = _summary(file)
        if file.parent.name.isdecimal() and summary is not None:
            epochs[int(file.parent.name)] = Measurement(summary)
    log = [row for row in read_jsonl(folder / "log.jsonl") if isinstance(row, dict)]
    if forgets:
        if not log:
            missing.append("log.jsonl is missing: there are no training curves.")
        if not (folder / "finished.json").is_file():
            missing.append("The run has not finished: repeat its command to go on with it.")
        if not measured:
            missing.append("The run was not to measure the model (--evaluate none): there is nothing to compare.")
    return Run(name, command, about, before, dict(sorted(epochs.items())), after, log, missing)


def read_measurement(folder: Path, when: str, missing: list[str], expected: bool, rows: bool) -> Measurement | None:
    summary = _summary(folder / "summary.json")
    if summary is None:
        if expected:
            missing.append(f"The evaluation {when} is missing: it was not done, or was cut short.")
        return None
    if ability := read_object(folder / ABILITY):
        tasks = ability.get("tasks", {}).items()
        summary["ability"] = {f"{t}, {m.removesuffix(',none')}": v for t, found in tasks for m, v in found.items()}
    if not rows:
        return Measurement(summary)
    found = [row for row in read_jsonl(folder / "records.jsonl") if isinstance(row, dict) and "generation" in row]
    if not found:
        missing.append(f"The records of the evaluation {when} are missing: its answers cannot be shown.")
    return Measurement(summary, found)


def _summary(file: Path) -> dict[str, Any] | None:
    summary = read_object(file)
    return summary if summary and isinstance(summary.get("sets"), dict) else None


def read_object(file: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
