"""Losses by the probability of all but the label: unlikelihood, CE-U, Unilogit.

Each goes to a target distribution that is the model's own with the label's mass moved, so that its gradient depends on
the label's probability p alone. What they read, log(1 − p), is exact for p near 1 (`scoring.token_scores`): with 1 − p
taken from p, just the memorised tokens would get no push.
"""

import math
from dataclasses import dataclass

from torch import Tensor

from unlearner.errors import UserError
from unlearner.methods.base import Loss, Views


@dataclass(frozen=True)
class Unlikelihood(Loss):
    """L = mean over labelled tokens of −log(1 − p): bounded where the answer is unlikely, unlike GA.

    `ignore_first` labelled tokens of each row are left out: with the question alone, what comes first is a matter of
    style.
    """

    name = "UL"
    formula = "−mean_t log(1 − p_t) on forget"
    source = "Welleck et al. 2019, arXiv 1908.04319"
    needs = {"forget": ["unlikelihood"]}
    defaults_from = "all labelled tokens, as in the paper"

    ignore_first: int = 0

    def __post_init__(self) -> None:
        if self.ignore_first < 0:
            raise UserError(f"ignore_first must not be negative, not {self.ignore_first}.")

    @property
    def skip(self) -> int:
        return self.ignore_first

    def __call__(self, views: Views) -> Tensor:
        forget = views["forget"]
        return -forget.token_mean(forget.unlikelihood)


@dataclass(frozen=True)
class CEU(Unlikelihood):
    """L = mean over labelled tokens of CE(q′, p), q′ = sg[p without the label] / (1 − p_y).

    Its gradient is that of −log(1 − p_y), its value another, because q′ changes with p. The official code counts the
    tokens left out from a row's first one even where nothing predicts that, as in documents: so does official mode.
    """

    name = "CEU"
    formula = "mean_t CE(p without the label, p) on forget; gradient: −log(1 − p_t)"
    source = "arXiv 2503.01224"
    needs = {"forget": ["unlikelihood", "others_ce"]}
    defaults_from = "the paper's, as in OpenUnlearning; no retain loss there"
    presets = {
        "paper": {"learning_rate": 1e-5, "ignore_first": 1, "epochs": 10.0},
        "openunlearning": {"learning_rate": 1e-5, "ignore_first": 1, "epochs": 10.0},
    }

    ignore_first: int = 1

    def __call__(self, views: Views) -> Tensor:
        forget = views["forget"]
        value = forget.scores["others_ce"] + forget.unlikelihood.detach()
        return forget.token_mean(value - forget.unlikelihood)


@dataclass(frozen=True)
class Unilogit(Loss):
    """L = mean over labelled tokens of KL(p ‖ q′), q′ the model's own distribution, detached, with the label at 1/V.

    q′ differs from p by a factor on all but the label, so this is the KL of two coins:
    p log(pV) + (1 − p) log((1 − p)/(1 − 1/V)), gradient included. It is slow on strongly memorised tokens: the gradient
    goes like (1 − p) log(1/(1 − p)). From the paper; no official code was found.
    """

    name = "UNILOGIT"
    formula = "mean_t p_t log(p_t V) + (1 − p_t) log((1 − p_t)/(1 − 1/V)) on forget"
    source = "Vasilev et al. 2025, arXiv 2505.06027"
    needs = {"forget": ["logp", "unlikelihood"]}
    defaults_from = "no options"

    def __call__(self, views: Views) -> Tensor:
        forget = views["forget"]
        own, others = forget.logp, forget.unlikelihood
        log_v = math.log(forget.vocabulary)
        log_rest = math.log1p(-1 / forget.vocabulary)
        return forget.token_mean(own.exp() * (own + log_v) + others.exp() * (others - log_rest))
