"""The questions of a page: a few in full, and all of them as JSON for the list."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from unlearner.report.comparison import Column, Question
from unlearner.report.titles import Described, set_title

MOST_DATA = 17_000_000
"""Bytes that the list of questions may take; texts are cut to fit, so that a page stays under 20 MB."""
CUTS = (4000, 2000, 1000, 500, 250, 120)
EXAMPLES = {"forget": 3, "retain": 2}
"""How many questions of a set are shown in full; of several runs one less."""
SHOWN = 280
"""Characters of an example's answer; the list has all of it."""


def group_title(part: str, name: str) -> str:
    return f"{part}, {set_title(name).lower()}" if part else set_title(name)


def examples(
    listed: Sequence[Question], found: Sequence[Column], metrics: Mapping[str, Described]
) -> list[dict[str, Any]]:
    """A few questions of a set, evenly spaced: chosen by their place, not by how they came out. Then the worst answers
    to the forget set, with `why`: the most broken one, and the one that still tells most.

    Equal answers stand together, under all their names.
    """
    several = sum(column.kind != "before" for column in found) > 1
    chosen = {id(question): (question, "") for question in _spaced(listed, several)}
    for question, why in _worst(listed, found, list(metrics)):
        chosen[id(question)] = (question, why)
    return [_example(question, why, found, several) for question, why in chosen.values()]


def _spaced(listed: Sequence[Question], several: bool) -> Iterator[Question]:
    for name, number in EXAMPLES.items():
        rows = [question for question in listed if question.set.partition(",")[0] == name]
        number = min(number - several, len(rows))
        yield from (rows[place * len(rows) // number] for place in range(number))


def _worst(
    listed: Sequence[Question], found: Sequence[Column], metrics: Sequence[str]
) -> Iterator[tuple[Question, str]]:
    """The forget-set answers, after unlearning, with most faults, and nearest to the reference; and what they are."""
    answers = [
        (question, place)
        for question in listed
        if question.set.partition(",")[0] == "forget"
        for place, column in enumerate(found)
        if column.kind == "after" and question.generations[place] is not None
    ]

    def value(answer: tuple[Question, int], metric: str, otherwise: int) -> int:
        question, place = answer
        values = question.values[place]
        known = values[metrics.index(metric)] if values and metric in metrics else None
        return otherwise if known is None else known

    def name(place: int) -> str:
        return found[place].label.removeprefix("after ")

    if not answers:
        return
    broken = max(answers, key=lambda a: (len(a[0].faults[a[1]]), -value(a, "token_entropy", 1000)))
    question, place = broken
    if question.faults[place]:
        yield question, f"the most broken answer, by {name(place)}: it {' and '.join(question.faults[place])}"
    known = max(answers, key=lambda a: (value(a, "entailment", 0), value(a, "rouge", 0)))
    if known[0] is not question and value(known, "entailment", 0) + value(known, "rouge", 0) > 0:
        yield known[0], f"the answer closest to the reference, by {name(known[1])}"


def _example(question: Question, why: str, found: Sequence[Column], several: bool) -> dict[str, Any]:
    answers: dict[str, list[tuple[str, str | None]]] = {_plain_text(question.answer): [("reference", None)]}
    for column, text in zip(found, question.generations, strict=True):
        if text is not None:
            look = column.run.label if several and column.kind != "before" else None
            answers.setdefault(_plain_text(text), []).append((column.label, look))
    return {
        "set": ": ".join(filter(None, (group_title(question.part, question.set), why))),
        "question": _shortened(question.question),
        "answers": [(names, _shortened(text)) for text, names in answers.items()],
    }


def _plain_text(text: str) -> str:
    return " ".join(text.split())


def _shortened(text: str) -> str:
    text = _plain_text(text)
    return text if len(text) <= SHOWN else text[:SHOWN].rstrip() + " …"


def question_data(
    listed: Sequence[Question], found: Sequence[Column], labels: list[str], metrics: Mapping[str, Described]
) -> tuple[str, list[str]]:
    """The list as JSON that may stand in a script element, and what had to be left out of it."""
    notes = []
    cut: int | None = None
    for cut in (None, *CUTS):
        text = _encoded(listed, found, labels, metrics, cut)
        if len(text.encode()) <= MOST_DATA:
            break
    else:
        kept = listed
        while len(text.encode()) > MOST_DATA:
            kept = kept[::2]
            text = _encoded(kept, found, labels, metrics, cut)
        notes.append(
            f"There is room for {len(kept)} of {len(listed)} questions, evenly spaced; the records have them all."
        )
    if cut is not None:
        notes.insert(0, f"Texts longer than {cut} characters are cut here; records.jsonl has them in full.")
    return text, notes


def _encoded(
    listed: Sequence[Question],
    found: Sequence[Column],
    labels: list[str],
    metrics: Mapping[str, Described],
    cut: int | None,
) -> str:
    """Every text once. Values are thousandths in one flat list a column, null where there is none."""
    texts: dict[str, int] = {}

    def place(text: str | None) -> int | None:
        if text is None:
            return None
        short = text if cut is None or len(text) <= cut else text[:cut].rstrip() + " … [cut]"
        return texts.setdefault(short, len(texts))

    sets = list(dict.fromkeys((question.part, question.set) for question in listed))
    absent = [None] * len(metrics)
    data = {
        "sets": [group_title(*group) for group in sets],
        "metrics": [metric.title for metric in metrics.values()],
        "entailment": list(metrics).index("entailment") if "entailment" in metrics else None,
        "columns": [
            {
                "label": column.label, "kind": column.kind, "before": column.before,
                "swatch": labels.index(column.run.label),
                "texts": [place(question.generations[number]) for question in listed],
                "values": [v for question in listed for v in (question.values[number] or absent)],
            }
            for number, column in enumerate(found)
        ],
        "rows": [
            [sets.index((q.part, q.set)), place(q.question), place(q.answer), place(q.original_answer)] for q in listed
        ],
    }  # fmt: skip
    text = json.dumps({**data, "texts": list(texts)}, ensure_ascii=False, separators=(",", ":"))
    # In JSON these stand in strings alone. Escaped, nothing in the element can end it or look like a comment or tag.
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text
