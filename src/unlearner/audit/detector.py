"""Does a text state the fact of a record? And how often is the detector itself wrong?

A fact comes from the column `fact`, else from the row's own answers, else, for a document, from its very words.
Whatever the prompt gave away does not count. What states a fact and denies it in the same breath states it.
"""

import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from functools import lru_cache, partial
from typing import Protocol

from unlearner.audit.statistics import lower, upper
from unlearner.data.records import Record
from unlearner.evaluation.metrics.rouge import rouge_l_recall

RUN = 8
"""Words in a row that make a text a copy of a document."""
WORD_FOR_WORD = 0.95
"""ROUGE-L recall from which an answer surely states the fact: what the detector misses there is its own error."""
FEW = 3
"""So many plain words, taken from an answer as its fact, must all be stated; of more of them half."""
# ruff: noqa: SIM905 - lists of words read better without quotes
STOP_WORDS = frozenset(
    """
    a about after all also am an and any are as at be because been before being both but by can could did do does doing
    during each few for from further had has have having he her here hers him his how i if in into is it its itself just
    me more most my no nor not of off on once only or other our out over own s same she should so some such t than that
    the their them then there these they this those through to too under until up very was we were what when where
    which while who whom why will with would yes you your
    """.split()
)
_MONTHS = {
    name: number
    for number, names in enumerate(
        "january jan,february feb,march mar,april apr,may,june jun,july jul,august aug,september sep sept,october oct,"
        "november nov,december dec".split(","),
        start=1,
    )
    for name in names.split()
}
_MONTH_NAMES = {number: name for name, number in reversed(_MONTHS.items())}
_MONTH = "|".join(sorted(_MONTHS, key=len, reverse=True))
_DAY = r"(\d{1,2})(?:st|nd|rd|th)?"
_ACCENTS = re.compile(r"[\u0300-\u036f]")
_UNSPACED = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff]"
)
"""Thai, Lao, Burmese, Khmer, kana and Chinese characters; and Korean, whose particles are written onto the word."""
_SENTENCES = re.compile(r"(?<=\w\w[.!?;])(?<!\b[DMS][rst]\.)(?<!Mrs\.)(?<!Prof\.)\s+")
"""Between sentences, but not behind initials and titles."""
_TITLES = re.compile(r"[\"“]([^\"”]+)[\"”]|(?<!\w)['‘]((?:[^'’]|['’](?=\w))+)['’](?!\w)")
"""What stands in quotation marks; an apostrophe within a word ends nothing."""
_JOINING = frozenset("of the and for de la le von van der den del di da du bin ibn".split())
_COUNTED = re.compile(r"^\d{1,2}$|^\w+(?:ish|ian|ese|can|man)$")
"""A small number, or where somebody is from: by itself it says little, so the word behind it belongs to it."""
_SUBTITLES = re.compile(r"[;:()\[\]]")
_PHRASES = re.compile(r"[;:()\[\]]|,(?!\d)")
_DATES = (
    (re.compile(rf"\b{_DAY}(?: of)? ({_MONTH})\.?,? (\d{{4}})\b", re.IGNORECASE), (3, 2, 1)),
    (re.compile(rf"\b({_MONTH})\.? {_DAY},? (\d{{4}})\b", re.IGNORECASE), (3, 1, 2)),
    (re.compile(r"\b(\d{4})-(\d{1,2})-(\d{1,2})\b"), (1, 2, 3)),
)
_NUMBERED = re.compile(r"\b(\d{1,2})[/.](\d{1,2})[/.](\d{4})\b")


class Detector(Protocol):
    """What a text states of one record."""

    @property
    def source(self) -> str:
        """Where its fact comes from: `column`, `answer`, `document`."""
        ...

    def states(self, text: str, given: str = "") -> bool:
        """Whether `text` states the fact, what the prompt `given` gave away apart."""
        ...

    def graded(self, text: str) -> float:
        """How much of the answer the text holds, 0 to 1."""
        ...


@dataclass(frozen=True)
class Fact:
    """All `parts` have to be stated, of each part any of its alternatives, as whole words in any case."""

    parts: tuple[tuple[str, ...], ...]
    answer: str
    source: str = "column"

    @classmethod
    def written(cls, fact: str, answer: str) -> "Fact":
        """From the column `fact`: `;` stands between what is all needed, `|` between alternatives."""
        parts = (tuple(filter(None, map(normalised, part.split("|")))) for part in fact.split(";"))
        return cls(tuple(part for part in parts if part), answer)

    def states(self, text: str, given: str = "") -> bool:
        text, given = _spellings(text), _spellings(given)
        parts = [[f" {_parted(words)} " for words in part] for part in self.parts]
        asked = [part for part in parts if not any(words in given for words in part)]
        return bool(asked) and sum(any(words in text for words in part) for part in asked) >= self._needed(len(asked))

    def _needed(self, asked: int) -> int:
        return asked if self.source == "column" or asked <= FEW else math.ceil(asked / 2)

    def graded(self, text: str) -> float:
        return rouge_l_recall(text, self.answer)


