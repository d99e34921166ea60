"""The attacks that come along, by name, and those of other packages."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from unlearner.audit.attack import Attack
from unlearner.audit.attacks.choice import MultipleChoice, YesOrNo
from unlearner.audit.attacks.depth import Depth
from unlearner.audit.attacks.lens import Lens
from unlearner.audit.attacks.likelihood import Likelihood
from unlearner.audit.attacks.relearning import Relearning
from unlearner.audit.attacks.reverse import Reverse
from unlearner.audit.attacks.rounded import Rounded
from unlearner.audit.attacks.sampling import Sampling
from unlearner.audit.attacks.soft_prompt import SoftPrompt
from unlearner.audit.attacks.template import Template, builtin_templates
from unlearner.audit.quantise import SCHEMES
from unlearner.errors import UserError, did_you_mean
from unlearner.plugins import load_object, load_plugins
from unlearner.values import with_options


def attacks() -> dict[str, Attack]:
    """Ours, by label; `plain`, the question as it is, first."""
    templates = [Template(kind, text) for kind, text in builtin_templates().items()]
    rounded = [Rounded(scheme) for scheme in SCHEMES]
    asked = (MultipleChoice(), YesOrNo(), Likelihood(), Reverse(), Sampling())
    inside = (Relearning(), Lens(), Depth(), SoftPrompt())
    return {attack.label: attack for attack in (*templates, *asked, *inside, *rounded)}


def find_attack(text: str, sized: Callable[[Attack], Attack] | None = None) -> Attack:
    """The attack called so, of ours or of an installed package (entry points `unlearner.attacks`), or the one at
    `module:Name`; with options behind it, `sampling:temperature=0.7,top_p=0.9`, which come after what `sized` gives it.
    Raises UserError, with the nearest name, where there is none."""
    name, options = called(text)
    attack = _named(name)
    attack = attack if sized is None else sized(attack)
    pairs = [f"{attack.label}.{pair}" for pair in options]
    return with_options("--attacks", [attack], pairs, lambda attack: attack.label, "sampling:n=64")[0]


def called(text: str) -> tuple[str, list[str]]:
    """The name of an attack, and its options (OPTION=VALUE)."""
    name, _, options = text.rpartition(":")
    return (name, re.split(r",(?=[\w-]+=)", options)) if name and "=" in options else (text, [])


def _named(name: str) -> Attack:
    ours = attacks()
    if name in ours:
        return ours[name]
    if ":" in name:
        found = load_object(name)
    else:
        plugins = load_plugins("unlearner.attacks")
        if name not in plugins:
            raise UserError(f"unknown attack {name!r}: {did_you_mean(name, [*ours, *plugins])}")
        found = plugins[name]
    attack = found() if isinstance(found, type) else found
    if not isinstance(attack, Attack):
        raise UserError(f"--attacks {name} is no attack: it must be a subclass of unlearner's Attack.")
    return attack


def find_attacks(
    names: Sequence[str | Attack], sized: Callable[[Attack], Attack] = lambda attack: attack
) -> list[Attack]:
    """The attacks called so, or given, in this order. Of several that sample, the one with the default decoder, else
    the first, is `sampling`. Raises UserError for an unknown one, or two of one label."""
    given = [sized(name) if isinstance(name, Attack) else find_attack(name, sized) for name in names]
    found = [replace(attack, apart=True) if isinstance(attack, Sampling) else attack for attack in given]
    labels = [attack.label for attack in found]
    if twice := {label for label in labels if labels.count(label) > 1}:
        raise UserError(f"--attacks has {min(twice)} twice: leave one out.")
    samplings = [attack for attack in found if isinstance(attack, Sampling)]
    first = min(samplings, key=lambda attack: attack.label != Sampling.name, default=None)
    return [replace(first, apart=False) if first is not None and attack is first else attack for attack in found]
