"""Greedy generation: left-padded batches of prompts of like length, from which finished rows leave.

B rows of a batch, P tokens of its longest prompt, V vocabulary size.
"""

import copy
import functools
import inspect
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from unlearner.models.anatomy import Head, backbone, bare
from unlearner.models.batch_jobs import Pass

BATCH_TOKENS = {"cpu": 16_384, "cuda": 32_768}
"""Default budget of a batch: rows x (longest prompt + new tokens)."""
LEAVE_SHARE = 0.125
"""Finished rows leave once they are this share of the batch: each time, the cache is copied once."""


def generation_pass(
    model: nn.Module,
    prompts: Sequence[list[int]],
    *,
    max_new_tokens: int,
    end_ids: Collection[int],
    pad_id: int,
    batch_tokens: int | None = None,
    total_length: int | None = None,
    batch_size: int = 30,
) -> Pass[list[list[int]]]:
    """The most likely continuation of every prompt, token by token, in the order given.

    A continuation ends before the first of `end_ids`, or after `max_new_tokens` tokens. `total_length` is the official
    way instead (PAPER section 5): batches of `batch_size` in the order given, each to that many tokens in all, padding
    included.
    """
    if total_length is None:
        budget = batch_tokens or BATCH_TOKENS.get(bare(model).device.type, BATCH_TOKENS["cuda"])
        batches = length_batches([len(prompt) + max_new_tokens for prompt in prompts], budget)
    else:
        batches = [list(range(len(prompts)))[i : i + batch_size] for i in range(0, len(prompts), batch_size)]
    chosen = [[prompts[i] for i in rows] for rows in batches]

    def steps(batch: list[list[int]]) -> int:
        return max_new_tokens if total_length is None else max(total_length - max(map(len, batch)), 0)

    def join(answers: list[list[list[int]]]) -> list[list[int]]:
        out: list[list[int]] = [[] for _ in prompts]
        for rows, part in zip(batches, answers, strict=True):
            for i, answer in zip(rows, part, strict=True):
                out[i] = answer
        return out

    return Pass(
        "generation",
        [["generation", batch, max_new_tokens, total_length, sorted(end_ids)] for batch in chosen],
        lambda i: _generate_batch(model, chosen[i], steps(chosen[i]), sorted(end_ids), pad_id),
        [len(batch) for batch in chosen],
        [float(sum(len(prompt) + steps(batch) for prompt in batch)) for batch in chosen],
        join,
    )


