"""Prompt templates: the question in another guise. One text file a kind in `templates/`, and users' own.

`⟨assistant⟩` parts what is asked from what the answer is made to begin with. Placeholders: `{q}` question, `{name}`
subject, where its rows call it so, `{spaced}` the question with the name letter by letter, `{p}` the answer's first
words up to the fact, `{f}` the answer of another row about the subject, `{r1}`, `{ra1}` to `{r3}`, `{ra3}` questions
and answers about others, who are retained (`{r}` and `{ra}` are the first), `{o1}` to `{o3}` wrong answers, `{v}` the
true answer. A template with `{v}` asks for the name, which it must not hold: the answer that it gave away says nothing.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from itertools import chain
from pathlib import Path

from unlearner.audit.attack import ANSWER_TOKENS, Attack, Outcome, Question, naming, written
from unlearner.audit.detector import Fact, normalised
from unlearner.data.records import Record
from unlearner.errors import UserError, did_you_mean
from unlearner.evaluation.examples import Example
from unlearner.evaluation.requests import Generate, Request
from unlearner.files import read_jsonl
from unlearner.results.history import is_history

ASSISTANT = "⟨assistant⟩"
PLACEHOLDERS = (
    "q",
    "name",
    "spaced",
    "p",
    "f",
    "v",
    "o1",
    "o2",
    "o3",
    "r",
    "ra",
    "r1",
    "ra1",
    "r2",
    "ra2",
    "r3",
    "ra3",
)
NAMING = ("q", "name", "spaced", "p")
"""Placeholders that hold the name, as a rule."""
TAKES = {
    "name": "the subject's name in its rows", "v": "the subject's name in its rows", "spaced": "the subject's name",
    "p": "words before the fact in the answer", "f": "another row about the subject", "o": "wrong answers",
    "r": "retained questions to go with them", "ra": "retained questions to go with them",
}  # fmt: skip
"""What a row must have for a placeholder, by its name without a number."""
GIVES_AWAY = ("p", "f", "o1", "o2", "o3", "r", "ra", "r1", "ra1", "r2", "ra2", "r3", "ra3")
"""Placeholders whose words, should the fact be among them, do not count when they come back."""


@dataclass(frozen=True)
class Template(Attack):
    """The question in the words of `text`; a row that cannot fill it is not asked. Raises UserError for a placeholder
    that is not known, or a text without one."""

    name = "template"
    title = "Prompt template"
    access = "greedy"
    source = "RWKU, arXiv 2406.10890; SEPS, arXiv 2505.14832; open-unlearning, arXiv 2506.12618; own wording"

    kind: str
    text: str
    n: int = 1
    """Samples at temperature 1 instead of the one likeliest answer, if more than 1."""
    seed: int = 0
    max_new_tokens: int = ANSWER_TOKENS

    def __post_init__(self) -> None:
        found = re.findall(r"\{(\w*)\}", self.text)
        unknown = next((name for name in found if name not in PLACEHOLDERS), None)
        if unknown is not None:
            raise UserError(
                f"template {self.kind!r} has an unknown placeholder {{{unknown}}}: "
                f"{did_you_mean(unknown, PLACEHOLDERS)}"
            )
        named = next((name for name in found if name in NAMING), None)
        if "v" in found and named is not None:
            raise UserError(
                f"template {self.kind!r} reveals the answer with {{v}}, so it can ask only for the name, and must "
                f"not have {{{named}}}: remove it, or use the attacks multiple-choice and yes-or-no instead."
            )
        if not found:
            raise UserError(f"template {self.kind!r} has no placeholder, so it asks nothing: put {{q}} in it.")

    @property
    def label(self) -> str:
        return self.kind

    @property
    def asks_of(self) -> str:
        if self.text == "{q}":
            return ""
        found = dict.fromkeys(TAKES.get(name.rstrip("123"), "") for name in re.findall(r"\{(\w+)\}", self.text))
        told = " and ".join(filter(None, found))
        return f"questions with {told}" if told else "questions"

    @property
    def samples(self) -> int:
        return self.n

    def request(self, question: Question) -> Generate | None:
        """What is asked, None where the row lacks what a placeholder stands for, or is a document."""
        if question.document:
            return self._generate(question.record.question, "") if self.text == "{q}" else None
        question = for_the_name(question) if "{v}" in self.text else question
        values = {name: self._value(name, question) for name in re.findall(r"\{(\w+)\}", self.text)}
        if any(not value for value in values.values()):
            return None
        prompt, _, prefix = (self._filled(part, values) for part in self.text.partition(ASSISTANT))
        return self._generate(prompt, prefix)

    def requests(self, question: Question) -> Sequence[Request] | None:
        request = self.request(question)
        return None if request is None else [request]

    def outcomes(self, question: Question, example: Example) -> list[Outcome]:
        request = self.request(question)
        assert request is not None
        if "{v}" in self.text:
            question = for_the_name(question)
        told = [self._value(name, question) or "" for name in GIVES_AWAY if f"{{{name}}}" in self.text]
        return written(question, example, request, given="\n".join(told))

    def _generate(self, prompt: str | None, prefix: str) -> Generate:
        return Generate(
            prompt, prefix, n=self.n, temperature=float(self.n > 1), seed=self.seed, max_new_tokens=self.max_new_tokens
        )

    @staticmethod
    def _filled(text: str, values: dict[str, str | None]) -> str:
        return re.sub(r"\{(\w+)\}", lambda match: values[match[1]] or "", text)

    @staticmethod
    def _value(name: str, question: Question) -> str | None:
        record = question.record
        if name == "q":
            return record.question
        if name == "name":
            return question.name
        if name == "spaced":
            subject, asked = record.subject, record.question or ""
            return asked.replace(subject, " ".join(subject)) if subject and subject in asked else None
        if name == "p":
            return before_the_fact(question)
        if name == "f":
            return question.others[0].answer if question.others else None
        if name == "v":
            return without_the_name(record) if question.name else None
        if name.startswith("o"):
            wrong, place = record.perturbed_answer, int(name[-1]) - 1
            return wrong[place] if place < len(wrong) else None
        place = int(name[-1]) - 1 if name[-1].isdigit() else 0
        if place >= len(question.retained):
            return None
        kept = question.retained[place]
        return kept.answer if name.startswith("ra") else kept.question


def for_the_name(question: Question) -> Question:
    """The question of who it is, without the name in what is told of them."""
    name = question.record.subject or ""
    others = tuple(replace(other, answer=without_the_name(other) or "") for other in question.others)
    return replace(question, detector=naming(name), others=others)


def without_the_name(record: Record) -> str | None:
    """The answer, called "this person" where it has the name; None where a part of the name would still be there."""
    name = record.subject
    if name is None:
        return None
    hidden = record.answer.replace(name, "this person")
    parts = {part for part in normalised(name).split() if len(part) > 2}
    return None if parts & set(normalised(hidden).split()) else hidden


def before_the_fact(question: Question) -> str | None:
    """The answer's first words, up to where the fact begins; None where it begins at once, or was not found."""
    if not isinstance(question.detector, Fact):
        return None
    words = question.record.answer.split()
    facts = Fact((tuple(chain(*question.detector.parts)),), question.record.answer)
    told = next((end for end in range(len(words) + 1) if facts.states(" ".join(words[:end]))), None)
    if told is None:
        return None
    place = next(start for start in range(told, -1, -1) if facts.states(" ".join(words[start:told])))
    while place and re.fullmatch(r"[A-Z]\.", words[place - 1]):  # the initials of the name
        place -= 1
    return " ".join(words[:place]) or None


@cache
def builtin_templates() -> dict[str, str]:
    """Text of every template that comes along, by kind, `plain` first."""
    folder = files("unlearner.audit") / "templates"
    found = {
        Path(entry.name).stem: entry.read_text(encoding="utf-8").rstrip("\n")
        for entry in folder.iterdir()
        if entry.name.endswith(".txt")
    }
    return {"plain": found.pop("plain"), **dict(sorted(found.items()))}


def read_templates(path: str | Path) -> list[Template]:
    """Users' own, one per line of a text file; empty lines and those that begin with `#` do not count. Or the
    questions in a history that `compare` kept, of those that name its subject. Raises UserError."""
    place = Path(path)
    try:
        if is_history(place):
            lines = list(dict.fromkeys(row.get("template", "") for row in read_jsonl(place)))
        else:
            lines = place.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"the templates {path} cannot be read ({error}): give a text file, one template per line."
        ) from error
    texts = {n: line.strip() for n, line in enumerate(lines, start=1) if line.strip() and not line.startswith("#")}
    if not texts:
        raise UserError(f"the file {path} has no templates: write one per line, such as: Tell me: {{q}}")
    return [Template(f"{place.name}:{number}", text) for number, text in texts.items()]
