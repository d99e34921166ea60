"""The attacks that come along, by name, and those of other packages."""

from collections.abc import Sequence

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


def attacks() -> dict[str, Attack]:
    """Ours, by label; `plain`, the question as it is, first."""
    templates = [Template(kind, text) for kind, text in builtin_templates().items()]
    rounded = [Rounded(scheme) for scheme in SCHEMES]
    asked = (MultipleChoice(), YesOrNo(), Likelihood(), Reverse(), Sampling())
    inside = (Relearning(), Lens(), Depth(), SoftPrompt())
    return {attack.label: attack for attack in (*templates, *asked, *inside, *rounded)}


def find_attack(name: str) -> Attack:
    """The attack called `name`, of ours or of an installed package (entry points `unlearner.attacks`), or the one at
    `module:Name`. Raises UserError, with the nearest name, where there is none."""
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


def find_attacks(names: Sequence[str | Attack]) -> list[Attack]:
    """The attacks called so, or given, in this order. Raises UserError for an unknown one, or two of one label."""
    found = [name if isinstance(name, Attack) else find_attack(name) for name in names]
    labels = [attack.label for attack in found]
    if twice := {label for label in labels if labels.count(label) > 1}:
        raise UserError(f"--attacks has {min(twice)} twice: leave one out.")
    return found
