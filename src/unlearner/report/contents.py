"""What a report is about, as plain values: runs, the parts that are compared, and their evaluations."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from unlearner.errors import UserError
from unlearner.results.records import Row
from unlearner.results.texts import keyed_hashes, redacted, redacted_audit

SETS = ("forget", "retain", "real_authors", "neighbours", "world_facts")
"""The order in which sets are shown; others follow."""
BESIDE = ("ability", "benchmark")
"""Figures of an evaluation that belong to none of its sets: lm-eval's tasks, and benchmarks' own."""
TOTALS = ("forget_efficacy", "model_utility", "model_utility_retain", "forget_quality")


@dataclass(frozen=True)
class Measurement:
    """An evaluation of one model, or the mean of the evaluations over the seeds of a bench."""

    summary: dict[str, Any]
    """As in `evaluation/summary.py`, and those of `BESIDE`, by name. Of a mean, the intervals are one standard
    deviation down and up."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Its records, of a mean those of the first seed; empty if they are not there."""

    def figure(self, key: str) -> float | None:
        """`model_utility`, `forget_efficacy`, a metric on a set: `forget.rouge`, or a task of lm-eval: `ability.NAME`;
        None where undefined."""
        return value_at(self.summary, key)

    def interval(self, key: str) -> tuple[float, float] | None:
        found = value_at(self.summary.get("intervals", {}), key)
        return None if found is None else (float(found[0]), float(found[1]))

    @property
    def sets(self) -> list[str]:
        return ordered(self.summary["sets"])

    @property
    def metrics(self) -> list[str]:
        """The names of all metrics that a set has a key for."""
        return list(dict.fromkeys(metric for values in self.summary["sets"].values() for metric in values))

    def count(self, name: str) -> int:
        """Number of questions of a set."""
        return int(self.summary.get("counts", {}).get(name, 0))

    def subjects(self, name: str) -> int | None:
        """Whom or what the rows of a set are about, counted; None where a row does not say, or there are no rows."""
        found = [row.get("subject") for row in self.rows if row["set"].partition(",")[0] == name]
        return len(set(found)) if found and all(found) else None

    def right(self, name: str) -> int | None:
        """How many answers of a set the judge found to agree with the reference."""
        share = self.figure(f"{name}.entailment")
        return None if share is None else round(share * self.count(name))


@dataclass(frozen=True)
class Searched:
    """What `forget --subject` found beside a run."""

    sentence: str
    """Whether the aim was reached, and which it was."""
    sets: list[list[str]]
    """A line for each set of held-out questions (`report/searched.py`)."""
    trials: list[list[str]]
    """A line for each trial of --search."""
    count: int


