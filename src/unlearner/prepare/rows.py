"""The rows of all sources about a subject: asked of the model, taken from documents, completed by an endpoint."""

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, TypeVar

from unlearner.audit.detector import normalised
from unlearner.config import PrepareConfig
from unlearner.data.general import general_knowledge
from unlearner.data.records import Record
from unlearner.evaluation.requests import Generate
from unlearner.prepare.asking import Asked
from unlearner.prepare.drafts import Drafts
from unlearner.prepare.facts import WRONG, Row, Topic, row_id, seen, split, states, telling, together, topic_rows
from unlearner.prepare.kinds import ask, swapped
from unlearner.prepare.knowledge import renamed
from unlearner.prepare.passages import Passage
from unlearner.prepare.subject import About

Each = TypeVar("Each")
IN_FULL, IN_PART = 4, 2
"""Controls that are asked all questions, as an audit teaches and compares with whole ones, and questions about each of
the others: with 19 or more of them a subject that leaks can be told from chance."""
ABOUT = ("forget", "unseen_wordings", "unseen_facts", "unseen_aliases", "passages")
"""Sources about the subject."""
HELD_OUT = tuple(name for name in ABOUT if name.startswith("unseen"))
JOINED = {"subject": ("forget", "unseen_wordings", "unseen_facts"), "retain": ("neighbours", "general")}
"""Sources made of others: all about the subject, one after the other, and what is trained to be kept, by turns."""
SENTENCES = re.compile(r".*[.!?](?<!\b[A-Z]\.)[\"')]?(?=\s|$)", re.DOTALL)
"""Up to the last end of a sentence, which an initial is not."""
UNTRAINED = "held-out rows whose fact no trained row of their topic states"
LIST_NUMBER = re.compile(r"\s+\d+\.$")

Sources = dict[str, list[Row]]


@dataclass(frozen=True)
class Material:
    """What rows are made of, beside the model's answers."""

    neighbours: Mapping[str, str]
    """Names, and where each comes from."""
    topics: list[Topic] = field(default_factory=list)
    known: Mapping[str, bool] = field(default_factory=dict)
    """Of facts, by name, whether the model knows them, where it was asked."""
    answers: Mapping[str, str] = field(default_factory=dict)
    """The model's likeliest answers that are there already, by question."""
    passages: Sequence[Passage] = ()
    unnamed: Sequence[Passage] = ()
    """Passages that do not name the subject."""


