"""log.jsonl: a line for every optimiser step."""

import json
import math
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from unlearner import distributed
from unlearner.errors import UserError
from unlearner.files import read_jsonl, space_errors, write_jsonl
from unlearner.training import checkpoint


class Log:
    """log.jsonl, a line a step. Values stay on the device until they are written, so that steps need not wait."""

    def __init__(self, path: Path, step: int, accelerator: Accelerator) -> None:
        self.path, self.accelerator = path, accelerator
        self.waiting: list[tuple[dict[str, float], Tensor]] = []
        if distributed.is_main():
            write_jsonl(path, read_jsonl(path)[:step])

    def add(self, step: int, epoch: float, lr: float, losses: Tensor, norm: Tensor) -> None:
        self.waiting.append(
            (
                {"step": step, "epoch": round(epoch, 4), "lr": lr},
                torch.cat([losses, norm.detach().reshape(1).to(losses)]),
            )
        )

    def flush(self) -> dict[str, float]:
        """Write what waits; returns the last row. Raises UserError for the first step that is not finite."""
        if not self.waiting:
            return {}
        values = torch.stack([value for _, value in self.waiting])
        values[:, :3] = self.accelerator.reduce(values[:, :3].contiguous(), "sum")
        rows: list[dict[str, float]] = []
        broken = None
        for (row, _), (loss, forget, retain, norm) in zip(self.waiting, values.tolist(), strict=True):
            rows.append({**row, "loss": loss, "forget": forget, "retain": retain, "grad_norm": norm})
            if not (math.isfinite(loss) and math.isfinite(norm)):
                broken = rows.pop()
                break
        self.waiting.clear()
        if distributed.is_main() and rows:
            with space_errors(self.path), self.path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)
        for row in rows:
            self.accelerator.log({k: v for k, v in row.items() if k != "step"}, step=int(row["step"]))
        if broken is not None:
            kept = checkpoint.latest(self.path.parent / "checkpoints")
            where = f"the last good state is {kept[1]}" if kept else "no checkpoint had been written yet"
            raise UserError(
                f"step {broken['step']}: the loss is {broken['loss']} and its gradient's norm {broken['grad_norm']}; "
                f"{where}: try a lower --lr or a smaller --forget-coeff in a new --output."
            )
        return rows[-1]
