"""Stay close to the reference model's predictions on the retain set (Maini et al. 2024, arXiv 2401.06121)."""

from dataclasses import dataclass

from torch import Tensor

from unlearner.methods.base import Loss, Views


@dataclass(frozen=True)
class KL(Loss):
    """L = mean over positions of KL(p_ref ‖ p_θ) on the retain view, summed over the vocabulary.

    The mean runs over the real tokens, question included; in official mode over every position of the padded batch.
    """

    name = "KL"
    role = "retain"
    formula = "mean_t KL(p_ref‖p_θ) on retain"
    source = "Maini et al. 2024, arXiv 2401.06121"
    needs = {"retain": ["kl"]}
    defaults_from = "no options"

    def __call__(self, views: Views) -> Tensor:
        retain = views["retain"]
        return retain.position_mean(retain.kl)