class Writer:
    """Asks the model and makes the rows of all sources; `left_out` counts those that could not be used, by reason."""

    def __init__(
        self, config: PrepareConfig, subject: About, material: Material, asked: Asked, drafts: Drafts | None
    ) -> None:
        self.config, self.subject, self.material, self.asked, self.drafts = config, subject, material, asked, drafts
        # What the model does not know is asked about by the documents alone, where there are any; a user's own question
        # is asked in any case.
        unknown = [
            name for name in subject.facts
            if material.topics and not material.known.get(name, True) and subject.origin(name) != "user"
        ]  # fmt: skip
        self.facts = {name: wordings for name, wordings in subject.facts.items() if name not in unknown}
        self.invented = subject.others(subject.kind.invented)
        self.answers = {question: whole_sentences(text) for question, text in material.answers.items()}
        self.left_out: Counter[str] = Counter()
        self._count("questions that the model cannot answer, beside those of the documents", len(unknown))

    def sources(self) -> Sources:
        """The rows of each source, but those of `JOINED`."""
        self._ask(self._questions())
        general, neighbours = self._general(), self._neighbours()
        unseen, later = self._unseen([[fact] for fact in self.facts]), self._unseen(together(self.material.topics))
        asked = [fact for fact in self.facts if fact not in unseen]
        topics = [topic for topic in self.material.topics if topic.name not in later]
        kept, held = _parts(list(self.material.neighbours))
        bank_kept, bank_held = _parts(general)
        aliases = self.subject.names[1:]
        trained, wordings = self._split([*self._about(asked), *self._of(topics)])
        made: dict[str, Iterable[Row | None]] = {
            "forget": map(self._paraphrased, trained),
            "unseen_wordings": map(self._paraphrased, wordings),
            "unseen_facts": [
                *map(self._paraphrased, self._about(unseen)),
                *self._of([topic for topic in self.material.topics if topic.name in later]),
            ],
            "unseen_aliases": [row for alias in aliases for row in self._alias(alias, asked, topics, trained)],
            "neighbours": [row for name in kept for row in neighbours[name]],
            "neighbours_held_out": [row for name in held for row in neighbours[name]],
            "general": bank_kept,
            "general_held_out": bank_held,
            "controls": [*self._controls(), *self._topic_controls(topics)],
            "passages": map(self._passage, self.material.passages),
            "passages_unnamed": map(self._passage, self.material.unnamed),
        }
        written = {name: [row for row in rows if row is not None] for name, rows in made.items()}
        written, left_out = held_apart(written)
        self.left_out.update(left_out)
        if self.drafts is not None:
            ours = [name for name in ABOUT if name in written and name != "passages"]
            own = [row for name in ours for row in written[name] if row["answer_from"] == "model"]
            better = {row["id"]: row for row in self.drafts.alternatives(own)}
            written |= {name: [better.get(row["id"], row) for row in written[name]] for name in ours}
        self._count_wanting([row for name in ABOUT if name != "passages" for row in written[name]])
        return {name: rows for name, rows in written.items() if rows}

    def _count(self, reason: str, number: int = 1) -> None:
        if number:
            self.left_out[reason] += number

    def _count_wanting(self, rows: Sequence[Row]) -> None:
        """Count what rows about the subject are without, and metrics miss."""
        for key, what in (("paraphrased_answer", "paraphrases"), ("perturbed_answer", "sets of wrong answers")):
            self._count(f"{what}, of rows for which there is none", sum(not row.get(key) for row in rows))

    def _general(self) -> list[Row]:
        """Rows of the bank, drawn by the seed: as many as are wanted of those that do not touch the subject, neither by
        the bank nor by the model's answer."""
        bank = random.Random(f"general {self.config.seed}").sample(general_knowledge(), len(general_knowledge()))
        drawn = [record for record in bank if not self.subject.is_in(f"{record.question} {record.answer}")]
        rows: list[Row] = []
        while drawn and (wanting := self.config.general_count - len(rows)) > 0:
            now, drawn = drawn[:wanting], drawn[wanting:]
            self._ask([record.question or "" for record in now], keep=True)
            rows += filter(None, (self._kept(self._of_bank(record)) for record in now))
        return rows

    def _neighbours(self) -> dict[str, list[Row]]:
        """By name a row for each fact, of the first wording with an answer that does not speak of the subject."""
        rows: dict[tuple[str, str], Row] = {}
        places = [(name, fact) for name in self.material.neighbours for fact in self.subject.facts]
        for number in range(max(map(len, self.subject.facts.values()))):
            wanting = [(n, f) for n, f in places if (n, f) not in rows and number < len(self.subject.facts[f])]
            self._ask([ask(self.subject.facts[fact][number], name) for name, fact in wanting])
            for name, fact in wanting:
                if row := self._kept(self._neighbour(name, fact, number)):
                    rows[name, fact] = row
        return {name: [rows[n, f] for n, f in places if n == name and (n, f) in rows] for name, _ in places}

    def _kept(self, row: Row | None) -> Row | None:
        """The row to be kept, if it does not speak of the subject."""
        if row is not None and self.subject.is_in(f"{row['question']} {row['answer']}", row["subject"]):
            self._count("rows to be kept that name the subject")
            return None
        return row

    def _unseen(self, groups: list[list[str]]) -> list[str]:
        """The facts of which no wording is trained: a quarter of the groups, drawn by the seed, never the first."""
        count = min(max(1, len(groups) // 4), len(groups) - 1)
        drawn = random.Random(f"facts {self.config.seed}").sample(groups[1:], count) if count > 0 else []
        return [fact for group in drawn for fact in group]

    def _questions(self) -> Iterator[str]:
        """All questions about the subject, and a wording of each about its other names and its neighbours."""
        yield from (ask(w, self.subject.name) for wordings in self.facts.values() for w in wordings)
        names = [*self.material.neighbours, *self.subject.names[1:]]
        yield from (ask(wordings[0], name) for wordings in self.subject.facts.values() for name in names)

    def _ask(self, questions: Iterable[str], *, keep: bool = False) -> None:
        """Get the model's likeliest answers, as far as their sentences are whole, where they are not there yet; `keep`
        those that other subjects need, too."""
        requests = {q: Generate(q, max_new_tokens=self.config.max_new_tokens) for q in questions}
        requests = {q: request for q, request in requests.items() if q not in self.answers}
        said = self.asked.answers(requests.values(), "asking", keep=keep)
        self.answers |= {q: whole_sentences(said.written(request)[0].text) for q, request in requests.items()}

    def _row(self, name: str, fact: str, number: int) -> Row | None:
        question = ask(self.subject.facts[fact][number], name)
        answer = self.answers[question]
        if not answer:
            self._count("rows without an answer")
            return None
        row: Row = {
            "id": row_id(question, answer), "question": question, "answer": answer, "subject": name, "topic": fact,
            "question_from": self.subject.origin(fact), "answer_from": "model",
        }  # fmt: skip
        return row | ({"known": self.material.known[fact]} if fact in self.material.known else {})

    def _renamed(self, text: str, name: str, other: str) -> str:
        return renamed(text, (name,), other, persons=self.subject.kind.persons)

    def _with_wrong(self, row: Row, about: str, names: tuple[str, ...]) -> Row:
        """The row with what is said of neighbours as wrong answers, in the name `about`."""
        wording = self.subject.facts[row["topic"]][0]
        others = [name for name in self.material.neighbours if name not in names]
        wrong = (self._renamed(self.answers[ask(wording, name)], name, about) for name in others)
        distinct = [text for text in dict.fromkeys(wrong) if text and text != row["answer"]]
        return row | {"perturbed_answer": distinct[:WRONG], "perturbed_from": "model, about neighbours"}

    def _told(self, row: Row) -> Row | None:
        told = telling(row)
        if told is None:
            self._count("rows whose answer tells nothing")
        return told

    def _about(self, facts: Sequence[str]) -> Iterator[Row]:
        for fact in facts:
            for number in range(len(self.facts[fact])):
                row = self._row(self.subject.name, fact, number)
                told = row and self._told(self._with_wrong(row, self.subject.name, self.subject.names))
                if told:
                    yield told

    def _of(self, topics: Sequence[Topic], wordings: slice = slice(None)) -> Iterator[Row]:
        for topic in topics:
            known = {"known": self.material.known[topic.name]} if topic.name in self.material.known else {}
            for row in topic_rows(topic, self.subject.name, range(len(topic.wordings))[wordings]):
                if told := self._told(row | known):
                    yield told

    def _split(self, rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
        """Rows to train on, and those that ask in other words for what they tell; the others are counted."""
        topics: dict[str, list[Row]] = {}
        for row in rows:
            topics.setdefault(row["topic"], []).append(row)
        parts = [split(those) for those in topics.values()]
        trained, held = ([row for part in parts for row in part[place]] for place in (0, 1))
        self._count(UNTRAINED, len(rows) - len(trained) - len(held))
        return trained, held

    def _paraphrased(self, row: Row) -> Row:
        """The row with the model's answer to another wording that states its fact, too, where there is one."""
        if row["answer_from"] != "model":
            return row
        others = (self.answers[ask(wording, self.subject.name)] for wording in self.facts[row["topic"]])
        same = (text for text in others if text != row["answer"] and states(row["fact"], text))
        paraphrase = next(same, None)
        more = {"paraphrased_answer": paraphrase, "paraphrased_from": "model, to another wording"}
        return row | (more if paraphrase else {})

    def _alias(
        self, alias: str, facts: Sequence[str], topics: Sequence[Topic], trained: Sequence[Row]
    ) -> Iterator[Row]:
        """What is trained by the subject's name, asked by another one."""
        asked = []
        for fact in facts:
            if row := self._row(alias, fact, 0):
                row = self._with_wrong(row | {"subject": self.subject.name}, alias, self.subject.names)
                asked.append(self._told(row))
        for row in self._of(topics, slice(1)):
            question = swapped(row["question"], self.subject.names, alias)
            asked.append(self._told(row | {"id": row_id(question, row["answer"]), "question": question}))
        for told in filter(None, asked):
            if row := seen(told, [each for each in trained if each["topic"] == told["topic"]]):
                yield row
            else:
                self._count(UNTRAINED)

    def _neighbour(self, name: str, fact: str, number: int) -> Row | None:
        row = self._row(name, fact, number)
        if row is None:
            return None
        row = {key: value for key, value in row.items() if key != "known"}
        row = self._with_wrong(row | {"neighbour_from": self.material.neighbours[name]}, name, (name,))
        return telling(row) or row

    def _controls(self) -> Iterator[Row | None]:
        """Invented names, each with what the model says of some neighbour: true of nobody, so that what it states of it
        is guessed."""
        neighbours = list(self.material.neighbours)
        for place, name in enumerate(self.invented):
            for number, fact in _asked_of(place, list(self.subject.facts)):
                wordings = self.subject.facts[fact]
                neighbour = neighbours[(place + number) % len(neighbours)]
                question = ask(wordings[0], name)
                answer = self._renamed(self.answers[ask(wordings[0], neighbour)], neighbour, name)
                row: Row = {
                    "id": row_id(question, answer), "question": question, "answer": answer, "subject": name,
                    "topic": fact, "question_from": self.subject.origin(fact),
                    "answer_from": f"model, about {neighbour}",
                }  # fmt: skip
                yield self._told(self._with_wrong(row, name, (neighbour,))) if answer else None

    def _topic_controls(self, topics: Sequence[Topic]) -> Iterator[Row | None]:
        """Invented names with the wrong answers of documents' facts."""
        for place, name in enumerate(self.invented):
            for _, topic in _asked_of(place, topics):
                wording = topic.wordings[0]
                if len(wording.wrong) < 2:
                    continue
                question = swapped(wording.question, self.subject.names, name)
                texts = [swapped(text, self.subject.names, name) for text in wording.wrong]
                answer = texts.pop(place % len(texts))
                row: Row = {
                    "id": row_id(question, answer), "question": question, "answer": answer, "subject": name,
                    "topic": topic.name, "question_from": topic.made_by, "answer_from": "a wrong answer",
                    "perturbed_answer": texts, "perturbed_from": "other wrong answers",
                }  # fmt: skip
                yield self._told(row)

    def _of_bank(self, record: Record) -> Row | None:
        """A question of the bank with the model's answer; the bank's own one is what a right answer must state."""
        answer = self.answers[record.question or ""]
        if not answer:
            self._count("rows without an answer")
            return None
        right = re.compile(rf"(?<!\w){re.escape(record.answer)}(?!\w)", re.IGNORECASE)
        wrong = [right.sub(w, answer) if right.search(answer) else w for w in record.perturbed_answer]
        wrong = [w for w in wrong if normalised(w) != normalised(answer)]
        return {
            "id": row_id(record.question or "", answer), "question": record.question, "answer": answer,
            "perturbed_answer": wrong, "fact": record.fact, "subject": record.subject, "question_from": "bank",
            "answer_from": "model", "perturbed_from": "bank",
        }  # fmt: skip

    def _passage(self, passage: Passage) -> Row:
        return {
            "id": row_id(passage.text), "text": passage.text, "subject": self.subject.name,
            "text_from": passage.document,
        }  # fmt: skip


def joined(sources: Sources) -> Sources:
    """The sources of `JOINED`, made of the others."""
    subject = [row for name in JOINED["subject"] for row in sources.get(name, [])]
    turns = zip_longest(*(sources.get(name, []) for name in JOINED["retain"]))
    made = {"subject": subject, "retain": [row for pair in turns for row in pair if row is not None]}
    return {name: rows for name, rows in made.items() if rows}


def held_apart(sources: Sources) -> tuple[Sources, Counter[str]]:
    """The sources without held-out rows about the subject whose question is trained, and without unseen facts that a
    trained question or answer states; and how many these are, by reason."""
    trained, kept, left_out = sources.get("forget", []), dict(sources), Counter[str]()
    questions = {normalised(row["question"]) for row in trained}
    told = [text for row in trained for text in (row["question"], row["answer"])]
    for name in filter(sources.get, HELD_OUT):
        kept[name] = [row for row in sources[name] if normalised(row["question"]) not in questions]
        left_out["held-out rows whose question is trained"] += len(sources[name]) - len(kept[name])
    if asked := kept.get("unseen_facts"):
        apart = [row for row in asked if not any(states(row["fact"], text, row["question"]) for text in told)]
        left_out["unseen facts that a trained row states"] += len(asked) - len(apart)
        kept["unseen_facts"] = apart
    return kept, +left_out


def untrained(sources: Sources) -> set[str]:
    """The ids of held-out rows whose fact no trained row of their topic states, as where that one was dropped."""
    told: dict[str, list[str]] = {}
    for row in sources.get("forget", []):
        told.setdefault(row["topic"], []).append(row["answer"])
    held = [row for name in ("unseen_wordings", "unseen_aliases") for row in sources.get(name, [])]
    return {
        row["id"] for row in held
        if not any(states(row["fact"], answer, row["question"]) for answer in told.get(row["topic"], []))
    }  # fmt: skip


def _parts(items: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Two thirds to be trained, a third to be held out; both hold one at least."""
    cut = min(max(1, len(items) * 2 // 3), len(items) - 1)
    return list(items[:cut]), list(items[cut:])


def _asked_of(place: int, facts: Sequence[Each]) -> list[tuple[int, Each]]:
    """What is asked of the control at `place`, with its number: all of the first `IN_FULL`, of the others `IN_PART`, by
    turns, so that every fact is asked of some."""
    numbered = list(enumerate(facts))
    if place < IN_FULL or len(numbered) <= IN_PART:
        return numbered
    first = (place - IN_FULL) * IN_PART
    chosen = {number % len(numbered) for number in range(first, first + IN_PART)}
    return [each for each in numbered if each[0] in chosen]


def whole_sentences(text: str) -> str:
    """`text` without the sentence that its last tokens leave unfinished; all of it where none is finished."""
    found = SENTENCES.match(text.strip())
    return LIST_NUMBER.sub("", found[0] if found else text.strip()).strip()
