"""Memory and time of training, worked out: a step of our own code on tensors that have sizes but no contents.

    python -m benchmarks.memory_plan                    the tables of docs/lab/scaling.md, as Markdown
    python -m benchmarks.memory_plan --check 0.5b       plans against peaks that are measured on this machine's CPU

A plan of many layers is that of two and of four layers, drawn on in a straight line: layers are alike.
torch's `FakeTensorMode` runs the objective, its backward pass and the optimiser without memory or arithmetic, and its
`MemTracker` follows what would lie there, so that the tables know whatever the code does. Time is arithmetic:
operations ÷ (the share of its peak that a device is assumed to reach).
"""

import argparse
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import transformers.masking_utils
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from benchmarks import loss_memory
from benchmarks.shapes import SHAPES, Shape
from benchmarks.timing import machine
from unlearner.methods import Method
from unlearner.options import TrainOptions
from unlearner.scoring import token_scores as scoring
from unlearner.scoring.batch import Batch
from unlearner.training import setup
from unlearner.training.objective import Objective
from unlearner.training.reference import Reference

ROW, LABELLED, TOKENS = 128, 85, 16_384
"""Tokens of a row, how many of them are labelled, and the tokens of one forward (`--max-tokens-per-forward`)."""
PART_NAMES = {"Parameter": "weights", "Gradient": "gradients", "Optstate": "states", "Activation": "activations"}
PEAK_OPERATIONS, MFU = {"A100": 312e12, "H100": 989e12, "H200": 989e12}, 0.4
"""Published dense bf16 peaks, and the share of them that is assumed, for there was no GPU to measure on."""


def options_for(*, lora: bool, precision: str, checkpointing: bool, optimizer: str = "adamw") -> TrainOptions:
    return TrainOptions(
        model="", learning_rate=1e-5, lora=lora, precision=precision,  # type: ignore[arg-type]
        gradient_checkpointing=checkpointing, optimizer=optimizer,  # type: ignore[arg-type]
    )  # fmt: skip


