"""What a report shows, read from run directories: options, summaries, records and log, and what is missing of them."""

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from unlearner.errors import UserError
from unlearner.evaluation.metrics import METRICS
from unlearner.files import read_jsonl

SETS = ("forget", "retain", "real_authors", "world_facts")
"""The order in which sets are shown; others follow."""


@dataclass(frozen=True)
class Measurement:
    """One evaluation of one model: its summary (`evaluation/summary.py`) and its records, empty if not there."""

    summary: dict[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)

    def figure(self, key: str) -> float | None:
        """`model_utility`, `forget_efficacy`, or a metric on a set: `forget.rouge`; None where undefined."""
        return _at(self.summary, key)

    def interval(self, key: str) -> tuple[float, float] | None:
        """The 95% interval of a figure."""
        found = _at(self.summary.get("intervals", {}), key)
        return None if found is None else (float(found[0]), float(found[1]))

    @property
    def sets(self) -> list[str]:
        return ordered(self.summary["sets"])

    def count(self, name: str) -> int:
        """Number of questions of a set."""
        return int(self.summary.get("counts", {}).get(name, 0))

    def right(self, name: str) -> int | None:
        """How many answers of a set the judge found to agree with the reference."""
        share = self.figure(f"{name}.entailment")
        return None if share is None else round(share * self.count(name))


@dataclass(frozen=True)
class Run:
    """One run directory: `before` and `epochs` only in a run of `unlearner forget`."""

    name: str
    """Its place under the directory that was asked for."""
    command: str
    about: dict[str, Any]
    """run.json; empty if it is not there."""
    before: Measurement | None
    epochs: dict[int, Measurement]
    after: Measurement | None
    log: list[dict[str, Any]]
    missing: list[str]
    """Sentences on what the directory lacks."""
    label: str = ""
    """What the report calls it: the method or model, and what tells it from the other runs."""

    @property
    def config(self) -> dict[str, Any]:
        return self.about.get("config", {})

    @property
    def subject(self) -> str:
        """The method, or the model that was evaluated: what gives a run its colour."""
        if self.command == "evaluate":
            return short_model(str(self.config.get("model", self.name)))
        return str(self.config.get("method", self.name)).upper() if self.config else self.name

    @property
    def utility_share(self) -> float | None:
        """Model utility after unlearning as a share of that before."""
        if self.before is None or self.after is None:
            return None
        before, after = self.before.figure("model_utility"), self.after.figure("model_utility")
        return after / before if before and after is not None else None


@dataclass(frozen=True)
class Column:
    """One distinct evaluation: runs that started from the same model share their `before`."""

    label: str
    kind: str
    """`before`, `after`, or `model` (an evaluation alone)."""
    run: int
    """Index of the (first) run it belongs to."""
    measured: Measurement
    before: int | None = None
    """Index of the column to compare with."""


@dataclass(frozen=True)
class Question:
    """One row of an evaluation set, with an answer and values for every column; None where a column lacks the row."""

    set: str
    question: str
    answer: str
    original_answer: str | None
    generations: list[str | None]
    values: list[tuple[int | None, ...] | None]
    """The metrics in thousandths, in the order of METRICS."""


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """The runs in `paths`, labelled so that no two labels are the same. Raises UserError where a path holds none."""
    if not paths:
        raise UserError("nothing to report on: give one or more run directories.")
    runs: list[Run] = []
    seen: set[Path] = set()
    for path in map(Path, paths):
        if not path.is_dir():
            raise UserError(f"{path} is no directory: give the --output of an earlier run, or a folder of such.")
        found = list(_run_folders(path))
        if not found:
            raise UserError(f"{path} holds no run of unlearner: give the --output of an earlier run.")
        taught = [folder for folder in found if _command(folder) == "finetune"]
        if len(taught) == len(found):
            raise UserError(
                f"{path} holds fine-tuning only, of which there is no report: give a run of forget or evaluate."
            )
        for folder in found:
            if folder not in taught and folder.resolve() not in seen:
                seen.add(folder.resolve())
                runs.append(
                    _read(folder, folder.relative_to(path).as_posix() if folder != path else path.resolve().name)
                )
    return _labelled(runs)


def columns(runs: Sequence[Run]) -> list[Column]:
    """Every distinct evaluation of `runs`, in order: before, and after by each run."""
    found: list[Column] = []
    many = len(runs) > 1
    for place, run in enumerate(runs):
        before = None
        if run.before is not None:
            same = (i for i, c in enumerate(found) if c.kind == "before" and _same(c.measured, run.before))
            before = next(same, None)
            if before is None:
                before = len(found)
                found.append(Column(f"before {run.label}" if many else "before", "before", place, run.before))
        if run.after is not None:
            kind = "model" if run.command == "evaluate" else "after"
            label = run.label if many or kind == "model" else "after"
            found.append(Column(label, kind, place, run.after, before))
    if sum(column.kind == "before" for column in found) == 1:
        return [replace(column, label="before") if column.kind == "before" else column for column in found]
    return found


