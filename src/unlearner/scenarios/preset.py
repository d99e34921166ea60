"""The training settings that differ between scenarios."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Preset:
    """Settings of the official code; everything else is the same in all scenarios (`config.TrainOptions`)."""

    lr: Mapping[str, float]
    """Learning rate by method; "" for all others."""
    forget_coeff: Mapping[str, float] = field(default_factory=dict)
    """Weight of the forget loss by its name; 1 for all others."""
