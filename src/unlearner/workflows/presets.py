"""Presets: what is not given is taken from a scenario's settings, or from those published of a loss."""

from dataclasses import replace

from unlearner.config import ForgetConfig
from unlearner.errors import UserError
from unlearner.methods import Method
from unlearner.methods.options import options_of
from unlearner.methods.registry import find
from unlearner.scenarios import SCENARIOS


def with_preset(config: ForgetConfig) -> ForgetConfig:
    """The options with the preset's values where none were given; official mode takes the official pairing.

    Raises UserError where no settings of the method are known under the preset's name, with the presets that are.
    """
    if config.preset not in SCENARIOS and not isinstance(config.method, Method):
        config = _with_published(config)
    preset = SCENARIOS.get(config.preset, SCENARIOS["fictitious"]).preset  # of what nothing was published about
    method = str(getattr(config.method, "name", config.method)).upper()  # a Method in memory has its name
    coefficient = preset.forget_coeff.get(method.partition("+")[0], 1.0)
    return replace(
        config,
        learning_rate=preset.lr.get(method, preset.lr[""]) if config.learning_rate is None else config.learning_rate,
        forget_coeff=coefficient if config.forget_coeff is None else config.forget_coeff,
        retain_coeff=1.0 if config.retain_coeff is None else config.retain_coeff,
        pairing="official" if config.official else config.pairing,
    )


def _with_published(config: ForgetConfig) -> ForgetConfig:
    """The options with the values that a loss's own preset has, `paper` or `openunlearning`."""
    name, losses = find(config.method)
    published: dict[str, float] = {}
    for loss in reversed(losses):  # the forget loss's word counts
        published |= loss.presets.get(config.preset, {})
    if not published:
        known = sorted({preset for loss in losses for preset in loss.presets})
        instead = (
            f"take --preset {' or '.join(known)}" if known else "give --learning-rate and the coefficients yourself"
        )
        raise UserError(f"no settings of {name} are known as preset {config.preset!r}: {instead}.")
    given = {pair.partition("=")[0].strip().replace("-", "_") for pair in config.method_options}
    given |= {"beta"} if config.beta is not None else set()
    options = {option for loss in losses for option in options_of(loss)} & set(published) - given
    return replace(
        config,
        learning_rate=published.get("learning_rate") if config.learning_rate is None else config.learning_rate,
        forget_coeff=published.get("forget_coeff", 1.0) if config.forget_coeff is None else config.forget_coeff,
        retain_coeff=published.get("retain_coeff", 1.0) if config.retain_coeff is None else config.retain_coeff,
        method_options=[*config.method_options, *(f"{option}={published[option]}" for option in sorted(options))],
    )
