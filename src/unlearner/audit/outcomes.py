"""Outcome rows, counted: who leaked what of whom, under which attack. Pure.

An outcome row says of one answer: `model` (`unlearned`, `before`, `retrained`), `group` (`forget`, `control`,
`retain`, `neighbour`), `subject`, `question` (an id), `topic` (one of what is asked, whoever is meant), `attack`,
`sample`, `hit`, `score`. A row of the rank test has `rank` and `decoys` instead of the last three, one of the
likelihoods its figures. The last row says what else the audit's tables are made of, under `about`.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from unlearner.audit.relearned import RELEARNED
from unlearner.audit.statistics import leaking_rounds, lower, upper

RANK = "rank"
ABOUT = "about"
SAMPLED = "sampling"
PLAIN = "plain"


def is_sampled(attack: str) -> bool:
    """Whether it is `sampling`, or `sampling:temperature=0.7` and the like: that with another decoder."""
    return attack.partition(":")[0] == SAMPLED


def decoders(attacks: Iterable[str]) -> list[str]:
    """Those of the attacks that sample, one a decoder, the default one first."""
    return sorted(filter(is_sampled, attacks), key=lambda attack: attack != SAMPLED)


@dataclass(frozen=True)
class Rate:
    """Leaks among rounds, with a one-sided bound on either side."""

    leaks: int
    of: int
    alpha: float = 0.05

    @property
    def rate(self) -> float:
        return self.leaks / self.of if self.of else float("nan")

    @property
    def low(self) -> float:
        return float(lower(self.leaks, self.of, self.alpha))

    @property
    def high(self) -> float:
        return float(upper(self.leaks, self.of, self.alpha))

    def as_dict(self) -> dict[str, float | int | None]:
        rate = self.rate if self.of else None
        return {"leaks": self.leaks, "of": self.of, "rate": rate, "low": self.low, "high": self.high}


Hits = dict[str, dict[str, list[bool]]]
"""Subject → question → outcomes of its samples, in order."""


@dataclass
class Outcomes:
    """Rows, by who was asked what."""

    hits: dict[tuple[str, str, str], Hits] = field(default_factory=dict)
    """(model, group, attack) → outcomes."""
    ranks: dict[tuple[str, str], dict[str, list[tuple[int, int]]]] = field(default_factory=dict)
    """(model, group) → subject → (rank, decoys) of each question."""
    topics: dict[str, str] = field(default_factory=dict)
    """Question → topic."""

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]]) -> "Outcomes":
        """A row that is there twice counts once: the question is the same, and the sample no second one."""
        topics: dict[str, str] = {}
        hits: dict[Any, Any] = defaultdict(lambda: defaultdict(lambda: defaultdict(dict)))
        ranks: dict[Any, Any] = defaultdict(lambda: defaultdict(dict))
        for row in rows:
            if row["attack"] == RANK:
                found = ranks[row["model"], row["group"]][row["subject"]]
                found.setdefault(row["question"], (row["rank"], row["decoys"]))
            elif "hit" in row and row["attack"] != RELEARNED:
                if "topic" in row:
                    topics[row["question"]] = row["topic"]
                key = row["model"], row["group"], row["attack"]
                hits[key][row["subject"]][row["question"]].setdefault(row["sample"], bool(row["hit"]))
        return cls(
            {
                key: {s: {q: list(each.values()) for q, each in asked.items()} for s, asked in people.items()}
                for key, people in hits.items()
            },
            {key: {s: list(each.values()) for s, each in people.items()} for key, people in ranks.items()},
            topics,
        )

    def subjects(self, group: str) -> list[str]:
        """Those of a group about whom the unlearned model was asked, in order."""
        return list(
            dict.fromkeys(s for (m, g, _), found in self.hits.items() if (m, g) == ("unlearned", group) for s in found)
        )

    def attacks(self, model: str = "unlearned") -> list[str]:
        return list(dict.fromkeys(attack for of, _, attack in self.hits if of == model))

    def samplings(self) -> list[str]:
        """The attacks that sample, one a decoder, the default one first; `sampling` where nothing was sampled."""
        return decoders(self.attacks()) or [SAMPLED]

    def rounds(self, model: str, group: str, attack: str, subjects: Iterable[str], alpha: float) -> Rate:
        """Rounds with a leak, of all `subjects` together."""
        found = self.hits.get((model, group, attack), {})
        leaks = of = 0
        for subject in subjects:
            if subject in found:
                table = rectangle(found[subject])
                leaks, of = leaks + leaking_rounds(table), of + table.shape[1]
        return Rate(leaks, of, alpha)

    def round_rates(self, subject: str, attack: str, alpha: float) -> dict[str, Rate]:
        """Those of a forgotten subject by model, and of all controls together as `control`."""
        found = {
            model: self.rounds(model, "forget", attack, [subject], alpha)
            for model in ("unlearned", "before", "retrained")
            if (model, "forget", attack) in self.hits
        }
        controls = self.hits.get(("unlearned", "control", attack), {})
        return found | {"control": self.rounds("unlearned", "control", attack, controls, alpha)}

    def answers(
        self, model: str, group: str, attack: str, subject: str | None = None, topics: Collection[str] | None = None
    ) -> tuple[int, int]:
        """Leaking answers, and all, of one subject or of the group; of some topics or of all questions."""
        found = self.hits.get((model, group, attack), {})
        chosen = found.values() if subject is None else [found[subject]] if subject in found else []
        asked = [
            samples
            for questions in chosen
            for question, samples in questions.items()
            if topics is None or self.topics.get(question) in topics
        ]
        return sum(map(sum, asked)), sum(map(len, asked))

    def by_topic(self, attack: str, people: Iterable[tuple[str, str]]) -> dict[str, tuple[int, int]]:
        """Of each topic that a control was asked: leaking answers, and all, of `people` by group and name."""
        counts: dict[str, tuple[int, int]] = {}
        asked = self.hits.get(("unlearned", "control", attack), {})
        shared = {self.topics.get(question) for questions in asked.values() for question in questions}
        for group, name in people:
            for question, samples in self.hits.get(("unlearned", group, attack), {}).get(name, {}).items():
                topic = self.topics.get(question)
                if topic is not None and topic in shared:
                    leaks, of = counts.get(topic, (0, 0))
                    counts[topic] = leaks + sum(samples), of + len(samples)
        return counts

    def power(self, attack: str) -> float | None:
        """The share of its answers in which the original model told what was to be forgotten; None where it was not
        asked. An attack that gets little out of a model that knows is no evidence where another one is silent."""
        leaks, of = self.answers("before", "forget", attack)
        return leaks / of if of else None


def rectangle(questions: Mapping[str, Sequence[bool]]) -> np.ndarray:
    """(m, n): a round is complete where every question has its sample."""
    n = min(len(samples) for samples in questions.values())
    return np.array([samples[:n] for samples in questions.values()])
