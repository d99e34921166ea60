"""Memory and time of training, worked out: a step of our own code on tensors that have sizes but no contents.

    python -m benchmarks.memory_plan                    the tables of docs/scaling.md, as Markdown
    python -m benchmarks.memory_plan --check 0.5b       a plan against the peak that is measured on this machine's CPU

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
from unlearner.config import TrainOptions
from unlearner.methods import Method
from unlearner.modeling import scoring
from unlearner.modeling.reference import Reference
from unlearner.modeling.scoring import Batch
from unlearner.training import loop
from unlearner.training.objective import Objective

ROW, LABELLED = 128, 85
"""Tokens of a row, and how many of them are labelled."""
PART_NAMES = {"Parameter": "weights", "Gradient": "gradients", "Optstate": "states", "Activation": "activations"}
PEAK_OPERATIONS, MFU = {"A100": 312e12, "H100": 989e12, "H200": 989e12}, 0.4
"""Published dense bf16 peaks, and the share of them that is assumed, for there was no GPU to measure on."""


def options_for(*, lora: bool, precision: str, checkpointing: bool) -> TrainOptions:
    return TrainOptions(model="", lr=1e-5, lora=lora, precision=precision, gradient_checkpointing=checkpointing)  # type: ignore[arg-type]


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
    model = shape.make(dtype=loop.weights_dtype(options), layers=layers).train()
    if options.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    if options.lora:
        model = loop.add_lora(model, options)
    objective = Objective(model, method, Reference.of(model) if method.kl_view else None)
    half = options.precision != "fp32"
    autocast = torch.autocast("cpu", dtype=torch.bfloat16) if half else contextlib.nullcontext()
    return objective, loop._optimizer(objective, options), autocast


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
    checkpointing: bool = False, tokens: int = 16384, chunk_bytes: int = scoring.CHUNK_BYTES["cuda"],
    layers: int | None = None,
) -> dict[str, int]:  # fmt: skip
    """Bytes at the peak of a step, by part, and their `total`.

    `vocabulary` is what passes at the peak: chunks of logits and the head's gradient. `states` of adamw-8bit are
    reckoned: one byte each and a float32 for every 256 of them.
    """
    method = Method.parse(name)
    options = options_for(lora=lora, precision=precision, checkpointing=checkpointing)
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
