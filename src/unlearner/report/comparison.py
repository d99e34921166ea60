"""What is compared: the distinct evaluations of some runs, and their questions side by side."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from unlearner.report.answers import faults_of
from unlearner.report.contents import Measurement, Part, Run, clean, set_order


@dataclass(frozen=True)
class Column:
    """One distinct evaluation: runs that started from the same model share their `before`."""

    label: str
    kind: str
    """`before`, `after`, or `model` (an evaluation alone)."""
    run: Run
    """The (first) run it belongs to."""
    measured: Measurement
    before: int | None = None
    """Index of the column to compare with."""


@dataclass(frozen=True)
class Question:
    """One row of an evaluation set, with an answer and values for every column; None where a column lacks the row."""

    part: str
    set: str
    question: str
    answer: str
    original_answer: str | None
    generations: list[str | None]
    values: list[tuple[int | None, ...] | None]
    """The metrics in thousandths, in the order asked for."""
    faults: list[list[str]]
    """Of the answers to the forget set (`answers.py`)."""


def columns(runs: Sequence[Run]) -> list[Column]:
    """Every distinct evaluation of `runs`, in order: before, and after by each run."""
    found: list[Column] = []
    many = len(runs) > 1
    for run in runs:
        before = None
        if run.before is not None:
            same = (i for i, c in enumerate(found) if c.kind == "before" and _same(c.measured, run.before))
            before = next(same, None)
            if before is None:
                before = len(found)
                found.append(Column(f"before {run.label}" if many else "before", "before", run, run.before))
        if run.after is not None:
            kind = "model" if run.command == "evaluate" else "after"
            label = run.label if many or kind == "model" else f"after {run.label}"
            found.append(Column(label, kind, run, run.after, before))
    if sum(column.kind == "before" for column in found) == 1:
        return [replace(column, label="before") if column.kind == "before" else column for column in found]
    return found


def list_questions(parts: Sequence[Part], metrics: Sequence[str]) -> tuple[list[Column], list[Question]]:
    """All rows of all records, one for each distinct question of a part, with the values of `metrics`; sets in order,
    rows as in the records.

    Columns of the same name in several parts, such as a method on several splits, are one column.
    """
    by_label: dict[str, Column] = {}
    of_part = [columns(part.runs) for part in parts]
    for found in of_part:
        for column in found:
            before = None if column.before is None else list(by_label).index(found[column.before].label)
            by_label.setdefault(column.label, replace(column, before=before))
    places = {label: place for place, label in enumerate(by_label)}
    width = len(places)
    rows: dict[tuple[int, str], dict[str, Question]] = defaultdict(dict)
    for number, (part, found) in enumerate(zip(parts, of_part, strict=True)):
        for column in found:
            faults = faults_of(column.measured)
            for row in column.measured.rows:
                name, place = row["id"], (number, row["set"])
                if name not in rows[place]:
                    original = row.get("original_answer")
                    rows[place][name] = Question(
                        part.title, row["set"], clean(row.get("question") or ""), clean(row.get("answer") or ""),
                        None if original is None else clean(original), [None] * width, [None] * width, [[]] * width,
                    )  # fmt: skip
                question = rows[place][name]
                question.generations[places[column.label]] = clean(row["generation"] or "")
                question.values[places[column.label]] = thousandths(row, metrics)
                if faults is not None:
                    question.faults[places[column.label]] = faults.by_row.get(name, [])
    order = sorted(rows, key=lambda place: (place[0], set_order(place[1])))
    return list(by_label.values()), [question for place in order for question in rows[place].values()]


def thousandths(row: Mapping[str, Any], metrics: Sequence[str]) -> tuple[int | None, ...]:
    values = (row.get(metric) for metric in metrics)
    return tuple(None if value is None else round(1000 * value) for value in values)


def _same(one: Measurement, other: Measurement) -> bool:
    """Whether two evaluations are of the same model, as far as can be seen at three decimals."""
    if not one.rows or len(one.rows) != len(other.rows):
        return one.summary == other.summary
    return all(
        (a["set"], a.get("question"), a.get("answer"), a["generation"])
        == (b["set"], b.get("question"), b.get("answer"), b["generation"])
        and thousandths(a, one.metrics) == thousandths(b, one.metrics)
        for a, b in zip(one.rows, other.rows, strict=True)
    )
