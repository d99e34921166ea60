"""What comes out of a model on held-out questions: sampled answers that leak, and what it can still answer.

- Leak: of each question about the subject, how many of `n` answers sampled at temperature 1 state its fact
  (`audit/detector.py`); the mean over the questions that count: those that stated it in at least a quarter of the
  samples before. A small model knows little at that temperature, so these may be few; each is then asked more often.
  They are chosen by samples of another seed than those that are compared: by the same ones, lucky draws would count as
  knowledge that is lost later.
- Kept: the same of the questions about neighbours, and of general knowledge. What the likeliest answer alone stated is
  often made up: any training changes it, and nothing that the model knew is lost with it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from pathlib import Path
from statistics import fmean
from typing import Any

from unlearner.audit.attack import Attack, Question, run_attack
from unlearner.audit.attacks.sampling import Sampling
from unlearner.audit.attacks.template import Template
from unlearner.audit.questions import questions_about
from unlearner.console import progress_bar
from unlearner.data.prompts import DOCUMENT
from unlearner.data.records import Record
from unlearner.data.sources import load_records
from unlearner.errors import UserError, plural
from unlearner.evaluation.backend import run_passes
from unlearner.evaluation.examples import Example
from unlearner.evaluation.requests import Request
from unlearner.results.prepared import PreparedDirectory
from unlearner.stopping import Condition
from unlearner.workflows.subject import Subject

LEAKS = ("unseen_wordings", "forget", "unseen_facts", "unseen_aliases")
"""Sources about the subject, the one that is judged by first."""
KEPT = ("neighbours_held_out", "general_held_out")
SEARCHED = (LEAKS[0], *KEPT)
"""What a trial is judged by."""
KNOWN = 0.25
"""A question counts where so many of its samples state the fact before."""
ANSWERS = 64
"""Sampled answers to the questions of a source, at least: 8 to a single question cannot tell a leak from chance."""

Rates = dict[str, list[float]]
"""By source, a number a question that was asked: the share of its answers that state the fact."""
Places = dict[str, list[int]]
"""By source, the places of questions."""


@dataclass(frozen=True)
class Before:
    """Which questions count, and what the model answered to them before, in samples of another seed."""

    counted: Places
    rates: Rates
    rare: list[str] = field(default_factory=list)
    """Sources whose questions count although none states its fact in a quarter of the samples."""

    def share(self, name: str, after: Rates) -> float | None:
        """After as a share of before, over the questions of a source that count; None where nothing is stated."""
        if not any(self.rates[name]):
            return None
        return fmean(after[name]) / fmean(self.rates[name])


@dataclass(frozen=True)
class Figures:
    """What a setting came to, each as a share of before."""

    leak: float
    neighbours: float
    general: float


@dataclass(frozen=True)
class HeldOut:
    """The held-out questions of a folder of sources."""

    questions: Mapping[str, list[Question]]
    samples: int
    max_new_tokens: int
    max_length: int
    seed: int
    sampled: tuple[str, ...] = (*LEAKS, *KEPT)
    """Those that are asked in samples; of the others the likeliest answer counts."""
    fewest: int = ANSWERS
    """Where `samples` of each question make fewer answers in a source, there are more of each."""

    @classmethod
    def read(cls, folder: Path, *, samples: int, max_new_tokens: int, max_length: int, seed: int) -> "HeldOut":
        """The questions that have a fact to look for. Raises UserError where a source that is judged by has none."""
        found = {}
        for name in (*LEAKS, *KEPT):
            if PreparedDirectory(folder).source(name).is_file():
                found[name] = with_facts(load_records(f"{folder}:{name}"))
        if empty := [name for name in SEARCHED if not found.get(name)]:
            raise UserError(f"{folder}:{empty[0]} has no row with a fact: nothing can be measured.")
        return cls(found, samples, max_new_tokens, max_length, seed)

    def before(self, subject: Subject) -> Before:
        """What a model answers that has not forgotten anything yet."""
        first = replace(self, seed=self.seed + 1).rates(subject)
        places = {name: counted(rates) for name, rates in first.items()}
        again = self.rates(subject, {name: places[name] for name in first if name in self.sampled})
        stated = {name: [rates[i] for i in places[name]] for name, rates in first.items()}
        rare = [name for name, rates in stated.items() if rates and max(rates) < KNOWN]
        return Before(places, stated | again, rare)

    def rates(self, subject: Subject, places: Places | None = None) -> Rates:
        """What a model answers to the questions at `places`, or to all."""
        if places is None:
            places = {name: list(range(len(questions))) for name, questions in self.questions.items()}

        def answer(records: Sequence[Record], asked: Sequence[Sequence[Request]], document: bool) -> list[Example]:
            with progress_bar("asking", len(records)) as bar:
                return run_passes(
                    subject.model, subject.tokenizer, DOCUMENT if document else subject.template, records, asked=asked,
                    max_length=self.max_length, max_new_tokens=self.max_new_tokens,
                    progress=lambda _, done, total: bar(len(records) * done // total),
                )  # fmt: skip

        found: Rates = {name: [] for name in places}
        attacks = {name: self._attack(name, len(those)) for name, those in places.items()}
        for attack in dict.fromkeys(attacks.values()):  # sources that are asked alike are answered together
            asked = [(name, place) for name, its in attacks.items() if its == attack for place in places[name]]
            outcomes = run_attack(attack, [self.questions[name][place] for name, place in asked], answer)
            for number, (name, _) in enumerate(asked):
                found[name].append(fmean(outcome.hit for outcome in outcomes[number]))
        return found

    def _attack(self, name: str, questions: int) -> Attack:
        """How so many questions of a source are asked."""
        if name not in self.sampled:
            return Template("plain", "{q}", max_new_tokens=self.max_new_tokens)
        samples = max(self.samples, ceil(self.fewest / max(1, questions)))
        return Sampling(n=samples, seed=self.seed, max_new_tokens=self.max_new_tokens)


def counted(rates: Sequence[float]) -> list[int]:
    """The places of the questions that count: whose fact came out in a quarter of the answers, or, where that is none,
    that came out at all."""
    often = [place for place, rate in enumerate(rates) if rate >= KNOWN]
    return often or [place for place, rate in enumerate(rates) if rate > 0]


def figures(before: Before, after: Rates) -> Figures:
    """The three numbers by which a trial is judged; `before` has passed `check`."""
    leak, neighbours, general = (before.share(name, after) for name in SEARCHED)
    assert leak is not None and neighbours is not None and general is not None
    return Figures(leak, neighbours, general)


def check(before: Before, questions: Mapping[str, int]) -> str | None:
    """What cannot be judged, of so many `questions` by source, because the model does not say it even before; None if
    all can."""
    missing = [name for name in SEARCHED if before.share(name, before.rates) is None]
    if not missing:
        return None
    return (
        f"its sampled answers to {missing[0].replace('_', ' ')} ({plural(questions[missing[0]], 'question')}) state "
        "no fact even before anything is forgotten: raise --leak-samples, or prepare other questions in another folder "
        "(unlearner prepare --questions) and give it with --prepared, and another --output."
    )


@dataclass(frozen=True)
class Aim:
    """What is to be reached."""

    leak: float
    """At most this share of before."""
    neighbours: float
    general: float

    def missed(self, found: Figures) -> float:
        """By how much the aim is missed: the three shortfalls added, each as a share of what there is to reach; 0 where
        it is reached."""
        leak = Condition("leak", "<=", self.leak).missed(found.leak)
        kept = zip((found.neighbours, found.general), (self.neighbours, self.general), strict=True)
        return leak + sum(Condition("neighbours", ">=", wanted).missed(share) for share, wanted in kept)

    def reached(self, found: Figures) -> bool:
        return self.missed(found) == 0

    def score(self, found: Figures) -> tuple[float, float]:
        """The larger, the better: how near the aim, then how little leaks."""
        return -self.missed(found), -found.leak

    def __str__(self) -> str:
        return (
            f"relative to before, sampled leak on unseen wordings at most {self.leak:.0%}, neighbours at least "
            f"{self.neighbours:.0%}, general knowledge at least {self.general:.0%}"
        )


def with_facts(records: Sequence[Record]) -> list[Question]:
    """The questions in whose answers there is a fact to look for."""
    return [question for question in questions_about(records) if question.detector is not None]


def as_rates(held: Any) -> Rates:
    """Rates from JSON."""
    return {str(name): [float(rate) for rate in rates] for name, rates in held.items()}
