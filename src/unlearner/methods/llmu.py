"""LLMU (Yao et al. 2024, arXiv 2310.10683): its retain side; its forget side is GA."""

from dataclasses import dataclass

from torch import Tensor

from unlearner.methods.base import Loss, Views


@dataclass(frozen=True)
class Mismatch(Loss):
    """L = CE(forget_mismatch) + KL(p_ref ‖ p_θ) on retain: answer forget questions with some retain answer."""

    name = "MISMATCH"
    role = "retain"
    formula = "CE(forget_mismatch) + mean_t KL(p_ref‖p_θ) on retain"
    source = "Yao et al. 2024, arXiv 2310.10683"
    needs = {"forget_mismatch": ["logp"], "retain": ["kl"]}
    defaults_from = "no options"

    def __call__(self, views: Views) -> Tensor:
        mismatch, retain = views["forget_mismatch"], views["retain"]
        return -mismatch.token_mean(mismatch.logp) + retain.position_mean(retain.kl)
