"""Learning rate, steps and coefficients that were not given: a scenario's, or fitted to forget set and model."""

from dataclasses import replace

from unlearner.config import ForgetConfig
from unlearner.scenarios import SCENARIOS
from unlearner.scenarios.fit import ACCUMULATION, EPOCHS, Size


def with_preset(config: ForgetConfig, size: Size | None = None) -> ForgetConfig:
    """The options with the preset's values where none were given, without a preset fitted to `size`; official mode
    takes the official pairing."""
    preset = SCENARIOS[config.preset or "fictitious"].preset
    method = str(getattr(config.method, "name", config.method)).upper()  # a Method in memory has its name
    coefficient = preset.forget_coeff.get(method.partition("+")[0], 1.0)
    accumulation = config.gradient_accumulation_steps
    rate, epochs, step = preset.lr.get(method, preset.lr[""]), EPOCHS, ACCUMULATION
    if size is not None:
        rate = size.rate(rate)
        epochs, step = size.steps(config.batch_size, accumulation)
    return replace(
        config,
        learning_rate=rate if config.learning_rate is None else config.learning_rate,
        epochs=epochs if config.epochs is None else config.epochs,
        gradient_accumulation_steps=step if accumulation is None else accumulation,
        forget_coeff=coefficient if config.forget_coeff is None else config.forget_coeff,
        pairing="official" if config.official else config.pairing,
    )


def is_fitted(config: ForgetConfig) -> bool:
    """Whether learning rate and steps are to be fitted to forget set and model: no preset is named, and neither
    learning rate nor epochs are given."""
    return config.preset is None and not config.official and config.learning_rate is None and config.epochs is None
