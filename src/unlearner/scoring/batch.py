"""Rows of several views as one batch, and the positions of each view that count: the only place that shifts and masks.

Position t predicts token t+1. B sequences, T tokens, N scored positions, H hidden size.
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from unlearner.models.anatomy import DeepEnough, backbone, captured
from unlearner.models.deepspeed import is_spread
from unlearner.models.packing import Packed
from unlearner.models.sharding import is_sharded
from unlearner.scoring.constants import IGNORE

FORWARD_TOKENS = {"cpu": 128}
"""What a further forward and backward pass costs beside its tokens, in tokens of a model of few million parameters (of
a larger one less). Elsewhere rows are padded: a GPU is slowed more by many small kernels than by padding."""


@dataclass(frozen=True)
class ViewIndex:
    """The positions of one view that count, as indices into the hidden states of its batch (`Batch.states`).

    Made on the CPU, so that the training loop never has to ask the device how many there are.
    """

    rows: int
    index: Tensor
    """(N,) positions whose next token is labelled."""
    target: Tensor
    """(N,) the tokens to be predicted there."""
    row: Tensor
    """(N,) sequence within the view, 0 … B−1."""
    token_weight: Tensor
    """(N,) weights of a mean over labelled tokens."""
    sequence_weight: Tensor
    """(B,) weights of a mean over sequences."""
    kl_index: Tensor
    """(M,) positions whose whole distribution is compared with the reference's."""
    kl_weight: Tensor
    """(M,) weights of their mean."""
    tokens: Tensor | None = None
    """(B,) labelled tokens of each sequence, at least 1; in official mode a first one too, which nothing predicts."""
    reference_nll: Tensor | None = None
    """(B,) the sequences' NLL under the reference model, where a loss needs it."""
    reference_logp: Tensor | None = None
    """(N,) log-probabilities of the labelled tokens under the reference model, where a loss needs them."""
    marked: Tensor | None = None
    """(N,) bool, whether the token predicted belongs to what is to be forgotten, in views that mix two items."""
    kl_row: Tensor | None = None
    """(M,) the sequence of each of the positions of `kl_index`."""
    states: "tuple[Tensor, Tensor, Tensor] | None" = None
    """Index, weight and sequence of the positions over which losses on hidden states average, each (S,); None: those
    of `kl_index`."""

    def to(self, device: torch.device) -> Self:
        moved: dict[str, Any] = {
            k: v.to(device, non_blocking=True) for k, v in vars(self).items() if isinstance(v, Tensor)
        }
        if self.states is not None:
            moved["states"] = tuple(each.to(device, non_blocking=True) for each in self.states)
        return replace(self, **moved)


@dataclass(frozen=True)
class RowWeights:
    """What one labelled token, one sequence and one compared position of each row weigh, each (B,)."""

    token: Tensor
    sequence: Tensor
    kl: Tensor
    state: Tensor | None = None
    """One labelled token in a mean over hidden states, in official mode."""


@dataclass(frozen=True)
class States:
    """Hidden states of a batch's positions, blocks one after the other."""

    last: Tensor | None
    """(positions, H), after the final norm: what the output embedding reads. None where nothing is to read them."""
    layers: Mapping[int, Tensor] = field(default_factory=dict)
    """What each layer that was asked for gave, (positions, H)."""

    def at(self, index: Tensor) -> Tensor:
        """(N, H) the last states at these positions."""
        assert self.last is not None
        return self.last.index_select(0, index)


