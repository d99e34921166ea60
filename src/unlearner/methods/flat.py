"""f-divergence between a template answer and the forget answer (FLAT, Wang et al. 2024, arXiv 2410.11143)."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from unlearner.methods.base import Loss, Views
from unlearner.scoring.views import ViewScores


@dataclass(frozen=True)
class FLAT(Loss):
    """L = E −g(P_e) + f*(g(P_f)), P the mean probability of a sequence's labelled tokens: refusal (e), answer (f).

    TV: −½ tanh P_e + ½ tanh P_f; KL: −P_e + exp(P_f − 1); Pearson: −P_e + P_f²/4 + P_f. It takes no retain set and no
    reference. The official code averages P over padding and prompt too, as 0, and over the batch before g: here it is
    over the labelled tokens of one sequence, which makes the loss the same in every layout of a batch.
    """

    name = "FLAT"
    formula = "E −g(P(forget_refusal)) + f*(g(P(forget))), P mean probability of a sequence's labelled tokens"
    source = "Wang et al. 2024, arXiv 2410.11143"
    needs = {"forget": ["logp"], "forget_refusal": ["logp"]}
    targeted = True
    defaults_from = "the divergence the authors' code names first"
    presets = {"paper": {"learning_rate": 2e-7, "epochs": 5.0}}
    grid = {"divergence": ("TV", "KL", "Pearson")}  # of those in the paper

    divergence: Literal["TV", "KL", "Pearson"] = "TV"

    def __call__(self, views: Views) -> Tensor:
        good, bad = _probability(views["forget_refusal"]), _probability(views["forget"])
        if self.divergence == "TV":
            each = 0.5 * (torch.tanh(bad) - torch.tanh(good))
        elif self.divergence == "KL":
            each = (bad - 1).exp() - good
        else:
            each = bad.square() / 4 + bad - good
        return views["forget"].sequence_mean(each)


def _probability(view: ViewScores) -> Tensor:
    """(B,) mean probability of each sequence's labelled tokens."""
    p = view.logp.exp()
    return view.sequence_sum(p) / view.sequence_sum(torch.ones_like(p)).clamp(min=1)
