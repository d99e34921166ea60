"""Direct preference optimisation with a refusal as the preferred answer (Rafailov et al. 2023, arXiv 2305.18290)."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import logsigmoid

from unlearner.methods.base import Loss, Views, check_positive


@dataclass(frozen=True)
class DPO(Loss):
    """L = −(2/β) E log σ(β [(NLL_θ(forget) − NLL_θ(refusal)) − (NLL_ref(forget) − NLL_ref(refusal))]).

    The factor 2/β in place of 1 is the official unlearning code's; it only scales the loss.
    """

    name = "DPO"
    formula = "−(2/β) E log σ(β [(NLL_θ(forget) − NLL_θ(forget_refusal)) − (same under ref)])"
    source = "Rafailov et al. 2023, arXiv 2305.18290; for unlearning Maini et al. 2024, arXiv 2401.06121"
    needs = {"forget": ["logp"], "forget_refusal": ["logp"]}
    reference = {"forget": ["nll"], "forget_refusal": ["nll"]}
    targeted = True
    defaults_from = "the official code of arXiv 2410.08109, as in OpenUnlearning (IdkDPO)"
    presets = {
        "openunlearning": {"learning_rate": 1e-5, "forget_coeff": 1.0, "retain_coeff": 1.0, "beta": 0.1, "epochs": 10.0}
    }
    grid = {"beta": (0.05, 0.1, 0.5)}

    beta: float = 0.1

    def __post_init__(self) -> None:
        check_positive("beta", self.beta)

    def __call__(self, views: Views) -> Tensor:
        return preference(views, "forget_refusal", self.beta)


def preference(views: Views, preferred: str, beta: float) -> Tensor:
    """The loss by which the view `preferred` is to be likelier than "forget", as measured by the reference."""
    forget, other = views["forget"], views[preferred]
    margin = (forget.nll - other.nll) - (forget.reference_nll - other.reference_nll)
    return forget.sequence_mean(-2 / beta * logsigmoid(beta * margin))
