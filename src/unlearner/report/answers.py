"""Answers that nobody would give who simply did not know: repeated words, other people's facts, no sentences.

The rules are simple and err on both sides. They are no metric and enter no figure: a page counts by them, and chooses
by them the worst answers to be shown. What the reference answer does itself (a refrain, a bare name) is no fault.

- *Repeats itself*: a group of up to eight words stands twice with nothing but white space between, or, of two or more,
  three times whatever is between; or a group of two to eight letters stands four times in a row; or of the first
  hundred words, if there are twelve, fewer than half are different. A single word may stand twice where it begins with
  a capital, is a number, or is one that English doubles ("had had").
- *Is about somebody else*: it holds a name of somebody whom another row is about, or the last word of one, of five
  letters or more, that stands in no row about anybody else; or one of its sentences is the reference answer of a row
  about another subject, case and marks aside, in four words or more. Names are subjects that stand in their rows, and
  words with capitals that stand together in two or more questions, all about the same subject. Rows are those of all
  sets. What stands in the row's own question or reference answer is not counted.
- *Is not a sentence*: it is empty, begins with a small letter, or goes on with one after a full stop, or is shorter
  than the reference answer and yet without a mark at its end, or holds letters and digits mixed up ("book0gsm",
  "197ble").
  Asked only where the reference answer is a sentence. A longer answer may only have been cut.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from unlearner.report.contents import Measurement

REPEATS, OTHER, NO_SENTENCE = "repeats itself", "is about somebody else", "is not a sentence"
FAULTS = {REPEATS: "repeat themselves", OTHER: "are about somebody else", NO_SENTENCE: "are not sentences"}
"""Every fault, of one answer and of several."""
LONGEST_GROUP = 8
LEAST_WORDS = 12
DOUBLED = {"had", "that", "very", "so", "no", "is", "more", "much"}
RULES = (
    (
        "Repeats itself",
        "a group of up to eight words is repeated at once, or letters are four times, or fewer than half of the "
        "first hundred words are different",
    ),
    (
        "Is about somebody else",
        "names somebody who is the subject of another row, or one of its sentences is the reference answer of a row "
        "about another subject",
    ),
    (
        "Is not a sentence",
        "is empty, has a sentence that begins with a lower-case letter, is shorter than the reference answer and "
        "does not end with punctuation, or mixes letters and digits",
    ),
)
"""The rules for a page, where docs/guide/report.md has them in full."""
END_MARKS = (".", "!", "?", "…", "。", "！", "？")

NAME = re.compile(r"(?<=\S )[A-ZÀ-ÖØ-Þ][\w-]+(?: [A-ZÀ-ÖØ-Þ][\w-]+)+")
"""Words with capitals beside one another, but not the first of a question."""
LEAST_LETTERS = 5
GOES_ON = re.compile(r"(?<!etc)(?<!vol)(?<!est)(?<!inc)(?<!ltd)(?<!approx)(?<=[a-z]{3})[.!?] +[a-z]")
MIXED = re.compile(r"[a-z]\d+[a-z]{2}|\d{2}[a-z]{3}")

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Data:
    """Whom the rows of all sets are about, and what they say."""

    names: re.Pattern[str] | None
    owners: Mapping[str, Any]
    """A name, or the last word of one → whom it is of."""
    answers: Mapping[str, frozenset[Any]]
    """Plain words of an answer → whom it is about."""

    @classmethod
    def of(cls, rows: Iterable[Row]) -> "Data":
        answers: dict[str, set[Any]] = defaultdict(set)
        asked: dict[str, set[Any]] = defaultdict(set)  # a name in questions → the questions
        about: dict[str, set[Any]] = defaultdict(set)  # a name, or a word → whom the rows are about that hold it
        for row in rows:
            whom, question, answer = _about(row), row.get("question") or "", row.get("answer") or ""
            if len((plain := _plain(answer)).split()) >= 4:
                answers[plain].add(whom)
            for word in re.findall(r"\w+", f"{question} {answer}"):
                about[word].add(whom)
            subject = row.get("subject") or ""
            for name in {
                *NAME.findall(question),
                *([subject] if subject and subject in f"{question} {answer}" else []),
            }:
                asked[name] |= {question, *([None] if name == subject else [])}
                about[name].add(whom)
        names = [
            name for name, questions in asked.items()
            if len(questions) > 1 and len(about[name]) == 1 and not name.islower()
        ]  # fmt: skip
        last = (name.split()[-1] for name in names)
        names += [word for word in last if len(word) >= LEAST_LETTERS and len(about[word]) == 1]
        longest_first = sorted(filter(None, names), key=lambda name: (-len(name), name))
        words = "|".join(map(re.escape, longest_first))
        return cls(
            re.compile(rf"(?<!\w)(?:{words})(?!\w)") if words else None,
            {name: next(iter(about[name])) for name in names},
            {text: frozenset(of) for text, of in answers.items()},
        )


@dataclass(frozen=True)
class Faults:
    """The faults of the answers to the forget set: of each row, by its id."""

    by_row: Mapping[str, list[str]]
    asked: int
    misjudged: int
    """Answers that are about somebody else, and yet were judged correct."""

    @property
    def count(self) -> int:
        """Answers with at least one."""
        return sum(map(bool, self.by_row.values()))

    def told(self) -> str:
        """`22 repeat themselves, 3 are about somebody else (1 was judged correct), 1 is not a sentence`."""
        counts = {fault: sum(fault in found for found in self.by_row.values()) for fault in FAULTS}
        more = {OTHER: f" ({self.misjudged} {'was' if self.misjudged == 1 else 'were'} judged correct)"}
        return ", ".join(
            f"{n} {fault if n == 1 else FAULTS[fault]}{more.get(fault, '') if self.misjudged else ''}"
            for fault, n in counts.items() if n
        )  # fmt: skip


def faults_of(measured: Measurement) -> Faults | None:
    """The faults of the forget set's answers; None where none were written."""
    rows = [r for r in measured.rows if r["set"].partition(",")[0] == "forget" and r.get("generation") is not None]
    if not rows:
        return None
    data = Data.of(measured.rows)
    found = {row["id"]: faults(row, data) for row in rows}
    return Faults(found, len(rows), sum(OTHER in found[row["id"]] and bool(row.get("entailment")) for row in rows))


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
    about = _about(row)
    if data.names is not None and any(
        data.owners[name] != about and name not in own for name in data.names.findall(row["generation"])
    ):
        return True
    sentences = map(_plain, re.split(r"(?<=[.!?。！？])\s*", row["generation"]))
    return any(about not in data.answers.get(sentence, {about}) for sentence in sentences)


def _about(row: Row) -> Any:
    """Whom a row is about: its subject, else the first name in its question, else only itself."""
    found = NAME.search(row.get("question") or "")
    return row.get("subject") or (found[0] if found else row.get("question"))


def _is_sentence(text: str) -> bool:
    text = text.strip().rstrip("\"')]»”’")
    return len(text.split()) >= 3 and not text[:1].islower() and text.endswith(END_MARKS)


def _may_be_sentence(text: str, reference: str) -> bool:
    text = text.strip().rstrip("\"')]»”’")
    if not text or text[:1].islower() or GOES_ON.search(text):
        return False
    if MIXED.search(text) and not MIXED.search(reference):
        return False
    return text.endswith(END_MARKS) or len(text.split()) >= len(reference.split())


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))
