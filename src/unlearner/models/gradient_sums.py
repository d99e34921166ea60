"""Gradients of the matrices over the vocabulary, added up in `.grad` itself, in memory that is used again.

Autograd makes a matrix of that size for the scores of each view and one, of zeros, for the tokens that are read, and
adds them up. For a model of 135 million parameters this took a sixth of a step on a CPU, mostly the system's time for
new memory (docs/lab/performance.md). On a CPU, in one process, all of them add to `.grad` instead. Megatron-LM calls it
fused accumulation of gradients.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class GradientSum:
    """The gradient of one matrix over the vocabulary, (V, H)."""

    def __init__(self, weight: nn.Parameter) -> None:
        self.weight = weight
        self.memory: Tensor | None = None
        """What held the gradient of the last step."""

    def begin(self) -> tuple[Tensor, bool]:
        """`.grad`, and whether it holds something that is to be kept."""
        if self.weight.grad is not None:
            return self.weight.grad, True
        self.weight.grad = torch.empty_like(self.weight) if self.memory is None else self.memory
        self.memory = None  # `.grad` has it until `keep_memory`: what somebody took away is not written to again
        return self.weight.grad, False

    def add_rows(self, ids: Tensor, values: Tensor) -> None:
        """Add `values` (N, H) to the rows `ids` (N,)."""
        total, keep = self.begin()
        (total if keep else total.zero_()).index_add_(0, ids, values)


class GradientSums:
    """Those of a model: of its input and output embeddings, as far as they are trained; one, where they are tied."""

    def __init__(self, model: Any) -> None:
        self.embedding = model.get_input_embeddings()
        layers: list[tuple[Any, Any]] = [(self.embedding, nn.Embedding), (model.get_output_embeddings(), nn.Linear)]
        plain = [layer.weight for layer, kind in layers if type(layer) is kind]  # none that a wrapper holds
        self.sums = {weight: GradientSum(weight) for weight in plain if weight.requires_grad}

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """While entered, forward passes are made for backward passes that add to `.grad`."""
        global _now
        looks_up = _plain(self.embedding) and self.embedding.weight in self.sums
        _now = self.sums
        if looks_up:
            self.embedding.forward = partial(_looked_up, self.embedding)
        try:
            yield
        finally:
            _now = {}
            if looks_up:
                del self.embedding.forward

    def keep_memory(self) -> None:
        """Use the memory of `.grad` again in the next step. To be called where nobody needs the gradients any more."""
        for each in self.sums.values():
            each.memory = each.weight.grad


_now: Mapping[nn.Parameter, GradientSum] = {}


def sum_of(weight: Any) -> GradientSum | None:
    """Where the gradient of this matrix is added up; None where autograd does it."""
    return _now.get(weight)


def _plain(layer: Any) -> bool:
    """Whether an embedding does no more than look up."""
    own = type(layer) is nn.Embedding and "forward" not in vars(layer)
    return own and layer.max_norm is None and not layer.scale_grad_by_freq and not layer.sparse


def _looked_up(layer: Any, ids: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        return nn.functional.embedding(ids, layer.weight)
    return _LookUp.apply(ids, layer.weight, layer.padding_idx)


class _LookUp(torch.autograd.Function):
    """ids (…) → rows of the matrix (…, H); a row for padding has no gradient."""

    @staticmethod
    def forward(ctx: Any, ids: Tensor, weight: Tensor, padding: int | None) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.sum, ctx.padding = sum_of(weight), padding
        return nn.functional.embedding(ids, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, None]:
        (ids,) = ctx.saved_tensors
        if ctx.padding is not None:
            grad = grad.masked_fill((ids == ctx.padding)[..., None], 0)
        ctx.sum.add_rows(ids.flatten(), grad.flatten(0, -2).to(ctx.sum.weight.dtype))
        return None, None, None
