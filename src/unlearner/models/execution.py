"""How a run computes, decided once: what follows asks here instead of deciding again by itself.

None of it changes what is computed, beyond float noise. Who decides, and by what trials: `training/execution.py`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Execution:
    """One plan: what run.json keeps of it under `execution`, and what `--execution` overrides."""

    rows: str = "padded"
    """The rows of a forward pass: one after the other without padding (packed), in blocks of like length (by-length),
    or all as wide as the longest (padded)."""
    scores: str = "torch"
    """Who scores tokens over the vocabulary: Triton's kernels (triton), or PyTorch's operators."""
    linear: str = "torch"
    """Who multiplies in linear layers on a CPU: oneDNN (onednn), or what PyTorch takes by itself."""
    compiled: bool = False
    parallel: str = "ddp"
    processes: int = 1
    threads: int = 1
    """Of each process, on the CPU."""
    prefix: str = "repeated"
    """The tokens with which all rows begin, a chat template's system text above all: once in a packed forward pass for
    all of its rows (shared), or in each of them. Where answers are scored and written without training it is as with
    packed rows, by means of the model's cache of keys and values."""
    prefix_tokens: int = 0
    """With how many all rows of a training begin, where they are shared."""


WORTH_SHARING = 0.05
"""Of all tokens those with which all rows begin: what is saved by computing them once."""
_now: Execution | None = None
"""Of the whole process and not of a thread: autograd computes backward passes on threads of its own."""


def now() -> Execution | None:
    """The plan in use; None outside of every run, where each part decides by the device alone."""
    return _now


def shares(count: int, rows: int, tokens: int) -> bool:
    """Whether `rows` rows, of `tokens` tokens together, are to share their first `count` in scoring and generation."""
    plan = now()
    return count * (rows - 1) >= WORTH_SHARING * tokens and count > 0 and (plan is None or plan.prefix == "shared")


@contextmanager
def using(plan: Execution) -> Iterator[Execution]:
    """While entered, all that computes goes by `plan`; afterwards by what went before."""
    global _now
    before, _now = _now, plan
    try:
        yield plan
    finally:
        _now = before
