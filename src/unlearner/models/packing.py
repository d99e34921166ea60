"""Rows one after the other in a single row, without padding: attention keeps them apart.

What all rows begin with, such as the system text of a chat template, may stand there once, before them: each row then
attends to it as if it stood in the row (not on CUDA).

On CUDA by PyTorch's own kernel for rows of any length (`varlen_attn`), elsewhere row by row. A model can be packed
if it hands keywords on to its attention and reads positions from `position_ids`; a trial tells (`packing`).
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "packed"
"""Of the attention implementation, as transformers knows it."""


@dataclass(frozen=True)
class Packed:
    """Where R rows of P tokens in all stand in one row."""

    positions: Tensor
    """(1, P), each token's position in its row."""
    bounds: Tensor
    """(R + 1,) int32, where each row begins, and P; with a shared beginning it is the first row of R + 1."""
    longest: int
    shared: int = 0
    """Tokens of the shared beginning."""

    @classmethod
    def of(cls, lengths: Tensor, shared: int = 0) -> Self:
        """For rows of `lengths` (R,), on the CPU, of which the first `shared` tokens stand there once."""
        parts = torch.cat([lengths.new_full((1,), shared), lengths - shared]) if shared else lengths
        bounds = torch.cat([parts.new_zeros(1), parts.cumsum(0)])
        starts = torch.repeat_interleave(bounds[:-1], parts)
        positions = torch.arange(len(starts)) - starts
        positions[shared:] += shared
        return cls(positions[None], bounds.to(torch.int32), int(lengths.max()), shared)

    def to(self, device: torch.device) -> Self:
        positions, bounds = (tensor.to(device, non_blocking=True) for tensor in (self.positions, self.bounds))
        return replace(self, positions=positions, bounds=bounds)

    def states(self, body: nn.Module, input_ids: Tensor) -> Tensor:
        """Last hidden states (P, H) of `input_ids` (1, P)."""
        # A row's keys are its own and those of the shared beginning, which is the first row itself.
        keys = self.bounds + self.shared * torch.arange(-1, len(self.bounds) - 1, device=self.bounds.device).clamp(0)
        out = body(
            input_ids=input_ids,
            position_ids=self.positions,
            # Four dimensions are a mask that is ready: transformers makes none of its own, and `_attention` needs none.
            attention_mask=input_ids.new_ones((1, 1, 1, 1), dtype=torch.bool),
            use_cache=False,
            cu_seq_lens_q=self.bounds,
            cu_seq_lens_k=keys.to(torch.int32),
            max_length_q=self.longest,
            max_length_k=self.longest,
        )
        return out.last_hidden_state[0]


@contextmanager
def packing(model: Any, within: AbstractContextManager[Any] | None = None) -> Iterator[bool]:
    """While entered, `model` (a transformers model) takes packed batches beside others; False where it cannot.

    `within` is the context of its forward passes (autocast), for the trial.
    """
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

    def near(found: Tensor, expected: Tensor) -> bool:
        return torch.allclose(found, expected, rtol=2e-2, atol=2e-2 * float(alone.abs().max()))

    body, training = model.base_model, model.training
    row, before, other = (torch.tensor([ids], device=model.device) for ids in ([0, 1, 2, 3, 4], [0, 1, 2], [4, 3, 1]))
    packed = Packed.of(torch.tensor([3, 5])).to(row.device)
    model.eval()
    try:
        _try_gradients(model)
        alone = body(input_ids=row, use_cache=False).last_hidden_state[0].float()
        second, again = (packed.states(body, torch.cat([first, row], dim=1))[3:].float() for first in (before, other))
        shared = None
        if not row.is_cuda:  # two tokens once, then the rest of a row of three and of `row`
            once = Packed.of(torch.tensor([3, 5]), shared=2)
            shared = once.states(body, torch.cat([before, row[:, 2:]], dim=1))[3:].float()
    except Exception:  # whatever a model may say to keywords that it does not know
        return False
    finally:
        model.train(training)
    return near(second, alone) and torch.equal(second, again) and (shared is None or near(shared, alone[2:]))


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
    cu_seq_lens_k: Tensor | None = None,
    max_length_q: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """As transformers' `sdpa` without `cu_seq_lens_q`; with it, query (1, heads, P, D) holds packed rows."""
    if cu_seq_lens_q is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others
        )
    assert max_length_q is not None
    if query.is_cuda:
        from torch.nn.attention.varlen import varlen_attn

        dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else query.dtype
        q, k, v = (tensor[0].transpose(0, 1).to(dtype) for tensor in (query, key, value))
        bounds, longest = cu_seq_lens_q, max_length_q
        out = varlen_attn(
            q, k, v, bounds, bounds, longest, longest, scale=scaling, window_size=(-1, 0), enable_gqa=True
        )
        assert isinstance(out, Tensor)
        return out[None], None
    lengths = cu_seq_lens_q.diff().tolist()
    more = 0 if cu_seq_lens_k is None else int(cu_seq_lens_k[-1]) - int(cu_seq_lens_q[-1])
    parts, begin = [], None
    for q, k, v in zip(*(tensor.split(lengths, dim=2) for tensor in (query, key, value)), strict=True):
        mask = None
        if begin is not None:
            k, v = torch.cat([begin[0], k], dim=2), torch.cat([begin[1], v], dim=2)
            mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril(k.shape[2] - q.shape[2])
        elif more:
            begin = k, v
        parts.append(
            scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=True
            )
        )
    return torch.cat(parts, dim=2).transpose(1, 2), None
