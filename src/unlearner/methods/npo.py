"""Negative preference optimisation (Zhang et al. 2024, arXiv 2404.05868, equation 3)."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import logsigmoid

from unlearner.methods.base import Loss, Views, check_positive


@dataclass(frozen=True)
class NPO(Loss):
    """L = −(2/β) E log σ(β (NLL_θ(forget) − NLL_ref(forget))): DPO with the losing answer only.

    Tends to GA for β → 0, and fades out once θ finds the forget answer much less likely than the reference does.
    The preset `paper` is RWKU's setting for it.
    """

    name = "NPO"
    formula = "−(2/β) E log σ(β (NLL_θ(forget) − NLL_ref(forget)))"
    source = "Zhang et al. 2024, arXiv 2404.05868"
    needs = {"forget": ["logp"]}
    reference = {"forget": ["nll"]}
    defaults_from = "the official code of arXiv 2410.08109, as in OpenUnlearning"
    presets = {
        "paper": {"learning_rate": 2e-6, "beta": 0.2, "epochs": 3.0},
        "openunlearning": {
            "learning_rate": 1e-5,
            "forget_coeff": 1.0,
            "retain_coeff": 1.0,
            "beta": 0.1,
            "epochs": 10.0,
        },
    }
    grid = {"beta": (0.05, 0.1, 0.5)}

    beta: float = 0.1

    def __post_init__(self) -> None:
        check_positive("beta", self.beta)

    def __call__(self, views: Views) -> Tensor:
        forget = views["forget"]
        margin = forget.nll - forget.reference_nll
        return forget.sequence_mean(-2 / self.beta * logsigmoid(self.beta * margin))
