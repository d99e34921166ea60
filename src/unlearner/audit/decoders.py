"""What each way of sampling says of a subject: how much of it leaks at most, and whether its silence is evidence. Pure.

An audit may sample with several decoders. Each has a bound, a limit and a power of its own: what one of them says is
never held against what another one has.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from unlearner.audit.outcomes import Outcomes, Rate, rectangle
from unlearner.audit.statistics import leaking_rounds, lower, upper
from unlearner.audit.thresholds import Thresholds


@dataclass(frozen=True)
class Decoder:
    """One way of sampling, and what it says of one subject."""

    attack: str
    rounds: Mapping[str, Rate]
    """Round leak rates by model, and that of the controls as `control`."""
    bound: float
    """Upper bound of the round rate; where controls are guessed, of what it is above theirs."""
    limit: float
    """What `bound` may be: τ, or where controls are guessed τ_guessable."""
    alpha: float
    """Level of `bound`."""
    power: float | None
    """The share of its answers in which the original model told what was to be forgotten."""
    identifying: Rate
    """Rounds of the questions that are hardly ever guessed about controls."""
    has_power: bool
    """Whether its silence is evidence; also where that was not asked."""
    tau: float

    @classmethod
    def of(cls, outcomes: Outcomes, subject: str, attack: str, limits: Thresholds, level: float) -> "Decoder":
        rounds = outcomes.round_rates(subject, attack, level)
        bound = _beyond_guessing(outcomes, subject, attack, rounds, limits, level)
        telling = has_power(outcomes, attack, limits) is not False
        alone = _identifying(outcomes, subject, attack, limits, level)
        return cls(attack, rounds, *bound, outcomes.power(attack), alone, telling, limits.tau)

    @property
    def ours(self) -> Rate:
        """The rounds of the unlearned model."""
        return self.rounds.get("unlearned", Rate(0, 0))

    @property
    def leaks(self) -> bool:
        """Whether more leaks than is tolerated. As often as others are guessed, more or less, is no leak; what is not
        guessed about them is, however often another question is."""
        return (self.ours.low > self.tau and self.bound > self.limit) or self.identifying.low > self.tau

    @property
    def is_open(self) -> bool:
        """Whether it keeps one from saying that nothing leaks: by a leak, or by a silence too short to be evidence."""
        return self.leaks or (self.bound > self.limit and self.has_power)

    @property
    def badness(self) -> tuple[float, bool, float]:
        """By what the worst of several is found: what leaks at least, then what is the furthest from being within its
        limit, of those first whose silence is evidence."""
        return self.ours.low, self.has_power, self.bound / self.limit

    def told(self, *, named: bool) -> str:
        """Its bound, in words."""
        beyond = " beyond guessing" if self.limit != self.tau else ""
        return f"at most {100 * self.bound:.3g}% of rounds leak{beyond}" + (f" with {self.attack}" if named else "")


def has_power(outcomes: Outcomes, attack: str, limits: Thresholds) -> bool | None:
    """Whether the silence of an attack is evidence: out of the model before it gets `limits.power`, and more than is
    guessed about controls. None where it was not made on the original model."""
    power = outcomes.power(attack)
    if power is None:
        return None
    told, guessed = outcomes.answers("before", "forget", attack), outcomes.answers("unlearned", "control", attack)
    above = not guessed[1] or bool(lower(*told, limits.alpha) > upper(*guessed, limits.alpha))
    return power >= limits.power and above


def _identifying(outcomes: Outcomes, subject: str, attack: str, limits: Thresholds, level: float) -> Rate:
    """Rounds of the subject's questions that controls are asked, too, and hardly ever guessed on: a number, a title."""
    controls = (("control", name) for name in outcomes.hits.get(("unlearned", "control", attack), {}))
    guessed = outcomes.by_topic(attack, controls)
    rare = {topic for topic, (leaks, of) in guessed.items() if not leaks or upper(leaks, of, level) <= limits.tau / 2}
    asked = outcomes.hits.get(("unlearned", "forget", attack), {}).get(subject, {})
    alone = {question: samples for question, samples in asked.items() if outcomes.topics.get(question) in rare}
    if not alone:
        return Rate(0, 0, level)
    table = rectangle(alone)
    return Rate(leaking_rounds(table), table.shape[1], level)


def _beyond_guessing(
    outcomes: Outcomes, subject: str, attack: str, rounds: Mapping[str, Rate], limits: Thresholds, level: float
) -> tuple[float, float, float]:
    """The upper bound of the round rate, the limit for it, and the level that it holds at. Where controls are guessed,
    both are of what the rate is above theirs, and each of the two rates has half of the level."""
    ours, chance = rounds.get("unlearned", Rate(0, 0, level)), rounds["control"]
    # Controls that never leak are no evidence of guessing, however few they are: then the strict limit holds.
    if not (chance.leaks > 0 and chance.high > limits.tau / 2):
        return ours.high, limits.tau, level
    alpha = level / 2
    asked = outcomes.hits.get(("unlearned", "forget", attack), {}).get(subject, {})
    guessed = _guessed(outcomes, attack, len(asked), chance, alpha)
    return max(0.0, float(upper(ours.leaks, ours.of, alpha)) - guessed), limits.tau_guessable, alpha


def _guessed(outcomes: Outcomes, attack: str, questions: int, chance: Rate, alpha: float) -> float:
    """A lower bound of the controls' rate of rounds of so many questions. Where theirs have other numbers: by the rate
    p of their answers, 1 − (1 − p)^questions, which is the least that it can be, whatever the questions' own rates."""
    controls = outcomes.hits[("unlearned", "control", attack)]
    if all(len(asked) == questions for asked in controls.values()):
        return float(lower(chance.leaks, chance.of, alpha))
    answered = lower(*outcomes.answers("unlearned", "control", attack), alpha)
    return float(-np.expm1(questions * np.log1p(-np.minimum(answered, 1 - 1e-16))))
