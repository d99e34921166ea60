"""The order of a run, forwards of bounded size, and padding."""

from collections.abc import Iterator
from itertools import chain, pairwise

import numpy as np
import pytest
import torch

from unlearner.data.batches import MicroBatch, Plan, micro_batches, padded
from unlearner.data.prompts import (
    TokenTable,
)
from unlearner.data.views import View

# ------------------------------------------------------------------------------------------------------ order of a run

PLANS = [
    Plan(items=10, epochs=3, batch_size=2, accumulation=2, seed=0),
    Plan(items=10, epochs=2.5, batch_size=4, accumulation=1, seed=0),
    Plan(items=3, epochs=4, batch_size=4, accumulation=2, seed=0),
    Plan(items=16, epochs=1, batch_size=4, accumulation=4, seed=0),
    Plan(items=7, epochs=0.5, batch_size=2, accumulation=1, seed=0),
]


def visits(plan: Plan) -> Iterator[tuple[int, int]]:
    for number in range(plan.steps):
        epochs, items = plan.step(number)
        yield from zip(epochs.tolist(), items.tolist(), strict=True)


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_every_item_is_visited_once_an_epoch(plan: Plan) -> None:
    seen = list(visits(plan))
    assert len(seen) == int(plan.epochs * plan.items)
    assert [epoch for epoch, _ in seen] == sorted(epoch for epoch, _ in seen)
    for epoch in range(int(plan.epochs)):
        assert sorted(item for e, item in seen if e == epoch) == list(range(plan.items))
    assert len(set(seen)) == len(seen)
    assert max(epoch for epoch, _ in seen) + 1 == plan.pass_count


def test_the_order_is_drawn_from_seed_and_epoch() -> None:
    plan = Plan(items=30, epochs=2, batch_size=5, accumulation=1, seed=4)
    first, second = list(visits(plan))[:30], list(visits(plan))[30:]
    assert [i for _, i in first] != [i for _, i in second]
    assert list(visits(plan)) == [*first, *second]
    assert list(visits(Plan(30, 2, 5, 1, seed=5))) != [*first, *second]
    assert list(visits(Plan(30, 2, 5, 1, seed=4, shuffle=False))) == [(e, i) for e in range(2) for i in range(30)]


@pytest.mark.parametrize(
    ("items", "epochs", "batch", "accumulation", "default", "official"),
    [(40, 5, 4, 8, 7, 6), (32, 1, 4, 8, 1, 1), (33, 1, 4, 8, 2, 1), (40, 2.5, 4, 4, 7, 6), (10, 1, 4, 8, 1, 0)],
)
def test_default_keeps_the_last_part_of_a_step_and_official_drops_it(
    items: int, epochs: float, batch: int, accumulation: int, default: int, official: int
) -> None:
    """⌈epochs · items / step⌉ against ⌊epochs · items⌋ div step."""
    assert Plan(items, epochs, batch, accumulation, 0).steps == default
    assert Plan(items, epochs, batch, accumulation, 0, official=True).steps == official


@pytest.mark.parametrize(
    ("plan", "ends"),
    [
        (Plan(10, 3, 2, 2, 0), {3: 1, 5: 2, 8: 3}),
        (Plan(16, 2, 4, 2, 0), {2: 1, 4: 2}),
        (Plan(10, 2.5, 4, 1, 0), {3: 1, 5: 2, 7: 3}),
        (Plan(7, 0.5, 2, 1, 0), {2: 1}),
        (Plan(3, 4, 4, 2, 0), {1: 2, 2: 4}),
        (Plan(40, 5, 4, 8, 0, official=True), {2: 1, 3: 2, 4: 3, 5: 4, 6: 5}),
    ],
)
def test_epochs_end_after_the_step_that_holds_their_last_item(plan: Plan, ends: dict[int, int]) -> None:
    """Every epoch has one end and one number, the last one also where it is only begun."""
    assert plan.epoch_ends() == ends


# ----------------------------------------------------------------------------------------------------------- forwards


def random_view(seed: int, *, epochs: int, items: int, whole: bool = False, longest: int = 40) -> View:
    draw = np.random.default_rng(seed)
    lengths = draw.integers(3, longest, items)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    start = np.array([draw.integers(1, n) for n in lengths])
    ids = draw.integers(3, 90, offsets[-1], dtype=np.int32)
    table = TokenTable(ids, offsets, start.astype(np.int32), np.ones(items, bool))
    rows = np.stack([draw.permutation(items) for _ in range(epochs)])
    return View(table, rows, np.ones(items, np.int64) if whole else start, whole)


def two_views(items: int, epochs: int) -> dict[str, View]:
    return {
        "forget": random_view(1, epochs=epochs, items=items, whole=True),
        "retain": random_view(2, epochs=epochs, items=items),
    }


def spread(plan: Plan, views: dict[str, View], step: int, max_tokens: int, processes: int) -> list[list[MicroBatch]]:
    return [
        micro_batches(plan, views, step, max_tokens=max_tokens, rank=rank, processes=processes)
        for rank in range(processes)
    ]


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
@pytest.mark.parametrize("max_tokens", [1, 200, 10**9])
@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_a_steps_weights_sum_to_one_however_it_is_cut(plan: Plan, max_tokens: int, processes: int) -> None:
    views = two_views(plan.items, plan.pass_count)
    for step in range(plan.steps):
        parts = [part for share in spread(plan, views, step, max_tokens, processes) for part in share]
        for name, view in views.items():
            tokens = sum(part.token_weight[name] @ view.labelled[part.rows[name]] for part in parts)
            positions = sum(part.position_weight[name] @ view.table.lengths[part.rows[name]] for part in parts)
            sequences = sum(part.sequence_weight[name].sum() for part in parts)
            assert (tokens, positions, sequences) == pytest.approx((1, 1, 1)), name


