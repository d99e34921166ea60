"""The attacks that come along, by name, and those of other packages."""

import re
from collections.abc import Callable, Sequence

from unlearner.audit.attack import Attack
from unlearner.audit.attacks.choice import MultipleChoice, YesOrNo
from unlearner.audit.attacks.depth import Depth
from unlearner.audit.attacks.lens import Lens
from unlearner.audit.attacks.likelihood import Likelihood
from unlearner.audit.attacks.relearning import Relearning
from unlearner.audit.attacks.reverse import Reverse
from unlearner.audit.attacks.rounded import Rounded
from unlearner.audit.attacks.sampling import DECODER, Sampling
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


def find_attack(
    text: str, sized: Callable[[Attack], Attack] = lambda attack: attack, also: Sequence[str] = ()
) -> Attack:
    """The attack called so, of ours or of an installed package (entry points `unlearner.attacks`), or the one at
    `module:Name`; with options behind it, `sampling:temperature=0.7,top_p=0.9`, which come after what `sized` gives it.
    Raises UserError, with the nearest name (also of those in `also`), where there is none."""
    name, options = called(text)
    attack = sized(_named(name, also))

    def short(attack: Attack) -> str:
        return attack.label.partition(":")[0]

    pairs = [f"{short(attack)}.{pair}" for pair in options]
    return with_options("--attacks", [attack], pairs, short, "sampling:n=64")[0]


def called(text: str) -> tuple[str, list[str]]:
    """The name of an attack, and its options (OPTION=VALUE)."""
    name, _, options = text.rpartition(":")
    return (name, re.split(r",(?=[\w-]+=)", options)) if name and "=" in options else (text, [])


def _named(name: str, also: Sequence[str]) -> Attack:
    ours = attacks()
    if name in ours:
        return ours[name]
    plugins = load_plugins("unlearner.attacks")
    if (before := name.partition(":")[0]) != name:
        if before in (*ours, *plugins):
            raise UserError(f"--attacks {name}: OPTION=VALUE is missing after {before}, as in sampling:n=64.")
        found = load_object(name)
    else:
        if name not in plugins:
            raise UserError(f"unknown attack {name!r}: {did_you_mean(name, [*also, *ours, *plugins])}")
        found = plugins[name]
    attack = found() if isinstance(found, type) else found
    if not isinstance(attack, Attack):
        raise UserError(f"--attacks {name} is not an attack: it must be a subclass of unlearner's Attack.")
    return attack


def find_attacks(
    names: Sequence[str | Attack], sized: Callable[[Attack], Attack] = lambda attack: attack, also: Sequence[str] = ()
) -> list[Attack]:
    """The attacks called so, or given, in this order. Raises UserError for an unknown one, or two of one label."""
    found = [sized(name) if isinstance(name, Attack) else find_attack(name, sized, also) for name in names]
    check_labels(found)
    return found


def check_labels(chosen: Sequence[Attack]) -> None:
    """Raises UserError where two attacks have one label."""
    labels = [attack.label for attack in chosen]
    for attack in chosen:
        if labels.count(attack.label) > 1:
            told = f" (decoders differ only by {', '.join(DECODER)})" if isinstance(attack, Sampling) else ""
            raise UserError(f"--attacks has {attack.label} twice{told}: leave one out.")