@dataclass(frozen=True)
class Run:
    """A run directory, or the cells of a bench that differ in nothing but the seed; `before` only where one forgets."""

    name: str
    """Its place under the directory that was asked for."""
    command: str
    about: dict[str, Any]
    """run.json, of several cells the first one's; empty if it is not there."""
    before: Measurement | None
    steps: dict[int, Measurement]
    """After every epoch, or in continual unlearning after every task."""
    after: Measurement | None
    log: list[dict[str, Any]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    """Sentences on what the directory lacks."""
    label: str = ""
    """What the report calls it: the method or model, and what tells it from the other runs."""
    retention: "Retention | None" = None
    searched: Searched | None = None
    audit: dict[str, Any] | None = None
    """audit.json of the model made, where it was audited in the run's directory."""
    audit_page: Path | None = None
    """Where the page of that audit lies."""

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

    @property
    def kept_as_trained(self) -> bool:
        """Whether what was kept was asked about in nothing but rows that were trained on, to keep them."""
        if self.after is None or {*self.after.sets} - {"forget"} != {"retain"}:
            return False
        asked = self.config.get("retain_eval")
        return asked in (None, self.config.get("retain")) and _trains_on_retain(str(self.config.get("method", "")))


def _trains_on_retain(method: str) -> bool:
    """Whether a method reads the retain set, as LLMU does whose name does not say so."""
    from unlearner.methods import Method

    with suppress(UserError):
        return Method.parse(method).needs_retain
    return "+" in method  # of a package that is not installed here


@dataclass(frozen=True)
class Retention:
    """Forget efficacy on the set of every task unlearned so far, after every task of continual unlearning."""

    tasks: list[str]
    before: list[float]
    """On every task's set, just before it is unlearned."""
    efficacy: list[list[float]]
    """Row k is after task k + 1, entry j on task j + 1's set, j ≤ k."""


@dataclass(frozen=True)
class Part:
    """What is compared with each other: all runs that were asked for, or one split of a bench."""

    title: str
    runs: list[Run]
    seeds: list[int] = field(default_factory=list)
    """Seeds that the figures are means over; empty where every run stands for itself."""
    step: str = "epoch"
    published: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Model utility and forget efficacy by method, as printed in a paper."""
    source: str = ""
    """Of the published figures: their model, and where they are printed."""
    other_model: bool = True
    """Whether that model is another than the one here, as far as their names tell."""
    tuning: list[list[str]] = field(default_factory=list)
    """A line for each method (`report/tuning.py`), where the bench was tuned."""
    tuning_notes: list[str] = field(default_factory=list)

    @property
    def means(self) -> bool:
        """Whether the figures are means over seeds, and intervals standard deviations."""
        return len(self.seeds) > 1


@dataclass(frozen=True)
class Report:
    """Everything that a page shows."""

    parts: list[Part]
    benches: list[dict[str, Any]]
    """bench.json of every bench."""
    missing: list[tuple[str, str]]
    """What is not there: the name of a run or cell, and a sentence."""

    @property
    def runs(self) -> list[Run]:
        return [run for part in self.parts for run in part.runs]

    @property
    def evaluations(self) -> list[Measurement]:
        """Of all runs, before and after."""
        return [m for run in self.runs for m in (run.before, run.after) if m is not None]

    @property
    def redacted(self) -> bool:
        """Whether texts were left out of its records."""
        return any(row.get("redacted") for m in self.evaluations for row in m.rows)

    def without_rows(self) -> "Report":
        return _with_rows(self, lambda rows: [])


def without_texts(report: Report) -> Report:
    """The report with values and ids of its records, and without their texts."""
    report = _with_rows(report, lambda rows: [redacted(row) for row in rows])
    for run in report.runs:
        if "hashes" in run.about:
            run.about["hashes"] = keyed_hashes(run.about["hashes"])
        if run.audit is not None:
            run.audit.update(redacted_audit(run.audit))
    return report


def _with_rows(report: Report, change: Callable[[list[Row]], list[Row]]) -> Report:
    def changed(measured: Measurement | None) -> Measurement | None:
        return None if measured is None else replace(measured, rows=change(measured.rows))

    def of_run(run: Run) -> Run:
        steps = {number: replace(m, rows=change(m.rows)) for number, m in run.steps.items()}
        return replace(run, before=changed(run.before), after=changed(run.after), steps=steps)

    return replace(report, parts=[replace(part, runs=[of_run(run) for run in part.runs]) for part in report.parts])


def ordered(names: Iterable[str]) -> list[str]:
    """Names of sets in the order in which they are shown."""
    return sorted(names, key=set_order)


def clean(text: str) -> str:
    """A text as a page can hold it: control characters as their visible signs, broken surrogates replaced."""
    return text.translate(_CONTROLS).encode("utf-8", "replace").decode("utf-8")


_CONTROLS: dict[int, str] = dict.fromkeys(range(127, 160), "\ufffd")
_CONTROLS |= {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\t\n\r"}


def short_model(model: str) -> str:
    """The telling part of a model's path or hub id; of a bench's cell its method, split and seed."""
    if model == "builtin:":
        return "built-in model"
    parts = [part for part in PurePosixPath(model).parts if part not in ("/", ".", "..")]
    while len(parts) > 1 and parts[-1] in ("model", "adapter"):
        parts.pop()
    if len(parts) > 3 and parts[-4] == "cells":
        return ", ".join(parts[-3:])
    return parts[-1] if parts else model


def set_order(name: str) -> tuple[int, int, str]:
    """Known sets first; tasks' forget sets by their number."""
    known, _, task = name.partition(", task ")
    return (SETS.index(known) if known in SETS else len(SETS), int(task) if task.isdecimal() else 0, name)


def value_at(values: Mapping[str, Any], key: str) -> Any:
    name, dot, metric = key.partition(".")
    if name in BESIDE:
        return values.get(name, {}).get(metric)
    return values.get("sets", {}).get(name, {}).get(metric) if dot else values.get(key)
