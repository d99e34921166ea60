"""Maximising entropy (Yuan et al. 2025, arXiv 2410.08109, section 3.2)."""

import math
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from unlearner.methods.base import PAPER, Loss, Needs, Views

Direction = Literal["uniform-to-model", "model-to-uniform"]


@dataclass(frozen=True)
class ME(Loss):
    """L = mean over labelled positions of KL(U ‖ p) = −log V − (1/V) Σ_k log p_k: know nothing.

    The official code computes KL(U ‖ p), with 1e-12 added to each p_k; the paper's equation writes KL(p ‖ U) =
    log V − H(p). `direction` offers both: `uniform-to-model` is the code's and the default, `model-to-uniform` the
    equation's. Question tokens are labelled too (the model is to be at a loss about the question as well).
    """

    name = "ME"
    formula = "mean_t KL(U‖p_t) = −log V − (1/V) Σ_k log p_t(k)"
    source = PAPER
    mask_question = False
    defaults_from = "the official code's direction"
    grid = {"forget_coeff": (0.1, 0.5, 1.0)}

    direction: Direction = field(default="uniform-to-model", metadata={"option": "me_direction"})

    @property
    def needs(self) -> Needs:
        return {"forget": ["mean_logp" if self.direction == "uniform-to-model" else "entropy"]}

    def __call__(self, views: Views) -> Tensor:
        forget = views["forget"]
        log_v = math.log(forget.vocabulary)
        if self.direction == "uniform-to-model":
            return forget.token_mean(-log_v - forget.mean_logp)
        return forget.token_mean(log_v - forget.entropy)
