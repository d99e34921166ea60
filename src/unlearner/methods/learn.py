"""Ordinary fine-tuning, as a loss among the others, so that one loop serves both directions."""

from dataclasses import dataclass

from torch import Tensor

from unlearner.methods.base import Loss, Views


@dataclass(frozen=True)
class Learn(Loss):
    """L = CE(train): what made the model know. Used by `finetune`; no unlearning method."""

    name = "CE"
    formula = "CE(train)"
    source = "next-token prediction"
    needs = {"train": ["logp"]}

    def __call__(self, views: Views) -> Tensor:
        train = views["train"]
        return -train.token_mean(train.logp)
