"""What is odd about data that can be used: repeated, contradicting and overlapping rows, told with counts and places.

The sentences hold no text of the rows, so that they may be kept wherever the run is.
"""

import math
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from unlearner.data.records import Record

SHOWN = 3
"""Places that a sentence names; of more it gives the number."""
NEAR = 0.8
"""Least Jaccard similarity of near-duplicates."""
GRAM = 5
"""Letters of the pieces that are compared."""
_WORDS = re.compile(r"[^\W_]+|(?<!\w)[-−](?=\d)|[#%+*=<>/$€£°]")
"""Words, and the signs that tell answers apart: −3 from 3, C++ from C."""


def data_warnings(
    sets: Mapping[str, Sequence[Record]], columns: Mapping[str, str], *, overlap: tuple[str, str] | None = None
) -> list[str]:
    """Sentences on rows of `sets`, by name ("forget"), that may not be meant so.

    `columns` is the mapping they were read with; the two sets that `overlap` names should have no row in common.
    """
    found = [
        f"--columns swaps {a} and {b}: each is read from the column that has the other's name"
        for a, b in columns.items()
        if a < b and columns.get(b) == a
    ]
    for name, records in sets.items():
        found += _within(name, records)
    if overlap is not None:
        found += _between(overlap, sets[overlap[0]], sets[overlap[1]])
    return found


def plain(text: str | None) -> str:
    """A text without case, punctuation and white space that tell nothing apart."""
    return " ".join(_WORDS.findall(unicodedata.normalize("NFKC", text or "").casefold()))


def _within(name: str, records: Sequence[Record]) -> list[str]:
    places = _places(name, records)
    remarked: dict[str, list[int]] = defaultdict(list)
    asked: dict[str, list[int]] = defaultdict(list)
    answers = [plain(record.answer) for record in records]
    for row, record in enumerate(records):
        for remark in record.remarks:
            remarked[remark].append(row)
        key = answers[row] if record.question is None else plain(record.question)
        asked[key or (record.question or record.answer)].append(row)
        if key and record.question is not None and key == answers[row]:
            remarked["have the same text as question and as answer"].append(row)
        right = {answers[row], plain(record.paraphrased_answer)} - {""}
        if right & {plain(wrong) for wrong in record.perturbed_answer}:
            remarked["count a right answer among the wrong ones"].append(row)
    for rows in asked.values():
        if len({answers[row] for row in rows}) > 1:
            remarked["contradict each other: one question, different answers"] += rows
        seen: set[str] = set()
        for row in rows:
            if answers[row] in seen:
                remarked["repeat an earlier row, case and punctuation aside"].append(row)
            seen.add(answers[row])
    total = len(records)
    return [_sentence(f"{len(rows)} of {total} {name} rows {remark}", [places[row] for row in rows])
            for remark, rows in remarked.items()]  # fmt: skip


def _between(names: tuple[str, str], a: Sequence[Record], b: Sequence[Record]) -> list[str]:
    """How the rows of a set that is to be forgotten recur in one that is to be kept."""
    a_places, b_places = _places(names[0], a), _places(names[1], b)
    exact = _first((record.question, record.answer) for record in b)
    alike = _first((plain(record.question), plain(record.answer)) for record in b)
    asked = _first(plain(record.question) for record in b if record.question is not None)
    rows_asked = [row for row, record in enumerate(b) if record.question is not None]
    kinds: dict[str, list[str]] = defaultdict(list)
    left = []
    for row, record in enumerate(a):
        question, answer = plain(record.question), plain(record.answer)
        if (twin := exact.get((record.question, record.answer))) is not None:
            kind = f"are also in the {names[1]} set; what is retained is hardly forgotten"
        elif answer and (twin := alike.get((question, answer))) is not None:
            kind = f"are also in the {names[1]} set, but for case and punctuation; what is retained is hardly forgotten"
        elif question and question in asked:
            twin = rows_asked[asked[question]]
            kind = f"ask what the {names[1]} set answers in another way"
        else:
            left.append(row)
            continue
        kinds[kind].append(f"{a_places[row]} and {b_places[twin]}")
    near = near_duplicates([_text(a[row]) for row in left], [_text(record) for record in b])
    if near:
        kinds[f"are nearly the same as one of the {names[1]} set"] = [
            f"{a_places[left[row]]} and {b_places[twin]}" for row, twin in near.items()
        ]
    return [_sentence(f"{len(places)} of {len(a)} {names[0]} rows {kind}", places) for kind, places in kinds.items()]


def near_duplicates(texts: Sequence[str], others: Sequence[str]) -> dict[int, int]:
    """For each of `texts` that has a near-duplicate among `others` the first one.

    Two texts are near-duplicates where the Jaccard similarity of their sets of `GRAM` consecutive letters is at least
    `NEAR`. No pair is missed: of what a text shares with all of `texts`, so few pieces, the rarest, are looked up that
    a partner without any of them would share too little (prefix filtering, Bayardo et al. 2007, WWW).
    """
    grams = [_grams(text) for text in texts]
    holders: dict[str, list[int]] = defaultdict(list)
    for row, pieces in enumerate(grams):
        for piece in pieces:
            holders[piece].append(row)
    found: dict[int, int] = {}
    for twin, text in enumerate(others):
        pieces = _grams(text)
        shared = [piece for piece in pieces if piece in holders]
        surplus = len(shared) - math.ceil(NEAR * len(pieces)) + 1
        if surplus <= 0:
            continue
        rarest = sorted(shared, key=lambda piece: len(holders[piece]))[:surplus]
        for row in {row for piece in rarest for row in holders[piece]} - found.keys():
            common = len(pieces & grams[row])
            if common >= NEAR * (len(pieces) + len(grams[row]) - common):
                found[row] = twin
    return dict(sorted(found.items()))


def _grams(text: str) -> set[str]:
    return {text[start : start + GRAM] for start in range(max(1, len(text) - GRAM + 1))} if text else set()


def _text(record: Record) -> str:
    return plain(f"{record.question or ''} {record.answer}")


def _first(keys: Iterable[object]) -> dict[object, int]:
    """Each key's first place."""
    found: dict[object, int] = {}
    for row, key in enumerate(keys):
        found.setdefault(key, row)
    return found


def _places(name: str, records: Sequence[Record]) -> list[str]:
    return [record.place or f"{name} row {number}" for number, record in enumerate(records, start=1)]


def _sentence(text: str, places: Sequence[str]) -> str:
    more = f"; and {len(places) - SHOWN} more" if len(places) > SHOWN else ""
    return f"{text} ({'; '.join(places[:SHOWN])}{more})"
