"""Gradient surgery by projection: GRU (Wang et al. 2025, arXiv 2503.09117), BLUR (Reisizadeh et al. 2025, arXiv
2506.08164)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from unlearner.errors import UserError
from unlearner.methods.base import State, check_not_negative
from unlearner.methods.surgery import Role, Step, Surgery, clear, gradients, inner
from unlearner.models.sharding import own_part


@dataclass(frozen=True)
class Projection(Surgery):
    """g = p − ⟨p, m⟩/‖m‖² · m + add · k: of two gradients, take out of one what goes along the other.

    k is the gradient of the loss that `keep` names, p the other loss's, m the moving average m ← μ k + (1 − μ) m (μ is
    `momentum`, the weight of the new gradient; m starts at 0, and is k itself for μ = 1). `when` is conflict, where
    ⟨p, m⟩ < 0, or always. `clip` bounds the cosine of p and m below: at −0.5 at most ‖p‖/2 is taken out.

    Both gradients are those of the whole step, of losses times their coefficients. Each loss's rows have a forward and
    backward pass of their own: a step costs about what it costs without surgery. Products are summed in float64.
    """

    keep: Role = "retain"
    when: Literal["conflict", "always"] = "conflict"
    momentum: float = 1.0
    add: float = 0.0
    clip: float = -1.0

    def __post_init__(self) -> None:
        if not 0 < self.momentum <= 1:
            raise UserError(f"momentum must be above 0 and at most 1, not {self.momentum}.")
        if not -1 <= self.clip < 0:
            raise UserError(f"clip must be at least -1 and below 0, not {self.clip}.")
        check_not_negative("add", self.add)

    @property
    def memory(self) -> str:
        if self.copies == 2:
            return "two numbers a trained weight: the gradient that is kept, and its moving average (in checkpoints)"
        return "a number a trained weight: the gradient that is kept, or its moving average (in checkpoints)"

    @property
    def copies(self) -> int:
        return 1 + (self.momentum < 1 and self.add > 0)

    @property
    def inert(self) -> Sequence[str]:
        """Without `add`, k counts by its direction alone, and the coefficient of p is a factor of the whole step."""
        return () if self.add else ("forget_coeff", "retain_coeff")

    def setup(self, parameters: Mapping[str, Tensor]) -> State:
        if self.momentum == 1:
            return {}
        return {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}

    def __call__(self, step: Step, **average: Tensor) -> Mapping[str, Tensor]:
        step.backward(self.keep)
        new = gradients(step.parameters)
        if average:
            kept = [own_part(each) for each in average.values()]
            torch._foreach_lerp_(kept, new, self.momentum)
            added = [each.clone() for each in new] if self.add else []
        else:
            kept = [each.clone() for each in new]
            added = kept if self.add else []
        del new
        clear(step.parameters)
        step.backward("forget" if self.keep == "retain" else "retain")
        projected = gradients(step.parameters)
        share = self._share(step, projected, kept)
        for gradient, direction in zip(projected, kept, strict=True):
            gradient.addcmul_(direction, share.to(gradient.dtype), value=-1)
        if added:
            torch._foreach_add_(projected, added, alpha=self.add)
        step.update()
        return {"projected": share != 0}

    def _share(self, step: Step, projected: Sequence[Tensor], kept: Sequence[Tensor]) -> Tensor:
        """⟨p, m⟩/‖m‖² where p is to be projected, else 0; not a number where a gradient is none."""
        product = inner(step.parameters, projected, kept)
        length = inner(step.parameters, kept, kept)
        smallest = torch.finfo(length.dtype).tiny
        share = product / length.clamp(min=smallest)
        if self.clip > -1:
            norm = inner(step.parameters, projected, projected)
            share = torch.maximum(share, self.clip * (norm / length.clamp(min=smallest)).sqrt())
        return share if self.when == "always" else torch.where(product >= 0, torch.zeros_like(share), share)


@dataclass(frozen=True)
class GRU(Projection):
    """g = g_f, less its part against the retain gradient: forgetting may not raise the retain loss.

    Where ⟨g_f, m⟩ < 0: g = g_f − ⟨g_f, m⟩/‖m‖² · m, with m ← 0.8 g_r + 0.2 m. The retain gradient itself is not added,
    unless `add` is its weight (the official code's `ce_coeff`). `clip=-0.5` is that code's variant with a clipped
    cosine. All other options are `Projection`'s.
    """

    name = "GRU"
    formula = "g = g_f − ⟨g_f, m⟩/‖m‖² · m if ⟨g_f, m⟩ < 0, m ← μ g_r + (1 − μ) m"
    source = "Wang et al. 2025, arXiv 2503.09117"
    defaults_from = "the official code's"
    presets = {"paper": {"learning_rate": 1e-5, "momentum": 0.8, "epochs": 5.0}}
    published_with = ("GA", "NPO", "WGA")  # and SIMNPO, whose small forget coefficient is its own preset's
    grid = {"momentum": (0.6, 0.8, 0.99)}

    momentum: float = 0.8


@dataclass(frozen=True)
class BLUR(Projection):
    """g = g_f + g_r − ⟨g_r, g_f⟩/‖g_f‖² · g_f: forgetting goes first, and keeping takes only what is at right angles.

    The official code projects whether or not the two are in conflict (`when=always`). Its γ is the forget coefficient;
    its form for RMU has the retain coefficient α before the bracket, as here, 1200. With `keep=retain` the roles are
    swapped, which that code also offers. All other options are `Projection`'s.
    """

    name = "BLUR"
    formula = "g = g_f + g_r − ⟨g_r, g_f⟩/‖g_f‖² · g_f"
    source = "Reisizadeh et al. 2025, arXiv 2506.08164"
    defaults_from = "the official code's"
    presets = {"paper": {"learning_rate": 5e-5, "retain_coeff": 1200.0, "layer": 7, "steering": 6.5}}
    published_with = ("RMU",)
    grid = {"keep": ("forget", "retain"), "when": ("always", "conflict")}
    """The official code's two orders; `when` is ours."""

    keep: Role = "forget"
    when: Literal["conflict", "always"] = "always"
    add: float = 1.0
