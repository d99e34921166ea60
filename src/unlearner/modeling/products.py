"""Float32 matrix products on AMD processors, twice as fast.

PyTorch gives matrix products on a CPU to MKL, which on AMD processors runs them at about half the rate of oneDNN; and
convolutions to oneDNN. A linear layer is a convolution over one position: the same sums over the same memory.
"""

import platform
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

LEAST_POSITIONS = 128
"""With fewer MKL is as fast, as in generation, token by token."""
MOST_WEIGHTS = 2**26
"""oneDNN copies the weights for each product: a larger layer, an output embedding, stays with MKL."""


def fast_products(device: torch.device) -> AbstractContextManager[Any]:
    """While entered, linear layers on an AMD CPU run as convolutions; elsewhere it changes nothing.

    Results differ from the plain ones by float noise. Not for layers that are computed again in a backward pass:
    there, PyTorch knows of no mode, and what was saved would not fit.
    """
    return _LinearAsConvolution() if device.type == "cpu" and _mkl_is_slow() else nullcontext()


@cache
def _mkl_is_slow() -> bool:
    info = Path("/proc/cpuinfo")
    processor = info.read_text(encoding="utf-8") if info.is_file() else platform.processor()
    return "AuthenticAMD" in processor and torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()


class _LinearAsConvolution(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is nn.functional.linear and not kwargs and _gains(*args):
            return _convolution(*args)
        return func(*args, **(kwargs or {}))


def _gains(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    plain = type(x) is Tensor and type(weight) in (Tensor, nn.Parameter)  # no shards, no tensors without contents
    float32 = x.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    fits = x.numel() >= LEAST_POSITIONS * x.shape[-1] and weight.numel() <= MOST_WEIGHTS
    return plain and float32 and fits and x.device.type == "cpu"


def _convolution(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (…, K), weight (N, K), bias (N,) → (…, N)."""
    positions = x.reshape(1, 1, -1, x.shape[-1]).permute(0, 3, 1, 2)
    # A dilation means nothing to a single position, but on one thread PyTorch takes oneDNN for it and else not.
    out = nn.functional.conv2d(positions, weight[:, :, None, None], bias, dilation=2)
    return out.permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)
