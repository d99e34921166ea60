"""Token entropy of the generation: low where the model repeats itself (arXiv 2410.08109)."""

import math
from collections import Counter
from collections.abc import Sequence

from unlearner.data.records import Record
from unlearner.evaluation.examples import EvalSet, Example
from unlearner.evaluation.judges import Judges
from unlearner.evaluation.metrics.base import PAPER, Metric
from unlearner.evaluation.requests import Generate, Request


class TokenEntropy(Metric):
    """TE = H / log2 n, H = −Σ_t (c_t/n) log2(c_t/n) bits: c_t occurrences of token t among the generation's n tokens.

    0 with fewer than two tokens. The tokens are those of the model's own tokenizer, special tokens not among them.
    """

    name = "token_entropy"
    title = "Token entropy"
    short = "Entropy"
    formula = "−Σ_t (c_t/n) log2(c_t/n) / log2 n, over the generation's tokens"
    source = PAPER

    def requests(self, record: Record, eval_set: EvalSet) -> Sequence[Request]:
        return [Generate(record.question)]

    def values(self, examples: Sequence[Example], eval_set: EvalSet, judges: Judges) -> list[float]:
        return [token_entropy(example.generation_ids) for example in examples]


def token_entropy(ids: Sequence[int]) -> float:
    """Entropy of the unigram distribution of `ids`, as a share of the greatest that so many tokens can have."""
    n = len(ids)
    if n < 2:
        return 0.0
    # Equal to the formula, multiplied out: exactly 0 for one repeated token and exactly 1 for distinct ones.
    return 1 - math.fsum(c * math.log2(c) for c in Counter(ids).values()) / (n * math.log2(n))
