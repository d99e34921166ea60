"""From examples to records, and from records to the summary. Every figure can be computed again from `records.jsonl`.

A row of `records.jsonl` (`per_example`), one per example:

- `id`: the same for the same row in every evaluation (`results/records.py`).
- `set`, `index`: name of the evaluation set, position of the row in it.
- `question`, `answer`, `original_answer`, `subject`: the record; null where it has none.
- `generation`: what the model wrote, the likeliest token at every step.
- one key per metric: its value for this row; null where undefined (truth ratio without wrong answers), and for those
  of the paper's six that were not chosen.
- `answer_nll`, `answer_tokens`: sum of the NLL in nats over the answer's labelled tokens, and their number.
- `paraphrase_nll`, `paraphrase_tokens`: the same for the paraphrase; null and 0 without one.
- `perturbed_nll`, `perturbed_tokens`: the same for every wrong answer, as lists.

What no chosen metric asks for is not computed: then `generation` and `answer_nll` are null, the lists empty.

The summary (`summarise`):

- `model_utility`: MU, harmonic mean of the paper's six metrics over all sets but `forget`, 0 if one is 0; null without
  such a set, or where one of the six was not chosen.
- `model_utility_retain`: the same over the set `retain` alone; null without it.
- `forget_efficacy`: FE, 1 − mean of rouge, probability, truth_ratio, cosine_similarity and entailment on the set
  `forget`; null without it, or where one of the five was not chosen.
- `forget_quality`: only where a retrained model is given: how well the forget set's truth ratios agree with its own
  (`forget_quality.py`). Beside the other figures, in none of them.
- `benchmarks.<benchmark>`: only with `--benchmarks`: `figures` in its own units (`evaluation/benchmarks/`), and of its
  `sets` metric, mean, interval and count. Beside the other figures, in none of them.
- `sets.<set>.<metric>`: plain mean over the set's rows; null where no row of the set has a value.
- `counts.<set>`: number of rows.
- `intervals`: 95% intervals [low, high] under the same keys: `model_utility`, `model_utility_retain`,
  `forget_efficacy`, `sets.<set>.<metric>`; null where the figure is.
- `notes`: sentences on what the figures leave out (undefined truth ratios, metrics not chosen); empty if nothing.
- `embedding_model`, `judge`: the models behind cosine similarity and entailment.
- `measured`: the names of the metrics that were chosen; only where one of the paper's six was not.
- `metrics.<metric>`: title, short, formula and source of metrics that are none of the paper's six; only where there are
  some.

Intervals are percentiles of 2000 bootstrap means. Rows about the same `subject` are drawn together (cluster bootstrap:
what a model knows of one person comes and goes together, so such rows are no independent evidence); rows without
subject stand each for itself, and so do the rows of a set about one subject only. Sets are resampled independently of
each other; MU and FE are computed within every resample.
"""

import math
import zlib
from collections.abc import Container, Iterable, Mapping, Sequence
from statistics import fmean, harmonic_mean
from typing import Any

import numpy as np

from unlearner.errors import UserError
from unlearner.evaluation.examples import EvalSet, Example
from unlearner.evaluation.forget_quality import forget_quality
from unlearner.evaluation.judges import Judges
from unlearner.evaluation.metrics import METRICS
from unlearner.evaluation.metrics.base import Metric
from unlearner.evaluation.requests import Generate, Scored
from unlearner.results.records import with_ids

MODEL_UTILITY = ("rouge", "probability", "truth_ratio", "token_entropy", "cosine_similarity", "entailment")
"""The metrics of which MU is made; a metric added later is reported beside them and leaves MU as it is."""
FORGET_EFFICACY = ("rouge", "probability", "truth_ratio", "cosine_similarity", "entailment")
PAPER_METRICS = tuple(METRICS.values())
RESAMPLES = 2000
ABOUT = ("title", "short", "formula", "source")
"""What a page says of a metric."""

Row = dict[str, Any]


def embed_together(sets: Iterable[Sequence[Example]], judges: Judges, metrics: Sequence[Metric]) -> None:
    """Have all texts of all sets embedded at once: in a large batch, texts of like length meet."""
    texts = [text for examples in sets for metric in metrics for text in metric.texts(examples, judges)]
    judges.embed(texts)


