"""Multiple choice: is the right one the likeliest? (Hendrycks et al. 2020, MMLU, arXiv 2009.03300)"""

import math
from collections.abc import Sequence

from unlearner.data.records import Record
from unlearner.evaluation.examples import EvalSet, Example
from unlearner.evaluation.judges import Judges
from unlearner.evaluation.metrics.base import Metric
from unlearner.evaluation.requests import Score


class Choice(Metric):
    """1 where log p(a) is above log p(wrong_j) for all j, sums over tokens without the end token; else 0.

    lm-evaluation-harness' `acc`, but for exact ties, of which it takes the first. Not defined (NaN) without wrong
    answers.
    """

    name = "choice"
    title = "Multiple choice"
    short = "Choice"
    formula = "1 if log p(a) > max_j log p(wrong_j), else 0"
    source = "Hendrycks et al. 2020, arXiv 2009.03300"
    needs = "wrong answers"

    def requests(self, record: Record, eval_set: EvalSet) -> Sequence[Score]:
        if not record.perturbed_answer:
            return []
        return [Score(record.question, answer, open=True) for answer in (record.answer, *record.perturbed_answer)]

    def values(self, examples: Sequence[Example], eval_set: EvalSet, judges: Judges) -> list[float]:
        found = []
        for example in examples:
            right, *wrong = [example.scored(each).nll for each in self.requests(example.record, eval_set)] or [math.nan]
            found.append(float(right < min(wrong)) if wrong else math.nan)
        return found