@dataclass(frozen=True)
class Passage:
    """`RUN` words in a row of the hidden text, that neither the prompt nor what is kept holds."""

    runs: frozenset[str]
    words: tuple[str, ...] = field(repr=False)
    source: str = "document"

    def states(self, text: str, given: str = "") -> bool:
        return bool((self.runs & set(word_runs(text))) - set(word_runs(given)))

    def graded(self, text: str) -> float:
        """The longest run of words that both hold, as a share of the hidden text."""
        words = normalised(text).split()
        match = SequenceMatcher(None, words, self.words, autojunk=False).find_longest_match()
        return match.size / max(1, len(self.words))


def find_detector(record: Record, *, document: bool = False, kept: frozenset[str] = frozenset()) -> Detector | None:
    """The detector of a record; None where its answer holds nothing that is only its own: then only graded scores tell.

    A `document` is cut in two, `question` what is given and `answer` what is hidden; `kept` are the `word_runs` of what
    may be told.
    """
    if document:
        runs = frozenset(word_runs(record.answer)) - set(word_runs(record.question or "")) - kept
        return Passage(runs, tuple(normalised(record.answer).split())) if runs else None
    if record.fact is not None:
        fact = Fact.written(record.fact, record.answer)
        return fact if fact.parts else None
    parts = automatic_fact(record)
    return Fact(parts, record.answer, "answer") if parts else None


def automatic_fact(record: Record) -> tuple[tuple[str, ...], ...]:
    """What an answer states that no wrong answer and not the question does, as `Fact.parts`; empty if nothing.

    Names, numbers and what stands in quotation marks are alternatives, for any of them gives the fact away; without any
    of these it is the other words, each a part.
    """
    asked = {*STOP_WORDS, *normalised(record.question or "").split()}
    known = asked.union(*(normalised(wrong).split() for wrong in record.perturbed_answer))
    names: list[str] = []
    words: list[str] = []
    for sentence in _SENTENCES.split(record.answer):
        for title in map("".join, _TITLES.findall(sentence)):
            names += [text for part in _SUBTITLES.split(title) if set((text := normalised(part)).split()) - known]
        # A sentence's first word has a capital letter in any case, unless the whole answer is no sentence.
        rest = _with_dates(_TITLES.sub(";", sentence))
        first, *others = rest.split() or [""]
        rest = " ".join([first.lower() if len(others) > 2 and first[1:].islower() else first, *others])
        for phrase in _PHRASES.split(rest):
            found, plain = _names(phrase, known, asked)
            names += found
            words += plain
    if names:
        return (tuple(dict.fromkeys(map(_without_article, names))),)
    return tuple((word,) for word in dict.fromkeys(words))


def _names(phrase: str, known: set[str], asked: set[str]) -> tuple[list[str], list[str]]:
    """Names and numbers of a phrase that are not `known`, and its other words that are not. A name goes on over words
    that join names and over known words with a capital letter, and begins with such of wrong answers (not `asked`):
    United Kingdom, beside the United States. `5 sisters` and `British painter` are one."""
    names: list[str] = []
    plain: list[str] = []
    run: list[str] = []
    between: list[str] = []
    for word in [*phrase.split(), ""]:
        text = normalised(word)
        new = bool(set(text.split()) - known)
        goes_on = bool(run or between) and text in _JOINING
        begins = not new and word[:1].isupper() and bool(run or set(text.split()) - asked)
        if new and any(letter.isdigit() or letter.isupper() for letter in word):
            run, between = [*run, *between, *text.split()], []
        elif goes_on or begins:
            between += text.split()
        else:
            counted = new and not between and bool(run) and bool(_COUNTED.search(" ".join(run)))
            run += text.split() if counted else []
            names += [_without_initials(run)] if run else []
            plain += [text] if new and not counted else []
            run, between = [], []
    return names, plain


def _without_initials(name: Sequence[str]) -> str:
    """`tolkien` for `j r r tolkien`: initials are left out, or written together."""
    full = [word for word in name if len(word) > 1 or not word.isascii() or word.isdigit()]
    return " ".join(full if full and full[0] != name[0] else name)


def _without_article(name: str) -> str:
    first, _, rest = name.partition(" ")
    return rest if rest and first in ("a", "an", "the") else name