def per_example(
    examples: Sequence[Example], eval_set: EvalSet, judges: Judges, metrics: Sequence[Metric] = PAPER_METRICS
) -> list[Row]:
    """The rows of `records.jsonl` for one evaluation set: all `metrics` of all its examples.

    Raises UserError for an answer without tokens or without a finite NLL.
    """
    for index, example in enumerate(examples):
        _check(example, f"row {index} of the set {eval_set.name!r}")
    values: dict[str, list[float]] = {name: [math.nan] * len(examples) for name in METRICS}
    values |= {metric.name: _values(metric, examples, eval_set, judges) for metric in metrics}
    rows = [
        {
            "set": eval_set.name,
            "index": index,
            "question": example.record.question,
            "answer": example.record.answer,
            "original_answer": example.record.original_answer,
            "subject": example.record.subject,
            "generation": _generation(example, eval_set, metrics),
            **{name: None if math.isnan(of[index]) else of[index] for name, of in values.items()},
            "answer_nll": example.answer_nll,
            "answer_tokens": example.answer_tokens,
            "paraphrase_nll": example.paraphrase_nll,
            "paraphrase_tokens": example.paraphrase_tokens,
            "perturbed_nll": list(example.perturbed_nll),
            "perturbed_tokens": list(example.perturbed_tokens),
        }
        for index, example in enumerate(examples)
    ]
    return with_ids(rows)


def _values(metric: Metric, examples: Sequence[Example], eval_set: EvalSet, judges: Judges) -> list[float]:
    found = list(metric.values(examples, eval_set, judges))
    if len(found) != len(examples):
        raise UserError(
            f"the metric {metric.name!r} gave {len(found)} values for the {len(examples)} rows of the set "
            f"{eval_set.name!r}: it must give one a row, NaN where it is not defined."
        )
    return found


def summarise(
    rows_by_set: Mapping[str, Sequence[Row]],
    *,
    embedding_model: str,
    judge: str,
    seed: int = 0,
    retrained: Sequence[Row] | None = None,
    metrics: Sequence[Metric] = PAPER_METRICS,
) -> dict[str, Any]:
    """The summary of an evaluation, from its records alone; the same rows and seed give the same summary.

    `retrained`: the rows of the retrained model on the forget set; `metrics`: those measured. The keys are those of the
    module's docstring.
    Raises UserError for a set without rows.
    """
    empty = [name for name, rows in rows_by_set.items() if not rows]
    if empty:
        raise UserError(f"the evaluation set {empty[0]!r} has no rows: nothing can be measured on it.")
    measured = [metric.name for metric in metrics]
    figures = {
        name: {m: _mean(rows, m) for m in dict.fromkeys([*METRICS, *measured])} for name, rows in rows_by_set.items()
    }
    draws = {name: _resampled_means(rows, name, seed, measured) for name, rows in rows_by_set.items()}
    utility = [name for name in rows_by_set if name != "forget"]

    def aggregate(names: Sequence[str], metrics: Sequence[str]) -> tuple[list[float], np.ndarray] | None:
        """The defined figures of `metrics` on the sets `names`, and their resamples, (resamples, figures)."""
        if not set(metrics) <= set(measured):
            return None
        cells = [(n, m, figures[n][m]) for n in names if n in figures for m in metrics]
        values = [value for _, _, value in cells if value is not None]
        columns = [draws[n][m] for n, m, value in cells if value is not None]
        return (values, np.stack(columns, axis=1)) if values else None

    summary: dict[str, Any] = {}
    intervals: dict[str, Any] = {}
    for key, names in (("model_utility", utility), ("model_utility_retain", ["retain"])):
        found = aggregate(names, MODEL_UTILITY)
        summary[key] = harmonic_mean(found[0]) if found else None
        intervals[key] = _interval(_harmonic_means(found[1])) if found else None
    found = aggregate(["forget"], FORGET_EFFICACY)
    summary["forget_efficacy"] = 1 - fmean(found[0]) if found else None
    intervals["forget_efficacy"] = _interval(1 - found[1].mean(axis=1)) if found else None
    if retrained is not None:
        summary["forget_quality"] = forget_quality(rows_by_set["forget"], retrained)
    intervals["sets"] = {
        name: {m: None if value is None else _interval(draws[name][m]) for m, value in metrics.items()}
        for name, metrics in figures.items()
    }
    return {
        **summary,
        "sets": figures,
        "counts": {name: len(rows) for name, rows in rows_by_set.items()},
        "intervals": intervals,
        "notes": [*_left_out(rows_by_set, measured), *_undefined(rows_by_set, metrics)],
        "embedding_model": embedding_model,
        "judge": judge,
        **_about(metrics),
    }


def _about(metrics: Sequence[Metric]) -> dict[str, Any]:
    """Which metrics were chosen, where one of the six was not, and what a page says of those that are not of the six.

    The six have their keys in every set, null where not chosen, as the report and other readers expect; tables show
    what was measured."""
    measured = [metric.name for metric in metrics]
    theirs = {m.name: {key: getattr(m, key) for key in ABOUT} for m in metrics if m.name not in METRICS}
    chosen = {} if set(METRICS) <= set(measured) else {"measured": measured}
    return chosen | ({"metrics": theirs} if theirs else {})