@dataclass(frozen=True)
class Batch:
    """All views of some items as one batch: a single forward serves them, or one for each block of like lengths."""

    input_ids: Tensor
    """(R, T), the views' rows below one another; with several blocks, the longest first."""
    attention_mask: Tensor | None
    """(R, T), or None for right-padded rows: causal attention never looks at padding on the right."""
    views: dict[str, ViewIndex]
    blocks: tuple[tuple[slice, int], ...]
    """Consecutive rows of like length and the columns that they fill: each block is a forward without the others'
    padding. The views' indices count the positions of these blocks, one block after the other."""
    packed: Packed | None = None
    """With it `input_ids` is (1, P): all rows' tokens one after the other, which is what the indices count. Of a token
    that all rows share, each row's index is the same: gradients flow into it from all of them."""
    reference: Self | None = None
    """The rows about which the reference model is asked in this step, as a batch of their own; None: all rows."""

    def to(self, device: torch.device) -> Self:
        return replace(
            self,
            input_ids=self.input_ids.to(device, non_blocking=True),
            attention_mask=None if self.attention_mask is None else self.attention_mask.to(device, non_blocking=True),
            views={name: view.to(device) for name, view in self.views.items()},
            packed=self.packed and self.packed.to(device),
            reference=self.reference and self.reference.to(device),
        )

    def with_reference_nll(self, known: Mapping[str, Tensor]) -> Self:
        """The batch with the reference's sequence NLLs, view → (B,), put in."""
        views = {name: replace(view, reference_nll=known.get(name)) for name, view in self.views.items()}
        return replace(self, views=views) if known else self

    def with_reference_logp(self, known: Mapping[str, Tensor]) -> Self:
        """The batch with the reference's log-probabilities of labelled tokens, view → (N,), put in."""
        views = {name: replace(view, reference_logp=known.get(name)) for name, view in self.views.items()}
        return replace(self, views=views) if known else self

    @classmethod
    def build(
        cls,
        views: Mapping[str, Mapping[str, Tensor]],
        *,
        official: bool = False,
        weights: Mapping[str, RowWeights] | None = None,
        keep_mask: bool = True,
        forward_tokens: int | None = None,
        packed: bool = False,
        prefix: int = 0,
        reference: Collection[str] = (),
        width: int = 0,
    ) -> Self:
        """Join views of `input_ids`, `labels`, `attention_mask`, each (B, T), T and B as each view likes.

        Without `weights` every mean runs over this batch alone. `official` counts padded positions as the official
        code does (docs/faithfulness.md); the default never does. With `forward_tokens`, what a further forward costs in
        tokens, right-padded rows are sorted by length and cut into blocks where that saves more than it costs;
        `packed` leaves out all their padding, for a model inside `packing`; the first `prefix` tokens, the same in all
        rows, are then there once. `reference` names the views about which the reference model is asked; rows are at
        least `width` tokens wide.
        """
        first = next(iter(views.values()))["input_ids"]
        width = max(width, *(view["input_ids"].shape[1] for view in views.values()))
        asked = None
        if reference and set(views) - set(reference):
            asked = cls.build(
                {name: view for name, view in views.items() if name in reference}, official=official, weights=weights,
                keep_mask=keep_mask, forward_tokens=forward_tokens, packed=packed, prefix=prefix, width=width,
            )  # fmt: skip
        height = sum(view["input_ids"].shape[0] for view in views.values())
        ids = first.new_zeros((height, width))
        mask = torch.zeros_like(ids)
        top = 0
        for view in views.values():
            rows, columns = view["input_ids"].shape
            ids[top : top + rows, :columns] = view["input_ids"]
            mask[top : top + rows, :columns] = view["attention_mask"]
            top += rows
        own = [view["input_ids"].shape[1] for view in views.values() for _ in view["input_ids"]]
        # Where padding counts, so does what it attends to: officially a view's forward has the view's own width.
        blocks = _of_one_width(own if official else [width] * height)
        order = np.arange(height)
        if packed:
            lengths = mask.sum(1)
            mask[1:, :prefix] = 0
            starts = (lengths - prefix).cumsum(0) - (lengths - prefix)
            indices = cls._indices(views, starts, official, weights, prefix)
            return cls(ids[mask.bool()][None], None, indices, (), Packed.of(lengths, prefix), asked)
        if forward_tokens is not None:
            width_of = mask.sum(1).numpy()
            order = np.argsort(-width_of, kind="stable")
            blocks = like_lengths(width_of[order], forward_tokens)
            ids, mask = ids[order], mask[order]
        widths = np.concatenate([np.full(rows.stop - rows.start, columns) for rows, columns in blocks])
        starts = torch.empty(height, dtype=torch.long)
        starts[torch.from_numpy(order)] = torch.from_numpy(np.cumsum(widths) - widths)
        indices = cls._indices(views, starts.to(first.device), official, weights)
        return cls(ids, mask if keep_mask else None, indices, blocks, None, asked)

    @staticmethod
    def _indices(
        views: Mapping[str, Mapping[str, Tensor]],
        starts: Tensor,
        official: bool,
        weights: Mapping[str, RowWeights] | None,
        prefix: int = 0,
    ) -> dict[str, ViewIndex]:
        indices: dict[str, ViewIndex] = {}
        top = 0
        for name, view in views.items():
            rows = len(view["input_ids"])
            chosen = None if weights is None else weights[name]
            indices[name] = _index_view(view, starts[top : top + rows], official, chosen, prefix)
            top += rows
        return indices

    def states(self, model: nn.Module, layers: Sequence[int] = (), *, output: bool = True) -> States:
        """Hidden states of all positions: the last, and those that `layers` of the transformer give.

        Without `output`, nobody reads the last ones: forward passes end behind the deepest of `layers`. (Those of a
        model that is spread over processes do not, because its weights are gathered in the order of a whole pass.)
        """
        body = backbone(model)
        stop = not output and not is_sharded(model) and not is_spread(model)
        last = []
        with captured(model, layers, stop=stop) as parts:
            if self.packed is not None:
                with suppress(DeepEnough):
                    last.append(self.packed.states(body, self.input_ids)[None])
            for rows, width in self.blocks:
                mask = None if self.attention_mask is None else self.attention_mask[rows, :width]
                with suppress(DeepEnough):
                    out = body(input_ids=self.input_ids[rows, :width], attention_mask=mask, use_cache=False)
                    last.append(out.last_hidden_state)
        return States(_positions(last) if last else None, {n: _positions(each) for n, each in parts.items()})


