"""Entailment score: does the generation agree with the reference? (arXiv 2410.08109)"""

from collections.abc import Sequence

from unlearner.data.records import Record
from unlearner.evaluation.examples import EvalSet, Example
from unlearner.evaluation.judges import Judges
from unlearner.evaluation.metrics.base import PAPER, Metric
from unlearner.evaluation.metrics.rouge import rouge_l_recall
from unlearner.evaluation.requests import Generate, Request

LEAST_ROUGE = 0.1


class Entailment(Metric):
    """ES = 1 where the judge finds entailment, else 0.

    Premise → hypothesis is generation → reference for forget and real-world sets, reference → generation for the others
    (`EvalSet.generation_is_premise`). A generation with a ROUGE-L recall under 0.1 counts as not entailed, whatever
    the judge would say, and the judge is not asked.
    """

    name = "entailment"
    title = "Entailment"
    short = "Entailed"
    formula = "1 if the judge finds entailment and ROUGE-L recall ≥ 0.1, else 0"
    source = PAPER

    def requests(self, record: Record, eval_set: EvalSet) -> Sequence[Request]:
        return [Generate(record.question)]

    def values(self, examples: Sequence[Example], eval_set: EvalSet, judges: Judges) -> list[float]:
        related = [_is_related(example) for example in examples]
        asked = [example for example, ask in zip(examples, related, strict=True) if ask]
        verdicts = iter(judges.entailed(asked, eval_set))
        return [float(ask and next(verdicts)) for ask in related]

    def texts(self, examples: Sequence[Example], judges: Judges) -> list[str]:
        return judges.entailment.texts([example for example in examples if _is_related(example)])


def _is_related(example: Example) -> bool:
    return rouge_l_recall(example.generation, example.rouge_reference) >= LEAST_ROUGE
