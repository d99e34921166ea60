"""Flat logits under a constraint on the retain loss: primal-dual unlearning (PDU, arXiv 2506.05314)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from unlearner.methods.base import Loss, State, Views, check_not_negative, check_positive
from unlearner.scoring.constants import IGNORE


@dataclass(frozen=True)
class PDU(Loss):
    """L = mean over labelled positions of (max_k z_k − (1/V) Σ_k z_k)²: no token stands out.

    Use it as PDU+DUAL, whose weight adapts. The preset `paper` is for MUSE, `openunlearning` for TOFU. On MUSE ε
    depends on model and texts (7B: 1.5 for News, 0.1 for Books), so that there it is DUAL's default. The official code
    takes the positions of the labelled tokens, not those that predict them, which are one earlier: so does official
    mode.
    """

    name = "PDU"
    formula = "mean_t (max_k z_t(k) − mean_k z_t(k))² on forget"
    source = "arXiv 2506.05314"
    needs = {"forget": ["spread"]}
    official_shift = 1
    defaults_from = "no options"
    presets = {
        "paper": {"learning_rate": 1e-5, "forget_coeff": 1.0, "weight": 50.0, "rate": 1.0, "epochs": 10.0},
        "openunlearning": {
            "learning_rate": 1e-5, "forget_coeff": 1.0, "weight": 100.0, "rate": 5.0, "epsilon": 0.3, "epochs": 10.0,
        },
    }  # fmt: skip

    def official_view(self, view: Mapping[str, Tensor], vocabulary: int) -> Mapping[str, Tensor]:
        # Labels one later: what predicts them is then where they stood. One more column only where a row is full,
        # because a model whose positions were learned may have none for it.
        labels = pad(view["labels"], (1, 0), value=IGNORE)
        if not bool((labels[:, -1] != IGNORE).any()):
            return {**view, "labels": labels[:, :-1]}
        return {
            "input_ids": pad(view["input_ids"], (0, 1)),
            "labels": labels,
            "attention_mask": pad(view["attention_mask"], (0, 1)),
        }

    def __call__(self, views: Views) -> Tensor:
        forget = views["forget"]
        return forget.token_mean(forget.spread.square())


@dataclass(frozen=True)
class Dual(Loss):
    """L = λ CE(retain), where every step sets λ ← max(0, λ + η (CE(retain) − ε)): weight what is kept as it is needed.

    The value is CE(retain), the gradient λ times its own. λ, `dual` in the log, starts at `weight`; η is `rate`; λ
    stays as it is in the first `warmup_steps`. ε is `epsilon` or, by default, (1 + `slack`) times the CE of the first
    step, where the paper takes that of the model before. OpenUnlearning's warm-up is 5 epochs. It is not in the preset,
    because steps are counted here: to follow it give `warmup_steps`, 5 times the steps of an epoch. The official code
    changes λ in every micro-batch and every process apart: here once a step, from the loss of the whole step, the same
    in all processes.
    """

    name = "DUAL"
    role = "retain"
    formula = "λ CE(retain), each step λ ← max(0, λ + η (CE(retain) − ε))"
    source = "arXiv 2506.05314"
    needs = {"retain": ["logp"]}
    logged = ("dual",)
    defaults_from = (
        "weight and rate OpenUnlearning's for TOFU, where λ stays as it is for 5 epochs; here "
        "warmup_steps counts steps, and is ours, as slack is"
    )
    # OpenUnlearning's for TOFU and MUSE, and ε as the paper has it. A retain coefficient would be one more factor of λ.
    grid = {"weight": (50.0, 100.0), "rate": (1.0, 5.0), "epsilon": (None, 0.3), "retain_coeff": (1.0,)}

    weight: float = 100.0
    rate: float = 5.0
    epsilon: float | None = None
    slack: float = 0.1
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        check_positive("weight", self.weight)
        for name in ("rate", "slack", "warmup_steps"):
            check_not_negative(name, getattr(self, name))
        if self.epsilon is not None:
            check_not_negative("epsilon", self.epsilon)

    def setup(self, config: Any, seed: int) -> State:
        bound = math.nan if self.epsilon is None else self.epsilon
        return {"dual": torch.tensor(self.weight), "bound": torch.tensor(bound), "step": torch.tensor(0)}

    def __call__(self, views: Views, dual: Tensor, bound: Tensor, step: Tensor) -> Tensor:
        retain = views["retain"]
        loss = -retain.token_mean(retain.logp)
        return loss.detach() + dual * (loss - loss.detach())

    def after_step(self, loss: Tensor, dual: Tensor, bound: Tensor, step: Tensor) -> None:  # type: ignore[override]  # its state by name
        bound.copy_(torch.where(bound.isnan(), (1 + self.slack) * loss, bound))
        step += 1
        moved = (dual + self.rate * (loss - bound)).clamp(min=0)
        dual.copy_(torch.where(step > self.warmup_steps, moved, dual))
