"""Mixed prompts of SEPS (arXiv 2505.14832): two questions in one prompt, one to be forgotten, one to be kept."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from unlearner.methods.ap import AP
from unlearner.methods.base import Loss, Views, check_positive

SOURCE = "SEPS, arXiv 2505.14832"


@dataclass(frozen=True)
class MixedME(Loss):
    """L = CE(retain) + D(forget_retain) + D(retain_forget): the retain side of MP-ME, whose forget side is ME.

    A mixed view is one prompt, "1.Q_f⏎2. Q_r", with the answer "1.A_f⏎2. A_r", or with the kept row first. D is the
    mean over all its tokens, those of the questions too, of KL(p_θ ‖ t). t is uniform where a token of Q_f or A_f is
    predicted, or the one right behind (so that the end of the part is not known either); elsewhere it is p_ref. On the
    uniform part KL(p ‖ U) = log V − H(p).

    The official code finds the parts by tokens of Llama-2's template; here they are found by characters, under any
    template. It leaves probabilities below 1e-12 at that value.
    """

    name = "MPMELOSS"
    role = "retain"
    formula = "CE(retain) + mean_t KL(p_θ‖t) on both mixed views, t uniform on the forget part, p_ref on the rest"
    source = SOURCE
    needs = {
        "retain": ["logp"],
        "forget_retain": ["entropy", "reverse_kl"],
        "retain_forget": ["entropy", "reverse_kl"],
    }
    needs_questions = True
    defaults_from = "no options"
    presets = {"paper": {"forget_coeff": 1.0, "retain_coeff": 1.0}}

    def __call__(self, views: Views) -> Tensor:
        loss = -views["retain"].token_mean(views["retain"].logp)
        for name in ("forget_retain", "retain_forget"):
            mixed = views[name]
            unsure = math.log(mixed.vocabulary) - mixed.entropy
            loss = loss + mixed.token_mean(torch.where(mixed.marked, unsure, mixed.reverse_kl))
        return loss


@dataclass(frozen=True)
class MixedIDK(Loss):
    """L = AP + CE(refusal_retain) + CE(retain_then_refusal): the retain side of MP-IDK; its forget side is IDK.

    The prompts are those of MP-ME; the answer refuses the forget question and answers the other: "1.refusal⏎2. A_r", or
    the other way round. AP is answer preservation on the single questions, with its `beta`.
    """

    name = "MPIDKLOSS"
    role = "retain"
    formula = "AP + CE(refusal_retain) + CE(retain_then_refusal)"
    source = SOURCE
    needs = {
        "retain": ["logp"],
        "retain_refusal": ["logp"],
        "refusal_retain": ["logp"],
        "retain_then_refusal": ["logp"],
    }
    targeted = True
    defaults_from = "AP's"
    presets = {"paper": {"forget_coeff": 1.0, "retain_coeff": 1.0}}

    beta: float = 0.1

    def __post_init__(self) -> None:
        check_positive("beta", self.beta)

    def __call__(self, views: Views) -> Tensor:
        loss = AP(beta=self.beta)(views)
        for name in ("refusal_retain", "retain_then_refusal"):
            loss = loss - views[name].token_mean(views[name].logp)
        return loss
