"""Which forget rows meet which retain rows and refusals."""

from typing import Any

import numpy as np
import pytest

from unlearner.data.pairs import Pairing, pair

MODES = ("redrawn", "fixed", "official")


def same(a: Pairing, b: Pairing) -> bool:
    return np.array_equal(a.retain, b.retain) and np.array_equal(a.refusal, b.refusal)


@pytest.mark.parametrize("mode", MODES)
def test_pairing_is_a_function_of_seed_and_epoch(mode: Any) -> None:
    def draw(**changed: int) -> Pairing:
        return pair(20, 50, 30, mode=mode, **{"seed": 7, "epoch": 2, **changed})

    assert same(draw(), draw())
    assert same(draw(), draw(epoch=3)) == (mode != "redrawn")
    assert same(draw(), draw(seed=8)) == (mode == "official")


@pytest.mark.parametrize("mode", MODES)
def test_pairs_stay_within_their_sets(mode: Any) -> None:
    for n_forget, n_retain, n_refusals in [(40, 3, 2), (3, 40, 100), (1, 1, 1)]:
        drawn = pair(n_forget, n_retain, n_refusals, mode=mode)
        assert drawn.retain.shape == drawn.refusal.shape == (n_forget,)
        assert set(drawn.retain) <= set(range(n_retain)) and set(drawn.refusal) <= set(range(n_refusals))


def test_redrawn_pairs_cover_the_retain_set_before_repeating() -> None:
    """Twenty forget rows and eight retain rows: all eight, all eight again in another order, then four more."""
    drawn = pair(20, 8, 5, seed=3).retain
    assert sorted(drawn[:8]) == sorted(drawn[8:16]) == list(range(8))
    assert drawn[:8].tolist() != drawn[8:16].tolist()
    assert len(set(drawn[16:])) == 4
    assert len(set(pair(20, 50, 5, seed=3).retain)) == 20


@pytest.mark.parametrize("mode", MODES)
def test_a_question_keeps_its_refusal(mode: Any) -> None:
    refusals = [pair(20, 50, 30, mode=mode, seed=3, epoch=epoch).refusal.tolist() for epoch in range(4)]
    assert refusals.count(refusals[0]) == 4
    assert len(set(refusals[0])) > 5


@pytest.mark.parametrize("mode", MODES)
def test_pairs_without_retain_set_or_refusals(mode: Any) -> None:
    drawn = pair(5, 0, 0, mode=mode)
    assert drawn.retain.tolist() == drawn.refusal.tolist() == [0] * 5
