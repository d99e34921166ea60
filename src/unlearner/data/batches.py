"""Which items form an optimiser step, and how a step is cut into forwards of similar lengths."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unlearner.data.views import View


@dataclass(frozen=True)
class Plan:
    """The order of all items over all epochs: a pure function of its fields, so that a run can go on at any step.

    A step takes `batch_size · accumulation` items, whatever the number of devices. A *group* is one logical
    micro-batch of `batch_size` items; a step's loss is the mean of its groups' losses, and how groups are spread over
    forwards and devices changes nothing.
    """

    items: int
    epochs: float
    batch_size: int
    accumulation: int
    seed: int
    shuffle: bool = True
    official: bool = False
    draws: int = 1
    """How many rows of their partners items have in an epoch, where several retain steps follow a forget step."""

    @property
    def step_items(self) -> int:
        return self.batch_size * self.accumulation

    @property
    def total_items(self) -> int:
        return int(self.epochs * self.items)

    @property
    def pass_count(self) -> int:
        """Epochs begun; the last one may end early."""
        return -(-self.total_items // self.items)

    @property
    def pairing_count(self) -> int:
        """How many pairings of items with partners all epochs take; draw d of epoch e is number e · draws + d."""
        return self.pass_count * self.draws

    @property
    def steps(self) -> int:
        """Optimiser steps: every item is visited `epochs` times; the official code drops the rest of a last step."""
        return self.total_items // self.step_items if self.official else -(-self.total_items // self.step_items)

    @property
    def steps_per_epoch(self) -> int:
        return max(1, self.items // self.step_items)

    def epoch_ends(self) -> dict[int, int]:
        """Step after which each epoch is done → epoch number, from 1; the last step ends the last, whole or not."""
        ends = {min(-(-e * self.items // self.step_items), self.steps): e for e in range(1, int(self.epochs) + 1)}
        ends[self.steps] = self.pass_count
        return ends

    def step(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Epoch and item of each place in step `number` (from 0), two arrays of shape (items of the step,)."""
        first = number * self.step_items
        places = np.arange(first, min(first + self.step_items, self.total_items))
        epochs, within = places // self.items, places % self.items
        if not self.shuffle:
            return epochs, within
        chosen = np.empty_like(within)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            chosen[here] = self._order(int(epoch))[within[here]]
        return epochs, chosen

    def _order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch, 1]).permutation(self.items)


@dataclass(frozen=True)
class MicroBatch:
    """Places of a step that share one forward, with what each row weighs in the step's means."""

    places: np.ndarray
    rows: dict[str, np.ndarray]
    """View → table rows, in the order of `places`."""
    pad_to: int | None
    """Official mode pads to max_length; otherwise to the longest row."""
    token_weight: dict[str, np.ndarray]
    sequence_weight: dict[str, np.ndarray]
    position_weight: dict[str, np.ndarray]
    state_weight: dict[str, np.ndarray]
    """Of one labelled token in an official mean over hidden states (`ViewScores.state_mean`)."""


def micro_batches(
    plan: Plan,
    views: Mapping[str, View],
    number: int,
    *,
    max_tokens: int,
    pad_to: int | None = None,
    rank: int = 0,
    processes: int = 1,
    draw: int = 0,
) -> list[MicroBatch]:
    """Cut step `number` into forwards of at most `max_tokens` padded tokens for process `rank`, like lengths together.

    `draw` says which of the rows that an item's partners have in its epoch (`Plan.draws`).

    All processes get the same number of forwards (sharded models exchange weights in each); a process without items
    repeats one with weight zero.
    """
    epochs, items = plan.step(number)
    rows = {name: view.rows[epochs * plan.draws + draw, items] for name, view in views.items()}
    weights = _weights(plan, views, rows, pad_to)
    widths = [views[name].table.lengths[of_view] for name, of_view in rows.items()]
    longest = np.max(widths, axis=0) if pad_to is None else np.full(len(items), pad_to)
    order = np.argsort(longest, kind="stable")
    shares = [order[r::processes] for r in range(processes)]
    parts = max(1, *(_parts(longest[share], len(rows), max_tokens) for share in shares))
    made = []
    for part in np.array_split(shares[rank], parts):
        idle = len(part) == 0
        places = np.zeros(1, dtype=np.int64) if idle else part
        scale = 0.0 if idle else 1.0
        scaled = ({name: row[places] * scale for name, row in each.items()} for each in weights)
        made.append(MicroBatch(places, {name: of_view[places] for name, of_view in rows.items()}, pad_to, *scaled))
    return made


