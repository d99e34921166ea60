"""Triton kernels for the vocabulary: they read each logit once or twice for its scores, and once for their gradient.

The products around them stay those of the vendor's library. Saved is memory traffic, PyTorch's operators moving tens of
bytes a logit, one after the other; and a chunk of logits keeps the model's own type. The kernels know `logp` and
`mean_logp`, of which GD, NPO, DPO, IDK, AP and ME are made; their gradients are in `token_scores._TokenScores`.

Used on CUDA where `gain` finds, on the device and at the vocabulary in question, the same numbers in less time. Needs
Triton, which comes with PyTorch's CUDA builds.
"""

# mypy: allow-untyped-defs, allow-untyped-decorators
import logging
import time
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from unlearner.models.anatomy import Head
from unlearner.scoring.constants import EPSILON, FUSED

logger = logging.getLogger(__name__)

BLOCK = 4096
"""Logits of a row that a program has in its registers at a time."""
WARPS = 8
TRIAL_BYTES, TRIAL_ROUNDS, WIDTH = 2**26, 3, 64


@triton.jit
def _load(row, columns, vocabulary, scale, softcap, CAPPED: tl.constexpr):
    """Logits, in float32, of what the output embedding's products gave; beyond the vocabulary so low that e^z is 0."""
    inside = columns < vocabulary
    z = tl.load(row + columns, mask=inside, other=0.0).to(tl.float32) * scale
    if CAPPED:
        z = softcap * (2.0 * tl.sigmoid(2.0 * z / softcap) - 1.0)  # tanh
    return tl.where(inside, z, -1e18)


