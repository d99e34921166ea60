"""How likely a text is, token by token: what membership inference asks of it."""

import math
import zlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from unlearner.data.records import Record
from unlearner.evaluation.examples import EvalSet, Example
from unlearner.evaluation.judges import Judges
from unlearner.evaluation.membership import min_k
from unlearner.evaluation.metrics.base import Metric
from unlearner.evaluation.requests import Score


class TextProbability(Metric):
    """exp(mean_t ℓ_t), ℓ_t = log p(x_t | x_<t) in nats of each of the text's tokens, without an end token.

    Of a row with a question: of the answer. A document is taken whole.
    """

    name = "text_probability"
    title = "Probability of the text"
    short = "Text prob."
    formula = "exp(mean_t log p(x_t | x_<t)), without the end token"
    source = "Yeom et al. 2018, arXiv 1709.01604"
    share = 1.0

    def requests(self, record: Record, eval_set: EvalSet) -> Sequence[Score]:
        if eval_set.documents:  # it may have been cut in two
            return [Score(None, (record.question or "") + record.answer, open=True)]
        return [Score(record.question, record.answer, open=True)]

    def values(self, examples: Sequence[Example], eval_set: EvalSet, judges: Judges) -> list[float]:
        return [
            math.exp(-min_k(np.array(example.scored(asked).logp), self.share))
            for example in examples
            for asked in self.requests(example.record, eval_set)
        ]


class AnswerProbability(TextProbability):
    """The same of the second part alone, also of a document: what KnowUnDo's perplexity is made of."""

    name = "answer_probability"
    title = "Probability of the answer"
    short = "Answer prob."
    formula = "exp(mean_t log p(a_t | q, a_<t)), without the end token"
    source = "Tian et al. 2024, KnowUnDo, arXiv 2407.01920"

    def requests(self, record: Record, eval_set: EvalSet) -> Sequence[Score]:
        return [Score(record.question, record.answer, open=True)]


class MinK(TextProbability):
    """The same over the 40% of the tokens that are the least likely ones, one at least: MUSE's Min-40%.

    The official code has the mean itself; exp keeps its order, and with it every AUC.
    """

    name = "min_k"
    title = "Min-40% probability"
    short = "Min-40%"
    formula = "exp(mean of the lowest 40% of log p(x_t | x_<t))"
    source = "Shi et al. 2024, arXiv 2310.16789"
    share = 0.4


class ZlibScore(TextProbability):
    """The mean log-probability of a token over the bytes of the compressed text: RWKU's score `zlib`, in nats a byte.

    The first part of a document that was cut in two belongs to the text.
    """

    name = "zlib_score"
    title = "Log-probability per compressed byte"
    short = "zlib"
    formula = "mean_t log p(x_t | x_<t) / bytes of zlib(x)"
    source = "Carlini et al. 2021, arXiv 2012.07805; Jin et al. 2024, RWKU, arXiv 2406.10890"

    def values(self, examples: Sequence[Example], eval_set: EvalSet, judges: Judges) -> list[float]:
        return [
            -min_k(np.array(example.scored(asked).logp), self.share) / len(zlib.compress(asked.continuation.encode()))
            for example in examples
            for asked in self.requests(example.record, eval_set)
        ]


class MinKPlusPlus(TextProbability):
    """The mean of the lowest 20% of z_t = (log p(x_t | x_<t) − μ_t)/σ_t, one at least: RWKU's score `mink20`.

    μ_t and σ_t are mean and standard deviation of log p under the model's own distribution there; z_t is 0 where σ_t
    is. The official code has no value for texts of fewer than five tokens.
    """

    name = "min_k_plus_plus"
    title = "Min-K++, 20%"
    short = "Min-20%++"
    formula = "mean of the lowest 20% of (log p(x_t | x_<t) − μ_t)/σ_t"
    source = "Zhang et al. 2024, arXiv 2404.02936"
    share = 0.2

    def requests(self, record: Record, eval_set: EvalSet) -> Sequence[Score]:
        moments = ("expected_logp", "variance_logp")
        return [replace(asked, statistics=moments) for asked in super().requests(record, eval_set)]

    def values(self, examples: Sequence[Example], eval_set: EvalSet, judges: Judges) -> list[float]:
        found = []
        for example in examples:
            (asked,) = self.requests(example.record, eval_set)
            scored = example.scored(asked)
            mean, variance = (np.array(scored.statistics[name]) for name in asked.statistics)
            distance, spread = np.array(scored.logp) - mean, np.sqrt(np.maximum(variance, 0))
            found.append(-min_k(np.divide(distance, spread, out=np.zeros_like(spread), where=spread > 0), self.share))
        return found
