"""Float32 matrix products on AMD processors with AVX-512, twice as fast.

PyTorch gives the float32 products of linear layers to MKL, which on AMD processors uses AVX2 only. oneDNN, which
PyTorch carries, too, uses AVX-512 where it is there; with AVX2 alone MKL is the faster one. PyTorch calls oneDNN by an
operator that `torch.compile` uses: here it is given gradients.
"""

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from unlearner.models import execution

LEAST_PRODUCTS = 2**22
"""Multiplications from which oneDNN is faster: 114 positions of 192 numbers to 192, one position of 2,048 to 2,048."""
PIECE_BYTES = 8 * 2**20
"""Of a product that is added to another matrix: oneDNN writes to memory of its own, which is small and used again."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (…, K), weight (N, K), bias (N,) → (…, N): torch.nn.functional.linear, up to float noise."""
    if not _gains(x, weight):
        return nn.functional.linear(x, weight, bias)
    if torch.is_grad_enabled():
        return _Linear.apply(x, weight, bias)
    return _product(x, weight, bias)


@contextmanager
def fast_products(*models: nn.Module | None) -> Iterator[None]:
    """While entered, the linear layers of `models` compute by `linear`, also where a backward pass repeats them."""
    modules = [module for model in models if model is not None for module in model.modules()] if _used() else []
    layers = {m for m in modules if type(m).forward is nn.Linear.forward and "forward" not in vars(m)}
    for layer in layers:
        layer.forward = partial(_forward, layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _forward(layer: Any, x: Tensor) -> Tensor:
    return linear(x, layer.weight, layer.bias)


def _used() -> bool:
    plan = execution.now()
    return mkl_is_slow() if plan is None else plan.linear == "onednn"


def has_onednn() -> bool:
    """Whether this PyTorch carries oneDNN and its operator."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@cache
def mkl_is_slow() -> bool:
    """Whether oneDNN, which is there, is the faster one: on AMD processors with AVX-512, where PyTorch takes MKL."""
    info = Path("/proc/cpuinfo")
    processor = info.read_text(encoding="utf-8") if info.is_file() else platform.processor()
    wide = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return wide and "AuthenticAMD" in processor and torch.backends.mkl.is_available() and has_onednn()


def _gains(x: Tensor, weight: Tensor) -> bool:
    plain = type(x) is Tensor and type(weight) in (Tensor, nn.Parameter)  # no shards, no tensors without contents
    float32 = x.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    large = x.numel() * weight.shape[0] >= LEAST_PRODUCTS
    return plain and float32 and large and x.device.type == "cpu" and _used()


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return out


def add_product(total: Tensor, a: Tensor, b: Tensor, *, keep: bool) -> None:
    """total (M, N) = a.T @ b, from a (L, M) and b (L, N); with `keep`, that is added to what `total` holds."""
    if not _gains(a.T, b.T):
        torch.addmm(total, a.T, b, beta=int(keep), out=total)
        return
    rows = max(1, PIECE_BYTES // (total.shape[1] * total.itemsize))
    for part in (slice(start, start + rows) for start in range(0, total.shape[0], rows)):
        product = _product(a[:, part].T, b.T)
        if keep:
            total[part] += product
        else:
            total[part] = product


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        needs_x, needs_weight, _ = ctx.needs_input_grad
        ctx.save_for_backward(x if needs_weight else None, weight if needs_x else None)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        rows = grad.flatten(0, -2)
        return (
            None if weight is None else _product(grad, weight.T),
            None if x is None else _product(rows.T, x.flatten(0, -2).T),
            rows.sum(0) if ctx.needs_input_grad[2] else None,
        )
