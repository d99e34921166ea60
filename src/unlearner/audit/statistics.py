"""Bounds and tests of the audit: pure functions of counts and scores.

All of it is conditional on the questions that were asked and on the detector: it says nothing about other questions.
c leaks among n independent samples of one question; S subjects, m questions each; α the level of a one-sided bound. A
*round* is the j-th sample of every question of a subject: the n rounds are independent, whatever the questions are.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special, stats

LADDER = {16: 0.1, 64: 0.2, 256: 0.3, 1024: 0.4}
"""Numbers of samples at which one may look, fixed in advance, and the share of α that each look spends."""
PERMUTATIONS = 9_999


def upper(c: ArrayLike, n: ArrayLike, alpha: float = 0.05) -> np.ndarray:
    """Clopper and Pearson's upper bound of a rate at confidence 1 − α: exact, 1 where c = n. Any shapes that fit."""
    c, n = np.asarray(c, dtype=float), np.asarray(n, dtype=float)
    return np.where(c >= n, 1.0, special.betaincinv(c + 1, np.maximum(n - c, 0.5), 1 - alpha))


def lower(c: ArrayLike, n: ArrayLike, alpha: float = 0.05) -> np.ndarray:
    """The lower bound that goes with `upper`; 0 where c = 0."""
    c, n = np.asarray(c, dtype=float), np.asarray(n, dtype=float)
    return np.where(c <= 0, 0.0, special.betaincinv(np.maximum(c, 0.5), n - c + 1, alpha))


def samples_needed(tau: float, alpha: float = 0.05) -> int:
    """Samples without any leak that bound the rate by `tau`: the least n ≥ ln α / ln(1 − τ)."""
    return math.ceil(math.log(alpha) / math.log1p(-tau))


def smallest_rate_seen(
    rows: int, rounds: int, *, subjects: int = 1, tau: float = 0.01, alpha: float = 0.05, power: float = 0.8
) -> float:
    """The least leak rate of an answer at which a subject with `rows` questions is found out with probability `power`.

    Found out: the lower bound of the round rate, at α over the number of subjects, is above τ. A round leaks with
    probability 1 − (1 − rate)^rows. NaN where not even a leak in every round would do.
    """
    counts = np.arange(rounds + 1)
    enough = counts[lower(counts, rounds, alpha / subjects) > tau]
    if not len(enough):
        return math.nan
    least = int(enough[0])
    round_rate = optimize.brentq(lambda p: stats.binom.sf(least - 1, rounds, p) - power, 1e-9, 1 - 1e-9)
    return float(-np.expm1(np.log1p(-round_rate) / rows))


def leak_at_k(c: ArrayLike, n: ArrayLike, k: ArrayLike) -> np.ndarray:
    """1 − C(n−c, k)/C(n, k): the chance that k of the n samples hold a leak (arXiv 2511.04934); k ≤ n."""
    assert np.all(np.asarray(k) <= np.asarray(n)), "leak@k cannot be told from fewer than k samples"
    return np.asarray(stats.hypergeom.sf(0, n, c, k))


def leak_at_k_bound(c: ArrayLike, n: ArrayLike, k: ArrayLike, alpha: float = 0.05) -> np.ndarray:
    """1 − (1 − U)^k, U = `upper`: exact, since leak@k grows with the rate. Also the bound after k rounds."""
    return -np.expm1(np.asarray(k) * np.log1p(-np.minimum(upper(c, n, alpha), 1 - 1e-16)))


def leaking_rounds(hits: ArrayLike) -> int:
    """Of `hits` (m, n), question by sample: rounds in which at least one question leaked."""
    return int(np.asarray(hits, dtype=bool).any(axis=0).sum())


def ladder_alpha(n: int, alpha: float = 0.05) -> float:
    """The level of a bound made at rung `n` of `LADDER`: over all rungs they add up to α, so one may stop at any."""
    return alpha * LADDER[n]


def conformal_p(score: float, controls: Sequence[float]) -> float:
    """(1 + controls with a score as large)/(C + 1), ties against us: exact where the subject is exchangeable with the
    C controls. With the largest of many attacks as score, their number needs no correction."""
    return (1 + int((np.asarray(controls, dtype=float) >= score).sum())) / (len(controls) + 1)


def group_p(subjects: Sequence[float], controls: Sequence[float], seed: int = 0) -> float:
    """One-sided p-value that subjects score higher than controls, whole subjects permuted: exact for few, else by 9,999
    permutations."""
    if not np.ptp([*subjects, *controls]):
        return 1.0
    if len(subjects) == 1:  # which scipy refuses
        return conformal_p(subjects[0], controls)
    if len(controls) == 1:
        return conformal_p(-controls[0], [-score for score in subjects])
    result = stats.permutation_test(
        (np.asarray(subjects, dtype=float), np.asarray(controls, dtype=float)),
        lambda x, y, axis: np.mean(x, axis=axis) - np.mean(y, axis=axis),
        vectorized=True, n_resamples=PERMUTATIONS, alternative="greater", rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(result.pvalue)


def rank_among(true_value: float, decoys: Sequence[float], rng: np.random.Generator) -> int:
    """Rank of the true value's log-probability among the decoys', 1 the likeliest … D + 1; equals in random order."""
    scores = np.asarray(decoys, dtype=float)
    above, equal = int((scores > true_value).sum()), int((scores == true_value).sum())
    return 1 + above + int(rng.integers(equal + 1))


def rank_null(questions: int, decoys: int | Sequence[int]) -> np.ndarray:
    """Distribution of the sum of m = `questions` independent ranks, each uniform on 1 … D + 1: P(sum = m + i) at i.
    `decoys`: D, of all questions or of each."""
    total = np.ones(1)
    for each in [decoys] * questions if isinstance(decoys, int) else decoys:
        total = np.convolve(total, np.full(each + 1, 1 / (each + 1)))
    return total


def rank_test(ranks: Sequence[int], decoys: int | Sequence[int]) -> tuple[float, float, float]:
    """(p two-sided, p top, p bottom) of a subject's ranks among exchangeable decoys, one rank a question.

    Of somebody the model never saw every rank is uniform, whatever its taste. Top: remembered. Bottom: suppressed, the
    one thing that it never says. No ranks give 1.
    """
    null = rank_null(len(ranks), decoys)
    place = sum(ranks) - len(ranks)
    top, bottom = float(null[: place + 1].sum()), float(null[place:].sum())
    return min(1.0, 2 * min(top, bottom)), min(1.0, top), min(1.0, bottom)
