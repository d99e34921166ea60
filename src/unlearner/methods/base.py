"""What every loss shares. A loss never sees logits: it maps per-token scores and hidden states to a number."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor

from unlearner.errors import UserError
from unlearner.scoring.views import Needs, ViewScores

Views = Mapping[str, ViewScores]
State = dict[str, Tensor]
"""A loss's own tensors by name, the same in all processes."""

PAPER = "arXiv 2410.08109"


class Loss:
    """A forget or a retain loss. Subclasses are frozen dataclasses; their fields are the loss's options.

    Each attribute may also be a property, where it depends on the options.

    Symbols in the formulas: NLL(x) sum over the labelled tokens of one sequence, CE mean over the labelled tokens of
    the batch, E mean over sequences, θ the model, ref the reference model, σ the logistic function.
    """

    name: ClassVar[str]
    formula: ClassVar[str]
    source: ClassVar[str]
    role: ClassVar[Literal["forget", "retain"]] = "forget"
    """Which half of a method the loss is."""
    targeted: ClassVar[bool] = False
    """Whether a chosen reply (a refusal) is trained, which takes questions."""
    needs_questions: ClassVar[bool] = False
    """Whether plain documents will not do, though no chosen reply is trained."""
    mask_question: ClassVar[bool] = True
    """Whether question tokens of the forget view go unlabelled."""

    @property
    def needs(self) -> Needs:
        """What is read of each view: scores by name (`scoring.constants.KINDS`), hidden states by number of the layer.

        `kl` compares with the reference model's distribution.
        """
        raise NotImplementedError

    @property
    def reference(self) -> Needs:
        """What is read of each view under the reference model: as in `needs`, in every step; and `nll`, the NLL of
        each sequence, which is computed once, before training."""
        return {}

    @property
    def trains(self) -> str:
        """Regular expression: only parameters in whose name it is found are trained. Empty: all."""
        return ""

    def setup(self, config: Any, seed: int) -> State:
        """The loss's own tensors before the first step, from the transformers config of the model's text part.

        They are kept in checkpoints, given to `__call__` as keyword arguments, and may be changed by `after_step`.
        """
        return {}

    def __call__(self, views: Views, *args: Any, **state: Any) -> Tensor:
        """The loss of a batch, a scalar with gradient."""
        raise NotImplementedError

    def after_step(self, loss: Tensor, **state: Tensor) -> None:
        """Change the loss's own tensors, in place, after a step whose `loss` was this, the same in all processes."""


def has_after_step(loss: Loss) -> bool:
    return type(loss).after_step is not Loss.after_step


def check_positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise UserError(f"{name} must be positive, not {value}.")
