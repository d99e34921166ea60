"""Gradient descent on the retain set (Liu et al. 2022, arXiv 2203.12817)."""

from dataclasses import dataclass

from torch import Tensor

from unlearner.methods.base import Loss, Views


@dataclass(frozen=True)
class GD(Loss):
    """L = CE(retain): go on learning what is to be kept."""

    name = "GD"
    role = "retain"
    formula = "CE(retain)"
    source = "Liu et al. 2022, arXiv 2203.12817"
    needs = {"retain": ["logp"]}
    defaults_from = "no options"

    def __call__(self, views: Views) -> Tensor:
        retain = views["retain"]
        return -retain.token_mean(retain.logp)
