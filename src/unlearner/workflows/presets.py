"""Presets: what is not given is taken from a scenario's settings, from those published of a loss, or fitted."""

from dataclasses import replace
from typing import Any

from unlearner.config import ForgetConfig
from unlearner.errors import UserError
from unlearner.methods import Method
from unlearner.methods.options import options_of
from unlearner.methods.registry import find
from unlearner.scenarios import SCENARIOS
from unlearner.scenarios.fit import ACCUMULATION, EPOCHS, Size


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
    published: dict[str, float] = {}
    for loss in reversed(found.losses):  # the forget loss's word counts
        published |= loss.presets.get(config.preset or "", {})
    if not published:
        known = sorted({preset for loss in found.losses for preset in loss.presets})
        instead = (
            f"take --preset {' or '.join(known)}" if known else "give --learning-rate and the coefficients yourself"
        )
        raise UserError(f"no settings of {found.base} are known as preset {config.preset!r}: {instead}.")
    given = {pair.partition("=")[0].strip().replace("-", "_") for pair in config.method_options}
    given |= {"beta"} if config.beta is not None else set()
    options = {option for loss in found.losses for option in options_of(loss)} & set(published) - given
    return replace(
        config,
        learning_rate=published.get("learning_rate") if config.learning_rate is None else config.learning_rate,
        forget_coeff=published.get("forget_coeff", 1.0) if config.forget_coeff is None else config.forget_coeff,
        retain_coeff=published.get("retain_coeff", 1.0) if config.retain_coeff is None else config.retain_coeff,
        method_options=[*config.method_options, *(f"{option}={published[option]}" for option in sorted(options))],
    )