def batch_of(method: Method, tokens: int) -> Batch:
    """One forward of about `tokens` tokens: as many rows of every view of `method`."""
    rows = max(1, tokens // ROW // len(method.needs))
    labels = torch.full((rows, ROW), -100)
    labels[:, ROW - LABELLED :] = 5
    ids, mask = torch.full((rows, ROW), 5), torch.ones(rows, ROW, dtype=torch.long)
    views = {name: {"input_ids": ids, "labels": labels, "attention_mask": mask} for name in method.needs}
    return Batch.build(views, keep_mask=False)


def prepared(shape: Shape, method: Method, options: TrainOptions, layers: int | None) -> tuple[Any, Any, Any]:
    """Objective, optimiser and autocast as `training/loop.py` makes them."""
    model = shape.make(dtype=setup.weights_dtype(options), layers=layers).train()
    if options.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    if options.lora:
        model = setup.add_lora(model, options)
    objective = Objective(model, method, Reference.of(model) if method.asked else None)
    half = options.precision != "fp32"
    autocast = torch.autocast("cpu", dtype=torch.bfloat16) if half else contextlib.nullcontext()
    return objective, setup.make_optimizer(objective, options), autocast


def step(objective: Any, optimizer: Any, autocast: Any, batch: Batch, tracker: MemTracker | None = None) -> None:
    """Two forwards with their gradients, as in a step of several, and the update."""
    for _ in range(2):
        if tracker is not None:
            tracker.reset_mod_stats()  # or it takes a module's second call for an error
        with autocast:
            values = objective(batch)
        values[0].backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def plan(
    shape: Shape, name: str = "ME+GD", *, lora: bool = False, precision: str = "pure-bf16", optimizer: str = "adamw",
    checkpointing: bool = False, tokens: int = TOKENS, chunk_bytes: int = scoring.CHUNK_BYTES["cuda"],
) -> dict[str, int]:  # fmt: skip
    """Bytes at the peak of a step, by part, and their `total`.

    `vocabulary` is what passes at the peak: chunks of logits and the head's gradient. `states` of adamw-8bit are
    reckoned: one byte each and a float32 for every 256 of them.
    """

    def of(layers: int) -> dict[str, int]:
        options = options_for(lora=lora, precision=precision, checkpointing=checkpointing)
        return _followed(shape, Method.parse(name), options, tokens, chunk_bytes, layers, optimizer)

    two, four = of(2), of(4)
    return {part: two[part] + (four[part] - two[part]) * (shape.layers - 2) // 2 for part in two}


def _followed(
    shape: Shape, method: Method, options: TrainOptions, tokens: int, chunk_bytes: int, layers: int, optimizer: str
) -> dict[str, int]:
    batch = batch_of(method, tokens)
    with _sizes_only(chunk_bytes), FakeTensorMode(allow_non_fake_inputs=True):
        objective, adamw, autocast = prepared(shape, method, options, layers)
        tracker = MemTracker()
        modules = [objective, *([objective.reference.model] if objective.reference is not None else [])]
        nothing = objective.register_forward_hook(lambda *_: None)
        for parameter in (p for module in modules for p in module.parameters() if not p.requires_grad):
            tracker._param_to_grad_hook_handles[parameter] = nothing, nothing  # or it wants to follow their gradients
        tracker.track_external(*modules, adamw)
        with tracker:
            step(objective, adamw, autocast, batch, tracker)  # makes the optimiser's states
            step(objective, adamw, autocast, batch, tracker)
        trained = sum(p.numel() for p in objective.parameters() if p.requires_grad)
        reference = objective.reference
        copied = 0 if reference is None or not reference.holds_copy else _bytes(reference.model)
        peak = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]
    parts = {"weights": _bytes(objective), "reference": copied}
    for theirs, ours in PART_NAMES.items():
        if ours != "weights":
            parts[ours] = int(peak[theirs])
    parts["vocabulary"] = int(peak["Temp"])
    if optimizer == "adamw-8bit":
        parts["states"] = 2 * trained + 2 * 4 * trained // 256
    parts["total"] = sum(parts.values())
    return parts


def _bytes(module: Any) -> int:
    return sum(p.nbytes for p in module.parameters())


@contextlib.contextmanager
def _sizes_only(chunk_bytes: int) -> Iterator[None]:
    """What looks into tensors or exchanges them does not; a fake CPU has a GPU's chunks."""
    with (
        patch.dict(scoring.CHUNK_BYTES, cpu=chunk_bytes),
        patch.object(transformers.masking_utils, "find_packed_sequence_indices", lambda position_ids: None),
        # peft moves adapters to where, and to what, they are already; fake weights cannot be moved
        patch.object(torch.nn.Module, "_apply", lambda self, *_, **__: self),
    ):
        yield


# -------------------------------------------------------------------------------------------------------------- tables


PLANS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("full", {}),
    ("full, 8-bit states", {"optimizer": "adamw-8bit"}),
    ("full, bf16 arithmetic only", {"precision": "bf16"}),
    ("LoRA", {"lora": True, "tokens": 4096}),
)
"""What the tables show, by the options of `plan`; all with recomputed activations."""
COLUMNS = ("weights", "gradients", "states", "activations", "vocabulary", "total")


def tables() -> str:
    """Markdown: a row for every shape and way of training, in GB (10⁹ bytes)."""
    lines = [f"| model | training | tokens of a forward | {' | '.join(COLUMNS)} |", f"|---|---|---{'|---' * 6}|"]
    for name in ("1b", "8b", "70b"):
        for way, options in PLANS:
            made = plan(SHAPES[name], checkpointing=True, **options)
            cells = " | ".join(f"{made[column] / 1e9:.1f}" for column in COLUMNS)
            lines.append(f"| {name.upper()} | {way} | {options.get('tokens', TOKENS):,} | {cells} |")
            print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join(lines)


def times(rows: int = 400, epochs: int = 5) -> str:
    """Markdown: hours for `epochs` over as many forget and retain rows, at `MFU` of a device's peak."""
    lines = ["| model | operations | one A100 | one H100 or H200 |", "|---|---|---|---|"]
    for name in ("1b", "8b", "70b"):
        shape = SHAPES[name]
        # Forward, backward (2) and, with recomputed activations, the layers' forward once more.
        work = 4 * shape.forward_flops([ROW] * 2 * rows * epochs, LABELLED * 2 * rows * epochs)
        minutes = [work / (MFU * PEAK_OPERATIONS[device]) / 60 for device in ("A100", "H100")]
        lines.append(f"| {name.upper()} | {work:.1e} | " + " | ".join(f"{m:.1f} min" for m in minutes) + " |")
    return "\n".join(lines)


