"""How likely a text is, token by token: what membership inference asks of it."""

import math
from collections.abc import Sequence

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
