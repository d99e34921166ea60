"""MUSE's two metrics of memory (Shi et al. 2024, arXiv 2407.06460; swj0419/muse_bench)."""

from collections.abc import Sequence

from unlearner.data.records import Record
from unlearner.evaluation.examples import EvalSet, Example
from unlearner.evaluation.judges import Judges
from unlearner.evaluation.metrics.base import Metric
from unlearner.evaluation.metrics.rouge import rouge_l_f1
from unlearner.evaluation.requests import Cut, Generate

MUSE = "Shi et al. 2024, MUSE, arXiv 2407.06460"


class VerbMem(Metric):
    """VerbMem = ROUGE-L F1, unstemmed, of 128 tokens that continue the beginning of a text, against its next 128.

    As in the official code a start token counts among the reference's 128.
    """

    name = "verbmem"
    title = "Verbatim memory"
    short = "VerbMem"
    formula = "ROUGE-L F1 of g, 128 tokens, and the first 128 tokens of a"
    source = MUSE
    tokens = 128

    def requests(self, record: Record, eval_set: EvalSet) -> Sequence[Generate | Cut]:
        return [Generate(record.question, max_new_tokens=self.tokens), Cut(record.answer, self.tokens)]

    def values(self, examples: Sequence[Example], eval_set: EvalSet, judges: Judges) -> list[float]:
        found = []
        for example in examples:
            asked, reference = self.requests(example.record, eval_set)
            assert isinstance(asked, Generate) and isinstance(reference, Cut)
            found.append(rouge_l_f1(example.written(asked)[0].text, example.cut(reference)))
        return found


class KnowMem(Metric):
    """KnowMem = ROUGE-L F1, unstemmed, of an answer of 32 tokens at most, cut where a next question would begin."""

    name = "knowmem"
    title = "Knowledge memory"
    short = "KnowMem"
    formula = "ROUGE-L F1 of g, 32 tokens, cut before an empty line or a next question, and a"
    source = MUSE

    def requests(self, record: Record, eval_set: EvalSet) -> Sequence[Generate]:
        return [Generate(record.question, max_new_tokens=32, stop=("\n\n", "\nQuestion", "Question:"))]

    def values(self, examples: Sequence[Example], eval_set: EvalSet, judges: Judges) -> list[float]:
        return [
            rouge_l_f1(example.written(asked)[0].text, example.record.answer)
            for example in examples
            for asked in self.requests(example.record, eval_set)
        ]
