"""What every metric shares. A metric asks, and reads the answers; it never runs the model."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from unlearner.data.records import Record
from unlearner.evaluation.examples import EvalSet, Example
from unlearner.evaluation.judges import Judges
from unlearner.evaluation.requests import Request
from unlearner.settings import metric_as_text

PAPER = "arXiv 2410.08109"


class Metric:
    """One number per example, in [0, 1], without units (but for a few of RWKU's, as their classes say). A set's figure
    is the plain mean over its examples.

    Symbols in the formulas: g generation, a reference answer, NLL sum in nats over the labelled tokens of one answer,
    ℓ = NLL / tokens.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    """Above a figure or beside a row."""
    short: ClassVar[str]
    """Above a narrow column."""
    direction: ClassVar[Literal["higher", "lower"]] = "higher"
    """What is better where knowledge is to be kept."""
    formula: ClassVar[str]
    source: ClassVar[str]
    needs: ClassVar[str] = "value of it"
    """What a row must have for the metric to be defined, behind "no row has" and "the others have no"."""

    def requests(self, record: Record, eval_set: EvalSet) -> Sequence[Request]:
        """What is to be asked of the model about `record`."""
        raise NotImplementedError

    def values(self, examples: Sequence[Example], eval_set: EvalSet, judges: Judges) -> list[float]:
        """The value of every example, in order; NaN where the metric is not defined for that example."""
        raise NotImplementedError

    def texts(self, examples: Sequence[Example], judges: Judges) -> list[str]:
        """The texts whose embeddings `values` will need."""
        return []

    def as_text(self) -> str:
        """How a run writes it down where it was given as an object: its name, its class and its options."""
        return metric_as_text(self)
