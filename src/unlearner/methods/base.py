"""What every loss shares. A loss never sees logits: it maps per-token scores to a number (`scoring/`)."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor

from unlearner.scoring.views import ViewScores

Views = Mapping[str, ViewScores]

PAPER = "arXiv 2410.08109"


class Loss:
    """A forget or a retain loss. Subclasses are frozen dataclasses; their fields are the loss's options.

    Symbols in the formulas: NLL(x) sum over the labelled tokens of one sequence, CE mean over the labelled tokens of
    the batch, E mean over sequences, θ the model, ref the reference model, σ the logistic function.
    """

    name: ClassVar[str]
    formula: ClassVar[str]
    source: ClassVar[str]
    needs: ClassVar[Mapping[str, Sequence[str]]]
    """The scores asked for of each view (`scoring.KINDS`)."""
    reference_nll: ClassVar[Sequence[str]] = ()
    """The views whose NLL under the reference model is read."""
    targeted: ClassVar[bool] = False
    """Whether a chosen reply (a refusal) is trained, which takes questions."""
    mask_question: ClassVar[bool] = True
    """Whether question tokens of the forget view go unlabelled."""

    def __call__(self, views: Views) -> Tensor:
        """The loss of a batch, a scalar with gradient."""
        raise NotImplementedError
