"""What every metric shares. A metric reads what the two evaluation passes left behind; it never runs the model."""

from collections.abc import Sequence
from typing import ClassVar

from unlearner.evaluation.examples import EvalSet, Example
from unlearner.evaluation.judges import Judges

PAPER = "arXiv 2410.08109"


class Metric:
    """One number per example, in [0, 1], without units. A set's figure is the plain mean over its examples.

    Symbols in the formulas: g generation, a reference answer, NLL sum in nats over the labelled tokens of one answer,
    ℓ = NLL / tokens.
    """

    name: ClassVar[str]
    formula: ClassVar[str]
    source: ClassVar[str]

    def values(self, examples: Sequence[Example], eval_set: EvalSet, judges: Judges) -> list[float]:
        """The value of every example, in order; NaN where the metric is not defined for that example."""
        raise NotImplementedError

    def texts(self, examples: Sequence[Example], judges: Judges) -> list[str]:
        """The texts whose embeddings `values` will need."""
        return []
