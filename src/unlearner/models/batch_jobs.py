"""Work in batches, and how a small model computes two of them at a time on a CPU.

The operations of a model of a few million parameters are too small to gain all of the processor's threads, and between
two of them the processor waits for Python. Two batches, each on half of the threads, leave less of it idle.
"""

import copy
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from unlearner import distributed

SMALL = 2**25
"""Most parameters. Measured with 4 and 23 million; the operations of larger models fill the threads, one at a time."""
KNOWN = {"torch", "transformers", "peft", "sentence_transformers"}
"""Packages whose layers, `CHANGING` apart, are left by a forward pass as they were."""
CHANGING = ("dynamic", "longrope")
"""Rotary embeddings that follow the longest row of the current batch."""

Model = TypeVar("Model", bound=nn.Module)
Result = TypeVar("Result")
Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]


@dataclass(frozen=True)
class BatchJob(Generic[Result]):
    """Work on many rows, in batches that do not depend on one another."""

    name: str
    batches: list[Any]
    """What each of them computes, as JSON: by it a result that was kept is known again."""
    compute: Callable[[int], Any]
    """The result of batch i, as JSON."""
    rows: list[int]
    """Rows of each batch."""
    costs: list[float]
    """About how long each batch takes, in units of this job."""
    join: Callable[[list[Any]], Result]
    """The job's result from those of all batches."""

    def run(self) -> Result:
        return self.join([self.compute(i) for i in range(len(self.batches))])


@contextmanager
def two_at_a_time(model: nn.Module, jobs: int) -> Iterator[Map]:
    """A `map` for `jobs` batches that `model` computes: on two threads, where that is safe and pays.

    Results come in the order of the batches and do not depend on which of them run together.
    """
    threads = torch.get_num_threads()
    if jobs < 2 or threads < 2 or not _fits(model):
        yield map
        return
    pool = ThreadPoolExecutor(2, initializer=torch.set_num_threads, initargs=((threads + 1) // 2,))
    try:
        yield lambda compute, batches: pool.map(_as_here(compute), batches)
    finally:
        pool.shutdown(cancel_futures=True)  # after an error or Ctrl-C the current batches are the last
        torch.set_num_threads(threads)


def twin(model: Model) -> Model:
    """A second `model` on the same weights: all else is its own."""
    return copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})


def _as_here(compute: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`compute` under this thread's autocast, which others do not share."""
    enabled, dtype = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

    def run(batch: Any) -> Any:
        with torch.autocast("cpu", dtype, enabled=enabled):
            return compute(batch)

    return run


def _fits(model: nn.Module) -> bool:
    """Whether `model` is small, on the CPU, in one piece, and the same after a forward pass as before."""
    parameters = list(model.parameters())
    return (
        distributed.count() == 1
        and sum(parameter.numel() for parameter in parameters) <= SMALL
        and all(parameter.device.type == "cpu" and parameter.is_floating_point() for parameter in parameters)
        and all(map(_keeps_nothing, model.modules()))
    )


def _keeps_nothing(module: Any) -> bool:
    return (
        type(module).__module__.split(".")[0] in KNOWN
        and not (module._forward_hooks or module._forward_pre_hooks)  # of FSDP, DeepSpeed, accelerate
        and not any(name in str(getattr(module, "rope_type", "")) for name in CHANGING)
    )
