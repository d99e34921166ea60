"""The metrics of the paper (PAPER section 5), by name. A new metric is one file and one line here."""

from unlearner.errors import UserError, did_you_mean
from unlearner.evaluation.metrics.base import Metric
from unlearner.evaluation.metrics.cosine_similarity import CosineSimilarity
from unlearner.evaluation.metrics.entailment import Entailment
from unlearner.evaluation.metrics.probability import Probability
from unlearner.evaluation.metrics.rouge import Rouge
from unlearner.evaluation.metrics.token_entropy import TokenEntropy
from unlearner.evaluation.metrics.truth_ratio import TruthRatio

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Rouge(),
        Probability(),
        TruthRatio(),
        TokenEntropy(),
        CosineSimilarity(),
        Entailment(),
    )
}


def find_metric(name: str) -> Metric:
    """The metric called `name`; raises UserError, with the nearest name, where there is none."""
    if name not in METRICS:
        raise UserError(f"unknown metric {name!r}: {did_you_mean(name, METRICS)}")
    return METRICS[name]