def _positions(blocks: Sequence[Tensor]) -> Tensor:
    """Blocks (B, T, H) as (positions, H)."""
    flat = [block.flatten(0, 1) for block in blocks]
    return flat[0] if len(flat) == 1 else torch.cat(flat)


def _of_one_width(widths: Sequence[int]) -> tuple[tuple[slice, int], ...]:
    """Consecutive rows of the same width as blocks."""
    cuts = [0, *(i for i in range(1, len(widths)) if widths[i] != widths[i - 1]), len(widths)]
    return tuple((slice(begin, stop), widths[begin]) for begin, stop in pairwise(cuts))


def like_lengths(lengths: np.ndarray, forward_tokens: int) -> tuple[tuple[slice, int], ...]:
    """Rows, given the longest first, cut into blocks with the least padded tokens + `forward_tokens` for each block.

    Returns each block's rows and the length of its longest.
    """
    n = len(lengths)
    least, begins = np.zeros(n + 1, np.int64), np.zeros(n + 1, np.int64)
    for stop in range(1, n + 1):
        cost = least[:stop] + (stop - np.arange(stop)) * lengths[:stop] + forward_tokens
        begins[stop], least[stop] = cost.argmin(), cost.min()
    blocks = []
    stop = n
    while stop:
        begin = int(begins[stop])
        blocks.append((slice(begin, stop), int(lengths[begin])))
        stop = begin
    return tuple(reversed(blocks))


def without_first(labels: Tensor, count: int, *, official: bool = False) -> Tensor:
    """`labels` (B, T) without the first `count` that are predicted in each row, the last of a row always left;
    `official` leaves none, and counts one at a row's first token too, which nothing predicts."""
    labelled = labels != IGNORE
    if official:
        return labels.masked_fill((labelled.cumsum(1) <= count) & labelled, IGNORE)
    labelled[:, 0] = False
    most = (labelled.sum(1, keepdim=True) - 1).clamp(max=count)
    return labels.masked_fill((labelled.cumsum(1) <= most) & labelled, IGNORE)


def _index_view(
    view: Mapping[str, Tensor], starts: Tensor, official: bool, weights: RowWeights | None, prefix: int
) -> ViewIndex:
    """`starts` (B,) is where each row's first token stands among the batch's positions, or would, were the `prefix`
    tokens that all rows share before it: these are the batch's first."""

    def places(row: Tensor, column: Tensor) -> Tensor:
        return torch.where(column < prefix, column, starts[row] + column)

    labels, mask = view["labels"], view["attention_mask"]
    shifted = labels[:, 1:] != IGNORE
    if not official:
        shifted = shifted & (mask[:, :-1] != 0)
    row, column = shifted.nonzero(as_tuple=True)
    everywhere = torch.ones_like(mask) if official else mask
    kl_row, kl_column = everywhere.nonzero(as_tuple=True)
    if weights is None:
        device, rows = labels.device, labels.shape[0]
        token, sequence, kl = (
            torch.full((rows,), 1.0 / max(count, 1), device=device) for count in (len(row), rows, len(kl_row))
        )
        of_each = labels.ne(IGNORE).sum(1).clamp(min=1).reciprocal().mean() / rows
        weights = RowWeights(token, sequence, kl, of_each.expand(rows))
    states = None
    if official and weights.state is not None:
        # As OpenUnlearning has it: the labelled tokens' own states, each row's sum times the mean of all rows' 1/n.
        own_row, own_column = (labels != IGNORE).nonzero(as_tuple=True)
        states = places(own_row, own_column), weights.state[own_row], own_row
    return ViewIndex(
        rows=labels.shape[0],
        index=places(row, column),
        target=labels[row, column + 1],
        row=row,
        token_weight=weights.token[row],
        sequence_weight=weights.sequence,
        kl_index=places(kl_row, kl_column),
        kl_weight=weights.kl[kl_row],
        tokens=(labels != IGNORE if official else shifted).sum(1).clamp(min=1),
        marked=view["marked"][row, column + 1].bool() if "marked" in view else None,
        kl_row=kl_row,
        states=states,
    )
