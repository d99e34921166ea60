"""Misdirection of hidden states, in the style of RMU (Li et al. 2024, arXiv 2403.03218)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unlearner.methods.base import Loss, Needs, State, Views


@dataclass(frozen=True)
class MisdirectedStates(Loss):
    """L = mean_t ‖h_θ(forget)_t − c·u‖²/H + λ mean_t ‖h_θ(retain)_t − h_ref(retain)_t‖²/H.

    h the states behind one layer, u a random unit vector, λ a dual variable that each step raises by `rate` · L.
    Only the three matrices of that layer's MLP are trained.
    """

    name = "RMUTEST"
    formula = "mean_t ‖h_θ(forget) − c·u‖²/H + λ mean_t ‖h_θ(retain) − h_ref(retain)‖²/H"
    source = "after Li et al. 2024, arXiv 2403.03218"

    layer: int = 1
    coefficient: float = 4.0
    rate: float = 0.1

    @property
    def needs(self) -> Needs:
        return {"forget": [self.layer], "retain": [self.layer]}

    @property
    def reference(self) -> Needs:
        return {"retain": [self.layer]}

    @property
    def trains(self) -> str:
        return rf"layers\.{self.layer}\.mlp\.(gate|up|down)_proj"

    def setup(self, config: Any, seed: int) -> State:
        u = torch.rand(config.hidden_size, generator=torch.Generator().manual_seed(seed))
        return {"control": self.coefficient * u / u.norm(), "weight": torch.ones(())}

    def __call__(self, views: Views, control: Tensor, weight: Tensor) -> Tensor:
        forget, retain = views["forget"], views["retain"]
        away = (forget.states(self.layer) - control).square().mean(-1)
        near = (retain.states(self.layer) - retain.reference.states(self.layer)).square().mean(-1)
        return forget.position_mean(away) + weight * retain.position_mean(near)

    def after_step(self, loss: Tensor, control: Tensor, weight: Tensor) -> None:
        weight += self.rate * loss