def questions(found: Sequence[Column]) -> list[Question]:
    """All rows of all columns' records, one for each distinct question; sets in order, rows as in the records."""
    rows: dict[str, dict[tuple[Any, ...], Question]] = defaultdict(dict)
    for place, column in enumerate(found):
        times: dict[tuple[Any, ...], int] = defaultdict(int)
        for row in column.measured.rows:
            key = (row.get("question"), row.get("answer"), row.get("original_answer"))
            times[key] += 1
            at = (*key, times[key])
            if at not in rows[row["set"]]:
                original = row.get("original_answer")
                rows[row["set"]][at] = Question(
                    row["set"], clean(row.get("question") or ""), clean(row.get("answer") or ""),
                    None if original is None else clean(original), [None] * len(found), [None] * len(found),
                )  # fmt: skip
            question = rows[row["set"]][at]
            question.generations[place] = clean(row["generation"])
            question.values[place] = _thousandths(row)
    return [question for name in ordered(rows) for question in rows[name].values()]


def ordered(names: Iterable[str]) -> list[str]:
    """Names of sets in the order in which they are shown."""
    return sorted(names, key=lambda name: (SETS.index(name) if name in SETS else len(SETS), name))


def clean(text: str) -> str:
    """A text as a page can hold it: control characters as their visible signs, broken surrogates replaced."""
    return text.translate(_CONTROLS).encode("utf-8", "replace").decode("utf-8")


_CONTROLS: dict[int, str] = dict.fromkeys(range(127, 160), "\ufffd")
_CONTROLS |= {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\t\n\r"}


def short_model(model: str) -> str:
    """The telling part of a model's path or hub id."""
    if model == "builtin:":
        return "built-in model"
    parts = [part for part in PurePosixPath(model).parts if part not in ("/", ".", "..")]
    while len(parts) > 1 and parts[-1] in ("model", "adapter"):
        parts.pop()
    return parts[-1] if parts else model


# ---------------------------------------------------------------------------------------------------------- directories


def _run_folders(path: Path) -> Iterator[Path]:
    """The run directories in `path`, in order; what lies inside a run belongs to it."""
    for folder, children, files in os.walk(path):
        if "run.json" in files or "summary.json" in files:
            children.clear()
            yield Path(folder)
        else:
            children[:] = sorted(child for child in children if not child.startswith("."))


def _command(folder: Path) -> str | None:
    about = _read_json(folder / "run.json")
    return about.get("command") if about else None


def _read(folder: Path, name: str) -> Run:
    about = _read_json(folder / "run.json")
    missing = []
    if about is None or not isinstance(about.get("config"), dict):
        missing.append("run.json is missing or cannot be read: options, versions and hashes are not known.")
        about = {}
    command = about.get("command") or ("forget" if (folder / "before").is_dir() else "evaluate")
    measured = about.get("config", {}).get("evaluate") != "none"
    forgets = command == "forget"
    before = _measurement(folder / "before", "before unlearning", missing, measured) if forgets else None
    after = _measurement(folder, "after unlearning" if forgets else "of the model", missing, measured)
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


def _measurement(folder: Path, when: str, missing: list[str], expected: bool) -> Measurement | None:
    summary = _summary(folder / "summary.json")
    if summary is None:
        if expected:
            missing.append(f"The evaluation {when} is missing: it was not done, or was cut short.")
        return None
    rows = [row for row in read_jsonl(folder / "records.jsonl") if isinstance(row, dict) and "generation" in row]
    if not rows:
        missing.append(f"The records of the evaluation {when} are missing: its answers cannot be shown.")
    return Measurement(summary, rows)


def _summary(file: Path) -> dict[str, Any] | None:
    summary = _read_json(file)
    return summary if summary and isinstance(summary.get("sets"), dict) else None


def _read_json(file: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


# -------------------------------------------------------------------------------------------------------------- labels


def _labelled(runs: list[Run]) -> list[Run]:
    """Label every run by its subject; where that is not enough, by the options in which it differs, or by its place."""
    labels = [run.subject for run in runs]
    for subject in {label for label in labels if labels.count(label) > 1}:
        same = [i for i, run in enumerate(runs) if run.subject == subject]
        configs = [runs[i].config for i in same]
        differing = [
            key for key in configs[0] if any(c.get(key) != configs[0][key] for c in configs) and key != "method"
        ]
        told = [", ".join(f"{key} {_short(c.get(key))}" for key in differing) for c in configs]
        enough = 0 < len(differing) <= 3 and len(set(told)) == len(told)
        for i, how in zip(same, told, strict=True):
            labels[i] = f"{subject}, {how}" if enough else f"{subject} ({runs[i].name})"
    counts: dict[str, int] = defaultdict(int)
    unique = []
    for run, label in zip(runs, labels, strict=True):
        counts[label] += 1
        unique.append(replace(run, label=clean(label if counts[label] == 1 else f"{label} ({counts[label]})")))
    return unique


def _short(value: Any) -> str:
    return value.rpartition("/")[2] if isinstance(value, str) else str(value)


# -------------------------------------------------------------------------------------------------------------- values


def _at(values: Mapping[str, Any], key: str) -> Any:
    name, dot, metric = key.partition(".")
    return values.get("sets", {}).get(name, {}).get(metric) if dot else values.get(key)


def _thousandths(row: Mapping[str, Any]) -> tuple[int | None, ...]:
    values = (row.get(metric) for metric in METRICS)
    return tuple(None if value is None else round(1000 * value) for value in values)


def _same(one: Measurement, other: Measurement) -> bool:
    """Whether two evaluations are of the same model, as far as can be seen at three decimals."""
    if not one.rows or len(one.rows) != len(other.rows):
        return one.summary == other.summary
    return all(
        (a["set"], a.get("question"), a.get("answer"), a["generation"])
        == (b["set"], b.get("question"), b.get("answer"), b["generation"])
        and _thousandths(a) == _thousandths(b)
        for a, b in zip(one.rows, other.rows, strict=True)
    )
