"""Membership inference: was it in the training data? Secondary evidence, because it does not say what can be drawn out.

Scores are `likelihood_metrics`', small for what was trained on. A never-trained model does not give an AUC of ½,
because forget and holdout rows are seldom alike: compare with a retrained model or with controls.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unlearner.audit.statistics import group_p
from unlearner.evaluation.membership import auc

RESAMPLES = 2_000
LEAST_CLUSTERS = 20
"""Below so many subjects an interval by resampling is too short: only the permutation p-value is given."""


@dataclass(frozen=True)
class Membership:
    """One score's verdict on a forget set against a holdout set."""

    auc: float
    """P(a holdout row scores higher than a forget row), ½ for equals: 1 where forget looks like a member."""
    interval: tuple[float, float] | None
    """95%, whole subjects resampled; None below 20 subjects on either side."""
    tpr: float
    """Share of forget rows found, where 5% of the holdout rows are taken for members at most."""
    p_value: float
    """One-sided, of the subjects' mean scores, whole subjects permuted."""

    @classmethod
    def of(
        cls,
        forget: Sequence[float],
        holdout: Sequence[float],
        forget_subjects: Sequence[Hashable] | None = None,
        holdout_subjects: Sequence[Hashable] | None = None,
        seed: int = 0,
    ) -> "Membership":
        """From the scores of both sets; rows without a score (NaN) are left out. Without subjects a row is its own."""
        ours, theirs = _by_subject(forget, forget_subjects), _by_subject(holdout, holdout_subjects)
        members, others = np.concatenate(ours), np.concatenate(theirs)
        interval = None
        if min(len(ours), len(theirs)) >= LEAST_CLUSTERS:
            rng = np.random.default_rng(seed)
            drawn = [auc(_resampled(ours, rng), _resampled(theirs, rng)) for _ in range(RESAMPLES)]
            low, high = np.percentile(drawn, [2.5, 97.5])
            interval = float(low), float(high)
        p_value = group_p([-rows.mean() for rows in ours], [-rows.mean() for rows in theirs], seed)
        return cls(auc(members, others), interval, true_positive_rate(members, others), p_value)


def true_positive_rate(forget: Any, holdout: Any, false_positive_rate: float = 0.05) -> float:
    """Share of `forget` below the threshold that at most this share of `holdout` lies below."""
    rising = np.sort(np.asarray(holdout, dtype=float))
    threshold = rising[int(false_positive_rate * len(rising))]
    return float((np.asarray(forget) < threshold).mean())


def _by_subject(scores: Sequence[float], subjects: Sequence[Hashable] | None) -> list[np.ndarray]:
    groups: dict[Hashable, list[float]] = {}
    for i, score in enumerate(scores):
        if not np.isnan(score):
            groups.setdefault(i if subjects is None else subjects[i], []).append(float(score))
    assert groups, "no row has a score"
    return [np.array(rows) for rows in groups.values()]


def _resampled(groups: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    return np.concatenate([groups[i] for i in rng.integers(len(groups), size=len(groups))])
