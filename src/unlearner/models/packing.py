"""Rows one after the other in a single row, without padding: attention keeps them apart.

On CUDA by PyTorch's own kernel for rows of any length (`varlen_attn`), elsewhere row by row. A model can be packed
if it hands keywords on to its attention and reads positions from `position_ids`; a trial tells (`packing`). Tokens with
which all rows begin can stand there once, before the rows, each of which attends to them too; another trial tells
(`shares_prefix`).
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from inspect import signature
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

NAME = "packed"
"""Of the attention implementation, as transformers knows it."""


@dataclass(frozen=True)
class Shared:
    """What rows attend to that share their first tokens: these, then their own."""

    keys: Tensor
    """(K,) where the tokens stand that each row attends to, one row after the other; the shared ones are a row, too."""
    bounds: Tensor
    """(R + 2,) int32, where each row's begin among them, and K."""
    longest: int


@dataclass(frozen=True)
class Packed:
    """Where R rows of P tokens in all stand in one row. What rows share stands there once, as the first of them."""

    positions: Tensor
    """(1, P), each token's position in its row."""
    bounds: Tensor
    """(R + 1,) int32, where each row begins, and P."""
    longest: int
    shared: Shared | None = None

    @classmethod
    def of(cls, lengths: Tensor, prefix: int = 0) -> Self:
        """For rows of `lengths` (R,), on the CPU, each longer than the `prefix` tokens that they share."""
        if prefix:
            lengths = torch.cat([lengths.new_tensor([prefix]), lengths - prefix])
        bounds = _bounds(lengths)
        before = torch.full_like(lengths, prefix)
        before[0] = 0  # which belongs to the shared tokens; without them all are 0
        place = torch.arange(int(bounds[-1]))
        positions = place - torch.repeat_interleave(bounds[:-1].long() - before, lengths)
        shared = None
        if prefix:
            own = place.split(lengths.tolist())
            keys = torch.cat([own[0], *(each for row in own[1:] for each in (own[0], row))])
            seen = lengths + before
            shared = Shared(keys, _bounds(seen), int(seen.max()))
        return cls(positions[None], bounds, int(lengths.max()), shared)

    def to(self, device: torch.device) -> Self:
        positions, bounds = (tensor.to(device, non_blocking=True) for tensor in (self.positions, self.bounds))
        shared = self.shared
        if shared is not None:
            keys, ends = (tensor.to(device, non_blocking=True) for tensor in (shared.keys, shared.bounds))
            shared = replace(shared, keys=keys, bounds=ends)
        return replace(self, positions=positions, bounds=bounds, shared=shared)

    @property
    def keywords(self) -> dict[str, Any]:
        """What `_attention` is told of the rows."""
        shared = self.shared
        seen: dict[str, Any] = {"cu_seq_lens_k": self.bounds, "max_length_k": self.longest}
        if shared is not None:
            seen = {"cu_seq_lens_k": shared.bounds, "max_length_k": shared.longest, "shared_keys": shared.keys}
        return {"cu_seq_lens_q": self.bounds, "max_length_q": self.longest, **seen}

    def states(self, body: nn.Module, input_ids: Tensor) -> Tensor:
        """Last hidden states (P, H) of `input_ids` (1, P)."""
        out = body(
            input_ids=input_ids,
            position_ids=self.positions,
            # Four dimensions are a mask that is ready: transformers makes none of its own, and `_attention` needs none.
            attention_mask=input_ids.new_ones((1, 1, 1, 1), dtype=torch.bool),
            use_cache=False,
            **self.keywords,
        )
        return out.last_hidden_state[0]


def _bounds(lengths: Tensor) -> Tensor:
    """(rows,) lengths as where each row begins and the last ends, int32."""
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]).to(torch.int32)


@contextmanager
def packing(model: Any, within: AbstractContextManager[Any] | None = None) -> Iterator[bool]:
    """While entered, `model` (a transformers model) takes packed batches beside others; False where it cannot.

    `within` is the context of its forward passes (autocast), for the trial.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    config = model.config.get_text_config()
    before = config._attn_implementation
    if before != "sdpa" or _looks_elsewhere(config):
        yield False
        return
    outer = NAME not in AttentionInterface._global_mapping  # and not inside the packing of another model
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    config._attn_implementation = NAME
    try:
        with within or nullcontext():
            able = _agrees(model)
        if not able:
            config._attn_implementation = before
        yield able
    finally:
        config._attn_implementation = before
        if outer:  # a user's transformers knows of it no more
            for registry in (AttentionInterface, AttentionMaskInterface):
                del registry._global_mapping[NAME]


def _looks_elsewhere(config: Any) -> bool:
    """Whether attention is more than causal: too short for the trial to show, or random."""
    layers = getattr(config, "layer_types", None) or []
    windows = ("sliding_window", "attention_chunk_size", "attention_dropout", "attn_pdrop", "attn_logit_softcapping")
    return any(layer != "full_attention" for layer in layers) or any(getattr(config, name, None) for name in windows)


@torch.no_grad()
def _agrees(model: Any) -> bool:
    """Whether a packed row has the hidden states that it has by itself, to the last bit whatever stands before it."""
    body, training = model.base_model, model.training
    row, before, other = (torch.tensor([ids], device=model.device) for ids in ([0, 1, 2, 3, 4], [0, 1, 2], [4, 3, 1]))
    packed = Packed.of(torch.tensor([3, 5])).to(row.device)
    model.eval()
    try:
        _try_gradients(model)
        alone = body(input_ids=row, use_cache=False).last_hidden_state[0].float()
        second, again = (packed.states(body, torch.cat([first, row], dim=1))[3:].float() for first in (before, other))
    except Exception:  # whatever a model may say to keywords that it does not know
        return False
    finally:
        model.train(training)
    near = torch.allclose(second, alone, rtol=2e-2, atol=2e-2 * float(alone.abs().max()))
    return near and torch.equal(second, again)


@torch.enable_grad()
def _try_gradients(model: Any) -> None:
    """Raises what a backward pass through attention raises on this device, for heads of this size and type."""
    q, k, v = _heads(model, 8)
    packed = Packed.of(torch.tensor([3, 5])).to(q.device)
    _attention(model, q, k, v, None, **packed.keywords)[0].sum().backward()


def _heads(model: Any, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value (1, heads, tokens, D) of no meaning, in the size and type that the model has."""
    config, embedding = model.config.get_text_config(), model.get_input_embeddings().weight
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    dice = torch.Generator().manual_seed(0)  # none of the caller's numbers is drawn
    made = (torch.randn(1, heads, tokens, size, generator=dice) for _ in range(3))
    q, k, v = (each.to(model.device, embedding.dtype).requires_grad_() for each in made)
    return q, k, v


