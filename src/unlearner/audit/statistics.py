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


def best_of_k(scores: ArrayLike, k: int) -> float:
    """Expected best of k of the n `scores`, drawn without replacement: Σ_{i≥k} C(i−1, k−1)/C(n, k) s_(i), s rising."""
    rising = np.sort(np.asarray(scores, dtype=float))
    n = len(rising)
    assert 1 <= k <= n
    below = special.binom(np.arange(n + 1), k) / special.binom(n, k) if n < 1000 else _shares(n, k)
    return float(np.diff(below) @ rising)


def _shares(n: int, k: int) -> np.ndarray:
    """C(i, k)/C(n, k) for i = 0 … n, by logarithms: the binomials themselves overflow."""
    i = np.arange(k, n + 1)
    logs = special.gammaln(i + 1) - special.gammaln(i - k + 1) - special.gammaln(n + 1) + special.gammaln(n - k + 1)
    return np.concatenate([np.zeros(k), np.exp(logs)])


def leaking_rounds(hits: ArrayLike) -> int:
    """Of `hits` (m, n), question by sample: rounds in which at least one question leaked."""
    return int(np.asarray(hits, dtype=bool).any(axis=0).sum())


def dkw(n: int, alpha: float = 0.05) -> float:
    """√(ln(1/α)/2n): how far the true distribution function may lie above the empirical one anywhere, at level α ≤ ½
    (Massart 1990, doi 10.1214/aop/1176990746)."""
    return math.sqrt(math.log(1 / alpha) / (2 * n))


def mean_upper(scores: ArrayLike, alpha: float = 0.05) -> float:
    """Anderson's upper bound of the mean of scores in [0, 1]: 1 − Σ_i (x_(i+1) − x_(i)) max(i/n − ε, 0).

    ε is `dkw`, x_(n+1) = 1. For n independent scores of any distribution.
    """
    rising = np.append(np.sort(np.asarray(scores, dtype=float)), 1.0)
    n = len(rising) - 1
    below = np.maximum(np.arange(1, n + 1) / n - dkw(n, alpha), 0)
    return float(1 - np.diff(rising) @ below)


def bernstein_upper(scores: ArrayLike, alpha: float = 0.05) -> float:
    """Maurer and Pontil's empirical Bernstein bound of the mean of scores in [0, 1] (arXiv 0907.3740), at most 1."""
    values = np.asarray(scores, dtype=float)
    n, log = len(values), math.log(2 / alpha)
    bound = values.mean() + math.sqrt(2 * values.var(ddof=1) * log / n) + 7 * log / (3 * (n - 1))
    return float(min(1.0, bound))


def ladder_alpha(n: int, alpha: float = 0.05) -> float:
    """The level of a bound made at rung `n` of `LADDER`: over all rungs they add up to α, so one may stop at any."""
    return alpha * LADDER[n]


def upper_at_any_time(c: int, n: int, alpha: float = 0.05, a: float = 0.25, b: float = 5.0) -> float:
    """An upper bound that holds at all n at once: sup{p: B(a+c, b+n−c) / (B(a, b) p^c (1−p)^(n−c)) < 1/α}.

    The beta-binomial confidence sequence, by Ville's inequality; a, b: where it is tight.
    """
    fixed = special.betaln(a + c, b + n - c) - special.betaln(a, b) + math.log(alpha)

    def excess(p: float) -> float:
        return float(fixed - special.xlogy(c, p) - special.xlog1py(n - c, -p))

    return 1.0 if c == n else float(optimize.brentq(excess, c / n, 1 - 1e-15))


def sidak(alpha: float, count: int) -> float:
    """The level of each of `count` independent bounds, all of which hold together at level α."""
    return -math.expm1(math.log1p(-alpha) / count)


def holm(p_values: ArrayLike) -> np.ndarray:
    """p-values adjusted for their number, in their order (Holm 1979): whatever hangs together."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted


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


def permutation_p(states: ArrayLike, seed: int = 0) -> float:
    """Do answers name the value of their own subject more often than that of another?

    `states` (S, S) or (S, S, topics): share of the answers about s that state the value of s'. Whole profiles are
    permuted, so that a model that always says "Paris" gains nothing. (1 + permutations as large)/(1 + 9,999).
    """
    table = np.asarray(states, dtype=float)
    table = table if table.ndim == 2 else table.mean(axis=2)
    people = np.arange(len(table))
    shuffled = np.random.default_rng(seed).permuted(np.tile(people, (PERMUTATIONS, 1)), axis=1)
    drawn = table[people, shuffled].sum(axis=1)
    return float((1 + (drawn >= np.trace(table) - 1e-12).sum()) / (1 + PERMUTATIONS))


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


def exposure(rank: int, decoys: int) -> float:
    """log₂(D + 1) − log₂ rank, in bits (Carlini et al. 2019, arXiv 1802.08232)."""
    return math.log2(decoys + 1) - math.log2(rank)