def _weights(
    plan: Plan, views: Mapping[str, View], rows: Mapping[str, np.ndarray], pad_to: int | None
) -> list[dict[str, np.ndarray]]:
    """What the rows of a step weigh by their tokens, as sequences, by their positions and in means over hidden states
    (the weights of `MicroBatch`), by view."""
    count = len(next(iter(rows.values())))
    groups = np.arange(count) // plan.batch_size
    sizes = np.bincount(groups)
    sequence = 1.0 / (sizes[groups] * len(sizes))

    def mean_over(per_row: np.ndarray) -> np.ndarray:
        return 1.0 / (np.maximum(np.bincount(groups, per_row), 1)[groups] * len(sizes))

    token, position, state = {}, {}, {}
    for name, of_view in rows.items():
        view = views[name]
        labelled = view.labelled[of_view]
        if pad_to is None:
            token[name] = mean_over(labelled)
            position[name] = state[name] = mean_over(view.table.lengths[of_view])
        else:
            # Official: every position of the padded row counts for KL, and for ME, which labels the whole forget view.
            padded_length = np.full(count, pad_to)
            token[name] = mean_over(scored_tokens(view, pad_to)[of_view])
            position[name] = mean_over(padded_length)
            own = padded_length if view.whole else labelled
            state[name] = (np.bincount(groups, 1.0 / own) / sizes)[groups] * sequence
    return [token, dict.fromkeys(rows, sequence), position, state]


def scored_tokens(view: View, pad_to: int | None) -> np.ndarray:
    """(table rows,) how many tokens of each row are predicted and labelled, padded to `pad_to` as in official mode."""
    if pad_to is not None and (view.whole or view.everywhere):
        return np.full(len(view.table), pad_to - 1)
    return view.labelled


def _parts(longest: np.ndarray, views: int, max_tokens: int) -> int:
    """How many equal parts of these items, sorted by length, keep each part within `max_tokens` padded tokens."""
    for parts in range(1, len(longest)):
        if all(len(p) * views * p[-1] <= max_tokens for p in np.array_split(longest, parts) if len(p)):
            return parts
    return max(1, len(longest))


def padded(view: View, rows: np.ndarray, pad_id: int, width: int | None = None) -> dict[str, Tensor]:
    """`input_ids`, `labels`, `attention_mask` of the given table rows, right-padded, each (rows, tokens).

    With `width` as in official mode: padded to it, the closing EOS outside the attention mask, and a `whole` view
    labelled to its last padding token.
    """
    tokens = [view.table.row(row) for row in rows]
    longest = width or max(len(row) for row in tokens)
    ids = np.full((len(tokens), longest), pad_id, dtype=np.int64)
    labels = np.full_like(ids, -100)
    mask = np.zeros_like(ids)
    for i, (row, entry) in enumerate(zip(rows, tokens, strict=True)):
        ids[i, : len(entry)] = entry
        first = view.first_label[row]
        labels[i, first : len(entry)] = np.resize(view.phrase, len(entry) - first) if view.phrase else entry[first:]
        mask[i, : len(entry) - int(width is not None and view.table.closed[row])] = 1
    if width is not None and view.whole:
        labels = ids.copy()
    made = {
        "input_ids": torch.from_numpy(ids),
        "labels": torch.from_numpy(labels),
        "attention_mask": torch.from_numpy(mask),
    }
    if view.marked is not None:
        marked = np.zeros_like(ids, dtype=bool)
        for i, (row, entry) in enumerate(zip(rows, tokens, strict=True)):
            marked[i, : len(entry)] = view.marked[view.table.offsets[row] :][: len(entry)]
        made["marked"] = torch.from_numpy(marked)
    return made
