"""Cosine similarity of generation and reference in embedding space (arXiv 2410.08109)."""

from collections.abc import Sequence

import numpy as np

from unlearner.data.records import Record
from unlearner.evaluation.examples import EvalSet, Example
from unlearner.evaluation.judges import Judges
from unlearner.evaluation.metrics.base import PAPER, Metric
from unlearner.evaluation.requests import Generate, Request


class CosineSimilarity(Metric):
    """CS = max(0, cos(e(g), e(a))), e a sentence embedding, a the long form of the answer where the row has one."""

    name = "cosine_similarity"
    title = "Cosine similarity"
    short = "Cosine"
    formula = "max(0, cos(e(g), e(a))), e a sentence embedding"
    source = f"{PAPER}; Reimers and Gurevych 2019, arXiv 1908.10084"

    def requests(self, record: Record, eval_set: EvalSet) -> Sequence[Request]:
        return [Generate(record.question)]

    def values(self, examples: Sequence[Example], eval_set: EvalSet, judges: Judges) -> list[float]:
        generations, references = np.split(judges.embed(self.texts(examples, judges)).astype(np.float64), 2)
        # Unit vectors: their scalar product is the cosine. The upper bound takes off float noise above 1.
        return np.clip(np.einsum("ij,ij->i", generations, references), 0, 1).tolist()

    def texts(self, examples: Sequence[Example], judges: Judges) -> list[str]:
        generations = [example.generation for example in examples]
        return generations + [example.record.original_answer or example.record.answer for example in examples]
