"""How much of the answer the model says word for word, one token after the other."""

from collections.abc import Sequence

import numpy as np

from unlearner.data.records import Record
from unlearner.evaluation.examples import EvalSet, Example
from unlearner.evaluation.judges import Judges
from unlearner.evaluation.memorization import exact_memorization, extraction_strength
from unlearner.evaluation.metrics.base import Metric
from unlearner.evaluation.requests import Score


class ExactMemorization(Metric):
    """The share of the answer's tokens, the end token among them, that are the likeliest after the right ones.

    OpenUnlearning's code leaves the last labelled token out, also where that is not the end token.
    """

    name = "exact_memorization"
    title = "Exact memorisation"
    short = "Exact mem."
    formula = "share of the T tokens of a (with its end) that are the most likely at their position"
    source = "Tirumala et al. 2022, arXiv 2205.10770"
    open = False

    def requests(self, record: Record, eval_set: EvalSet) -> Sequence[Score]:
        return [Score(record.question, record.answer, open=self.open, is_argmax=True)]

    def values(self, examples: Sequence[Example], eval_set: EvalSet, judges: Judges) -> list[float]:
        return [
            self.value(np.array(example.scored(asked).is_argmax))
            for example in examples
            for asked in self.requests(example.record, eval_set)
        ]

    def value(self, is_argmax: np.ndarray) -> float:
        return exact_memorization(is_argmax)


class ExtractionStrength(ExactMemorization):
    """1 − k/T, k the fewest of the answer's T tokens after which the model writes the rest, greedily, by itself.

    OpenUnlearning's code leaves the last labelled token out, and gives 1/T to an answer of which nothing is known.
    """

    name = "extraction_strength"
    title = "Extraction strength"
    short = "Extraction"
    formula = "1 − k/T, k the fewest tokens of a (with its end) after which all others are the most likely"
    source = "Carlini et al. 2021, arXiv 2012.07805"

    def value(self, is_argmax: np.ndarray) -> float:
        return extraction_strength(is_argmax)


class TokenAccuracy(ExactMemorization):
    """`ExactMemorization` without the end token: KnowUnDo's accuracy."""

    name = "token_accuracy"
    title = "Token accuracy"
    short = "Token acc."
    formula = "share of the tokens of a that are the most likely at their position, without the end token"
    source = "Tian et al. 2024, KnowUnDo, arXiv 2407.01920"
    open = True