def _generation(example: Example, eval_set: EvalSet, metrics: Sequence[Metric]) -> str | None:
    """The likeliest answer, on a benchmark's own set what its metric read; None where no metric asked."""
    asked = [request for metric in metrics for request in metric.requests(example.record, eval_set)]
    if Generate(example.record.question) in asked:
        return example.generation
    written = [request for request in asked if isinstance(request, Generate)] if eval_set.metric else []
    return example.written(written[0])[0].text if written else None


def mean_and_interval(
    rows: Sequence[Row], name: str, metric: str, seed: int = 0
) -> tuple[float | None, list[float] | None]:
    """The mean of one metric over the rows of the set `name`, and its interval; None where no row has a value."""
    mean = _mean(rows, metric)
    return mean, None if mean is None else _interval(_resampled_means(rows, name, seed, [metric])[metric])


def _check(example: Example, where: str) -> None:
    nlls, tokens = list(example.perturbed_nll), list(example.perturbed_tokens)
    nlls += [answer.nll for answer in example.answers.values() if isinstance(answer, Scored)]
    for nll, count in (
        (example.answer_nll, example.answer_tokens),
        (example.paraphrase_nll, example.paraphrase_tokens),
    ):
        if nll is not None:
            nlls.append(nll)
            tokens.append(count)
    if min(tokens, default=1) < 1:
        raise UserError(f"{where}: an answer is empty or does not fit after its question: raise max_length.")
    if not all(map(math.isfinite, nlls)):
        raise UserError(
            f"{where}: the model's loss is not a finite number; its weights are broken, "
            "often by training with too high a learning rate."
        )


def _mean(rows: Sequence[Row], metric: str) -> float | None:
    values = [row[metric] for row in rows if row.get(metric) is not None]
    return fmean(values) if values else None


def _resampled_means(rows: Sequence[Row], name: str, seed: int, metrics: Sequence[str]) -> dict[str, np.ndarray]:
    """Bootstrap means of all `metrics`, (RESAMPLES,) each: whole clusters are drawn, with replacement."""
    clusters: dict[Any, int] = {}
    ids = [clusters.setdefault(row["subject"] or index, len(clusters)) for index, row in enumerate(rows)]
    if len(clusters) == 1:
        ids = list(range(len(rows)))
    values = np.array([[row[m] for m in metrics] for row in rows], dtype=np.float64)  # None becomes NaN
    defined = ~np.isnan(values)
    sums, sizes = np.zeros((2, max(ids) + 1, len(metrics)))
    np.add.at(sums, ids, np.where(defined, values, 0))
    np.add.at(sizes, ids, defined)
    # A set's draws depend on its own name and rows, not on which other sets there are.
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    shares = np.full(len(sums), 1 / len(sums))
    block = max(1, 4_000_000 // len(sums))  # bounds the memory that the draws take
    means = []
    for first in range(0, RESAMPLES, block):
        times_drawn = generator.multinomial(len(sums), shares, size=min(block, RESAMPLES - first)).astype(np.float64)
        with np.errstate(invalid="ignore"):  # 0/0: a resample without any defined value
            means.append((times_drawn @ sums) / (times_drawn @ sizes))
    return dict(zip(metrics, np.concatenate(means).T, strict=True))


def _harmonic_means(values: np.ndarray) -> np.ndarray:
    """Harmonic mean of every row; 1/0 = ∞ makes it 0 where a value is 0."""
    with np.errstate(divide="ignore"):
        return values.shape[1] / (1 / values).sum(axis=1)


def _interval(draws: np.ndarray) -> list[float]:
    # Rounded far below the bootstrap's own noise, so that the last bits of matrix products do not show.
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return [round(float(low), 6), round(float(high), 6)]


def _left_out(sets: Iterable[str], measured: Container[str]) -> list[str]:
    """Which of the two totals cannot be computed, because a metric was not chosen."""
    kinds = {name == "forget" for name in sets}
    totals = (("model utility", MODEL_UTILITY, False), ("forget efficacy", FORGET_EFFICACY, True))
    return [
        f"{total} is not computed: it needs {', '.join(missing)}, which --metrics leaves out."
        for total, needed, forget in totals
        if forget in kinds and (missing := [name for name in needed if name not in measured])
    ]


def _undefined(rows_by_set: Mapping[str, Sequence[Row]], metrics: Sequence[Metric]) -> list[str]:
    notes = []
    for name, rows in rows_by_set.items():
        total, inputs = ("forget efficacy", FORGET_EFFICACY) if name == "forget" else ("model utility", MODEL_UTILITY)
        for metric in metrics:
            defined = sum(row[metric.name] is not None for row in rows)
            what = f"{metric.name} on {name!r}"
            if defined == 0:
                without = f"; {total} is computed without it" if metric.name in inputs else ""
                notes.append(f"{what} is undefined, as no row has {metric.needs}{without}.")
            elif defined < len(rows):
                notes.append(f"{what} covers {defined} of {len(rows)} rows; the others have no {metric.needs}.")
    return notes
