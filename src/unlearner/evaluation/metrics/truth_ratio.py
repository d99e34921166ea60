"""Truth ratio: does the model prefer the true answer to wrong ones? (Maini et al. 2024, TOFU, arXiv 2401.06121)"""

import math
from collections.abc import Sequence

from unlearner.data.records import Record
from unlearner.evaluation.examples import EvalSet, Example, variants
from unlearner.evaluation.judges import Judges
from unlearner.evaluation.metrics.base import Metric
from unlearner.evaluation.requests import Request, Score


class TruthRatio(Metric):
    """ρ = exp(mean_j ℓ(wrong_j) − ℓ(paraphrase)): above 1 where the truth is the likelier.

    Forget set: 1 − min(ρ, 1/ρ), which is 0 where the model cannot tell; other sets: max(0, 1 − 1/ρ). The answer itself
    takes the paraphrase's place in sets of short answers, and in rows that have no paraphrase. Not defined (NaN) for
    a row without wrong answers.
    """

    name = "truth_ratio"
    title = "Truth ratio"
    short = "Truth"
    formula = "forget set: 1 − min(ρ, 1/ρ); others: max(0, 1 − 1/ρ); ρ = exp(mean_j ℓ(wrong_j) − ℓ(paraphrase))"
    source = "Maini et al. 2024, TOFU, arXiv 2401.06121, as in arXiv 2410.08109"
    needs = "wrong answers"

    def requests(self, record: Record, eval_set: EvalSet) -> Sequence[Request]:
        # All answers, also where there is no wrong one: every row of records.jsonl carries their NLLs.
        return [Score(record.question, answer) for answer in variants(record)]

    def values(self, examples: Sequence[Example], eval_set: EvalSet, judges: Judges) -> list[float]:
        return [self._value(example, eval_set) for example in examples]

    @staticmethod
    def _value(example: Example, eval_set: EvalSet) -> float:
        if not example.perturbed_nll:
            return math.nan
        if eval_set.short_answers or example.paraphrase_nll is None:
            truth = example.answer_loss
        else:
            truth = example.paraphrase_nll / example.paraphrase_tokens
        log_rho = log_ratio(truth, example.perturbed_nll, example.perturbed_tokens)
        # 1 − exp(−x) for x ≥ 0 is both formulas at once, and never overflows.
        x = abs(log_rho) if eval_set.is_forget else max(0.0, log_rho)
        return -math.expm1(-x)


def log_ratio(truth: float, wrong_nll: Sequence[float], wrong_tokens: Sequence[int]) -> float:
    """log ρ, from the mean loss per token on the truth, and NLLs and tokens of the wrong answers."""
    wrong = [nll / n for nll, n in zip(wrong_nll, wrong_tokens, strict=True)]
    return math.fsum(wrong) / len(wrong) - truth
