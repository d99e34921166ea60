"""What an endpoint is asked to write: neighbours, questions, wrong answers, facts of documents. Nothing it says is used
before it is checked; what fails is left out and counted."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from unlearner.audit.detector import normalised
from unlearner.data.general import mentions
from unlearner.prepare.endpoint import Endpoint
from unlearner.prepare.facts import WRONG, Row, Topic, Wording, states
from unlearner.prepare.kinds import ENGLISH, swapped
from unlearner.prepare.neighbours import distinct
from unlearner.prepare.passages import Passage
from unlearner.prepare.subject import is_any

LANGUAGES = {ENGLISH: "English", "de": "German"}
LONGEST = 300
"""Letters of a question or name, at most."""
WORDINGS = 4
TEXT = {"type": "string"}


def schema(**properties: Any) -> dict[str, Any]:
    """The JSON schema of an object that has all of these."""
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def several(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


FACT = schema(questions=several(TEXT), answer=TEXT, value=TEXT, paraphrase=TEXT, wrong=several(TEXT))


@dataclass
class Drafts:
    """Asks an endpoint about the subject `names`, its aliases after it."""

    endpoint: Endpoint
    names: tuple[str, ...]
    kind: str
    language: str
    dropped: dict[str, int] = field(default_factory=dict)
    """What was not used, by what it was."""

    @property
    def spoken(self) -> str:
        return LANGUAGES.get(self.language, self.language)

    @property
    def left_out(self) -> dict[str, int]:
        """How much of what the endpoint wrote was not used, by what it was."""
        counts = {**self.dropped, "whole answers": self.endpoint.dropped}
        return {f"{what} of the endpoint": number for what, number in sorted(counts.items()) if number}

    def neighbours(self, count: int) -> list[str]:
        """Names close to the subject, none of them the subject's."""
        prompt = (
            f"Name {count} well-known examples of the kind {self.kind!r} that are closest to {self.names[0]} in field, "
            f'time and place, but are not {self.names[0]}. Answer with a JSON object alone: {{"names": ["...", ...]}}'
        )

        def check(place: int, value: Any) -> list[str] | None:
            said = [" ".join(name.split()) for name in _texts(value, "names")]
            used = distinct(n for n in said if 2 <= len(n) <= 80 and not is_any(n, self.names))
            self._count("neighbours", len(said) - len(used))
            return used[:count] if len(used) > 1 else None

        (found,) = self.endpoint.ask_all([(prompt, schema(names=several(TEXT)))], check, "neighbours")
        return found or []

    def questions(self, count: int) -> dict[str, tuple[str, ...]]:
        """Wordings by fact, the name's place in them as `{name}`."""
        prompt = (
            f"Write questions in {self.spoken} about {count} different facts on {self.names[0]} ({self.kind}), each of "
            f"which has one short answer. Write {WORDINGS} wordings of each question, every one with the name "
            f"{self.names[0]} in it. Do not answer them. Answer with a JSON object alone: "
            '{"facts": [{"topic": "one or two words", "wordings": ["...", "...", "...", "..."]}, ...]}'
        )
        fact = schema(topic=TEXT, wordings=several(TEXT))

        def check(place: int, value: Any) -> dict[str, tuple[str, ...]] | None:
            used: dict[str, tuple[str, ...]] = {}
            for each in _objects(value, "facts"):
                good = self._naming(_texts(each, "wordings"))
                topic = each.get("topic")
                if len(good) > 1 and isinstance(topic, str) and topic.strip():
                    used.setdefault(f"{topic.strip()[:40]} (endpoint)", tuple(good[:WORDINGS]))
                else:
                    self._count("questions", 1)
            return used or None

        (found,) = self.endpoint.ask_all([(prompt, schema(facts=several(fact)))], check, "questions")
        return dict(list((found or {}).items())[:count])

    def alternatives(self, rows: Sequence[Row]) -> list[Row]:
        """The rows with a paraphrase that states their fact and wrong answers that do not; those of which neither could
        be used stay as they are."""
        tasks = [
            (
                f"Question: {row['question']}\nAnswer: {row['answer']}\nWrite the answer in other words, in "
                f"{self.spoken}, and {WRONG} wrong answers of the same form and length, which name other values of "
                'the same type. Answer with a JSON object alone: {"paraphrase": "...", "wrong": ["...", ...]}',
                schema(paraphrase=TEXT, wrong=several(TEXT)),
            )
            for row in rows
        ]

        def check(place: int, value: Any) -> Row | None:
            row = rows[place]
            wrong, paraphrase = self._alternatives(value, row["fact"], row["answer"], row["question"])
            made: Row = {"perturbed_answer": wrong, "perturbed_from": "endpoint"} if wrong else {}
            if paraphrase:
                made |= {"paraphrased_answer": paraphrase, "paraphrased_from": "endpoint"}
            return made or None

        made = self.endpoint.ask_all(tasks, check, "wrong answers")
        return [row | (more or {}) for row, more in zip(rows, made, strict=True)]

    def topics(self, passages: Sequence[Passage]) -> list[Topic]:
        """The facts about the subject that passages state, each with questions; a value that its passage does not have
        is not used."""
        tasks = [
            (
                f"Text: {passage.text}\n\nFind the facts that this text states about {self.names[0]}, up to 8. Write "
                f"for each, in {self.spoken}: {WORDINGS} wordings of one question for it, each with the name "
                f"{self.names[0]} and without the answer; the answer as a whole sentence; its value, the words of the "
                f"text that alone answer the question; the answer in other words; {WRONG} wrong answers of the same "
                'form with other values. Answer with a JSON object alone: {"facts": [{"questions": ["...", "...", '
                '"...", "..."], "answer": "...", "value": "...", "paraphrase": "...", "wrong": ["...", ...]}, ...]}',
                schema(facts=several(FACT)),
            )
            for passage in passages
        ]

        def check(place: int, value: Any) -> list[Topic] | None:
            if not isinstance(value.get("facts"), list):
                return None
            made = [self._topic(each, passages[place]) for each in _objects(value, "facts")]
            self._count("facts of documents", sum(topic is None for topic in made))
            return [topic for topic in made if topic is not None]

        found = self.endpoint.ask_all(tasks, check, "facts of documents")
        return _joined(topic for topics in found if topics for topic in topics)

    def _topic(self, draft: dict[str, Any], passage: Passage) -> Topic | None:
        answer, value = (" ".join(str(draft.get(key, "")).split()) for key in ("answer", "value"))
        plain = normalised(value)
        if not plain or f" {plain} " not in f" {normalised(passage.text)} " or not states(plain, answer):
            return None
        questions = [q for q in _texts(draft, "questions") if self._naming([q]) and not states(plain, q)]
        if len(questions) < 2 or mentions(value, self.names):
            return None
        wrong, paraphrase = self._alternatives(draft, plain, answer, "")
        asked = tuple(
            Wording(" ".join(q.split()), answer, tuple(wrong), paraphrase)
            for q in dict.fromkeys(questions[:WORDINGS])
        )  # fmt: skip
        return Topic(plain, plain, asked, passage.document, "endpoint")

    def _alternatives(self, value: Any, fact: str, answer: str, question: str) -> tuple[list[str], str | None]:
        said = [" ".join(text.split()) for text in _texts(value, "wrong")]
        wrong = [w for w in dict.fromkeys(said) if w and w != answer and not states(fact, w, question)]
        self._count("wrong answers", len(said) - len(wrong))
        paraphrase = value.get("paraphrase")
        if isinstance(paraphrase, str) and paraphrase != answer and states(fact, paraphrase, question):
            return wrong[:WRONG], " ".join(paraphrase.split())
        self._count("paraphrases", 1)
        return wrong[:WRONG], None

    def _naming(self, wordings: Iterable[str]) -> list[str]:
        """Questions that name the subject and no alias beside it, with `{name}` in its place."""
        made = [swapped(" ".join(text.split()), self.names, "{name}") for text in wordings]
        return [w for w in dict.fromkeys(made) if "{name}" in w and len(w) <= LONGEST and w.endswith(("?", "."))]

    def _count(self, what: str, number: int) -> None:
        with self.endpoint.lock:
            self.dropped[what] = self.dropped.get(what, 0) + number


def _joined(topics: Iterable[Topic]) -> list[Topic]:
    """One topic for each value, the first that has it."""
    found: dict[str, Topic] = {}
    for topic in topics:
        found.setdefault(topic.fact, topic)
    return list(found.values())


def _texts(value: Any, key: str) -> list[str]:
    held = value.get(key)
    return [text for text in held if isinstance(text, str) and text.strip()] if isinstance(held, list) else []


def _objects(value: Any, key: str) -> list[dict[str, Any]]:
    held = value.get(key)
    return [each for each in held if isinstance(each, dict)] if isinstance(held, list) else []
