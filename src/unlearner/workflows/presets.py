"""Presets: what is not given is taken from a scenario's settings, from those published of a loss, or fitted."""

from dataclasses import replace
from typing import Any

from unlearner.config import ForgetConfig
from unlearner.errors import UserError
from unlearner.methods import COMBINED_METHODS, Loss, Method, Surgery
from unlearner.methods.options import options_of
from unlearner.methods.registry import Found, find, losses
from unlearner.scenarios import SCENARIOS
from unlearner.scenarios.fit import ACCUMULATION, EPOCHS, Size

PUBLISHED = ("paper", "openunlearning")
SETTINGS = ("learning_rate", "epochs", "forget_coeff", "retain_coeff")
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


def published_by(found: Found, preset: str) -> "list[type[Loss] | type[Surgery]]":
    """The parts whose presets hold of a method, those whose word counts behind the others.

    A surgery's preset is of the whole method, so that it takes the place of the losses' own.
    """
    combined = found.base in COMBINED_METHODS  # what was published of its forget loss alone is not of it
    forget = found.base if combined else found.losses[0].name
    surgery = found.surgery
    if surgery is not None and forget in surgery.published_with and preset in surgery.presets:
        return [surgery]
    return [loss for loss in reversed(found.losses[combined:]) if preset in loss.presets]


def published(found: Found, preset: str) -> dict[str, float | str]:
    """The values that a preset has for a method; empty where it has none."""
    return {name: value for part in published_by(found, preset) for name, value in part.presets[preset].items()}


def lacking(found: Found, preset: str) -> list[str]:
    """The options that a preset sets and the method does not have: without them it would be another method's."""
    return sorted({*published(found, preset)} - {*SETTINGS} - _options(found))


def method_for(found: Found, preset: str) -> str | None:
    """The method with the same forget loss and surgery that has all options of the preset, if there is one."""
    wanted = {*lacking(found, preset)}
    behind = [] if found.surgery is None else [found.surgery.name]
    for name, loss in losses("retain").items():
        if wanted <= {*options_of(loss)}:
            return "+".join([found.base.partition("+")[0], name, *behind])
    return None


def _options(found: Found) -> set[str]:
    return {option for part in found.parts for option in options_of(part)}


def _with_published(config: ForgetConfig) -> ForgetConfig:
    """The options with the values that a loss's own preset has, `paper` or `openunlearning`."""
    preset = config.preset or ""
    found = find(config.method)
    values = published(found, preset)
    if not values:
        raise UserError(f"{found.base} has no settings for preset {preset!r}: {_instead(found)}.")
    if lacked := lacking(found, preset):
        remedy = method_for(found, preset)
        raise UserError(
            f"the preset {preset} sets {', '.join(lacked)}, which {found.name} does not have: "
            + (f"use {remedy}." if remedy else "give the settings yourself.")
        )
    given = {pair.partition("=")[0].strip().replace("-", "_") for pair in config.method_options}
    given |= {"beta"} if config.beta is not None else set()
    options = {*values} - {*SETTINGS} - given
    numbers: dict[str, Any] = {"forget_coeff": 1.0, "retain_coeff": 1.0} | {
        name: values[name] for name in SETTINGS if name in values
    }
    return replace(
        config,
        **{name: value for name, value in numbers.items() if getattr(config, name) is None},
        method_options=[*config.method_options, *(f"{option}={values[option]}" for option in sorted(options))],
    )


def without_rate(config: ForgetConfig) -> str | None:
    """What to tell where a published preset is named that has no learning rate, and none is given."""
    if config.preset is None or config.preset in SCENARIOS or isinstance(config.method, Method):
        return None
    if config.learning_rate is not None or _with_published(config).learning_rate is not None:
        return None
    return (
        f"the preset {config.preset} of {config.method} names no learning rate, so the fictitious scenario's is used: "
        "give --learning-rate"
    )


def without_retain(config: ForgetConfig, method: Method) -> str | None:
    """What to tell where a retain set is given and no loss reads it."""
    if config.retain is None or method.needs_retain:
        return None
    name = method.name if method.surgery is None else method.name.rpartition("+")[0]
    remedy = "+".join([name, "GD", *([] if method.surgery is None else [method.surgery.name])])
    return f"{method.name} has no retain loss, so no row of --retain is trained on: to train on it, use {remedy}"


def _instead(found: Found) -> str:
    """What to do without the preset; one that names no option of the method itself says little, and comes last."""
    known = {preset: {*published(found, preset)} & _options(found) for preset in PUBLISHED if published(found, preset)}
    taken = f"use --preset {' or '.join(sorted(known))}"
    if any(known.values()):
        return taken
    return "give --learning-rate and the coefficients yourself" + (f", or {taken}" if known else "")
