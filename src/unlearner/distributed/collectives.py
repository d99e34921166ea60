"""What several processes agree on. A process that is alone has its own answer, at no cost."""

from typing import Any, TypeVar

from unlearner.distributed.ranks import count

Value = TypeVar("Value")


def make_group() -> None:
    """A process group even for a process that is alone, where a library computes with nothing less."""
    import torch
    from torch import distributed

    if not distributed.is_initialized():
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
            store=distributed.HashStore(), rank=0, world_size=1,
        )  # fmt: skip


def barrier() -> None:
    any_of(False)


def any_of(flag: bool) -> bool:
    """Whether `flag` is true in any process."""
    if count() == 1:
        return flag
    import torch
    from torch import distributed

    flags = torch.tensor(int(flag))
    distributed.all_reduce(flags, distributed.ReduceOp.MAX)
    return bool(flags)


def agreed(value: Value) -> Value:
    """The main process' value, in every process."""
    if count() == 1:
        return value
    from torch import distributed

    values = [value]
    distributed.broadcast_object_list(values, src=0)
    return values[0]


def gathered(value: Value) -> list[Value]:
    """Every process' value, by rank."""
    if count() == 1:
        return [value]
    from torch import distributed

    values: list[Any] = [None] * count()
    distributed.all_gather_object(values, value)
    return values


def shares(costs: list[float]) -> list[int]:
    """Which process takes each of several pieces of work: the most costly first, to the one with least so far."""
    loads = [0.0] * count()
    owners = [0] * len(costs)
    for i in sorted(range(len(costs)), key=lambda i: -costs[i]):
        owners[i] = loads.index(min(loads))
        loads[owners[i]] += costs[i]
    return owners
