"""General knowledge: about 500 short questions over 26 fields, in this project's own words."""

import re
from collections.abc import Iterator
from functools import cache
from importlib.resources import files

from unlearner.data.records import Record

WRONG = 3
"""Wrong answers for each question."""


def sections(text: str) -> Iterator[tuple[str, list[str]]]:
    """Names and lines of the sections of a text: `[name]`, then a line each; `#` begins a comment."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    starts = [i for i, line in enumerate(lines) if line.startswith("[")]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        yield lines[start].strip("[]"), lines[start + 1 : end]


@cache
def general_knowledge() -> tuple[Record, ...]:
    """All questions with short answers, their field as the subject; wrong answers are those to others of the field."""
    text = files("unlearner.data").joinpath("general_knowledge.txt").read_text(encoding="utf-8")
    records = []
    for field, lines in sections(text):
        pairs = [line.split(" | ") for line in lines]
        for place, (question, answer) in enumerate(pairs):
            others = dict.fromkeys(other for _, other in [*pairs[place:], *pairs[:place]])
            wrong = [w for w in others if not mentions(w, (answer,)) and not mentions(question, (w,))]
            records.append(Record(question, answer, perturbed_answer=tuple(wrong[:WRONG]), subject=field, fact=answer))
    return tuple(records)


def mentions(text: str, names: tuple[str, ...]) -> bool:
    """Whether a text has one of the names, in any case; words inside words do not count."""
    return any(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text, re.IGNORECASE) for name in names)
