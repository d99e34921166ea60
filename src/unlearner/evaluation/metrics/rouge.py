"""ROUGE-L recall of the generation (Lin 2004, aclanthology.org/W04-1013), by Google's `rouge_score`."""

from collections.abc import Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING

from unlearner.data.records import Record
from unlearner.evaluation.examples import EvalSet, Example
from unlearner.evaluation.judges import Judges
from unlearner.evaluation.metrics.base import Metric
from unlearner.evaluation.requests import Generate, Request

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer


class Rouge(Metric):
    """R = |LCS(g, a)| / |a| over Porter-stemmed words: how much of the reference answer the generation repeats.

    `rouge_score` knows the letters a-z and digits only; an answer in another script scores 0.
    """

    name = "rouge"
    title = "ROUGE"
    short = "ROUGE"
    formula = "|LCS(g, a)| / |a|, over stemmed words"
    source = "Lin 2004, ROUGE; rouge_score"

    def requests(self, record: Record, eval_set: EvalSet) -> Sequence[Request]:
        return [Generate(record.question)]

    def values(self, examples: Sequence[Example], eval_set: EvalSet, judges: Judges) -> list[float]:
        return [self.value(example.generation, example.rouge_reference) for example in examples]

    def value(self, generation: str, answer: str) -> float:
        return rouge_l_recall(generation, answer)


class Rouge1(Rouge):
    """The share of the answer's words, Porter-stemmed, that the generation has, in whatever order: ROUGE-1 recall."""

    name = "rouge1"
    title = "ROUGE-1"
    short = "ROUGE-1"
    formula = "|g ∩ a| / |a|, over stemmed words, each as often as it is there"

    def value(self, generation: str, answer: str) -> float:
        return float(_scorer("rouge1").score(answer, generation)["rouge1"].recall)


@lru_cache(maxsize=100_000)
def rouge_l_recall(generation: str, reference: str) -> float:
    """ROUGE-L recall with stemming. Entailment asks for the same pairs again, so they are cached."""
    return float(_scorer("rougeL").score(reference, generation)["rougeL"].recall)


def rouge_l_f1(generation: str, reference: str) -> float:
    """ROUGE-L F1 without stemming."""
    return float(_plain_scorer().score(reference, generation)["rougeL"].fmeasure)


@cache
def _plain_scorer() -> "RougeScorer":
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"])


@cache
def _scorer(kind: str) -> "RougeScorer":
    from nltk.stem.porter import PorterStemmer  # two seconds
    from rouge_score.rouge_scorer import RougeScorer
    from rouge_score.tokenize import tokenize

    class Stemmed:
        """rouge_score's own tokens; the stem of a word is found once, because that is most of the work."""

        stem = staticmethod(lru_cache(maxsize=100_000)(PorterStemmer().stem))

        def tokenize(self, text: str) -> list[str]:
            words: list[str] = tokenize(text, self)
            return words

    return RougeScorer([kind], tokenizer=Stemmed())
