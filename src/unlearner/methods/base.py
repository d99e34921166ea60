"""What every loss shares. A loss never sees logits: it maps per-token scores and hidden states to a number."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

from torch import Tensor

from unlearner.errors import UserError
from unlearner.scoring.views import Needs, ViewScores

Views = Mapping[str, ViewScores]
State = dict[str, Tensor]
"""A loss's own tensors by name, the same in all processes."""

PAPER = "arXiv 2410.08109"


class Alternates(NamedTuple):
    """How the model that a run starts from is asked for other answers to the forget questions."""

    samples: int
    """How many a question; 0: none, they have to be in the data."""
    temperature: float
    max_new_tokens: int
    instruction: str
    """What it is told, `{question}` and `{answer}` in it."""
    prefix: str
    """How its reply begins."""


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
    """Whether a chosen reply (a refusal) is trained, which needs questions."""
    needs_questions: ClassVar[bool] = False
    """Whether plain documents cannot be used, although no chosen reply is trained."""
    mask_question: ClassVar[bool] = True
    """Whether question tokens of the forget view go unlabelled."""
    official_everywhere: ClassVar[bool] = False
    """Whether in official mode every position of the forget view is labelled, padding too (see `official_view`)."""
    official_shift: ClassVar[int] = 0
    """By how many positions `official_view` shifts the labels: a row needs that many more than it has tokens."""
    defaults_from: ClassVar[str] = ""
    """Where the options' defaults come from."""
    logged: ClassVar[tuple[str, ...]] = ()
    """Which of the loss's own tensors, all scalars, are logged after every step."""
    presets: ClassVar[Mapping[str, Mapping[str, float | str]]] = {}
    """Published settings by the preset's name: learning_rate, epochs, forget_coeff, retain_coeff, and options of the
    method. A method that lacks one of these options cannot use the preset."""
    elsewhere: ClassVar[Mapping[str, str]] = {
        "gamma": "OpenUnlearning's gamma is --forget-coeff",
        "alpha": "OpenUnlearning's alpha is --retain-coeff",
    }
    """What options of other implementations are called here, by their names there."""
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {}
    """What `bench --tune` tries of the loss's options and of learning_rate (as factors), forget_coeff and retain_coeff;
    by default what the presets name (`grids.py`). A single value is not an axis."""

    @property
    def needs(self) -> Needs:
        """What is read of each view: scores by name (`scoring.constants.KINDS`), hidden states by number of the layer.

        `kl`, `js` and `distilled` compare with the reference model's distribution, asked for in every step.
        """
        raise NotImplementedError

    @property
    def reference(self) -> Needs:
        """What is read of each view under the reference model: as in `needs`, in every step, but for `logp` and `nll`,
        the NLL of each sequence, which are computed once, before training."""
        return {}

    @property
    def demote(self) -> float:
        """What `distilled` subtracts from the reference's logit of each labelled token."""
        return 0.0

    @property
    def skip(self) -> int:
        """How many of the first labelled tokens of each row of the forget view are left unlabelled."""
        return 0

    @property
    def phrase(self) -> str:
        """The labels of the view `forget_phrase`: the tokens of this text, repeated."""
        return ""

    @property
    def alternates(self) -> Alternates | None:
        """How the answers of the view `forget_alternate` are written if the data has none."""
        return None

    @property
    def trains(self) -> str:
        """Regular expression: only parameters in whose name it is found are trained. Empty: all."""
        return ""

    def setup(self, config: Any, seed: int) -> State:
        """The loss's own tensors before the first step, from the transformers config of the model's text part.

        They are kept in checkpoints, given to `__call__` as keyword arguments, and may be changed by `after_step`.
        """
        return {}

    def official_view(self, view: Mapping[str, Tensor], vocabulary: int) -> Mapping[str, Tensor]:
        """In official mode: the forget view (`input_ids`, `labels`, `attention_mask`, each (B, T)) as the official code
        reads it, if that differs from what its labels say."""
        return view

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


def check_finite(name: str, value: float) -> None:
    if not math.isfinite(value):
        raise UserError(f"{name} must be a finite number, not {value}.")


def check_not_negative(name: str, value: float) -> None:
    if not 0 <= value < math.inf:
        raise UserError(f"{name} must not be negative, not {value}.")
