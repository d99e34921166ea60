"""Questions out of documents without any model: a value of a sentence is taken out, and asked for.

Values are dates, years, numbers, quoted titles, names, what somebody is or works `as a`, and, in a sentence without any
of these, its last words after an article.
Sentences that begin with a pronoun speak of the subject where the sentence before them did. Sentences with the same
value of the same type are taken to state one fact, so that none of them is held out as unseen while another is trained.

The rules are those of English: by its capital letters, every German noun would be a name.
"""

import random
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from unlearner.audit.detector import STOP_WORDS, normalised
from unlearner.data.general import mentions
from unlearner.prepare.facts import WRONG, Topic, Wording, states
from unlearner.prepare.passages import MONTHS, NAME, Passage, sentences

GAP = "____"
FRAMES = (
    'Complete the sentence: "{gap}"', "{start} what?", 'Which words are missing here? "{gap}"',
    'What belongs in the gap of "{gap}"?',
)  # fmt: skip
MONTH = "(?:" + "|".join(sorted(month.capitalize() for month in MONTHS if not month.endswith("day"))) + ")"
TYPES = {
    "date": re.compile(rf"\b(?:\d{{1,2}}(?:st|nd|rd|th)?(?: of)? {MONTH},? \d{{4}}|{MONTH} \d{{1,2}},? \d{{4}})\b"),
    "year": re.compile(r"(?<![\d.,-])(?:1[0-9]|20)\d\d(?![\d]|[.,]\d)"),
    "number": re.compile(r"(?<![\w.,-])\d[\d.,]*\d(?!\w)|(?<![\w.,-])\d(?![\w.,])"),
    "title": re.compile(r"(?<=[\"“])[^\"“”]{2,80}(?=[\"”])"),
    "name": re.compile(rf"{NAME.pattern}|(?<=[a-zà-ÿ,] )[^\W\d_a-zà-ÿ][\w'’-]+"),
    "role": re.compile(r"(?:(?<=\bas a )|(?<=\bas an ))[a-zà-ÿ-]+"),
    "thing": re.compile(r"(?:(?<=\ba )|(?<=\ban )|(?<=\bthe ))(?:[a-zà-ÿ-]+ ){0,2}[a-zà-ÿ-]+(?=\.$)"),
}  # fmt: skip
PRONOUN = re.compile(r"^(He|She|They|It)\b(?!')|^(His|Her|Their|Its)\b")
LONGEST = 60
"""Words of a sentence that is asked about, at most."""


@dataclass(frozen=True)
class Found:
    """A value in a sentence about the subject."""

    sentence: str
    start: int
    value: str
    kind: str
    document: str

    def with_value(self, value: str) -> str:
        """The sentence with another value in its place."""
        return self.sentence[: self.start] + value + self.sentence[self.start + len(self.value) :]


def cloze(passages: Sequence[Passage], names: tuple[str, ...], *, seed: int) -> list[Topic]:
    """The facts about the subject (`names`, its aliases after it) in the passages, in their order."""
    values = [found for passage in passages for found in _values(passage, names)]
    by_value: dict[tuple[str, str], list[Found]] = defaultdict(list)
    for found in dict.fromkeys(replace(found, document="") for found in values):
        by_value[found.kind, normalised(found.value)].append(found)
    documents = {(found.sentence, found.start): found.document for found in reversed(values)}
    everything = [found for passage in passages for found in _typed_values(passage)]
    topics = []
    for (kind, value), group in by_value.items():
        others = _others(group[0], everything, names, random.Random(f"wrong {value} {seed}"))
        wordings = tuple(
            wording for place, found in enumerate(group[:2])
            for wording in _wordings(found, others[:WRONG], group[1 - place] if group[1:] else None, names)
        )  # fmt: skip
        first = group[0]
        topics.append(Topic(f"{kind} {value}", value, wordings, documents[first.sentence, first.start], "cloze"))
    return topics


def _others(found: Found, everything: Sequence[Found], names: tuple[str, ...], draw: random.Random) -> list[str]:
    """Other values of the same type, those first that stand behind the same word and have as many words; for a year
    also years near it."""

    def likeness(other: Found) -> tuple[bool, bool]:
        before = [each.sentence[: each.start].split()[-1:] for each in (found, other)]
        return before[0] != before[1], len(found.value.split()) != len(other.value.split())

    same = [other for other in everything if other.kind == found.kind and not mentions(other.value, names)]
    draw.shuffle(same)
    values = [other.value for other in sorted(same, key=likeness)]
    if found.kind == "year":
        values += [str(int(found.value) + step) for step in draw.sample((7, -4, 12, -9, 3, -6, 15), WRONG)]
    return [value for value in dict.fromkeys(values) if not states(found.value, value)]


def _wordings(found: Found, others: Sequence[str], twin: Found | None, names: tuple[str, ...]) -> Iterator[Wording]:
    gap, start = found.with_value(GAP), found.sentence[: found.start].rstrip(' "“')
    wrong = tuple(text for other in others if not states(found.value, text := found.with_value(other)))
    for frame in FRAMES:
        if "{start}" in frame and not mentions(start, names):
            continue  # too little is left to ask by
        question = frame.replace("{gap}", gap).replace("{start}", start)
        yield Wording(question, found.sentence, wrong, twin.sentence if twin else None)


def _sentences(passage: Passage) -> Iterator[str]:
    for paragraph in passage.text.split("\n"):
        yield from sentences(paragraph)


def _values(passage: Passage, names: tuple[str, ...]) -> Iterator[Found]:
    """Every value of every sentence that speaks of the subject and ends as one; what it also names is no value."""
    about = False
    for sentence in _sentences(passage):
        if about and not mentions(sentence, names) and (pronoun := PRONOUN.match(sentence)):
            owner = names[0] if pronoun[1] else f"{names[0]}'s"
            sentence = owner + sentence[pronoun.end() :]
        about = mentions(sentence, names)
        if not about or not sentence.endswith((".", "!")) or not 4 <= len(sentence.split()) <= LONGEST:
            continue
        for kind, value, start in _typed(sentence):
            left = sentence[:start] + GAP + sentence[start + len(value) :]
            if not mentions(value, names) and mentions(left, names) and not states(value, left):
                yield Found(sentence, start, value, kind, passage.document)


def _typed_values(passage: Passage) -> Iterator[Found]:
    """Every value of every sentence, whomever it speaks of."""
    for sentence in _sentences(passage):
        yield from (Found(sentence, start, value, kind, passage.document) for kind, value, start in _typed(sentence))


def _typed(sentence: str) -> Iterator[tuple[str, str, int]]:
    """Type, value and place of the values of a sentence; none within another."""
    taken: list[tuple[int, int]] = []
    for kind, pattern in TYPES.items():
        if kind == "thing" and taken:
            return
        for match in pattern.finditer(sentence):
            value, start, end = match[0], match.start(), match.end()
            if kind == "name":
                words = value.split()
                while words and words[0].lower() in STOP_WORDS:
                    words = words[1:]
                value = " ".join(words)
                start = end - len(value)
                if start == 0 or not words or (len(words) == 1 and words[0].lower() in MONTHS):
                    continue
            if value and all(end <= a or start >= b for a, b in taken) and sentence[start:end] == value:
                taken.append((start, end))
                yield kind, value, start
