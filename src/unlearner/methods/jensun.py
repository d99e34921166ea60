"""Jensen-Shannon divergence to a fixed phrase, and to the reference (JensUn, arXiv 2509.02820)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from unlearner.methods.base import Loss, Views


@dataclass(frozen=True)
class JensUn(Loss):
    """L = mean over the answer's tokens of JSD(p, e_τ) = log 2 + ½ (p log p − (1 + p) log(1 + p)), p = p_θ(τ).

    The input is question and answer; what is to be predicted at the answer's tokens is a phrase, repeated over its
    length: τ runs through the phrase's tokens. Bounded by log 2, and flat where the phrase is unlikely: the method
    relies on Adam's normalised steps.
    """

    name = "JENSUN"
    formula = "mean_t JSD(p_t, phrase) = mean_t log 2 + ½ (p log p − (1 + p) log(1 + p)) on forget_phrase"
    source = "arXiv 2509.02820"
    needs = {"forget_phrase": ["logp"]}
    defaults_from = "the authors' code; there with the retain loss JS, both coefficients 1"
    presets = {"paper": {"learning_rate": 8e-6, "forget_coeff": 1.0, "retain_coeff": 1.0, "epochs": 10.0}}

    phrase: str = "No Idea"

    def __call__(self, views: Views) -> Tensor:
        view = views["forget_phrase"]
        p = view.logp.exp()
        return view.token_mean(math.log(2) + 0.5 * (p * view.logp - (1 + p) * torch.log1p(p)))


@dataclass(frozen=True)
class JS(Loss):
    """L = mean over labelled tokens of JSD(p_ref, p_θ) on the retain view: KL's purpose, bounded by log 2."""

    name = "JS"
    role = "retain"
    formula = "mean_t JSD(p_ref, p_θ) on retain"
    source = "arXiv 2509.02820"
    needs = {"retain": ["js"]}
    defaults_from = "no options"

    def __call__(self, views: Views) -> Tensor:
        retain = views["retain"]
        return retain.token_mean(retain.js)
