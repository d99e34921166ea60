"""Generation, greedy or sampled: left-padded batches of prompts of like length, from which finished rows leave.

B prompts of a batch, n answers to each, P tokens of its longest prompt, V vocabulary size.
"""

import copy
import functools
import inspect
from collections.abc import Callable, Collection, Sequence
from dataclasses import astuple
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, LogitsProcessor, LogitsProcessorList
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from unlearner.models.anatomy import Head, backbone, bare
from unlearner.models.batch_jobs import BatchJob
from unlearner.models.execution import shares
from unlearner.models.sampling import Sampling, draw, uniforms

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
    sampling: Sampling | None = None,
    batch_tokens: int | None = None,
    total_length: int | None = None,
    batch_size: int = 30,
) -> BatchJob[list[list[int]]]:
    """The most likely continuation of every prompt, token by token, in the order given; with `sampling`, its n answers
    to the first prompt, to the second, and so on.

    A continuation ends before the first of `end_ids`, or after `max_new_tokens` tokens. `total_length` is the official
    way instead (arXiv 2410.08109): batches of `batch_size` in the order given, each to that many tokens in all, padding
    included.
    """
    count = 1 if sampling is None else sampling.n
    if total_length is None:
        budget = batch_tokens or BATCH_TOKENS.get(bare(model).device.type, BATCH_TOKENS["cuda"])
        # Sampled prompts are batched in an order of their own: whoever asks in another order gets the same batches.
        order = range(len(prompts)) if sampling is None else sorted(range(len(prompts)), key=prompts.__getitem__)
        lengths = [count * (len(prompts[i]) + max_new_tokens) for i in order]
        batches = [[order[i] for i in batch] for batch in length_batches(lengths, budget)]
    else:
        batches = [list(range(len(prompts)))[i : i + batch_size] for i in range(0, len(prompts), batch_size)]
    chosen = [[prompts[i] for i in rows] for rows in batches]

    def steps(batch: list[list[int]]) -> int:
        return max_new_tokens if total_length is None else max(total_length - max(map(len, batch)), 0)

    def join(answers: list[list[list[int]]]) -> list[list[int]]:
        out: list[list[int]] = [[] for _ in range(count * len(prompts))]
        for rows, part in zip(batches, answers, strict=True):
            for place, i in enumerate(rows):
                out[i * count : (i + 1) * count] = part[place * count : (place + 1) * count]
        return out

    how = [] if sampling is None else [astuple(sampling)]
    return BatchJob(
        "generation",
        [["generation", batch, max_new_tokens, total_length, sorted(end_ids), *how] for batch in chosen],
        lambda i: _generate_batch(
            model, chosen[i], steps(chosen[i]), sorted(end_ids), pad_id, sampling, share=total_length is None
        ),
        [len(batch) for batch in chosen],
        [float(sum(len(prompt) + count * steps(batch) for prompt in batch)) for batch in chosen],
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


class _Chooser:
    """The next token of every row: the likeliest, or drawn with the row's own numbers."""

    def __init__(self, prompts: list[list[int]], steps: int, sampling: Sampling | None, device: torch.device) -> None:
        self.sampling = sampling
        if sampling is not None:
            keys = [sampling.key(prompt, sample) for prompt in prompts for sample in range(sampling.n)]
            self.numbers = torch.from_numpy(uniforms(keys, steps)).to(device)

    def __call__(self, logits: Tensor, rows: Tensor, step: int) -> Tensor:
        """Tokens (rows,) from `logits` (rows, V); `rows` are places in the batch, of n to a prompt."""
        if self.sampling is None:
            return logits.argmax(-1)
        return draw(logits, self.numbers[rows, step], self.sampling)


@torch.inference_mode()
def _generate_batch(
    model: nn.Module,
    prompts: list[list[int]],
    steps: int,
    end_ids: list[int],
    pad_id: int,
    sampling: Sampling | None = None,
    *,
    share: bool = True,
) -> list[list[int]]:
    """At most `steps` new tokens for each prompt, or for each of its n samples. With `share`, tokens with which all
    prompts begin are encoded once, where that saves."""
    count = 1 if sampling is None else sampling.n
    if steps == 0:
        return [[] for _ in range(count * len(prompts))]
    device = bare(model).device
    ends = torch.tensor(end_ids, device=device)
    choose = _Chooser(prompts, steps, sampling, device)
    cache = row_cache(model)
    known: list[int] = []
    if share and goes_by_position(model):
        known = _beginning(prompts)
        prompts = [prompt[len(known) :] for prompt in prompts]
    width = max(map(len, prompts))
    ids = torch.tensor([[pad_id] * (width - len(prompt)) + prompt for prompt in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    if known:
        cache = encoded_once(model, known, len(prompts))
        mask = torch.cat([mask.new_ones(len(prompts), len(known)), mask], dim=1)
    if cache is not None:
        new = _decode(model, cache, ids, mask, ends, steps, choose, count)
    else:
        options = {"max_new_tokens": steps, "do_sample": False, "eos_token_id": end_ids, "pad_token_id": pad_id}
        if sampling is not None:
            ids, mask = ids.repeat_interleave(count, 0), mask.repeat_interleave(count, 0)
            options["logits_processor"] = LogitsProcessorList([_Chosen(choose, width)])
        new = bare(model).generate(ids, attention_mask=mask, **options)[:, width:]
    is_end = torch.isin(new, ends)
    stops = torch.where(is_end.any(1), is_end.int().argmax(1), new.shape[1])
    return [row[:stop] for row, stop in zip(new.tolist(), stops.tolist(), strict=True)]


def _beginning(prompts: list[list[int]]) -> list[int]:
    """The tokens with which all prompts begin and none ends, where they are worth to be shared; else none."""
    count = 0
    for column in zip(*(prompt[:-1] for prompt in prompts), strict=False):
        if len(set(column)) > 1:
            break
        count += 1
    return prompts[0][:count] if shares(count, len(prompts), sum(map(len, prompts))) else []


class _Chosen(LogitsProcessor):
    """Leaves transformers' own loop the token that `choose` draws, and no other."""

    def __init__(self, choose: _Chooser, width: int) -> None:
        self.choose, self.width = choose, width

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        rows = torch.arange(len(scores), device=scores.device)
        token = self.choose(scores, rows, input_ids.shape[1] - self.width)
        return torch.full_like(scores, -torch.inf).scatter(1, token[:, None], 0)


def _decode(
    model: nn.Module,
    cache: DynamicCache,
    ids: Tensor,
    mask: Tensor,
    ends: Tensor,
    steps: int,
    choose: _Chooser,
    count: int,
) -> Tensor:
    """New tokens (count x B, at most `steps`) after the left-padded prompts `ids` (B, P), each encoded once.

    `mask` (B, S + P) begins with the S tokens that are in `cache` already.
    """
    body, head = backbone(model), Head.of(model)
    rows, width = mask.shape
    out = ids.new_full((rows * count, steps), int(ends[0]))
    # For the whole answer at once, so that a step makes no new mask.
    mask = torch.cat([mask, mask.new_ones(rows, steps)], dim=1)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    active = torch.arange(rows * count, device=ids.device)
    running = torch.ones_like(active, dtype=torch.bool)
    inputs, seen = ids, width - ids.shape[1]
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
        logits = head.logits(hidden[:, -1])
        if step == 0 and count > 1:
            each = active // count
            cache, logits, mask, positions = select_rows(cache, each), logits[each], mask[each], positions[each]
        token = choose(logits, active, step)
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


def goes_by_position(model: nn.Module) -> bool:
    """Whether attention looks at a token's position and the mask, and never at the place of its keys in the cache: not
    so with windows, nor with distances between these places (MPT)."""
    cache = row_cache(model)
    plain = cache is not None and all(type(layer) is RoomyLayer for layer in cache.layers)
    return plain and "position_ids" in _options(type(backbone(model)).forward)


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


def encoded_once(model: nn.Module, ids: list[int], rows: int) -> DynamicCache:
    """Keys and values of the tokens `ids` with which `rows` rows begin, one for each row. Padding may stand behind them
    where `goes_by_position`."""
    body, cache = backbone(model), row_cache(model)
    assert cache is not None
    inputs = torch.tensor([ids], device=bare(model).device)
    places = torch.arange(len(ids), device=inputs.device)[None]
    body(input_ids=inputs, past_key_values=cache, use_cache=True, **position_ids(body, places))
    return select_rows(cache, torch.zeros(rows, dtype=torch.long, device=inputs.device))


def select_rows(cache: DynamicCache, rows: Tensor) -> DynamicCache:
    """A new cache of the given rows, any number of times each; `cache` stays as it is."""
    chosen = copy.copy(cache)
    chosen.layers = [copy.copy(layer) for layer in cache.layers]
    chosen.reorder_cache(rows)  # type: ignore[arg-type]  # faster on a CPU than batch_select_indices
    return chosen
