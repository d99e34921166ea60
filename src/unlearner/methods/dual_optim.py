"""Forget steps and retain steps with an optimiser each (Zhong et al. 2025, arXiv 2504.15827)."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from unlearner.errors import UserError
from unlearner.methods.base import check_positive
from unlearner.methods.surgery import Role, Step, Surgery


@dataclass(frozen=True)
class DualOptim(Surgery):
    """θ ← AdamW_f(θ, g_f), then k times θ ← AdamW_r(θ, g_r): two states, each with its own moments and step count.

    k is `retain_steps`. Each retain step has retain rows of its own, k of them an item and epoch, and `retain_share` of
    the learning rate. Each gradient is clipped by itself; the log's gradient norm is the largest, its retain loss the
    first. The coefficients change nothing but what is clipped: `retain_share` weighs the two sides. The official code
    alternates in the same way, 1 : 5, by batches. It was published with ME+GD and IDK+AP and both coefficients 1, which
    is the preset; without a preset ME has its usual forget coefficient, 0.1.
    """

    name = "DUALOPTIM"
    formula = "θ ← AdamW_f(θ, g_f), then k times θ ← AdamW_r(θ, g_r), each with its own state"
    source = "Zhong et al. 2025, arXiv 2504.15827"
    defaults_from = "the official code's"
    presets = {"paper": {"learning_rate": 1e-5, "forget_coeff": 1.0, "retain_coeff": 1.0, "epochs": 5.0}}
    published_with = ("ME", "IDK")
    grid = {"retain_steps": (1, 5), "retain_share": (0.2, 0.5, 1.0)}  # the official code's and, ours, less keeping
    inert = ("forget_coeff", "retain_coeff")
    optimizers = 2
    memory = "two numbers a trained weight: the second optimiser's states (in checkpoints)"
    copies = 2

    retain_steps: int = 5
    retain_share: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.retain_steps <= 100:
            raise UserError(f"retain_steps must be a whole number from 1 to 100, not {self.retain_steps}.")
        check_positive("retain_share", self.retain_share)

    @property
    def passes(self) -> Mapping[Role, int]:
        return {"forget": 1, "retain": self.retain_steps}

    @property
    def draws(self) -> int:
        return self.retain_steps

    def __call__(self, step: Step, **state: Tensor) -> Mapping[str, Tensor]:
        step.backward("forget")
        step.update()
        for draw in range(self.retain_steps):
            step.backward("retain", draw)
            step.update(1, self.retain_share)
        return {}
