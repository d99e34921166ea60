"""Rows one after the other in a single row, without padding: attention keeps them apart.

On CUDA by PyTorch's own kernel for rows of any length (`varlen_attn`), elsewhere row by row. A model can be packed
if it hands keywords on to its attention and reads positions from `position_ids`; a trial tells (`packing`).
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

NAME = "packed"
"""Of the attention implementation, as transformers knows it."""


@dataclass(frozen=True)
class Packed:
    """Where R rows of P tokens in all stand in one row."""

    positions: Tensor
    """(1, P), each token's position in its row."""
    bounds: Tensor
    """(R + 1,) int32, where each row begins, and P."""
    longest: int

    @classmethod
    def of(cls, lengths: Tensor) -> Self:
        """For rows of `lengths` (R,), on the CPU."""
        bounds = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        starts = torch.repeat_interleave(bounds[:-1], lengths)
        return cls((torch.arange(len(starts)) - starts)[None], bounds.to(torch.int32), int(lengths.max()))

    def to(self, device: torch.device) -> Self:
        positions, bounds = (tensor.to(device, non_blocking=True) for tensor in (self.positions, self.bounds))
        return replace(self, positions=positions, bounds=bounds)

    def states(self, body: nn.Module, input_ids: Tensor) -> Tensor:
        """Last hidden states (P, H) of `input_ids` (1, P)."""
        out = body(
            input_ids=input_ids,
            position_ids=self.positions,
            # Four dimensions are a mask that is ready: transformers makes none of its own, and `_attention` needs none.
            attention_mask=input_ids.new_ones((1, 1, 1, 1), dtype=torch.bool),
            use_cache=False,
            cu_seq_lens_q=self.bounds,
            cu_seq_lens_k=self.bounds,
            max_length_q=self.longest,
            max_length_k=self.longest,
        )
        return out.last_hidden_state[0]


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
    config, embedding = model.config.get_text_config(), model.get_input_embeddings().weight
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    q, k, v = (torch.ones(1, heads, 8, size, device=model.device, dtype=embedding.dtype) for _ in range(3))
    bounds = torch.tensor([0, 3, 8], dtype=torch.int32, device=model.device)
    _attention(model, q.requires_grad_(), k, v, None, cu_seq_lens_q=bounds, max_length_q=5)[0].sum().backward()


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """As transformers' `sdpa` without `cu_seq_lens_q`; with it, query (1, heads, P, D) holds packed rows."""
    if cu_seq_lens_q is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others
        )
    assert max_length_q is not None
    if query.is_cuda:
        dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else query.dtype
        q, k, v = (tensor[0].transpose(0, 1).to(dtype) for tensor in (query, key, value))
        out = _varlen(q, k, v, cu_seq_lens_q, max_length_q, scaling)
        return out[None], None
    lengths = cu_seq_lens_q.diff().tolist()
    rows = zip(*(tensor.split(lengths, dim=2) for tensor in (query, key, value)), strict=True)
    parts = [scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=True) for q, k, v in rows]
    return torch.cat(parts, dim=2).transpose(1, 2), None


def _varlen(q: Tensor, k: Tensor, v: Tensor, bounds: Tensor, longest: int, scaling: float | None) -> Tensor:
    """Causal attention of packed rows on a GPU; q, k, v (P, heads, D), of k and v perhaps fewer heads."""
    from torch.nn.attention.varlen import varlen_attn

    options: dict[str, Any] = {"scale": scaling, "window_size": (-1, 0)}
    if "enable_gqa" in signature(varlen_attn).parameters:  # PyTorch 2.12 and later
        options["enable_gqa"] = True
    else:
        k, v = (tensor.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for tensor in (k, v))
    out = varlen_attn(q, k, v, bounds, bounds, longest, longest, **options)
    assert isinstance(out, Tensor)
    return out