@triton.jit
def _values(
    products, stride, vocabulary, targets, lse, logp, mean_logp, ratios, scale, softcap, epsilon,
    CAPPED: tl.constexpr, LOGP: tl.constexpr, MEAN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program a row: its log-sum-exp on the way, then what needs it. `ratios` is Σ_k p_k / (p_k + ε)."""
    at = tl.program_id(0).to(tl.int64)
    row = products + at * stride
    block = tl.arange(0, BLOCK)
    top = tl.full((BLOCK,), -1e18, tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, vocabulary, BLOCK):
        z = _load(row, start + block, vocabulary, scale, softcap, CAPPED)
        higher = tl.maximum(top, z)
        total = total * tl.exp(top - higher) + tl.exp(z - higher)
        top = higher
    highest = tl.max(top)
    log_total = highest + tl.log(tl.sum(total * tl.exp(top - highest)))
    tl.store(lse + at, log_total)
    if LOGP:
        target = tl.load(targets + at)
        tl.store(logp + at, _load(row, target, vocabulary, scale, softcap, CAPPED) - log_total)
    if MEAN:
        logs = tl.zeros((BLOCK,), tl.float32)
        parts = tl.zeros((BLOCK,), tl.float32)
        for start in range(0, vocabulary, BLOCK):
            columns = start + block
            p = tl.exp(_load(row, columns, vocabulary, scale, softcap, CAPPED) - log_total)
            logs += tl.where(columns < vocabulary, tl.log(p + epsilon), 0.0)
            parts += p / (p + epsilon)
        tl.store(mean_logp + at, tl.sum(logs) / vocabulary)
        tl.store(ratios + at, tl.sum(parts))


@triton.jit
def _slopes(
    products, stride, out, columns_here, vocabulary, targets, lse, ratios, of_logp, of_mean_logp, scale, softcap,
    epsilon, CAPPED: tl.constexpr, LOGP: tl.constexpr, MEAN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program a block of a row: the gradient in `products` of of_logp · logp + of_mean_logp · mean_logp."""
    at = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    z = _load(products + at * stride, columns, columns_here, scale, softcap, CAPPED)
    p = tl.exp(z - tl.load(lse + at))
    slope = tl.zeros((BLOCK,), tl.float32)
    if LOGP:
        one = tl.where(columns == tl.load(targets + at), 1.0, 0.0)
        slope += tl.load(of_logp + at) * (one - p)
    if MEAN:
        slope += tl.load(of_mean_logp + at) * (p / (p + epsilon) - p * tl.load(ratios + at)) / vocabulary
    if CAPPED:
        slope *= 1.0 - (z / softcap) * (z / softcap)
    tl.store(out + at * columns_here + columns, slope * scale, mask=columns < columns_here)


def values(
    products: Tensor,
    head: Head,
    targets: Tensor,
    lse: Tensor,
    sums: Mapping[str, Tensor],
    out: Mapping[str, Tensor],
) -> None:
    """Fill `lse` (N,), the scores that `out` holds by kind, each (N,), and the `sums` that their gradients contain.

    `products` (N, V) are the head's before scale and cap; `targets` (N,) int64; all others float32.
    """
    rows, vocabulary = products.shape
    assert set(out) <= set(FUSED) and products.stride(1) == 1, (out.keys(), products.stride())
    if not rows:
        return
    with torch.cuda.device_of(products):
        _values[(rows,)](
            products, products.stride(0), vocabulary, targets, lse, out.get("logp", lse), out.get("mean_logp", lse),
            sums.get("mean_logp", lse), *_shape(head), LOGP="logp" in out, MEAN="mean_logp" in out,
            BLOCK=BLOCK, num_warps=WARPS,
        )  # fmt: skip


def slopes(
    products: Tensor,
    head: Head,
    targets: Tensor,
    lse: Tensor,
    sums: Mapping[str, Tensor],
    grads: Mapping[str, Tensor | None],
    vocabulary: int,
) -> Tensor:
    """(N, columns), in the type of `products` (N, columns): see `token_scores._logit_gradients`."""
    rows, columns = products.shape
    assert set(grads) <= set(FUSED) and products.stride(1) == 1, (grads.keys(), products.stride())
    given = {kind: torch.ones_like(lse) if grad is None else grad.contiguous() for kind, grad in grads.items()}
    out = products.new_empty(rows, columns)
    if not rows:
        return out
    with torch.cuda.device_of(products):
        _slopes[(rows, triton.cdiv(columns, BLOCK))](
            products, products.stride(0), out, columns, vocabulary, targets, lse, sums.get("mean_logp", lse),
            given.get("logp", lse), given.get("mean_logp", lse), *_shape(head), LOGP="logp" in given,
            MEAN="mean_logp" in given, BLOCK=BLOCK, num_warps=WARPS,
        )  # fmt: skip
    return out


def _shape(head: Head) -> tuple[float, float, float, bool]:
    """Scale, cap, ε, and whether there is a cap."""
    return float(head.scale), float(head.softcap or 1.0), EPSILON, head.softcap is not None


# --------------------------------------------------------------------------------------------------- whether they gain


@cache
def gain(
    device: torch.device, dtype: torch.dtype, vocabulary: int, kinds: tuple[str, ...], token_scores: Callable[..., Any]
) -> bool:
    """Whether, on `device`, the kernels give the scores and gradients of the chunks without them, and sooner.

    Tried once a process, with as many random positions as 64 MiB of float32 logits hold; of the products, which are the
    same both ways, there is little. What goes wrong is logged.
    """
    if not set(kinds) <= set(FUSED) or dtype not in (torch.bfloat16, torch.float16, torch.float32):
        return False
    try:
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
            return _trial(device, dtype, vocabulary, kinds, token_scores)
    except Exception as error:  # whatever a compiler, a driver or a device may say
        logger.warning("The kernels for the vocabulary are not used, because they failed on %s: %s", device, error)
        return False


def _trial(
    device: torch.device, dtype: torch.dtype, vocabulary: int, kinds: tuple[str, ...], token_scores: Callable[..., Any]
) -> bool:
    rows = max(1, TRIAL_BYTES // (4 * vocabulary))
    make = torch.Generator(device).manual_seed(0)  # not the one that training draws from
    hidden, weight = (
        torch.randn(n, WIDTH, generator=make, device=device).to(dtype).requires_grad_() for n in (rows, vocabulary)
    )
    targets = torch.randint(vocabulary, (rows,), generator=make, device=device)
    scale = WIDTH**-0.5

    def run(fused: bool) -> tuple[float, list[Tensor]]:
        def once() -> list[Tensor]:
            scores = token_scores(hidden, Head(weight, scale=scale), targets, kinds, fused=fused)
            total = sum((score.sum() for score in scores.values()), torch.zeros((), device=device))
            return [*scores.values(), *torch.autograd.grad(total, (hidden, weight))]

        found = once()  # which compiles
        seconds = []
        for _ in range(TRIAL_ROUNDS):
            _wait(device)
            start = time.perf_counter()
            once()
            _wait(device)
            seconds.append(time.perf_counter() - start)
        return min(seconds), [tensor.detach().float() for tensor in found]

    (ours, found), (plain, expected) = run(True), run(False)
    # Both round the same products to `dtype`, and then their gradients.
    tolerance = 4 * torch.finfo(dtype).eps if dtype != torch.float32 else 1e-4
    for got, wanted in zip(found, expected, strict=True):
        if not float((got - wanted).norm()) <= tolerance * float(wanted.norm()):
            logger.warning("The kernels for the vocabulary are not used: on %s their numbers differ.", device)
            return False
    return ours < plain


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
