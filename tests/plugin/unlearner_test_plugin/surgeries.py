"""Forgetting and keeping with equal force."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from unlearner.methods.surgery import Step, Surgery, clear, gradients, inner


@dataclass(frozen=True)
class Equal(Surgery):
    """g = g_f/‖g_f‖ + share · g_r/‖g_r‖."""

    name = "EQUALTEST"
    formula = "g_f/‖g_f‖ + share · g_r/‖g_r‖"
    source = "nobody's"
    memory = "a number a trained weight, the forget gradient"

    share: float = 1.0

    def __call__(self, step: Step, **state: Tensor) -> Mapping[str, Tensor]:
        step.backward("forget")
        forget = [each.clone() for each in gradients(step.parameters)]
        clear(step.parameters)
        step.backward("retain")
        found = gradients(step.parameters)
        lengths = [inner(step.parameters, each, each).sqrt() for each in (forget, found)]
        torch._foreach_mul_(found, float(self.share / lengths[1]))
        torch._foreach_add_(found, forget, alpha=float(1 / lengths[0]))
        step.update()
        return {"forget_norm": lengths[0]}
