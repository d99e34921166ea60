"""The log: a row for every optimiser step, kept in log.jsonl where there is a folder."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from unlearner import distributed
from unlearner.errors import UserError
from unlearner.files import read_jsonl, space_errors, write_jsonl
from unlearner.results.layout import RunDirectory
from unlearner.training import checkpoint
from unlearner.training.callbacks import Callbacks
from unlearner.training.checks import is_finite


class Log:
    """A row a step, in `folder`/log.jsonl. Values stay on the device until the next `flush`: steps need not wait."""

    def __init__(self, folder: Path | None, step: int, accelerator: Accelerator, callbacks: Callbacks) -> None:
        self.folder, self.accelerator, self.callbacks = folder, accelerator, callbacks
        self.path = None if folder is None else RunDirectory(folder).log
        self.rows: list[dict[str, float]] = [] if self.path is None else read_jsonl(self.path)[:step]
        self.waiting: list[tuple[dict[str, float], list[str], Tensor]] = []
        distributed.barrier()  # all have read it
        if self.path is not None and distributed.is_main():
            write_jsonl(self.path, self.rows)

    def add(self, step: int, epoch: float, lr: float, losses: Tensor, norm: Tensor, more: Mapping[str, Tensor]) -> None:
        """`losses` (3,) are this process' share; `more` are numbers that all processes have."""
        shared = [each.detach().reshape(1).to(losses) for each in (norm, *more.values())]
        row = {"step": step, "epoch": round(epoch, 4), "lr": lr}
        self.waiting.append((row, list(more), torch.cat([losses, *shared])))

    def flush(self) -> dict[str, float]:
        """Add what waits to the rows and the file, and tell the callbacks; returns the last row.

        Raises UserError for the first step that is not finite.
        """
        if not self.waiting:
            return {}
        values = torch.stack([value for *_, value in self.waiting])
        values[:, :3] = self.accelerator.reduce(values[:, :3].contiguous(), "sum")
        rows: list[dict[str, float]] = []
        broken = None
        for (row, names, _), (loss, forget, retain, norm, *more) in zip(self.waiting, values.tolist(), strict=True):
            rows.append({**row, "loss": loss, "forget": forget, "retain": retain, "grad_norm": norm})
            rows[-1] |= dict(zip(names, more, strict=True))
            if not (math.isfinite(loss) and math.isfinite(norm)):
                broken = rows.pop()
                break
        self.waiting.clear()
        self.rows += rows
        if self.path is not None and distributed.is_main() and rows:
            with space_errors(self.path), self.path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)
        for row in rows:
            self.callbacks.on_log(row)
        if broken is not None:
            what = f"the loss is {broken['loss']} and its gradient's norm {broken['grad_norm']}"
            if broken["step"] == 1:
                raise UserError(
                    f"step 1: {what}, before any weight has changed: look for broken weights in the model, and for a "
                    "coefficient or an option of the method, such as --beta, that is too large."
                )
            self._end(what, int(broken["step"]))
        return rows[-1]

    def amend(self, step: int, found: Mapping[str, float]) -> None:
        """Add what was measured after `step` to its row, which is in the file already."""
        self.rows[step - 1] |= found
        if self.path is not None and distributed.is_main():
            write_jsonl(self.path, self.rows)
        self.callbacks.on_log({"step": step, "epoch": self.rows[step - 1]["epoch"], **found})

    def check_weights(self, model: nn.Module, step: int) -> None:
        """Raises UserError where the weights after `step` are no longer finite, or too large to compute with."""
        if distributed.any_of(not is_finite(model)):
            self._end("the weights are no longer finite, or too large to compute with", step)

    def _end(self, what: str, step: int) -> NoReturn:
        kept = None if self.folder is None else checkpoint.latest(RunDirectory(self.folder).checkpoints)
        where = f"the last good state is {kept[1]}" if kept else "no checkpoint had been written yet"
        raise UserError(
            f"step {step}: {what}; {where}: try a lower --learning-rate or a smaller --forget-coeff in a new --output."
        )
