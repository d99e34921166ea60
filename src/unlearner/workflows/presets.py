"""Presets: what is not given is taken from a scenario's settings, from those published of a loss, or fitted."""

from dataclasses import replace
from typing import Any

from unlearner.config import ForgetConfig
from unlearner.errors import UserError
from unlearner.methods import COMBINED_METHODS, Loss, Method, Surgery
from unlearner.methods.options import options_of
from unlearner.methods.registry import Found, find
from unlearner.scenarios import SCENARIOS
from unlearner.scenarios.fit import ACCUMULATION, EPOCHS, Size

COEFFICIENTS = ("learning_rate", "forget_coeff", "retain_coeff")
"""What a published preset may say besides options of its method."""


def with_preset(config: ForgetConfig, size: Size | None = None) -> ForgetConfig:
    """The options with the preset's values where none were given, without a preset fitted to `size`; official mode
    takes the official pairing.

    Raises UserError where no settings of the method are known under the preset's name, with the presets that are.
    """
    name = config.preset or "fictitious"
    if name not in SCENARIOS and not isinstance(config.method, Method):
        config = _with_published(config)
    preset = SCENARIOS.get(name, SCENARIOS["fictitious"]).preset  # of what nothing was published about
    method = _base(config.method).upper()
    accumulation = config.gradient_accumulation_steps
    rate, epochs, step = preset.lr.get(method, preset.lr[""]), EPOCHS, ACCUMULATION
    if size is not None:
        rate = size.rate(rate)
        epochs, step = size.steps(config.batch_size, accumulation)
    given = {
        "learning_rate": rate,
        "epochs": epochs,
        "gradient_accumulation_steps": step,
        "forget_coeff": preset.forget_coeff.get(method.partition("+")[0], 1.0),
        "retain_coeff": 1.0,
    }
    missing: dict[str, Any] = {option: value for option, value in given.items() if getattr(config, option) is None}
    return replace(config, pairing="official" if config.official else config.pairing, **missing)


def is_fitted(config: ForgetConfig) -> bool:
    """Whether learning rate and steps are to be fitted to forget set and model: no preset is named, and neither
    learning rate nor epochs are given."""
    return config.preset is None and not config.official and config.learning_rate is None and config.epochs is None


def _base(method: Any) -> str:
    """The name of a method, or of one in memory, without its surgery, which the presets of scenarios do not know."""
    if not isinstance(method, Method):
        return find(method).base
    return method.name if method.surgery is None else method.name.rpartition("+")[0]


def _with_published(config: ForgetConfig) -> ForgetConfig:
    """The options with the values that a loss's own preset has, `paper` or `openunlearning`."""
    found = find(config.method)
    published: dict[str, float | str] = {}
    for part in _published_parts(found):
        published |= part.presets.get(config.preset or "", {})
    if not published:
        raise UserError(f"no settings of {found.base} are known as preset {config.preset!r}: {_instead(found)}.")
    given = {pair.partition("=")[0].strip().replace("-", "_") for pair in config.method_options}
    given |= {"beta"} if config.beta is not None else set()
    options = {option for part in found.parts for option in options_of(part)} & set(published) - given
    numbers: dict[str, Any] = {"forget_coeff": 1.0, "retain_coeff": 1.0} | {
        name: published[name] for name in COEFFICIENTS if name in published
    }
    return replace(
        config,
        **{name: value for name, value in numbers.items() if getattr(config, name) is None},
        method_options=[*config.method_options, *(f"{option}={published[option]}" for option in sorted(options))],
    )


def without_rate(config: ForgetConfig) -> str | None:
    """What to tell where a published preset is named that has no learning rate, and none is given."""
    if config.preset is None or config.preset in SCENARIOS or isinstance(config.method, Method):
        return None
    if config.learning_rate is not None or _with_published(config).learning_rate is not None:
        return None
    return (
        f"the preset {config.preset} of {config.method} names no learning rate, so the fictitious scenario's is taken: "
        "give --learning-rate"
    )


def _published_parts(found: Found) -> "list[type[Loss] | type[Surgery]]":
    """The parts whose presets hold of a method, those whose word counts behind the others."""
    losses, surgery = found.losses, found.surgery
    if found.base in COMBINED_METHODS:  # what was published of its forget loss alone is not of it
        losses = losses[1:]
    with_it = surgery is not None and found.losses[0].name in surgery.published_with
    return [*reversed(losses), *([surgery] if surgery is not None and with_it else [])]


def _instead(found: Found) -> str:
    """What to do without the preset; one that names no option of the method itself says little, and comes last."""
    own = {option for part in found.parts for option in options_of(part)}
    known: dict[str, set[str]] = {}
    for part in _published_parts(found):
        for preset, values in part.presets.items():
            known.setdefault(preset, set()).update(own & set(values))
    taken = f"take --preset {' or '.join(sorted(known))}"
    if any(known.values()):
        return taken
    return "give --learning-rate and the coefficients yourself" + (f", or {taken}" if known else "")