@lru_cache(maxsize=100_000)
def normalised(text: str) -> str:
    """Words alone, in small letters, with one space between: `1,234` as `1234`, `March 5th, 1990` as `1990 03 05`."""
    return _words(_with_dates(_plain(text)))


def _plain(text: str) -> str:
    """In small letters and without accents, as many write names."""
    text = unicodedata.normalize("NFKC", text).casefold().replace("\u2019", "'").replace("'s ", " s ")
    if not text.isascii():
        text = unicodedata.normalize("NFC", _ACCENTS.sub("", unicodedata.normalize("NFD", text)))
    return text


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+", re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)))


@lru_cache(maxsize=10_000)
def _spellings(text: str) -> str:
    """What facts are looked for in: the text's words, once with its dates as 1990 03 05 and once as they stand there,
    and these dates and parts of them in the usual orders, for a fact may be a month with its year, or a day without.
    10/12/1815 is both days that it may be."""
    plain = _plain(text)
    dated = _with_dates(plain)
    found = [_words(dated)]
    if dated != plain:
        found.append(_words(plain))
    for year, month, day in re.findall(r"\b(\d{4})-(\d{2})-(\d{2})\b", dated):
        name = _MONTH_NAMES.get(int(month), "")
        found += [f"{int(day)} {name} {year}", f"{name} {int(day)}"] if name else []
        found += [f"{day} {month} {year}", f"{month} {day} {year}", f"{int(day)} {int(month)} {year}"]
        found += [f"{int(month)} {int(day)} {year}"]
    for one, other, year in _NUMBERED.findall(plain):
        found += [f"{year} {int(one):02d} {int(other):02d}", f"{year} {int(other):02d} {int(one):02d}"]
    return f" {' | '.join(map(_parted, found))} "


def _parted(words: str) -> str:
    """With a space around every character of a script that puts none between words: there a fact is any stretch."""
    return words if words.isascii() else " ".join(_UNSPACED.sub(r" \g<0> ", words).split())


def _with_dates(text: str) -> str:
    """Dates as 1990-03-05, whatever way they were written in."""
    if re.search(r"\d", text):
        for pattern, order in _DATES:
            text = pattern.sub(partial(_date, order), text)
    return text


def _date(order: Sequence[int], match: re.Match[str]) -> str:
    year, month, day = (match.group(place) for place in order)
    return f"{year}-{int(_MONTHS.get(month.lower(), month)):02d}-{int(day):02d}"


def word_runs(text: str) -> Iterator[str]:
    """Every `RUN` words in a row of a text."""
    words = normalised(text).split()
    return (" ".join(words[i : i + RUN]) for i in range(len(words) - RUN + 1))


@dataclass(frozen=True)
class ErrorRate:
    """How often the detector is wrong, of `of` texts in which it was known to be."""

    wrong: int
    of: int

    @property
    def rate(self) -> float:
        return self.wrong / self.of if self.of else float("nan")

    @property
    def bounds(self) -> tuple[float, float]:
        """A 95% interval."""
        return float(lower(self.wrong, self.of, 0.025)), float(upper(self.wrong, self.of, 0.025))


def false_alarms(detectors: Sequence[Detector | None], texts: Iterable[tuple[int, str, str]]) -> ErrorRate:
    """Of `texts`: place of a detector whose fact the writer cannot know, what it wrote, what the prompt gave away."""
    verdicts = [found.states(text, given) for place, text, given in texts if (found := detectors[place]) is not None]
    return ErrorRate(sum(verdicts), len(verdicts))


def misses(detectors: Sequence[Detector | None], records: Sequence[Record], texts: Sequence[str]) -> ErrorRate:
    """Of the `texts` of a model that knows, one a record, those that hold the whole answer and yet were not noticed."""
    right = [
        detector.states(text)
        for detector, record, text in zip(detectors, records, texts, strict=True)
        if detector is not None and rouge_l_recall(text, record.answer) >= WORD_FOR_WORD
    ]
    return ErrorRate(len(right) - sum(right), len(right))


def on_own_answers(detectors: Sequence[Detector | None], records: Sequence[Record]) -> tuple[ErrorRate, ErrorRate]:
    """False alarms on the rows' wrong answers, and misses on their paraphrases: what the data alone tells."""
    pairs = [(found, record) for found, record in zip(detectors, records, strict=True) if found is not None]
    wrong = [found.states(text) for found, record in pairs for text in record.perturbed_answer]
    right = [found.states(text) for found, record in pairs if (text := record.paraphrased_answer) is not None]
    return ErrorRate(sum(wrong), len(wrong)), ErrorRate(len(right) - sum(right), len(right))
