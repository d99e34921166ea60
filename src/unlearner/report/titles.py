"""How sets and metrics are called on a page and in a terminal."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from unlearner.evaluation.metrics import METRICS
from unlearner.report.contents import Measurement

SET_TITLES = {
    "forget": "Forget set", "retain": "Retain set", "real_authors": "Real authors",
    "neighbours": "Neighbours (invented)", "world_facts": "World facts",
}  # fmt: skip


def set_title(name: str) -> str:
    """How a set is called on the page: `forget, task 2` is "Forget set, task 2"."""
    known, comma, task = name.partition(",")
    return SET_TITLES.get(known, known.replace("_", " ").capitalize()) + comma + task


def set_names(config: Mapping[str, Any]) -> dict[str, str]:
    """Sets that are to be called otherwise than in the records: the built-in neighbours are no real authors."""
    invented = str(config.get("real_authors") or "").startswith("builtin:neighbours")
    return {"real_authors": "neighbours"} if invented else {}


def renamed(summary: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """A summary with its sets called by `names`."""

    def by_name(values: Mapping[str, Any]) -> dict[str, Any]:
        return {names.get(name, name): value for name, value in values.items()}

    if not names:
        return dict(summary)
    made = {**summary, "sets": by_name(summary["sets"]), "counts": by_name(summary.get("counts", {}))}
    if "sets" in (intervals := summary.get("intervals", {})):
        made["intervals"] = {**intervals, "sets": by_name(intervals["sets"])}
    made["notes"] = [_in_note(note, names) for note in summary.get("notes", [])]
    return made


def _in_note(note: str, names: Mapping[str, str]) -> str:
    for old, new in names.items():
        note = note.replace(repr(old), repr(new))
    return note


@dataclass(frozen=True)
class Described:
    """What a page says of a metric."""

    title: str
    short: str
    formula: str
    source: str


def described(known: Iterable[Measurement]) -> dict[str, Described]:
    """The metrics that have a value in one of the evaluations: ours in their order, then those of other packages."""
    evaluations = list(known)
    found = dict.fromkeys(
        name
        for m in evaluations
        for name in m.metrics
        if any(values.get(name) is not None for values in m.summary["sets"].values())
    )
    theirs = {name: about for m in evaluations for name, about in m.summary.get("metrics", {}).items()}
    made = {}
    for name in [*(name for name in METRICS if name in found), *(name for name in found if name not in METRICS)]:
        if name in METRICS:
            metric = METRICS[name]
            made[name] = Described(metric.title, metric.short, metric.formula, metric.source)
        else:
            about = theirs.get(name, {})
            title = str(about.get("title") or name.replace("_", " "))
            made[name] = Described(
                title, str(about.get("short") or title), str(about.get("formula", "")), str(about.get("source", ""))
            )
    return made
