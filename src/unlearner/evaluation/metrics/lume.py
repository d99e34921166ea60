"""What LUME and SemEval-2025 Task 4 measure (Ramakrishna et al. 2025, arXiv 2502.15097)."""

from collections.abc import Sequence

from unlearner.data.records import Record
from unlearner.evaluation.examples import EvalSet, Example
from unlearner.evaluation.judges import Judges
from unlearner.evaluation.metrics.base import Metric
from unlearner.evaluation.metrics.rouge import rouge_l_recall
from unlearner.evaluation.requests import Generate


class Continuation(Metric):
    """ROUGE-L recall, stemmed, of 256 tokens that continue the text: how much is recited."""

    name = "continuation"
    title = "Continuation"
    short = "Contin."
    formula = "|LCS(g, a)| / |a| of stemmed words, g 256 tokens"
    source = "Ramakrishna et al. 2025, LUME, arXiv 2502.15097"

    def requests(self, record: Record, eval_set: EvalSet) -> Sequence[Generate]:
        return [Generate(record.question, max_new_tokens=256)]

    def values(self, examples: Sequence[Example], eval_set: EvalSet, judges: Judges) -> list[float]:
        return [
            self.value(example.written(asked)[0].text, example.record.answer)
            for example in examples
            for asked in self.requests(example.record, eval_set)
        ]

    def value(self, generation: str, answer: str) -> float:
        return rouge_l_recall(generation, answer)


class ExactAnswer(Continuation):
    """1 where the 256 tokens are the answer, white space around it and case aside, else 0."""

    name = "exact_answer"
    title = "Exact answer"
    short = "Exact"
    formula = "1 if g = a, case aside, else 0, g 256 tokens"

    def value(self, generation: str, answer: str) -> float:
        return float(generation.strip().lower() == answer.strip().lower())
