"""Learn to refuse the forget questions (Maini et al. 2024, arXiv 2401.06121)."""

from dataclasses import dataclass

from torch import Tensor

from unlearner.methods.base import Loss, Views


@dataclass(frozen=True)
class IDK(Loss):
    """L = CE(forget_refusal): answer forget questions with "I don't know" in its many wordings."""

    name = "IDK"
    formula = "CE(forget_refusal)"
    source = "Maini et al. 2024, arXiv 2401.06121"
    needs = {"forget_refusal": ["logp"]}
    targeted = True
    defaults_from = "no options"
    presets = {"openunlearning": {"learning_rate": 1e-5, "forget_coeff": 1.0, "retain_coeff": 1.0, "epochs": 10.0}}

    def __call__(self, views: Views) -> Tensor:
        refusal = views["forget_refusal"]
        return -refusal.token_mean(refusal.logp)
