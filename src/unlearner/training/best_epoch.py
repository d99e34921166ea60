"""Training that listens: what the model still tells is measured after every epoch, and the best epoch is kept.

The measures stand in the log's row of the epoch's last step. Its checkpoint is kept as long as it is the best; without
a directory its weights are, in memory.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from unlearner import distributed
from unlearner.console import note
from unlearner.stopping import KEPT, Condition, best, measures, met
from unlearner.training import checkpoint
from unlearner.training.log import Log


class Listener(Protocol):
    """Asks a model that is being trained."""

    @property
    def conditions(self) -> Sequence[Condition]: ...

    def measure(self, model: nn.Module) -> dict[str, float]:
        """The measures of the conditions, the same in all processes."""
        ...


class BestEpoch:
    """`epochs`: step after which each epoch is done → epoch number (`Plan.epoch_ends`)."""

    def __init__(self, listener: Listener, epochs: dict[int, int], checkpoints: Path | None, log: Log) -> None:
        self.listener, self.epochs, self.checkpoints, self.log = listener, epochs, checkpoints, log
        self.weights: dict[str, Any] | None = None

    @property
    def step(self) -> int | None:
        """The step that ended the best epoch so far."""
        steps = [step for step in self.epochs if step <= len(self.log.rows) and self.measured(step)]
        rows = [self.measured(step) for step in steps]
        return steps[best(self.listener.conditions, rows)] if steps else None

    def measured(self, step: int) -> dict[str, float]:
        """What was measured after the epoch that `step` ends; empty before that."""
        row = self.log.rows[step - 1]
        names = [condition.measure for condition in self.listener.conditions]
        return {name: row[name] for name in names if name in row}

    def after_epoch(self, model: nn.Module, step: int) -> bool:
        """Measure; whether that is good enough. A run that goes on takes what it measured before."""
        if not self.measured(step):
            found = distributed.agreed(self.listener.measure(model))
            self.log.amend(step, found)
            note(f"epoch {self.epochs[step]}: {measures(found)}")
        if self.checkpoints is None and self.step == step:
            self.weights = checkpoint.weights(model)
        return met(self.listener.conditions, self.measured(step))

    def put_back(self, model: nn.Module, step: int) -> None:
        """Give the model, which is at `step`, the weights of the best epoch, and say in the log which that is."""
        kept = self.step
        if kept is None:
            return
        if kept != step and self.checkpoints is not None:
            checkpoint.load(model, [], checkpoint.at(self.checkpoints, kept))
        elif kept != step:
            assert self.weights is not None
            checkpoint.put_back(model, self.weights)
        self.log.amend(kept, {KEPT: self.epochs[kept]})
