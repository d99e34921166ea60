"""Gradient ascent on the forget set (Jang et al. 2023, arXiv 2210.01504)."""

from dataclasses import dataclass

from torch import Tensor

from unlearner.methods.base import Loss, Views


@dataclass(frozen=True)
class GA(Loss):
    """L = −CE(forget): make the forget answers unlikely. Unbounded below, so it tends to collapse."""

    name = "GA"
    formula = "−CE(forget)"
    source = "Jang et al. 2023, arXiv 2210.01504"
    needs = {"forget": ["logp"]}
    defaults_from = "no options"
    presets = {"openunlearning": {"learning_rate": 1e-5, "forget_coeff": 1.0, "retain_coeff": 1.0, "epochs": 10.0}}

    def __call__(self, views: Views) -> Tensor:
        forget = views["forget"]
        return forget.token_mean(forget.logp)