@pytest.mark.parametrize("official", [False, True], ids=["default", "official"])
def test_a_row_weighs_as_in_the_mean_of_micro_batch_means(official: bool) -> None:
    """Ten items in micro-batches of 4, 4 and 2: 1/3 · 1/(tokens of its micro-batch), and 1/3 · 1/(its rows)."""
    plan = Plan(10, 1, 4, 3, 0)
    views, width = two_views(10, 1), 40
    pad_to = width if official else None
    epochs, items = plan.step(0)
    (part,) = micro_batches(plan, views, 0, max_tokens=10**9, pad_to=pad_to)
    assert part.pad_to == pad_to
    for name, view in views.items():
        rows = view.rows[epochs, items]
        for at, place in enumerate(part.places.tolist()):
            first = place // 4 * 4
            group = range(first, min(first + 4, 10))
            assert part.rows[name][at] == rows[place]
            labelled = sum(width - 1 if official and view.whole else view.labelled[rows[g]] for g in group)
            positions = sum(width if official else view.table.lengths[rows[g]] for g in group)
            assert part.token_weight[name][at] == pytest.approx(1 / 3 / labelled)
            assert part.position_weight[name][at] == pytest.approx(1 / 3 / positions)
            assert part.sequence_weight[name][at] == pytest.approx(1 / 3 / len(group))


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
@pytest.mark.parametrize("max_tokens", [1, 150, 400, 10**9])
def test_every_place_is_in_one_forward_and_every_process_has_as_many(max_tokens: int, processes: int) -> None:
    for plan in PLANS:
        views = two_views(plan.items, plan.pass_count)
        for step in range(plan.steps):
            shares = spread(plan, views, step, max_tokens, processes)
            assert len({len(share) for share in shares}) == 1, "sharded models need as many forwards everywhere"
            working = [part.places for share in shares for part in share if part.sequence_weight["retain"].any()]
            assert sorted(np.concatenate(working).tolist()) == list(range(len(plan.step(step)[0])))


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("max_tokens", [60, 150, 400])
def test_no_forward_exceeds_its_tokens(max_tokens: int, processes: int) -> None:
    """Rows · longest, both views together, unless a single item is that long."""
    plan = Plan(60, 1, 6, 5, 0)
    views = two_views(60, 1)
    forwards = 0
    for step in range(plan.steps):
        for share in spread(plan, views, step, max_tokens, processes):
            for part in share:
                longest = max(view.table.lengths[part.rows[name]].max() for name, view in views.items())
                assert len(part.places) * 2 * longest <= max_tokens or len(part.places) == 1
                forwards += 1
    assert forwards > plan.steps * processes


def test_rows_of_similar_length_share_a_forward() -> None:
    plan = Plan(32, 1, 8, 4, 0)
    views = two_views(32, 1)
    spans = []
    for part in micro_batches(plan, views, 0, max_tokens=500):
        longest = np.maximum(*(view.table.lengths[part.rows[name]] for name, view in views.items()))
        spans.append((longest.min(), longest.max()))
    assert len(spans) > 3
    assert all(before[1] <= after[0] for before, after in pairwise(spans))


# -------------------------------------------------------------------------------------------------------------- padding


def three_rows(whole: bool = False) -> View:
    """`<s> q a EOS`, `<s> q q a a EOS`, and one that was cut: `<s> q a a a a`; EOS is 1, answers start at 2, 3, 2."""
    rows = [[0, 11, 21, 1], [0, 12, 13, 22, 23, 1], [0, 14, 24, 25, 26, 27]]
    table = TokenTable(
        np.array(list(chain(*rows)), np.int32),
        np.array([0, 4, 10, 16]),
        np.array([2, 3, 2]),
        np.array([True, True, False]),
    )
    first = np.ones(3, np.int64) if whole else table.start.astype(np.int64)
    return View(table, np.arange(3)[None], first, whole)


def test_rows_are_padded_to_the_longest() -> None:
    got = padded(three_rows(), np.array([1, 0]), pad_id=9)
    assert got["input_ids"].tolist() == [[0, 12, 13, 22, 23, 1], [0, 11, 21, 1, 9, 9]]
    assert got["labels"].tolist() == [[-100, -100, -100, 22, 23, 1], [-100, -100, 21, 1, -100, -100]]
    assert got["attention_mask"].tolist() == [[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]]
    assert all(tensor.dtype == torch.int64 for tensor in got.values())
    assert padded(three_rows(), np.array([0]), pad_id=9)["input_ids"].shape == (1, 4)


def test_official_padding_has_the_closing_eos_outside_the_mask() -> None:
    """arXiv 2410.08109: labels are the answer, then one EOS at the first padding position; none where text was cut."""
    got = padded(three_rows(), np.array([0, 2]), pad_id=1, width=8)
    assert got["input_ids"].tolist() == [[0, 11, 21, 1, 1, 1, 1, 1], [0, 14, 24, 25, 26, 27, 1, 1]]
    assert got["labels"].tolist() == [[-100, -100, 21, 1, *[-100] * 4], [-100, -100, 24, 25, 26, 27, -100, -100]]
    assert got["attention_mask"].tolist() == [[1, 1, 1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 0, 0]]


def test_a_whole_view_labels_its_question_and_officially_its_padding() -> None:
    default = padded(three_rows(whole=True), np.array([0, 1]), pad_id=1)
    assert default["labels"].tolist() == [[-100, 11, 21, 1, -100, -100], [-100, 12, 13, 22, 23, 1]]
    official = padded(three_rows(whole=True), np.array([0, 1]), pad_id=1, width=8)
    assert torch.equal(official["labels"], official["input_ids"])
