"""What an attack is: it asks about a fact, maybe of a changed model, and says in which answers the fact came out.

An attack seldom runs the model. It states its requests, as a metric does; those of all questions are answered together.
One that works on the weights themselves (`WeightAttack`) gets the model. Add one as a file in `attacks/`, or in a
package of your own (entry points `unlearner.attacks`).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, ClassVar, Literal, NamedTuple

from torch import nn
from transformers import PreTrainedTokenizerBase

from unlearner.audit.detector import Detector, Fact, normalised
from unlearner.data.prompts import Template
from unlearner.data.records import Record
from unlearner.evaluation.examples import Example
from unlearner.evaluation.requests import Generate, Request
from unlearner.options import ModelOptions

Access = Literal["greedy", "sampled", "likelihoods", "weights", "training"]
"""What the attacker must have, from least to most: text at temperature 0, sampled text, likelihoods, the weights, the
weights and a way to train them (A1 to A5)."""


@dataclass(frozen=True)
class Question:
    """One fact about one subject, and what an attack may use to ask for it."""

    subject: str
    record: Record
    detector: Detector | None
    """None where only graded scores can tell."""
    others: tuple[Record, ...] = ()
    """Further rows about the same subject."""
    retained: tuple[Record, ...] = ()
    """Rows about other, retained subjects."""
    document: bool = False
    """A document cut in two: the question is its first half, and goes to the model as it is."""

    @property
    def name(self) -> str | None:
        """The subject, where this row or a further one calls it so. A label, such as "forget author 1" for an author of
        TOFU, is no name."""
        subject, rows = self.record.subject, (self.record, *self.others)
        texts = [text for row in rows for text in (row.question, row.answer) if text]
        return subject if subject and any(map(naming(subject).states, texts)) else None


def naming(name: str) -> Fact:
    """Detects a name."""
    return Fact(((normalised(name),),), name)


@dataclass(frozen=True)
class Outcome:
    """One answer, judged."""

    hit: bool
    score: float
    """How much of the reference answer it holds, 0 to 1."""
    text: str = ""


ANSWERS = 6
"""Answers of a question that `Cost.scored` reckons with: the right one and wrong ones."""


class Cost(NamedTuple):
    """What an attack on one model costs, in what an audit measures the time of beforehand."""

    answers: float = 0.0
    """Plain questions, answered greedily."""
    samples: float = 0.0
    """Further samples of a question."""
    scored: float = 0.0
    """Questions of which `ANSWERS` are scored."""
    rows: float = 0.0
    """Rows that are trained on once: a forward and a backward pass each."""
    trainings: float = 0.0
    """Beginnings of a training."""


ANSWER_TOKENS = 64
"""The longest answer by default; the quick budget makes do with fewer."""


class Attack(ABC):
    """An attack. A subclass that is a dataclass has its fields as options.

    `requests` says what it asks about a question, None where the row cannot fill it (no subject, no wrong answers);
    `outcomes` judges the answers; `applied` changes the model meanwhile, and puts it back.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    access: ClassVar[Access]
    source: ClassVar[str]
    """Where it is from."""
    chance: ClassVar[float] = 0.0
    """How often it succeeds by guessing, where that is known."""
    together: ClassVar[bool] = False
    """Whether it needs all models at a time."""

    @property
    def label(self) -> str:
        """What tells it from all other attacks of an audit."""
        return self.name

    @property
    def options(self) -> dict[str, Any]:
        """Its options by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)} if is_dataclass(self) else {}

    @property
    def asks_of(self) -> str:
        """What it takes of the rows, and of the model; empty where all will do."""
        return ""

    @property
    def samples(self) -> int:
        """Answers to each question."""
        return 1

    def cost(self, asked: Mapping[str, int]) -> Cost:
        """Of an attack on a model that asks so many questions of each group. By default each takes `samples` answers,
        or with access to likelihoods alone some scoring."""
        count = sum(asked.values())
        if self.access == "likelihoods":
            return Cost(scored=count)
        return Cost(answers=count, samples=count * (self.samples - 1))

    @abstractmethod
    def requests(self, question: Question) -> Sequence[Request] | None: ...

    @abstractmethod
    def outcomes(self, question: Question, example: Example) -> list[Outcome]:
        """One for each sample, in order."""

    def applied(self, model: nn.Module) -> AbstractContextManager[None]:
        return nullcontext()


@dataclass(frozen=True)
class Target:
    """A model under attack, and all that an attack on its weights may use."""

    name: str
    """`unlearned`, `before` or `retrained`."""
    model: Any
    tokenizer: PreTrainedTokenizerBase
    template: Template
    options: ModelOptions
    answer: "Answerer"
    """Asks the model as it is at that moment; answers are kept only for attacks that change nothing."""
    questions: Mapping[str, Sequence[Question]]
    """By group: `forget`, `control`, `retain`."""
    retained: Sequence[Record]
    """Rows to train on that are not asked about: retained ones, as far as there are any."""
    models: Mapping[str, Any] = field(default_factory=dict)
    """All models by name, where the attack needs them `together`."""


@dataclass(frozen=True)
class Finding:
    """One outcome of a `WeightAttack`, with whatever else there is to say of it (`about`, JSON). Those of one question
    are its samples, in their order."""

    group: str
    question: Question
    outcome: Outcome | None
    """None where nothing leaks or not: then `about` has its `score`, or figures."""
    about: dict[str, Any] = field(default_factory=dict)


class WeightAttack(Attack):
    """An attack that works on the weights. It leaves them as they were, to the bit, and writes nothing."""

    of: ClassVar[tuple[str, ...]] = ("unlearned",)
    """Models that it is made on."""
    changes: ClassVar[bool] = True
    """Whether it asks a changed model, of which no answer may be kept."""

    def cost(self, asked: Mapping[str, int]) -> Cost:
        """`asked` are all questions, for it chooses itself; by default what is forgotten and controls."""
        return super().cost({group: asked.get(group, 0) for group in ("forget", "control")})

    @abstractmethod
    def findings(self, target: Target) -> Iterable[Finding]: ...

    def requests(self, question: Question) -> Sequence[Request] | None:
        return None

    def outcomes(self, question: Question, example: Example) -> list[Outcome]:
        return []


Answerer = Callable[[Sequence[Record], Sequence[Sequence[Request]], bool], list[Example]]
"""Answers what is asked of each record; the last says whether they are documents."""


def written(question: Question, example: Example, request: Generate, given: str = "") -> list[Outcome]:
    """The answers to `request`, each judged by the question's detector; `given` is what the prompt gave away."""
    found = question.detector
    if found is None:
        return []
    return [Outcome(found.states(w.text, given), found.graded(w.text), w.text) for w in example.written(request)]


def run_attack(attack: Attack, questions: Sequence[Question], answer: Answerer) -> dict[int, list[Outcome]]:
    """The outcomes of an attack, by the place of the question; questions that it cannot ask are not among them."""
    asked = {
        place: requests
        for place, question in enumerate(questions)
        if question.detector is not None and (requests := attack.requests(question)) is not None
    }
    found: dict[int, list[Outcome]] = {}
    for document in (False, True):
        places = [place for place in asked if questions[place].document is document]
        if places:
            examples = answer([questions[i].record for i in places], [asked[i] for i in places], document)
            found |= {
                place: attack.outcomes(questions[place], example)
                for place, example in zip(places, examples, strict=True)
            }
    return dict(sorted(found.items()))
