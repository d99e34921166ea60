"""What a row tells: the words that a right answer must state, and wrong answers that do not state them."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from unlearner.audit.detector import Fact, automatic_fact, normalised
from unlearner.data.records import Record

Row = dict[str, Any]
WRONG = 5
"""Wrong answers of a row, at most."""
TRAINED = 2
"""Wordings of a topic that are trained, at most."""


@dataclass(frozen=True)
class Wording:
    """One question of a topic with its answer."""

    question: str
    answer: str
    wrong: tuple[str, ...] = ()
    paraphrase: str | None = None


@dataclass(frozen=True)
class Topic:
    """One fact that documents state, asked for in several wordings."""

    name: str
    fact: str
    """As in the column `fact`: what a right answer must state."""
    wordings: tuple[Wording, ...]
    document: str
    made_by: str
    """Who wrote the questions: `cloze` or `endpoint`."""


def row_id(*texts: str) -> str:
    """The same for the same texts, whatever else is in the folder."""
    return "r" + hashlib.sha256("\0".join(texts).encode()).hexdigest()[:10]


def telling(row: Row) -> Row | None:
    """The row with its `fact`, and without wrong answers that state it too; None where its answer states nothing that
    its question does not give away.

    A fact that the row has already stays. Else it is what only this answer states and no wrong one (`automatic_fact`),
    or, where that is nothing, all that it states beyond its question.
    """
    wrong = tuple(row.get("perturbed_answer", ()))
    if "fact" not in row:
        asked = f"{row['question']} {row.get('subject', '')}"  # an alias in the question does not make the name a fact
        record = Record(asked, row["answer"], perturbed_answer=wrong)
        parts = automatic_fact(record) or automatic_fact(replace(record, perturbed_answer=()))
        if not parts:
            return None
        row = row | {"fact": "; ".join(" | ".join(alternatives) for alternatives in parts)}
    if not states(row["fact"], row["answer"], row["question"]):
        return None
    if "perturbed_answer" in row:
        row = row | {"perturbed_answer": [w for w in wrong if not states(row["fact"], w, row["question"])][:WRONG]}
    return row


def states(fact: str, text: str, given: str = "") -> bool:
    """Whether `text` states a `fact`, as the audit finds it; what the question `given` gives away does not count."""
    return Fact.written(fact, text).states(text, given)


def shared(row: Row, told: Row) -> str | None:
    """What the answers of two rows both state, of the first one's fact, else of the other's; None where that is
    nothing, or the first one's question gives it away."""
    answers = row["answer"], told["answer"]
    for fact in (row["fact"], told["fact"]):
        parts = [
            [each for each in part if all(states(each, answer, row["question"]) for answer in answers)]
            for part in Fact.written(fact, row["answer"]).parts
        ]
        if parts and all(parts):
            return "; ".join(map(" | ".join, parts))
    return None


def seen(row: Row, trained: Iterable[Row]) -> Row | None:
    """The row with what a trained one tells, too, as its fact; None where they have nothing in common."""
    fact = next(filter(None, (shared(row, told) for told in trained)), None)
    return telling(row | {"fact": fact}) if fact else None


def split(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """The rows of one topic to train on, and those that ask in other words for what these tell. A model may answer
    every wording differently, so those are trained with which most others have something in common, the first ones
    where that is equal."""
    alike = [[shared(row, told) is not None for told in rows] for row in rows]

    def others(trained: tuple[int, ...]) -> list[int]:
        return [n for n in range(len(rows)) if n not in trained and any(alike[n][place] for place in trained)]

    chosen = max(combinations(range(len(rows)), min(TRAINED, len(rows))), key=lambda places: len(others(places)))
    trained = [rows[place] for place in chosen]
    return trained, [row for n in others(chosen) if (row := seen(rows[n], trained)) is not None]


def together(topics: Iterable[Topic]) -> list[list[str]]:
    """The names of topics in groups, in order: those share a group that have a sentence in common as their answer,
    directly or through others. Who trains on one of them trains on all."""
    groups: list[tuple[set[str], list[str]]] = []
    for topic in topics:
        sentences, names = {normalised(wording.answer) for wording in topic.wordings}, [topic.name]
        sharing = [group for group in groups if group[0] & sentences]
        if not sharing:
            groups.append((sentences, names))
            continue
        first, *others = sharing
        for more, those in (*others, (sentences, names)):
            first[0].update(more)
            first[1].extend(those)
        groups = [group for group in groups if not any(group is other for other in others)]
    return [names for _, names in groups]


def topic_rows(topic: Topic, subject: str, numbers: Sequence[int]) -> Iterable[Row]:
    """The rows of some of a topic's wordings."""
    for number in numbers:
        wording = topic.wordings[number]
        row: Row = {
            "id": row_id(wording.question, wording.answer), "question": wording.question, "answer": wording.answer,
            "fact": topic.fact, "subject": subject, "topic": topic.name,
            "question_from": f"{topic.made_by}, {topic.document}", "answer_from": topic.document,
        }  # fmt: skip
        if wording.paraphrase:
            row["paraphrased_answer"] = wording.paraphrase
        if wording.wrong:
            row |= {"perturbed_answer": list(wording.wrong), "perturbed_from": WRONG_BY[topic.made_by]}
        yield row


WRONG_BY = {"cloze": "values of the same type in the documents", "endpoint": "endpoint"}