def length_batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Rows of like length together, the longest first; a batch, once padded, is within `batch_tokens` (or one row)."""
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= batch_tokens:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


@torch.inference_mode()
def _generate_batch(
    model: nn.Module, prompts: list[list[int]], steps: int, end_ids: list[int], pad_id: int
) -> list[list[int]]:
    """At most `steps` new tokens for each prompt."""
    if steps == 0:
        return [[] for _ in prompts]
    device = bare(model).device
    width = max(map(len, prompts))
    ids = torch.tensor([[pad_id] * (width - len(prompt)) + prompt for prompt in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    ends = torch.tensor(end_ids, device=device)
    cache = row_cache(model)
    if cache is not None:
        new = _decode(model, cache, ids, mask, ends, steps)
    else:
        options = {"max_new_tokens": steps, "do_sample": False, "eos_token_id": end_ids, "pad_token_id": pad_id}
        new = bare(model).generate(ids, attention_mask=mask, **options)[:, width:]
    is_end = torch.isin(new, ends)
    stops = torch.where(is_end.any(1), is_end.int().argmax(1), new.shape[1])
    return [row[:stop] for row, stop in zip(new.tolist(), stops.tolist(), strict=True)]


def _decode(model: nn.Module, cache: DynamicCache, ids: Tensor, mask: Tensor, ends: Tensor, steps: int) -> Tensor:
    """New tokens (B, at most `steps`) after the left-padded prompts `ids`, `mask` (B, P)."""
    body, head = backbone(model), Head.of(model)
    rows, width = ids.shape
    out = ids.new_full((rows, steps), int(ends[0]))
    # For the whole answer at once, so that a step makes no new mask.
    mask = torch.cat([mask, mask.new_ones(rows, steps)], dim=1)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    active = torch.arange(rows, device=ids.device)
    running = torch.ones_like(active, dtype=torch.bool)
    inputs, seen = ids, 0
    for step in range(steps):
        stop = width + step
        hidden = body(
            input_ids=inputs,
            attention_mask=mask[:, :stop],
            past_key_values=cache,
            use_cache=True,
            **position_ids(body, positions[:, seen:stop]),
        ).last_hidden_state
        seen = stop
        token = head.logits(hidden[:, -1]).argmax(-1)
        out[active, step] = torch.where(running, token, ends[0])
        running = running & ~torch.isin(token, ends)
        left = int(running.sum())  # the one wait for the device in a step
        if left == 0:
            break
        if len(active) - left >= LEAVE_SHARE * len(active):
            keep = running.nonzero().squeeze(1)
            cache = select_rows(cache, keep)
            active, token, mask, positions = active[keep], token[keep], mask[keep], positions[keep]
            running = running[keep]
        inputs = token[:, None]
    return out


# ------------------------------------------------------------------------------------------------------------ the cache


def position_ids(body: nn.Module, positions: Tensor) -> dict[str, Tensor]:
    """`positions` as a keyword for models that take it; the others (Bloom, MPT) go by the attention mask."""
    return {"position_ids": positions} if "position_ids" in _options(type(body).forward) else {}


@functools.cache
def _options(forward: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(forward).parameters)


def row_cache(model: nn.Module) -> DynamicCache | None:
    """An empty cache whose rows can be selected, or None where a model keeps anything but keys and values of past
    tokens (state-space and hybrid models)."""
    if "past_key_values" not in _options(type(backbone(model)).forward):
        return None
    cache = DynamicCache(config=bare(model).config)
    if any(type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers):
        return None
    cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


class RoomyLayer(DynamicLayer):
    """Keys and values with room behind them, into which the next tokens are written: growing by one token copies none.

    `keys` and `values` (B, heads, tokens, dimensions) are views of what is allocated.
    """

    ROOM = 64
    """Tokens."""
    _allocated: tuple[Tensor, ...] = ()

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        length = self.get_seq_length()
        if length == 0 or key_states.shape[-2] > 1:
            self._allocated = ()
            return super().update(key_states, value_states, *args, **kwargs)
        if not self._allocated or self._allocated[0].shape[-2] == length:
            assert self.keys is not None and self.values is not None
            room = (0, 0, 0, self.ROOM)
            self._allocated = nn.functional.pad(self.keys, room), nn.functional.pad(self.values, room)
        for allocated, states in zip(self._allocated, (key_states, value_states), strict=True):
            allocated[:, :, length] = states[:, :, 0]
        self.keys, self.values = (allocated[:, :, : length + 1] for allocated in self._allocated)
        return self.keys, self.values

    def reorder_cache(self, beam_idx: Any) -> None:
        if self._allocated:
            length = self.get_seq_length()
            self._allocated = tuple(allocated.index_select(0, beam_idx) for allocated in self._allocated)
            self.keys, self.values = (allocated[:, :, :length] for allocated in self._allocated)
        else:
            super().reorder_cache(beam_idx)


def select_rows(cache: DynamicCache, rows: Tensor) -> DynamicCache:
    """A new cache of the given rows, any number of times each; `cache` stays as it is."""
    chosen = copy.copy(cache)
    chosen.layers = [copy.copy(layer) for layer in cache.layers]
    chosen.reorder_cache(rows)  # type: ignore[arg-type]  # faster on a CPU than batch_select_indices
    return chosen