@torch.no_grad()
def shares_prefix(model: Any) -> bool:
    """Whether packed rows behind tokens that they share have the states and gradients that each has with its own.

    To be asked inside `packing`, and inside the context of the model's forward passes.
    """
    rows = torch.tensor([0, 1, 2, 3, 4, 0, 1, 4, 3, 2, 2], device=model.device)  # of 5 and 6 tokens, the first 2 shared
    places = torch.tensor([0, 1, 2, 3, 4, 0, 1, 5, 6, 7, 8], device=model.device)  # of these where they stand once
    once = rows.new_empty(9).index_copy(0, places, rows)
    apart, shared = (Packed.of(torch.tensor([5, 6]), prefix).to(rows.device) for prefix in (0, 2))
    body, training = model.base_model, model.training
    model.eval()
    try:
        pairs = [(shared.states(body, once[None])[places], apart.states(body, rows[None]))]
        pairs += _gradients(model, shared, apart, places)
    except Exception:  # as in `_agrees`
        return False
    finally:
        model.train(training)
    return all(torch.allclose(a.float(), b.float(), rtol=2e-2, atol=2e-2 * float(b.abs().max())) for a, b in pairs)


@torch.enable_grad()
def _gradients(model: Any, shared: Packed, apart: Packed, places: Tensor) -> list[tuple[Tensor, Tensor]]:
    """What attention gives of the same tokens, and the gradients of their query, key and value, shared and apart."""
    heads = q, k, v = _heads(model, 9)
    behind = _attention(model, q, k, v, None, **shared.keywords)[0][0, places].float()
    q, k, v = (each[:, :, places] for each in heads)
    own = _attention(model, q, k, v, None, **apart.keywords)[0][0].float()
    weight = torch.linspace(-1.0, 1.0, own.numel(), device=own.device).view_as(own)
    theirs, mine = (torch.autograd.grad((out * weight).sum(), heads) for out in (own, behind))
    return [(behind, own), *zip(mine, theirs, strict=True)]


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    cu_seq_lens_q: Tensor | None = None,
    cu_seq_lens_k: Tensor | None = None,
    max_length_q: int | None = None,
    max_length_k: int | None = None,
    shared_keys: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """As transformers' `sdpa` without `cu_seq_lens_q`; with it, query (1, heads, P, D) holds packed rows."""
    if cu_seq_lens_q is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others
        )
    causal = getattr(module, "is_causal", True)  # an encoder's attention is not
    if query.is_cuda:
        assert cu_seq_lens_k is not None and max_length_q is not None and max_length_k is not None
        dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else query.dtype
        q, k, v = (tensor[0].transpose(0, 1).to(dtype) for tensor in (query, key, value))
        if shared_keys is not None:  # a row's last token attends to all that the row attends to
            k, v = k.index_select(0, shared_keys), v.index_select(0, shared_keys)
        out = _varlen(q, k, v, (cu_seq_lens_q, cu_seq_lens_k), (max_length_q, max_length_k), scaling, causal)
        return out[None], None
    lengths = cu_seq_lens_q.diff().tolist()
    rows = list(zip(*(tensor.split(lengths, dim=2) for tensor in (query, key, value)), strict=True))
    of_row = partial(scaled_dot_product_attention, scale=scaling, enable_gqa=True)
    if shared_keys is None:
        parts = [of_row(q, k, v, is_causal=causal) for q, k, v in rows]
    else:
        (q, first_k, first_v), *rows = rows
        parts = [of_row(q, first_k, first_v, is_causal=True)]
        n, longest = lengths[0], max(lengths)
        mask = query.new_ones((longest, n + longest), dtype=torch.bool).tril(n)
        for q, own_k, own_v in rows:
            k, v = torch.cat([first_k, own_k], dim=2), torch.cat([first_v, own_v], dim=2)
            parts.append(of_row(q, k, v, attn_mask=mask[: q.shape[2], : k.shape[2]]))
    return torch.cat(parts, dim=2).transpose(1, 2), None


def _varlen(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bounds: tuple[Tensor, Tensor],
    longest: tuple[int, int],
    scaling: float | None,
    causal: bool,
) -> Tensor:
    """Attention of packed rows on a GPU; q, k, v (P, heads, D), of k and v perhaps fewer heads."""
    from torch.nn.attention.varlen import varlen_attn

    options: dict[str, Any] = {"scale": scaling, "window_size": (-1, 0 if causal else -1)}
    if "enable_gqa" in signature(varlen_attn).parameters:  # PyTorch 2.12 and later
        options["enable_gqa"] = True
    else:
        k, v = (tensor.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for tensor in (k, v))
    out = varlen_attn(q, k, v, *bounds, *longest, **options)
    assert isinstance(out, Tensor)
    return out
