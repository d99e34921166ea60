"""The options of a run as it takes them and writes them down."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

from unlearner.config import ForgetConfig
from unlearner.scenarios import SCENARIOS

UNTOLD = ("output", "time_limit")
"""Options that do not make a run another run."""
UNTOLD_BY_DEFAULT = ("note", "redact")
"""Options that are written down only where they are given: runs without them are the runs they were before."""


def with_preset(config: ForgetConfig) -> ForgetConfig:
    """The options with the preset's values where none were given; official mode takes the official pairing."""
    preset = SCENARIOS[config.preset].preset
    method = str(getattr(config.method, "name", config.method)).upper()  # a Method in memory has its name
    coefficient = preset.forget_coeff.get(method.partition("+")[0], 1.0)
    return replace(
        config,
        learning_rate=preset.lr.get(method, preset.lr[""]) if config.learning_rate is None else config.learning_rate,
        forget_coeff=coefficient if config.forget_coeff is None else config.forget_coeff,
        pairing="official" if config.official else config.pairing,
    )


def resolved(config: Any) -> dict[str, Any]:
    """The options as plain values, without the output directory: what makes two runs the same run."""
    told = {f.name: _plain(getattr(config, f.name)) for f in fields(config) if f.name not in UNTOLD}
    return {name: value for name, value in told.items() if value or name not in UNTOLD_BY_DEFAULT}


def _plain(value: Any) -> Any:
    """An option as it is written down: data and models in memory by what they are."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Mapping):
        return dict(value)
    if is_dataclass(value) and not isinstance(value, type):
        return repr(value)
    if isinstance(value, list) and all(isinstance(item, str | int | float) for item in value):
        return list(value)
    size = f", {len(value)} rows" if hasattr(value, "__len__") else ""
    return f"{type(value).__name__} in memory{size}"
