"""What every surgery shares: it takes a step's gradients apart, and says what the optimiser is given.

A surgery stands around the losses, `NPO+GD+GRU`, and goes with every pair of them. It never sees rows, forwards,
micro-batches or processes: it asks a `Step` for the gradient of a loss over all rows of the step, and works on `.grad`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from unlearner.methods.base import State
from unlearner.models.sharding import own_part, summed

Role = Literal["forget", "retain"]
CHUNK = {"cpu": 2**18}
"""Numbers that are multiplied at a time: on a CPU what its cache holds, elsewhere `MANY`, because each is a kernel."""
MANY = 2**25


class Step(Protocol):
    """One optimiser step, as a surgery sees it. Gradients lie in `.grad`, and add up until they are used or cleared."""

    has_retain: bool
    """Whether the method has a retain loss."""

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is trained; with fsdp each process's part of it."""

    def backward(self, role: Role, draw: int = 0) -> None:
        """Add to `.grad` the gradient of coefficient · loss over all rows of the step, the same in all processes.

        Dropout draws the same numbers in every pass of a step. `draw` says which of the retain rows that
        `Surgery.draws` provides for each item.
        """

    def update(self, optimizer: int = 0, share: float = 1.0) -> None:
        """Clip what is in `.grad`, let this optimiser take a step at `share` of the learning rate, clear `.grad`."""


class Surgery(ABC):
    """A change of the step. Subclasses are frozen dataclasses; their fields are the surgery's options.

    Symbols in the formulas: g_f and g_r the gradients of forget_coeff · forget loss and of retain_coeff · retain loss.
    """

    name: ClassVar[str]
    formula: ClassVar[str]
    source: ClassVar[str]
    defaults_from: ClassVar[str] = ""
    """Where the options' defaults come from."""
    presets: ClassVar[Mapping[str, Mapping[str, float | str]]] = {}
    """Published settings of the whole method by the preset's name, as those of losses."""
    published_with: ClassVar[tuple[str, ...]] = ()
    """The forget losses that `presets` were published with; they apply to no others."""
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {}
    """What `bench --tune` tries of the surgery's options, in addition to the grids of the losses."""
    both: ClassVar[bool] = True
    """Whether it needs a retain loss in addition to the forget loss."""
    optimizers: ClassVar[int] = 1
    """How many optimisers, each with states of its own, there are for the same parameters."""

    @property
    @abstractmethod
    def memory(self) -> str:
        """What it holds beside weights, one gradient and the optimiser's states, in words."""

    @property
    def copies(self) -> int:
        """How many numbers a trained weight that is."""
        return 1

    @property
    def passes(self) -> Mapping[Role, int]:
        """How many forward and backward passes over each loss's rows a step takes."""
        return {"forget": 1, "retain": 1}

    @property
    def draws(self) -> int:
        """How many retain rows each item is given in an epoch."""
        return 1

    @property
    def inert(self) -> Sequence[str]:
        """The options, of losses and of the whole method, that change nothing with it, so that `bench --tune` does not
        try values of them: `retain_coeff` where the retain gradient counts by its direction alone.

        A factor of all that one optimiser is given counts as nothing: AdamW's step does not depend on it, clipping and
        rounding aside.
        """
        return ()

    def setup(self, parameters: Mapping[str, Tensor]) -> State:
        """The surgery's own tensors before the first step, kept in checkpoints; `parameters` are the trained ones."""
        return {}

    @abstractmethod
    def __call__(self, step: Step, **state: Tensor) -> Mapping[str, Tensor]:
        """Take the step; `state` are the surgery's own tensors, to be changed in place. Returns numbers for the log."""


def gradients(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """This process' part of every gradient, to be read and changed in place; zeros where a loss had none."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    return [own_part(parameter.grad) for parameter in parameters if parameter.grad is not None]


def clear(parameters: Sequence[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.grad = None


def inner(parameters: Sequence[Any], a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """⟨a, b⟩ over all parameters, float64; `a` and `b` are this process' parts of what has the parameters' shapes.

    Chunks are summed by pairs in float32, as torch does it, and then in float64: torch.dot sums one after the other.
    """
    sums = []
    for one, other in zip(a, b, strict=True):
        size = CHUNK.get(one.device.type, MANY)
        exact = torch.promote_types(one.dtype, torch.float32)
        pieces = zip(one.flatten().split(size), other.flatten().split(size), strict=True)
        sums += [(x.to(exact) * y).sum().double() for x, y in pieces]
    return summed(torch.stack(sums).sum(), parameters)


def is_surgery(thing: Any) -> bool:
    return isinstance(thing, type) and issubclass(thing, Surgery)
