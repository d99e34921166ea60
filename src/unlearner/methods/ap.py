"""Answer preservation (Yuan et al. 2025, arXiv 2410.08109, section 3.3)."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import logsigmoid

from unlearner.methods.base import PAPER, Loss, Views, check_positive


@dataclass(frozen=True)
class AP(Loss):
    """L = −(1/β) E log σ(β (NLL_θ(retain_refusal) − NLL_θ(retain))): prefer the answer to the refusal.

    Unlike DPO it needs no reference model; unlike GD it leaves the answer's probability free once it is preferred.
    """

    name = "AP"
    role = "retain"
    formula = "−(1/β) E log σ(β (NLL_θ(retain_refusal) − NLL_θ(retain)))"
    source = PAPER
    needs = {"retain": ["logp"], "retain_refusal": ["logp"]}
    targeted = True
    defaults_from = "the official code's"

    beta: float = 0.1

    def __post_init__(self) -> None:
        check_positive("beta", self.beta)

    def __call__(self, views: Views) -> Tensor:
        retain, refusal = views["retain"], views["retain_refusal"]
        return retain.sequence_mean(-1 / self.beta * logsigmoid(self.beta * (refusal.nll - retain.nll)))
