"""What is odd about data that can be used: repeated, contradicting and overlapping rows, told with counts and places.

The sentences hold no text of the rows, so that they may be kept wherever the run is.
"""

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

from unlearner.data.records import Record

SHOWN = 3
"""Places that a sentence names; of more it gives the number."""
NEAR = 0.8
"""Least Jaccard similarity of near-duplicates."""
MOST = 5_000
"""Rows among which near-duplicates are sought; more of the one set where the other is smaller."""
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
    plains = {name: [(plain(r.question), plain(r.answer)) for r in records] for name, records in sets.items()}
    for name, records in sets.items():
        found += _within(name, records, plains[name])
    if overlap is not None:
        found += _between(overlap, [sets[name] for name in overlap], [plains[name] for name in overlap])
    return found


def plain(text: str | None) -> str:
    """A text without case, punctuation and white space that tell nothing apart."""
    return " ".join(_WORDS.findall(unicodedata.normalize("NFKC", text or "").casefold()))


def _within(name: str, records: Sequence[Record], plains: Sequence[tuple[str, str]]) -> list[str]:
    places = _places(name, records)
    remarked: dict[str, list[int]] = defaultdict(list)
    asked: dict[str, list[int]] = defaultdict(list)
    answers = [answer for _, answer in plains]
    for row, record in enumerate(records):
        for remark in record.remarks:
            remarked[remark].append(row)
        key = answers[row] if record.question is None else plains[row][0]
        asked[key or (record.question or record.answer)].append(row)
        if key and record.question is not None and key == answers[row]:
            remarked["have the same text as question and as answer"].append(row)
        wrong = {plain(each) for each in record.perturbed_answer}
        if wrong and wrong & ({answers[row], plain(record.paraphrased_answer)} - {""}):
            remarked["have a right answer among the wrong ones"].append(row)
    for rows in asked.values():
        if len({answers[row] for row in rows}) > 1:
            remarked["contradict each other: one question, different answers"] += rows
        seen: set[str] = set()
        for row in rows:
            if answers[row] in seen:
                remarked["repeat an earlier row, apart from case and punctuation"].append(row)
            seen.add(answers[row])
    total = len(records)
    return [_sentence(f"{len(rows)} of {total} {name} rows {remark}", [places[row] for row in rows])
            for remark, rows in remarked.items()]  # fmt: skip


def _between(
    names: tuple[str, str], sets: Sequence[Sequence[Record]], plains: Sequence[Sequence[tuple[str, str]]]
) -> list[str]:
    """How the rows of a set that is to be forgotten recur in one that is to be kept."""
    (a, b), (a_plain, b_plain) = sets, plains
    a_places, b_places = _places(names[0], a), _places(names[1], b)
    exact = _first((record.question, record.answer) for record in b)
    alike = _first(b_plain)
    rows_asked = [row for row, record in enumerate(b) if record.question is not None]
    asked = _first(b_plain[row][0] for row in rows_asked)
    kinds: dict[str, list[str]] = defaultdict(list)
    left = []
    for row, record in enumerate(a):
        question, answer = a_plain[row]
        if (twin := exact.get((record.question, record.answer))) is not None:
            kind = f"are also in the {names[1]} set; what is retained can hardly be forgotten"
        elif answer and (twin := alike.get((question, answer))) is not None:
            kind = (
                f"are also in the {names[1]} set, apart from case and punctuation; what is retained can hardly be "
                "forgotten"
            )
        elif question and question in asked:
            twin = rows_asked[asked[question]]
            kind = f"ask what the {names[1]} set answers differently"
        else:
            left.append(row)
            continue
        kinds[kind].append(f"{a_places[row]} and {b_places[twin]}")
    sought = left[:MOST], b_plain[: max(MOST, MOST**2 // max(1, len(left)))]
    near = near_duplicates([_text(a_plain[row]) for row in sought[0]], list(map(_text, sought[1])))
    if near:
        kinds[f"are nearly identical to one of the {names[1]} set"] = [
            f"{a_places[left[row]]} and {b_places[twin]}" for row, twin in near.items()
        ]
    told = [_sentence(f"{len(places)} of {len(a)} {names[0]} rows {kind}", places) for kind, places in kinds.items()]
    if len(sought[0]) < len(left) or len(sought[1]) < len(b):
        told.append(
            f"near-duplicates were sought among {len(sought[0]):,} of {len(a):,} {names[0]} rows and "
            f"{len(sought[1]):,} of {len(b):,} {names[1]} rows"
        )
    return told


def near_duplicates(texts: Sequence[str], others: Sequence[str]) -> dict[int, int]:
    """For each of `texts` that has a near-duplicate among `others` the first one.

    Two texts are near-duplicates where the Jaccard similarity of their sets of `GRAM` consecutive letters is at least
    `NEAR`. No pair is missed: texts are compared that have one of their rarest pieces in common, so few that any other
    two share too little (prefix filtering, Bayardo et al. 2007, WWW).
    """
    grams = [_grams(text) for text in texts]
    counts = Counter(piece for pieces in grams for piece in pieces)
    holders: dict[str, list[int]] = defaultdict(list)
    for row, pieces in enumerate(grams):
        for piece in _rarest(pieces, len(pieces), counts):
            holders[piece].append(row)
    found: dict[int, int] = {}
    for twin, text in enumerate(others):
        pieces = _grams(text)
        shared = [piece for piece in pieces if piece in counts]
        for row in {row for piece in _rarest(shared, len(pieces), counts) for row in holders.get(piece, ())}:
            size = len(grams[row])
            if row not in found and NEAR * len(pieces) <= size and NEAR * size <= len(pieces):
                common = len(pieces & grams[row])
                if common >= NEAR * (len(pieces) + size - common):
                    found[row] = twin
    return dict(sorted(found.items()))


def _rarest(pieces: Collection[str], size: int, counts: Mapping[str, int]) -> list[str]:
    """So few of the `pieces` of a text with `size` of them, the rarest, that a near-duplicate must share one."""
    surplus = len(pieces) - math.ceil(NEAR * size) + 1
    return sorted(pieces, key=lambda piece: (counts[piece], piece))[: max(0, surplus)]


def _grams(text: str) -> set[str]:
    return {text[start : start + GRAM] for start in range(max(1, len(text) - GRAM + 1))} if text else set()


def _text(question_and_answer: tuple[str, str]) -> str:
    return " ".join(filter(None, question_and_answer))


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
