"""The metrics of the paper (arXiv 2410.08109), by name, further ones, and those of other packages."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from unlearner.errors import UserError, did_you_mean
from unlearner.evaluation.examples import EvalSet
from unlearner.evaluation.metrics.base import Metric
from unlearner.evaluation.metrics.choice import Choice
from unlearner.evaluation.metrics.cosine_similarity import CosineSimilarity
from unlearner.evaluation.metrics.entailment import Entailment
from unlearner.evaluation.metrics.likelihood import AnswerProbability, MinK, MinKPlusPlus, TextProbability, ZlibScore
from unlearner.evaluation.metrics.lume import Continuation, ExactAnswer
from unlearner.evaluation.metrics.memorization import ExactMemorization, ExtractionStrength, TokenAccuracy
from unlearner.evaluation.metrics.muse import KnowMem, VerbMem
from unlearner.evaluation.metrics.probability import Probability
from unlearner.evaluation.metrics.rouge import Rouge, Rouge1
from unlearner.evaluation.metrics.rwku import NgramEntropy, RwkuRecall
from unlearner.evaluation.metrics.token_entropy import TokenEntropy
from unlearner.evaluation.metrics.truth_ratio import TruthRatio
from unlearner.options import EvalOptions
from unlearner.plugins import load_object, load_plugins
from unlearner.values import with_options

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
MORE_METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        ExtractionStrength(),
        ExactMemorization(),
        VerbMem(),
        KnowMem(),
        MinK(),
        TextProbability(),
        Choice(),
        RwkuRecall(),
        NgramEntropy(),
        ZlibScore(),
        MinKPlusPlus(),
        Continuation(),
        ExactAnswer(),
        TokenAccuracy(),
        AnswerProbability(),
        Rouge1(),
    )
}
"""Measured where they are asked for, and most of them on the benchmarks' own sets (`--benchmarks`)."""


def metrics_of(eval_set: EvalSet, chosen: Sequence[Metric]) -> Sequence[Metric]:
    """What is measured on a set: its own metric, or those that were chosen."""
    return chosen if eval_set.metric is None else [find_metric(eval_set.metric)]


def metric_text(name: str, key: Literal["title", "short"], *summaries: Mapping[str, Any]) -> str:
    """The title of a metric, ours or one that a summary tells of; its name where none does."""
    if name in METRICS:
        return str(getattr(METRICS[name], key))
    return next((str(each["metrics"][name][key]) for each in summaries if name in each.get("metrics", {})), name)


def find_metric(name: str) -> Metric:
    """The metric called `name`, of ours or of an installed package (entry points `unlearner.metrics`), or the one at
    `module:Name`. Raises UserError, with the nearest name, where there is none."""
    if (ours := METRICS.get(name) or MORE_METRICS.get(name)) is not None:
        return ours
    if ":" in name:
        found = load_object(name)
    else:
        plugins = load_plugins("unlearner.metrics")
        if name not in plugins:
            raise UserError(f"unknown metric {name!r}: {did_you_mean(name, [*METRICS, *MORE_METRICS, *plugins])}")
        found = plugins[name]
    metric = found() if isinstance(found, type) else found
    if not isinstance(metric, Metric):
        raise UserError(f"--metrics {name} is not a metric: it must be a subclass of unlearner's Metric.")
    return metric


def chosen_metrics(options: EvalOptions) -> list[Metric]:
    """The metrics that `options` choose, with their own options. Raises UserError as `find_metrics`."""
    return find_metrics(options.metrics, options.metric_options)


def find_metrics(names: Sequence[str | Metric], options: Sequence[str] = ()) -> list[Metric]:
    """The metrics called so, or given, in this order, with `options` (NAME.OPTION=VALUE); the paper's six where there
    is none.

    Raises UserError for an unknown metric or option, or two metrics of one name."""
    metrics = [name if isinstance(name, Metric) else find_metric(name) for name in names] or list(METRICS.values())
    found = [metric.name for metric in metrics]
    if twice := {name for name in found if found.count(name) > 1}:
        raise UserError(f"--metrics names {min(twice)} twice: leave one out.")
    return with_options("--metric-options", metrics, options, lambda metric: metric.name, "mine.k=5")
