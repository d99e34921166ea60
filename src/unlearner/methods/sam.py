"""Sharpness-aware minimisation of the forget loss, against relearning (Fan et al. 2025, arXiv 2502.05374)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from unlearner.methods.base import check_positive
from unlearner.methods.surgery import Role, Step, Surgery, clear, gradients, inner
from unlearner.models.sharding import own_part

NOTHING = 1e-30
"""A norm below this counts as 0 (RR's forget loss has no gradient at its end): ρ / ‖g‖ must fit into float32."""


@dataclass(frozen=True)
class SAM(Surgery):
    """g = g_f(θ + ρ g_f(θ)/‖g_f(θ)‖) + g_r(θ): forget so that nearby weights have forgotten too.

    ρ is `rho`, ‖·‖ the norm over all trained weights; with LoRA only the adapter is moved. The gradient that moves the
    weights is that of the whole step, with the dropout of the second pass; the official code takes the last
    micro-batch's, and loses what others had accumulated. The log has the losses before the weights were moved. The
    preset is that for NPO on MUSE News; on Books the retain loss has the weight 2.5.
    """

    name = "SAM"
    formula = "g = g_f(θ + ρ g_f(θ)/‖g_f(θ)‖) + g_r(θ)"
    source = "Fan et al. 2025, arXiv 2502.05374"
    defaults_from = "the official code's for MUSE"
    presets = {"paper": {"retain_coeff": 1.0, "beta": 0.1, "rho": 0.01}}
    published_with = ("NPO",)
    grid = {"rho": (0.01, 0.1)}
    both = False
    memory = "a number a trained weight, its value before it was moved, during a step"

    rho: float = 0.01

    def __post_init__(self) -> None:
        check_positive("rho", self.rho)

    @property
    def passes(self) -> Mapping[Role, int]:
        return {"forget": 2, "retain": 1}

    @torch.no_grad()
    def _move(self, step: Step) -> list[Tensor]:
        """Move the weights up the gradient; returns their values before."""
        found = gradients(step.parameters)
        weights = [own_part(parameter.detach()) for parameter in step.parameters]
        before = [weight.clone() for weight in weights]
        norm = inner(step.parameters, found, found).sqrt()
        share = self.rho / norm.clamp(min=NOTHING)
        for weight, gradient in zip(weights, found, strict=True):
            weight.addcmul_(gradient, share.to(weight.dtype))
        return before

    def __call__(self, step: Step, **state: Tensor) -> Mapping[str, Tensor]:
        step.backward("forget")
        before = self._move(step)
        clear(step.parameters)
        step.backward("forget")
        for parameter, value in zip(step.parameters, before, strict=True):
            own_part(parameter.detach()).copy_(value)
        del before
        if step.has_retain:
            step.backward("retain")
        step.update()
        return {}
