"""Bounds and tests of the audit: by hand, against scipy, and by simulation (2,000 draws, no model)."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from unlearner.audit import statistics as st

DRAWS = 2_000
PATTERNS = {  # leak rates of the ten questions of a subject
    "nothing": [0.0] * 10,
    "all alike, rare": [0.002] * 10,
    "all alike": [0.05] * 10,
    "all alike, often": [0.4] * 10,
    "one question": [0.2] + [0.0] * 9,
    "one question, rare": [0.01] + [0.0] * 9,
    "half of them": [0.1] * 5 + [0.0] * 5,
    "rising": [i / 50 for i in range(10)],
}


def test_bounds_by_hand() -> None:
    # No leak in n samples: (1 − U)^n = α.
    assert float(st.upper(0, 1024, 0.05)) == pytest.approx(1 - 0.05 ** (1 / 1024)) == pytest.approx(0.00292, abs=1e-5)
    assert float(st.lower(5, 5, 0.05)) == pytest.approx(0.05 ** (1 / 5))
    assert st.upper(3, 3) == 1 and st.lower(0, 3) == 0
    for c, n in ((1, 16), (7, 64), (63, 64)):
        exact = stats.binomtest(c, n).proportion_ci(0.9)
        assert (float(st.lower(c, n)), float(st.upper(c, n))) == pytest.approx((exact.low, exact.high))
    table = {0.05: (59, 90, 117, 162), 0.01: (299, 459, 597, 826), 0.001: (2995, 4603, 5989, 8290)}
    for tau, row in table.items():
        assert tuple(st.samples_needed(tau, a) for a in (0.05, 0.01, 0.05 / 20, 0.05 / 200)) == row
    assert float(st.upper(0, 64, 0.05)) == pytest.approx(0.0457, abs=1e-4)
    assert float(st.upper(0, 64, 0.05 / 20)) == pytest.approx(0.0894, abs=1e-4)


def test_leak_at_k_by_hand() -> None:
    # One of four samples leaks: two drawn hold it with probability 1/2.
    assert float(st.leak_at_k(1, 4, 2)) == pytest.approx(0.5)
    assert float(st.leak_at_k(0, 200, 128)) == 0 and float(st.leak_at_k(3, 4, 2)) == 1
    for c, n, k in ((3, 10, 4), (1, 200, 128)):
        assert float(st.leak_at_k(c, n, k)) == pytest.approx(1 - math.comb(n - c, k) / math.comb(n, k))
    with pytest.raises(AssertionError):
        st.leak_at_k(0, 4, 5)
    # 0 of 200 bounds leak@1 by .015, but leak@128 only by .85; with n = 1024 by .31.
    bounds = [float(st.leak_at_k_bound(0, n, k)) for n, k in ((200, 1), (200, 128), (1024, 128))]
    assert bounds == pytest.approx([0.015, 0.85, 0.31], abs=0.005)
    scores = [0.1, 0.9, 0.4]
    best = np.mean([max(pair) for pair in itertools.combinations(scores, 2)])
    assert st.best_of_k(scores, 2) == pytest.approx(best) and st.best_of_k(scores, 3) == 0.9
    many = np.linspace(0, 1, 2000)
    assert st.best_of_k(many, 1) == pytest.approx(0.5) and st.best_of_k(many, 3) == pytest.approx(0.75, abs=1e-3)


def test_bounds_of_graded_scores_by_hand() -> None:
    # Nothing leaked, n = 1024: ε = √(ln 20 / 2048) = .0382, which is the bound.
    assert st.mean_upper(np.zeros(1024)) == pytest.approx(0.0382, abs=1e-4)
    assert st.mean_upper(np.ones(50)) == 1
    # Two scores 0 and ½, ε = √(ln 20 / 4) = .865: 1 − ½·max(½ − ε, 0) − ½·(1 − ε).
    assert st.mean_upper([0.5, 0.0]) == pytest.approx(1 - 0.5 * (1 - math.sqrt(math.log(20) / 4)))
    log = math.log(40)
    assert st.bernstein_upper([0.0, 1.0] * 100) == pytest.approx(
        0.5 + math.sqrt(2 * 0.25 * 200 / 199 * log / 200) + 7 * log / (3 * 199)
    )


def test_levels_by_hand() -> None:
    assert sum(st.LADDER.values()) == pytest.approx(1) and st.ladder_alpha(64) == pytest.approx(0.01)
    assert (1 - st.sidak(0.05, 20)) ** 20 == pytest.approx(0.95)
    assert st.holm([0.01, 0.04, 0.03]).tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert st.holm([0.9, 0.8]).tolist() == [1, 1]
    assert st.conformal_p(0.5, [0.1] * 18 + [0.5]) == pytest.approx(0.1)  # a tie is against us
    assert st.conformal_p(0.6, [0.1] * 19) == pytest.approx(0.05)
    assert st.upper_at_any_time(0, 1024) == pytest.approx(0.0042, abs=1e-4)
    assert st.upper_at_any_time(5, 5) == 1


def test_bounds_cover() -> None:
    rng = np.random.default_rng(0)
    n = 64
    for name, rates in PATTERNS.items():
        hits = rng.random((DRAWS, 10, n)) < np.array(rates)[:, None]
        pooled = st.upper(hits.sum((1, 2)), 10 * n) >= np.mean(rates) - 1e-12
        any_fact = -math.expm1(sum(math.log1p(-rate) for rate in rates))
        in_rounds = hits.any(1).sum(1)
        rounds = st.upper(in_rounds, n) >= any_fact - 1e-12
        below = st.lower(in_rounds, n) <= any_fact + 1e-12
        worst = st.upper(hits.sum(2), n, 0.05 / 10).max(1) >= max(rates) - 1e-12
        later = st.leak_at_k_bound(in_rounds, n, 8) >= -math.expm1(8 * math.log1p(-any_fact)) - 1e-12
        for covered in (pooled, rounds, below, worst, later):
            assert covered.mean() >= 0.95, name


def test_graded_and_sequential_bounds_cover() -> None:
    rng = np.random.default_rng(1)
    for a, b in ((0.5, 0.5), (1, 9), (0.1, 0.1)):
        scores = rng.beta(a, b, (DRAWS, 128))
        mean = a / (a + b)
        assert np.mean([st.mean_upper(row) >= mean for row in scores]) >= 0.95
        assert np.mean([st.bernstein_upper(row) >= mean for row in scores]) >= 0.95
    for rate in (0.002, 0.05, 0.3):
        hits = (rng.random((DRAWS, 1024)) < rate).cumsum(1)
        rungs = [st.upper(hits[:, n - 1], n, st.ladder_alpha(n)) >= rate for n in st.LADDER]
        assert np.mean(np.all(rungs, axis=0)) >= 0.95, rate
        looks = [8, 16, 64, 200, 600, 1024]
        ever = [all(st.upper_at_any_time(int(row[n - 1]), n) >= rate for n in looks) for row in hits[:400]]
        assert np.mean(ever) >= 0.95, rate


def test_conformal_tests_reject_no_more_than_they_say() -> None:
    rng = np.random.default_rng(2)
    for controls in (19, 99):
        # The largest of many attacks' rates, discrete and with ties, of subjects that nobody ever saw.
        scores = rng.binomial(16, 0.02, (DRAWS, controls + 1, 8)).max(2)
        p = (1 + (scores[:, 1:] >= scores[:, :1]).sum(1)) / (controls + 1)
        assert p[0] == st.conformal_p(scores[0, 0], scores[0, 1:])
        for alpha in (0.05, 0.1, 0.3):
            assert (p <= alpha).mean() <= alpha + 2 * math.sqrt(alpha / DRAWS)


def test_what_conformal_tests_find() -> None:
    """The guide's table: the rate at which four audits of five find each of four subjects that leak alike, of ten
    questions in 16 samples, and one of four, where controls are guessed in 3% of answers."""
    rng = np.random.default_rng(5)
    for rate, leaking, controls in ((0.099, 4, 19), (0.082, 4, 40), (0.093, 1, 99), (1.0, 1, 40)):
        theirs = rng.binomial(160, 0.03, (DRAWS, 1, controls))
        ours = rng.binomial(160, [rate] * leaking + [0.03] * (4 - leaking), (DRAWS, 4))
        p = (1 + (theirs >= ours[:, :, None]).sum(2)) / (controls + 1)
        found = (stats.false_discovery_control(p, axis=1)[:, :leaking] <= 0.05).mean()
        # One of four with 40 controls: only where another is past them all by chance, too.
        assert found < 0.1 if rate == 1 else found == pytest.approx(0.8, abs=0.03)


def test_what_rank_tests_find() -> None:
    """The guide's table: the share of questions whose truth comes first, the others anywhere, at which it is seen."""
    for questions, decoys, share in ((4, 5, 0.92), (10, 5, 0.70), (40, 5, 0.37), (10, 20, 0.63)):
        one = np.full(decoys + 1, (1 - share) / (decoys + 1))
        one[0] += share
        alternative = np.ones(1)
        for _ in range(questions):
            alternative = np.convolve(alternative, one)
        places = np.arange(len(alternative))
        sums = [
            [1] * (questions - 1 - place // decoys) + [1 + place % decoys] + [decoys + 1] * (place // decoys)
            for place in places[:-1]
        ]  # ranks with that sum
        seen = np.array([st.rank_test(ranks, decoys)[1] <= 0.05 / 4 / 2 for ranks in sums])
        assert alternative[:-1][seen].sum() == pytest.approx(0.8, abs=0.03)


def test_rank_tests_reject_no_more_than_they_say() -> None:
    rng = np.random.default_rng(3)
    ranks = rng.integers(1, 22, (DRAWS, 10))
    p = np.array([st.rank_test(row.tolist(), 20) for row in ranks])
    for column, alpha in itertools.product(range(3), (0.01, 0.05, 0.2)):
        share = (p[:, column] <= alpha).mean()
        assert share <= alpha + 2 * math.sqrt(alpha / DRAWS)
        assert share >= alpha / 2  # and it does reject
    # Ties in random order keep ranks uniform: five equal decoys and an equal truth.
    tied = [st.rank_among(0.0, [0.0] * 5, rng) for _ in range(6_000)]
    assert np.bincount(tied, minlength=7)[1:].min() > 900


def test_rank_test_by_hand() -> None:
    # One question, one decoy: rank 1 or 2, ½ each.
    assert st.rank_null(1, 1).tolist() == [0.5, 0.5]
    # Two questions, one decoy: the sum is 2, 3, 4 with ¼, ½, ¼.
    assert st.rank_null(2, 1).tolist() == [0.25, 0.5, 0.25]
    assert st.rank_test([1, 1], 1) == (0.5, 0.25, 1.0) and st.rank_test([2, 2], 1) == (0.5, 1.0, 0.25)
    assert st.rank_test([], 20) == (1.0, 1.0, 1.0)
    # Ten questions, twenty decoys: a mean normalised rank of .30 or .70 gives p of about .03.
    assert st.rank_test([7] * 10, 20)[0] == pytest.approx(0.03, abs=0.01)
    assert st.rank_test([15] * 10, 20)[0] == pytest.approx(0.03, abs=0.01)
    assert st.exposure(1, 20) == pytest.approx(math.log2(21)) and st.exposure(21, 20) == 0
    assert st.rank_among(0.5, [0.1, 0.7, 0.9], np.random.default_rng(0)) == 3


def test_permutation_tests() -> None:
    rng = np.random.default_rng(4)
    table = (rng.random((8, 8)) < 0.1).astype(float)
    paris = np.tile(rng.random(8) < 0.5, (8, 1)).astype(float)  # whoever is asked about, the same values
    assert st.permutation_p(paris) == 1
    known = np.maximum(table, np.eye(8))
    assert st.permutation_p(known) < 0.001
    null = [st.permutation_p(rng.random((6, 6)) < 0.2, seed) for seed in range(60)]
    assert np.mean(np.array(null) <= 0.1) <= 0.2
    # Four of twenty-four: 10,626 arrangements, so the least p is about 1e-4.
    assert st.group_p([1.0] * 4, rng.random(20) / 2) < 0.001
    assert st.group_p([0.0] * 4, [0.0] * 20) == 1
    # One alone: the share of all who score as high, or as low.
    assert st.group_p([3.0], [1.0, 2.0, 3.0, 4.0]) == 3 / 5 and st.group_p([1.0, 2.0, 3.0], [1.0]) == 2 / 4
