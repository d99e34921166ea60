"""The questions of a page: a few in full, and all of them as JSON for the list."""

import json
from collections.abc import Sequence
from typing import Any

from unlearner.evaluation.metrics import METRICS
from unlearner.report.comparison import Column, Question
from unlearner.report.titles import set_title

MOST_DATA = 17_000_000
"""Bytes that the list of questions may take; texts are cut to fit, so that a page stays under 20 MB."""
CUTS = (4000, 2000, 1000, 500, 250, 120)
EXAMPLES = {"forget": 3, "retain": 2}
"""How many questions of a set are shown in full; of several runs one less."""
SHOWN = 280
"""Characters of an example's answer; the list has all of it."""


def group_title(part: str, name: str) -> str:
    return f"{part}, {set_title(name).lower()}" if part else set_title(name)


def examples(listed: Sequence[Question], found: Sequence[Column]) -> list[dict[str, Any]]:
    """A few questions of a set, evenly spaced: chosen by their place, not by how they came out.

    Equal answers stand together, under all their names.
    """
    chosen = []
    several = sum(column.kind != "before" for column in found) > 1
    for name, number in EXAMPLES.items():
        rows = [question for question in listed if question.set.partition(",")[0] == name]
        number = min(number - several, len(rows))
        for place in range(number):
            question = rows[place * len(rows) // number]
            answers: dict[str, list[tuple[str, str | None]]] = {_plain_text(question.answer): [("reference", None)]}
            for column, text in zip(found, question.generations, strict=True):
                if text is not None:
                    look = column.run.label if several and column.kind != "before" else None
                    answers.setdefault(_plain_text(text), []).append((column.label, look))
            chosen.append(
                {
                    "set": group_title(question.part, question.set),
                    "question": _shortened(question.question),
                    "answers": [(names, _shortened(text)) for text, names in answers.items()],
                }
            )
    return chosen


def _plain_text(text: str) -> str:
    return " ".join(text.split())


def _shortened(text: str) -> str:
    text = _plain_text(text)
    return text if len(text) <= SHOWN else text[:SHOWN].rstrip() + " …"


def question_data(listed: Sequence[Question], found: Sequence[Column], labels: list[str]) -> tuple[str, list[str]]:
    """The list as JSON that may stand in a script element, and what had to be left out of it."""
    notes = []
    cut: int | None = None
    for cut in (None, *CUTS):
        text = _encoded(listed, found, labels, cut)
        if len(text.encode()) <= MOST_DATA:
            break
    else:
        kept = listed
        while len(text.encode()) > MOST_DATA:
            kept = kept[::2]
            text = _encoded(kept, found, labels, cut)
        notes.append(f"There is room for {len(kept)} of {len(listed)} questions, evenly spaced; the records have all.")
    if cut is not None:
        notes.insert(0, f"Texts longer than {cut} characters are cut here; records.jsonl has them in full.")
    return text, notes


def _encoded(listed: Sequence[Question], found: Sequence[Column], labels: list[str], cut: int | None) -> str:
    """Every text once. Values are thousandths in one flat list a column, null where there is none."""
    texts: dict[str, int] = {}

    def place(text: str | None) -> int | None:
        if text is None:
            return None
        short = text if cut is None or len(text) <= cut else text[:cut].rstrip() + " … [cut]"
        return texts.setdefault(short, len(texts))

    sets = list(dict.fromkeys((question.part, question.set) for question in listed))
    absent = [None] * len(METRICS)
    data = {
        "sets": [group_title(*group) for group in sets],
        "metrics": [METRICS[name].title for name in METRICS],
        "entailment": list(METRICS).index("entailment"),
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
