"""Probability of the reference answer (Maini et al. 2024, TOFU, arXiv 2401.06121)."""

import math
from collections.abc import Sequence

from unlearner.data.records import Record
from unlearner.evaluation.examples import EvalSet, Example
from unlearner.evaluation.judges import Judges
from unlearner.evaluation.metrics.base import Metric
from unlearner.evaluation.requests import Request, Score


class Probability(Metric):
    """P = p(a) = exp(−NLL(a) / tokens(a)): the geometric mean of the answer's token probabilities.

    Sets of short answers: P = p(a) / (p(a) + Σ_j p(wrong_j)), as if the model were given the choice; without wrong
    answers there is no choice, and P = p(a).
    """

    name = "probability"
    title = "Probability"
    short = "Prob."
    formula = "exp(−ℓ(a)); short answers: p(a) / (p(a) + Σ_j p(wrong_j))"
    source = "Maini et al. 2024, TOFU, arXiv 2401.06121"

    def requests(self, record: Record, eval_set: EvalSet) -> Sequence[Request]:
        wrong = record.perturbed_answer if eval_set.short_answers else ()
        return [Score(record.question, answer) for answer in (record.answer, *wrong)]

    def values(self, examples: Sequence[Example], eval_set: EvalSet, judges: Judges) -> list[float]:
        return [self._value(example, eval_set.short_answers) for example in examples]

    @staticmethod
    def _value(example: Example, short_answers: bool) -> float:
        loss = example.answer_loss
        if not (short_answers and example.perturbed_nll):
            return math.exp(-loss)
        losses = [loss]
        losses += [nll / n for nll, n in zip(example.perturbed_nll, example.perturbed_tokens, strict=True)]
        least = min(losses)  # taken out of every exponent, so that not all of them underflow
        weights = [math.exp(least - each) for each in losses]
        return weights[0] / math.fsum(weights)
