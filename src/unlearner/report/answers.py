"""Answers that nobody would give who simply did not know: repeated words, other people's facts, no sentences.

The rules are simple and err on both sides. They are no metric and enter no figure: a page counts by them, and chooses
by them the worst answers to be shown. What the reference answer does itself (a refrain, a bare name) is no fault.

- *Repeats itself*: a group of up to eight words stands twice with nothing but white space between, or, of two or more,
  three times whatever is between; or a group of two to eight letters stands four times in a row; or of the first
  hundred words, if there are twelve, fewer than half are different. A single word may stand twice where it begins with
  a capital, is a number, or is one that English doubles ("had had").
- *Tells of somebody else*: it holds the `subject` of another row, or one of its sentences is the reference answer of a
  row about another subject, case and marks aside, in four words or more. Subjects and answers are those of all sets.
- *Is no sentence*: it is empty, begins with a small letter, or is shorter than the reference answer and yet without a
  mark at its end. Asked only where the reference answer is a sentence. A longer answer may only have been cut.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from unlearner.report.contents import Measurement

REPEATS, OTHER, NO_SENTENCE = "repeats itself", "tells of somebody else", "is no sentence"
FAULTS = {REPEATS: "repeat themselves", OTHER: "tell of somebody else", NO_SENTENCE: "are no sentences"}
"""Every fault, of one answer and of several."""
LONGEST_GROUP = 8
LEAST_WORDS = 12
DOUBLED = {"had", "that", "very", "so", "no", "is", "more", "much"}
RULES = (
    (
        "Repeats itself",
        "a group of up to eight words follows itself at once, or letters do four times, or fewer than half of the "
        "first hundred words are different",
    ),
    (
        "Tells of somebody else",
        "names the subject of another row, or one of its sentences is the reference answer of a row about another "
        "subject",
    ),
    (
        "Is no sentence",
        "is empty, begins with a small letter, or is shorter than the reference answer and ends without a mark",
    ),
)
"""The rules for a page, where docs/guide/report.md has them in full."""
END_MARKS = (".", "!", "?", "…", "。", "！", "？")

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Data:
    """What the rows of all sets are about, and what they say."""

    subjects: re.Pattern[str] | None
    answers: Mapping[str, frozenset[Any]]
    """Plain words of an answer → whom it is about."""

    @classmethod
    def of(cls, rows: Iterable[Row]) -> "Data":
        subjects: set[str] = set()
        answers: dict[str, set[Any]] = {}
        for row in rows:
            if row.get("subject"):
                subjects.add(row["subject"])
            if len((plain := _plain(row.get("answer") or "")).split()) >= 4:
                answers.setdefault(plain, set()).add(row.get("subject") or row.get("question"))
        longest_first = sorted(subjects, key=lambda name: (-len(name), name))
        pattern = rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)" if subjects else None
        return cls(pattern and re.compile(pattern), {text: frozenset(of) for text, of in answers.items()})


@dataclass(frozen=True)
class Faults:
    """The faults of the answers to the forget set: of each row, by its id."""

    by_row: Mapping[str, list[str]]
    asked: int

    @property
    def count(self) -> int:
        """Answers with at least one."""
        return sum(map(bool, self.by_row.values()))

    def told(self) -> str:
        """`22 repeat themselves, 3 are no sentences`."""
        counts = {words: sum(fault in found for found in self.by_row.values()) for fault, words in FAULTS.items()}
        return ", ".join(f"{count} {words}" for words, count in counts.items() if count)


def faults_of(measured: Measurement) -> Faults | None:
    """The faults of the forget set's answers; None where none were written."""
    rows = [r for r in measured.rows if r["set"].partition(",")[0] == "forget" and r.get("generation") is not None]
    if not rows:
        return None
    data = Data.of(measured.rows)
    return Faults({row["id"]: faults(row, data) for row in rows}, len(rows))


def faults(row: Row, data: Data) -> list[str]:
    """The faults of one row's generation, in the order of FAULTS."""
    text, reference = row["generation"], row.get("answer") or ""
    found = []
    if repeats(text) and not repeats(reference):
        found.append(REPEATS)
    if _tells_of_another(row, data):
        found.append(OTHER)
    if _is_sentence(reference) and not _may_be_sentence(text, reference):
        found.append(NO_SENTENCE)
    return found


def repeats(text: str) -> bool:
    """Whether a text repeats itself, by the rule above."""
    if re.search(r"(\w{2,8}?)\1{3}", text):
        return True
    found = list(re.finditer(r"\w+(?:['’]\w+)*", text))
    words = [match[0].casefold() for match in found]
    spaced = [text[one.end() : other.start()].isspace() for one, other in pairwise(found)]
    for size in range(1, LONGEST_GROUP + 1):
        for first in range(len(words) - 2 * size + 1):
            group, second = words[first : first + size], first + size
            if group != words[second : second + size]:
                continue
            if size == 1 and (words[first] in DOUBLED or not found[first][0][0].islower()):
                continue
            if spaced[second - 1] or (size > 1 and group == words[second + size : second + 2 * size]):
                return True
    start = words[:100]
    return len(start) >= LEAST_WORDS and 2 * len(set(start)) < len(start)


def _tells_of_another(row: Row, data: Data) -> bool:
    own = " ".join(filter(None, (row.get("question"), row.get("answer"), row.get("original_answer"))))
    if data.subjects is not None and any(
        name != row.get("subject") and name not in own for name in data.subjects.findall(row["generation"])
    ):
        return True
    about = row.get("subject") or row.get("question")
    sentences = map(_plain, re.split(r"(?<=[.!?。！？])\s*", row["generation"]))
    return any(about not in data.answers.get(sentence, {about}) for sentence in sentences)


def _is_sentence(text: str) -> bool:
    text = text.strip().rstrip("\"')]»”’")
    return len(text.split()) >= 3 and not text[:1].islower() and text.endswith(END_MARKS)


def _may_be_sentence(text: str, reference: str) -> bool:
    text = text.strip().rstrip("\"')]»”’")
    if not text or text[:1].islower():
        return False
    return text.endswith(END_MARKS) or len(text.split()) >= len(reference.split())


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))