# --------------------------------------------------------------------------------------------------------------- check


FP32 = {"precision": "fp32"}
CHECKS: dict[str, tuple[tuple[str, str, dict[str, Any]], ...]] = {
    "0.5b": (
        ("full, float32", "ME+GD", FP32),
        ("full, float32, frozen copy", "ME+KL", FP32),
        ("LoRA, float32", "ME+GD", FP32 | {"lora": True}),
        ("LoRA, float32, adapter off", "ME+KL", FP32 | {"lora": True}),
    ),
    "1b": (
        ("full", "ME+GD", {}),
        ("full, 8-bit states", "ME+GD", {"optimizer": "adamw-8bit"}),
        ("LoRA", "ME+GD", {"lora": True}),
    ),
    "8b": (("LoRA", "ME+GD", {"lora": True}),),
}
"""What is measured of each shape, by the options of `plan`; all with recomputed activations."""
TOLERANCE = 0.05
"""How far a plan may be from its measurement."""


def measured(name: str, method: str, tokens: int, changed: dict[str, Any]) -> dict[str, float]:
    """What this process' resident memory rises by in real steps, at its peak, and seconds of a step."""
    chosen: dict[str, Any] = {"lora": False, "precision": "pure-bf16", "checkpointing": True, **changed}
    options = options_for(**chosen)
    batch = batch_of(Method.parse(method), tokens)
    _step_of_nothing(options)  # libraries, and what they make once, are no part of the peak
    before = loss_memory.resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    objective, optimizer, autocast = prepared(SHAPES[name], Method.parse(method), options, None)
    step(objective, optimizer, autocast, batch)
    start = time.perf_counter()
    step(objective, optimizer, autocast, batch)
    return {
        "seconds": time.perf_counter() - start,
        "peak_bytes": loss_memory.resident("VmHWM") - before,
    }


def _step_of_nothing(options: TrainOptions) -> None:
    method = Method.parse("ME+GD")
    objective, optimizer, autocast = prepared(SHAPES["tiny"], method, options, 1)
    step(objective, optimizer, autocast, batch_of(method, ROW))


def check(name: str, tokens: int = 512) -> dict[str, Any]:
    """Plans against measurements, each in a process of its own."""
    found: dict[str, Any] = {"machine": machine(), "shape": name, "tokens": tokens, "runs": []}
    for what, method, changed in CHECKS[name]:
        planned = plan(
            SHAPES[name], method, checkpointing=True, tokens=tokens, chunk_bytes=scoring.CHUNK_BYTES["cpu"], **changed
        )
        command = [sys.executable, "-m", __spec__.name, "--measure", json.dumps([name, method, tokens, changed])]
        real = json.loads(
            subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=loss_memory.RETURNING).stdout
        )
        off = planned["total"] / real["peak_bytes"] - 1
        found["runs"].append({"training": what, "method": method, "planned": planned, "measured": real, "off": off})
        print(
            f"{name} {method} {what:28} planned {planned['total'] / 1e9:6.2f} GB   "
            f"measured {real['peak_bytes'] / 1e9:6.2f} GB   {off:+.1%}",
            flush=True,
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], prog="python -m benchmarks.memory_plan")
    parser.add_argument("--check", choices=list(CHECKS), help="measure real steps of this shape on the CPU")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder of the results")
    parser.add_argument("--measure", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        print(json.dumps(measured(*options.measure)))
    elif options.check is not None:
        found = check(options.check)
        options.output.mkdir(parents=True, exist_ok=True)
        path = options.output / f"{found['machine']['date']}-memory-plan-{options.check}.json"
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(f"written to {path}")
        if (worst := max(abs(run["off"]) for run in found["runs"])) > TOLERANCE:
            sys.exit(f"a plan is off by {worst:.1%}, more than {TOLERANCE:.0%}")
    else:
        print(f"{tables()}\n\n{times()}")


if __name__ == "__main__":
    main()
