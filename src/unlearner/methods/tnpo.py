"""NPO's weight, token by token (Wang et al. 2025, arXiv 2502.19301)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from unlearner.methods.base import Loss, Views, check_not_negative, check_positive


@dataclass(frozen=True)
class TNPO(Loss):
    """L = mean over labelled tokens of sg[2 p^β / (p^β + q^β + floor)] log p, q the probability under ref.

    `floor` is the official code's guard against 0/0. It does more than that: at β = 4 no token is pushed whose p and q
    are below 0.056. 0 leaves it out, which is safe here, because weights are computed from logarithms.
    """

    name = "TNPO"
    formula = "mean_t sg[2 p_t^β / (p_t^β + q_t^β + floor)] log p_t on forget, q under ref"
    source = "Wang et al. 2025, arXiv 2502.19301"
    needs = {"forget": ["logp"]}
    reference = {"forget": ["logp"]}
    defaults_from = "floor the authors' code's; their script leaves β to the caller"
    presets = {"paper": {"learning_rate": 1e-5, "epochs": 5.0}}
    grid = {"beta": (0.1, 1.0, 4.0)}

    beta: float = 4.0
    floor: float = 1e-5

    def __post_init__(self) -> None:
        check_positive("beta", self.beta)
        check_not_negative("floor", self.floor)

    def _numerator(self, logp: Tensor) -> Tensor:
        """(N,) logarithm of 2 p^β."""
        return math.log(2) + self.beta * logp

    def __call__(self, views: Views) -> Tensor:
        forget = views["forget"]
        assert forget.reference is not None
        logp, before = forget.logp.detach(), forget.reference.logp
        below = torch.logaddexp(self.beta * logp, self.beta * before)
        if self.floor:
            below = torch.logaddexp(below, torch.full_like(below, math.log(self.floor)))
        return forget.token_mean((self._numerator(logp) - below).exp() * forget.logp)


@dataclass(frozen=True)
class WTNPO(TNPO):
    """L = mean over labelled tokens of sg[2 p^(β+α) / (p^β + q^β + floor)] log p: TNPO weighted as in WGA."""

    name = "WTNPO"
    formula = "mean_t sg[2 p_t^(β+α) / (p_t^β + q_t^β + floor)] log p_t on forget, q under ref"
    defaults_from = "β and floor the authors' code's; α ours, because their script leaves it to the caller"
    grid = {"beta": (0.1, 4.0), "alpha": (1.0, 1.5)}

    beta: float = 0.1
    alpha: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative("alpha", self.alpha)

    def _numerator(self, logp: Tensor) -> Tensor:
        return math.log(2) + (self.beta + self.alpha) * logp
