"""Passages of documents: cut at sentence ends, near-duplicates left out, personal data of others counted."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from unlearner.audit.detector import STOP_WORDS
from unlearner.data.general import mentions
from unlearner.data.quality import near_duplicates, plain
from unlearner.prepare.documents import Document

SENTENCE_END = re.compile(
    r"(?<=[.!?…])(?<!\b[A-Z]\.)(?<!\b[DMS][rst]\.)(?<!\bMrs\.)(?<!\bProf\.)(?<!\bno\.)([\"”’)]*)\s+"
    r"(?=[\"“‘(]?[^\W_a-zà-ÿ])"
)
QUOTED = re.compile(r"[\"“][^\"“”]*[\"”]")
# ruff: noqa: SIM905 - lists of words read better without quotes
MONTHS = frozenset(
    """
    january february march april may june july august september october november december monday tuesday wednesday
    thursday friday saturday sunday
    """.split()
)
NAME = re.compile(r"(?:\b[^\W\d_a-zà-ÿ][\w'’-]*(?:\.(?=\s))?\s+)+[^\W\d_a-zà-ÿ][\w'’-]+")
"""Words with a capital letter in a row."""
PERSONAL = {
    "e-mail addresses": re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+"),
    "bank account numbers": re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?\b"),
    "telephone numbers": re.compile(
        r"(?<![\w.])(?:\+\d{1,3}[ ./-]?)?\(?0?\d{2,5}\)?[ ./-]\d{2,4}(?:[ ./-]?\d{2,5}){1,3}(?!\w)"
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Passage:
    """A piece of a document."""

    document: str
    text: str


def sentences(text: str) -> list[str]:
    """The sentences of a paragraph."""
    ends = [match.end(1) for match in SENTENCE_END.finditer(text)]
    parts = (text[start:end].strip() for start, end in zip([0, *ends], [*ends, len(text)], strict=True))
    return [part for part in parts if part]


def cut(documents: Sequence[Document], words: int) -> list[Passage]:
    """Passages of at most `words` words: whole paragraphs as long as they fit together, long ones by sentences; only a
    sentence that is longer by itself is cut inside."""
    found = []
    for document in documents:
        held: list[str] = []
        for piece in _pieces(document.text, words):
            if held and sum(len(part.split()) for part in held) + len(piece.split()) > words:
                found.append(Passage(document.name, "\n".join(held)))
                held = []
            held.append(piece)
        if held:
            found.append(Passage(document.name, "\n".join(held)))
    return found


def _pieces(text: str, words: int) -> list[str]:
    pieces = []
    for paragraph in text.split("\n\n"):
        if len(paragraph.split()) <= words:
            pieces.append(paragraph)
            continue
        for sentence in sentences(paragraph):
            said = sentence.split()
            pieces += [" ".join(said[start : start + words]) for start in range(0, len(said), words)]
    return pieces


def without_duplicates(passages: Sequence[Passage]) -> tuple[list[Passage], int]:
    """The passages that are no near-duplicate of an earlier one, and how many the others are."""
    texts = [plain(passage.text) for passage in passages]
    twins = near_duplicates(texts, texts)
    kept = [passage for place, passage in enumerate(passages) if twins.get(place, place) == place]
    return kept, len(passages) - len(kept)


def personal_data(documents: Sequence[Document], names: tuple[str, ...]) -> dict[str, dict[str, int]]:
    """What looks like personal data of others than `names`: different values of each kind by document.

    Names are words with capital letters in a row outside of quotations, which titles and places can be, too; a value
    with a word of one of `names` in it is the subject's own.
    """
    own = {word for name in names for word in (*_words(name), "".join(_words(name))) if len(word) > 1}
    found: dict[str, dict[str, int]] = {}
    for document in documents:
        text, values = document.text, {}
        for kind, pattern in PERSONAL.items():
            values[kind] = set(pattern.findall(text))
            text = pattern.sub(" ", text)  # what an account number holds is no telephone number
        values["names"] = set(_names(document.text))
        for kind, those in values.items():
            others = {value for value in those if own.isdisjoint(_words(value))}
            if others:
                found.setdefault(kind, {})[document.name] = len(others)
    return found


def personal_sentence(found: dict[str, dict[str, int]]) -> str:
    """One sentence on what `personal_data` found, without any of the values."""
    parts = []
    for kind, counts in found.items():
        files = list(counts)
        more = f" and {len(files) - 3} more" if len(files) > 3 else ""
        parts.append(f"{kind}: {sum(counts.values())} ({', '.join(files[:3])}{more})")
    return (
        f"the documents contain what looks like personal data of others: {'; '.join(parts)}. "
        "Read the passages, and drop what should not be trained on."
    )


def naming(passages: Sequence[Passage], names: tuple[str, ...]) -> tuple[list[Passage], list[Passage]]:
    """Passages that name the subject, and the others."""
    about = [passage for passage in passages if mentions(passage.text, names)]
    return about, [passage for passage in passages if not mentions(passage.text, names)]


def _words(text: str) -> list[str]:
    """Its words in small letters; an address is parted at all that is no letter."""
    return re.findall(r"[^\W\d_]+", text.casefold())


def _names(text: str) -> list[str]:
    found = []
    for match in NAME.finditer(QUOTED.sub('""', text)):
        words = match[0].split()
        while words and words[0].lower() in STOP_WORDS:
            words = words[1:]
        if len(words) > 1 and not any(word.lower().strip(".,") in STOP_WORDS | MONTHS for word in words):
            found.append(" ".join(words))
    return found
