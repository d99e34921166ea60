"""Which attacks a budget takes, what they cost, and what fits into so many minutes."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from unlearner.audit.attack import ANSWER_TOKENS, Attack, Question, WeightAttack
from unlearner.audit.attacks import attacks, called, check_labels, find_attacks
from unlearner.audit.attacks.likelihood import Likelihood
from unlearner.audit.attacks.relearning import Relearning
from unlearner.audit.attacks.sampling import Sampling
from unlearner.audit.attacks.template import builtin_templates, read_templates
from unlearner.audit.knowledge import MIXED
from unlearner.audit.likelihood_tables import LIKELIHOOD
from unlearner.audit.outcomes import PLAIN, SAMPLED, is_sampled
from unlearner.audit.quantise import SCHEMES
from unlearner.audit.questions import Groups, Limits
from unlearner.config import AuditConfig
from unlearner.errors import UserError
from unlearner.values import with_options

SAMPLES = {"quick": 16, "standard": 256, "deep": 1024}
"""Samples of each question."""
ROUNDED = {"quick": ("int8", "nf4"), "standard": ("int8", "nf4", "fp4", "rtn4-g128"), "deep": SCHEMES}
RELEARNING = {
    "quick": Relearning(controls=2),
    "standard": Relearning(steps=(0, 5, 10, 20, 50, 100), rates=(1.0, 0.3), retained=True, swapped=True),
    "deep": Relearning(steps=(0, 5, 10, 20, 50, 100, 300), rates=(1.0, 0.3), seeds=2, retained=True, swapped=True),
}
WHITE_BOX = {"quick": (), "standard": ("lens", "depth", "soft-prompt"), "deep": ("lens", "depth", "soft-prompt")}
LIMITS = {
    "quick": Limits(questions=10, retained=0.25, tokens=32),
    "standard": Limits(retained=0.25),
    "deep": Limits(),
}
"""A quick audit of four subjects on a small real model takes about a quarter of an hour on two cores. Sampling all
retained questions can take as long as sampling the forgotten ones, and shows little more."""
ALL = "all"
"""In the place of a name: the attacks of the budget."""
WORTH = ("sampling", "nf4", "relearning", "forced-prefix", "multiple-choice", "in-context", "paraphrase", "int8")
"""What is taken first where there is no time for all, behind `plain`: first what has been seen to bring back most. The
others follow in their usual order."""


@dataclass(frozen=True)
class Speed:
    """Seconds; by default in greedy answers."""

    answer: float = 1.0
    sample: float = 0.5
    """For a further sample of a question."""
    scored: float = 0.2
    """To score the answers of a question."""
    row: float = 1.0
    """To train on a row once."""
    training: float = 0.0
    """To begin a training."""

    def reading(self, tokens: int) -> "Speed":
        """With answers of so many tokens rather than `ANSWER_TOKENS`; what is asked takes its time, too."""
        share = tokens / ANSWER_TOKENS
        return replace(self, answer=share * self.answer, sample=share * self.sample)


UNIT = Speed()


def chosen_attacks(config: AuditConfig, budget: str | None = None) -> list[Attack]:
    """The attacks of a config: those it names, else all of its budget, and its own templates; with their
    options. Raises UserError."""
    budget = budget or (config.budget if config.budget in SAMPLES else "deep")
    names = _named(config.attacks or [ALL], _own_names(config, budget))
    own = read_templates(config.templates) if config.templates is not None else []
    found = find_attacks([*names, *own], lambda attack: _sized(attack, budget, config.seed), also=(ALL,))
    labels = {attack.label for attack in found}
    options = config.attack_options
    for pair in options:
        _check_decoder(pair, labels)
    if config.budget not in SAMPLES:  # there may be no time for an attack that has some
        left_out = attacks().keys() - labels
        options = [pair for pair in options if pair.partition("=")[0].rpartition(".")[0].strip() not in left_out]
    found = with_options("--attack-options", found, options, lambda attack: attack.label, "sampling.n=64")
    check_labels(found)
    return found


def _check_decoder(pair: str, labels: Collection[str]) -> None:
    """Raises UserError for an option of a decoder that is not called just `sampling`."""
    name = pair.partition("=")[0].rpartition(".")[0].strip()
    without_default = name == SAMPLED and name not in labels and any(map(is_sampled, labels))
    if without_default or pair.strip().startswith(f"{SAMPLED}:"):
        raise UserError(
            f"--attack-options {pair}: a decoder's options belong in its name, as in --attacks "
            "sampling:temperature=0.7,n=64."
        )


def _own_names(config: AuditConfig, budget: str) -> list[str]:
    """All attacks of a budget."""
    names = [*builtin_templates(), "multiple-choice", "yes-or-no", "likelihood", "reverse", SAMPLED]
    names += [*ROUNDED[budget], "relearning", *WHITE_BOX[budget]]
    return [name for name in names if name != "depth" or config.retrained is not None]


def _named(given: Sequence[str | Attack], own: Sequence[str]) -> list[str | Attack]:
    """`given`, with those of the budget in the place of `all`, and `plain` first where it is not among them. Raises
    UserError where one is named twice."""
    if given.count(ALL) > 1:
        raise UserError(f"--attacks names {ALL} twice: leave one out.")
    for name in given:
        if isinstance(name, str) and name.startswith(f"{ALL}:"):
            raise UserError(f"--attacks {name}: {ALL} takes no options: use --attack-options NAME.OPTION=VALUE.")
        if ALL in given and name in own:
            raise UserError(f"--attacks: {name} is already part of {ALL}: leave it out.")
    names = [each for name in given for each in (own if name == ALL else [name])]
    if PLAIN not in (called(name)[0] if isinstance(name, str) else name.label for name in names):
        names.insert(0, PLAIN)
    return names


def _sized(attack: Attack, budget: str, seed: int) -> Attack:
    """An attack that has its own defaults, as large as the budget has it."""
    if isinstance(attack, Sampling) and attack == Sampling():
        attack = replace(attack, n=SAMPLES[budget], seed=seed)
    if isinstance(attack, Likelihood) and attack == Likelihood():
        return replace(attack, names=3 if budget == "quick" else 20, gradients=budget != "quick")
    if isinstance(attack, Relearning) and attack == Relearning():
        attack = RELEARNING[budget]
    if budget == "quick" and attack.options.get("max_new_tokens") == ANSWER_TOKENS:
        attack = replace(attack, max_new_tokens=LIMITS[budget].tokens)  # type: ignore[type-var]
    return attack


def asks(model: str, attack: Attack, group: str) -> bool:
    """Whether an attack on a model asks about a group. What is kept is asked plainly, in samples and beside what was to
    be forgotten. Controls tell what guessing gives, for which one model does: the one before is asked about them where
    it is counted what is refused. Of that model every attack asks what was to be forgotten, which tells its power."""
    if model == "before" and group == "control" and not isinstance(attack, WeightAttack):
        return attack.label in (PLAIN, *MIXED)
    if group == "retain":
        return is_sampled(attack.label) or attack.label in (PLAIN, LIKELIHOOD, *MIXED)
    if group == "neighbour":
        return attack.label in (PLAIN, *MIXED)
    return True


def to_ask(model: str, attack: Attack, groups: Groups) -> dict[str, list[Question]]:
    """What an attack that asks is to ask of a model, by group."""
    found = {group: questions for group, questions in groups if asks(model, attack, group)}
    for kept in ("retain", "neighbour"):
        if kept in found and attack.label != PLAIN:
            few = math.ceil(len(found[kept]) * groups.retained)
            found[kept] = [found[kept][place * len(found[kept]) // few] for place in range(few)]
    return found


def on_model(model: str, attack: Attack) -> bool:
    """Whether an attack is made on a model: all on the unlearned one, and on the one before all that only ask."""
    if isinstance(attack, WeightAttack):
        return model in attack.of
    return model != "retrained" or attack.label == PLAIN or is_sampled(attack.label)


def cost(model: str, attack: Attack, groups: Groups, speed: Speed = UNIT) -> float:
    """Seconds, roughly."""
    if not on_model(model, attack):
        return 0.0
    everything = dict(groups) if isinstance(attack, WeightAttack) else to_ask(model, attack, groups)
    price = attack.cost({group: len(questions) for group, questions in everything.items()})
    return (
        speed.answer * price.answers + speed.sample * price.samples + speed.scored * price.scored
        + speed.row * price.rows + speed.training * price.trainings
    )  # fmt: skip


class Plan(NamedTuple):
    """What is going to be done."""

    budget: str
    attacks: list[Attack]
    left_out: list[str]
    """Labels of attacks for which there is no time."""

    @property
    def limits(self) -> Limits:
        """How much is asked."""
        return LIMITS[self.budget]

    def seconds(self, models: Sequence[str], groups: Groups, speed: Speed) -> float:
        return sum(cost(model, attack, groups, speed) for model in models for attack in self.attacks)


def fitted(config: AuditConfig, groups: Groups, models: Sequence[str], speed: Speed) -> Plan:
    """The deepest budget that fits into `config.budget` minutes. Where not even the quick one does, those of its
    attacks that fit, in the order of `WORTH`; `plain` always, and what it is not enough for is named."""
    left = 60 * float(config.budget)
    for budget in ("deep", "standard", "quick"):
        plan = Plan(budget, chosen_attacks(config, budget), [])
        groups, speed = groups.within(plan.limits), speed.reading(plan.limits.tokens)
        if plan.seconds(models, groups, speed) <= left:
            return plan
    chosen = plan.attacks
    order = (PLAIN, *WORTH)
    kept = []

    def place(attack: Attack) -> int:
        label = SAMPLED if is_sampled(attack.label) else attack.label
        return order.index(label) if label in order else len(order)

    for attack in sorted(chosen, key=place):
        price = sum(cost(model, attack, groups, speed) for model in models)
        if attack.label == PLAIN or price <= left:
            kept.append(attack.label)
            left -= price
    return Plan("quick", [a for a in chosen if a.label in kept], [a.label for a in chosen if a.label not in kept])
