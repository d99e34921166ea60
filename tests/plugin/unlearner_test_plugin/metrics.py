"""A metric of another package, over answers that no metric of unlearner asks for."""

from collections.abc import Sequence
from dataclasses import dataclass

from unlearner.data.records import Record
from unlearner.evaluation.examples import EvalSet, Example
from unlearner.evaluation.judges import Judges
from unlearner.evaluation.metrics.base import Metric
from unlearner.evaluation.metrics.rouge import rouge_l_recall
from unlearner.evaluation.requests import Generate, Request


@dataclass(frozen=True)
class WorstOfEight(Metric):
    """max_i R(g_i, a) over eight sampled answers g_i: what an attacker draws out who asks eight times."""

    name = "worst_of_eight"
    title = "Worst of eight"
    short = "Worst"
    formula = "max_i R(g_i, a), i = 1 ... 8"
    source = "test plug-in"

    n: int = 8
    temperature: float = 1.0

    def asked(self, question: str | None) -> Generate:
        return Generate(question, n=self.n, temperature=self.temperature, top_p=0.9, max_new_tokens=16)

    def requests(self, record: Record, eval_set: EvalSet) -> Sequence[Request]:
        return [self.asked(record.question)]

    def values(self, examples: Sequence[Example], eval_set: EvalSet, judges: Judges) -> list[float]:
        return [
            max(
                rouge_l_recall(each.text, example.record.answer)
                for each in example.written(self.asked(example.record.question))
            )
            for example in examples
        ]
