"""NPO without a reference model, by mean log-probability (Fan et al. 2024, arXiv 2410.07163)."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import logsigmoid

from unlearner.methods.base import Loss, Views, check_finite, check_positive


@dataclass(frozen=True)
class SimNPO(Loss):
    """L = −(2/β) E log σ(β (NLL_θ(forget)/n − δ)), n the labelled tokens of the sequence.

    δ is a margin in nats a token (the official code's `gamma`). The gradient fades once β (NLL/n − δ) ≫ 1; a small
    forget coefficient is usual. The official code counts n on the labels as they stand, one too many where a row's
    first token is labelled: so does official mode with labels of one's own. Training labels no first token.
    """

    name = "SIMNPO"
    formula = "−(2/β) E log σ(β (NLL_θ(forget)/n − δ))"
    source = "Fan et al. 2024, arXiv 2410.07163"
    needs = {"forget": ["logp"]}
    defaults_from = "the paper's for TOFU forget10, as in OpenUnlearning"
    presets = {
        "paper": {"learning_rate": 1e-5, "forget_coeff": 0.125, "beta": 4.5, "delta": 0.0, "epochs": 10.0},
        "openunlearning": {"learning_rate": 1e-5, "forget_coeff": 0.125, "beta": 4.5, "delta": 0.0, "epochs": 10.0},
    }
    elsewhere = {
        "gamma": "gamma of the official code is delta, gamma of OpenUnlearning --forget-coeff",
        "npo_coeff": "npo_coeff of the official code is --forget-coeff",
        "alpha": Loss.elsewhere["alpha"],
    }
    grid = {"beta": (3.5, 4.5), "delta": (0.0, 1.0), "forget_coeff": (0.125, 0.25), "retain_coeff": (1.0,)}

    beta: float = 4.5
    delta: float = 0.0

    def __post_init__(self) -> None:
        check_positive("beta", self.beta)
        check_finite("delta", self.delta)

    def __call__(self, views: Views) -> Tensor:
        forget = views["forget"]
        margin = forget.nll / forget.tokens - self.delta
        return forget.sequence_mean(-2 / self.beta * logsigmoid(self.beta * margin))
