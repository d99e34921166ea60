"""The one training loop: from a plan of items to a trained model, resumable at any step, top to bottom in this file."""

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, set_seed
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from unlearner import processes
from unlearner.config import TrainOptions
from unlearner.console import progress_bar, warn
from unlearner.data.batches import MicroBatch, Plan, micro_batches, padded
from unlearner.data.views import View
from unlearner.errors import UserError
from unlearner.files import read_jsonl, space_errors, write_jsonl
from unlearner.methods import Method
from unlearner.modeling import zero
from unlearner.modeling.compiled import compile_layers, restore_layers
from unlearner.modeling.load import uses_bf16
from unlearner.modeling.packing import packing
from unlearner.modeling.products import fast_products
from unlearner.modeling.reference import Reference
from unlearner.modeling.scoring import FORWARD_TOKENS, Batch, RowWeights, bare, score_views
from unlearner.modeling.sharding import Engine, frozen, full, is_sharded, shard, whole, widen, within
from unlearner.training import checkpoint
from unlearner.training.objective import Objective, with_reference_nll

AtEpoch = Callable[[nn.Module, int], bool]
"""Called with the model and the number of the epoch just done; True ends the training."""
LAUNCHER_SECONDS = 2
"""Within these, a second Ctrl-C is the first one, passed on by torchrun."""
ACCELERATE = {
    "ACCELERATE_USE_FSDP": "--parallel fsdp",
    "ACCELERATE_USE_DEEPSPEED": "--parallel deepspeed",
    "ACCELERATE_DYNAMO_BACKEND": "--compile",
}
"""What `accelerate launch` may set that would change the model behind our back, and what to use instead."""


def make_accelerator(options: TrainOptions, folder: Path | None = None) -> Accelerator:
    """Devices and processes as accelerate finds them. Raises UserError for settings of `accelerate launch` that would
    wrap or compile the model, and where DeepSpeed is missing."""
    if options.parallel == "deepspeed":
        zero.check_installed()
    for setting, ours in ACCELERATE.items():
        if (value := os.environ.get(setting, "no")).lower() not in ("no", "false"):
            raise UserError(f"accelerate is set to {setting}={value}, which is not followed: leave that to {ours}.")
    processes.join()
    bf16 = uses_bf16(options.precision)
    AcceleratorState._reset_state()  # or a second run in one process would keep the first one's precision
    tracker = None if options.tracker == "none" else options.tracker
    # Gradients lie in the buffers in which ddp sums them: otherwise each process would hold them twice.
    once = DistributedDataParallelKwargs(gradient_as_bucket_view=True)
    return Accelerator(
        mixed_precision="bf16" if bf16 else "no", log_with=tracker, project_dir=folder,
        cpu=not torch.cuda.is_available(), kwargs_handlers=[once],
    )  # fmt: skip


def check_tracker(options: TrainOptions) -> None:
    """Raises UserError for a tracker that is not installed; accelerate would only leave it out."""
    if options.tracker != "none" and find_spec(options.tracker) is None:
        raise UserError(f"--tracker {options.tracker} is not installed: pip install {options.tracker}.")


def weights_dtype(options: TrainOptions) -> torch.dtype:
    """In what the weights are kept: bf16 where asked for, and under a LoRA adapter, which itself stays in fp32."""
    half = options.precision == "pure-bf16" or (options.lora and uses_bf16(options.precision))
    return torch.bfloat16 if half else torch.float32


def add_lora(model: Any, options: TrainOptions) -> Any:
    """A LoRA adapter on every linear layer but the output embedding (PAPER section 4)."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=options.lora_rank,
        lora_alpha=options.lora_alpha,  # type: ignore[arg-type]
        lora_dropout=options.lora_dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def train(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    method: Method,
    views: Mapping[str, View],
    plan: Plan,
    options: TrainOptions,
    folder: Path,
    *,
    accelerator: Accelerator,
    parallel: Engine = "ddp",
    reference_model: Any = None,
    at_epoch: AtEpoch | None = None,
) -> Any:
    """Train `model` by `method` on the items of `plan` and save it to `folder`/model (or folder/adapter).

    `parallel` is how several processes share the work; with fsdp, `place` may have been called already.
    Goes on from the newest checkpoint in `folder`/checkpoints. Every step's losses, gradient norm and learning rate
    are a line of `folder`/log.jsonl. Returns the trained model. Raises UserError, naming the step, when a loss or
    gradient is no longer finite; checkpoints only ever hold finite ones.
    """
    if not is_sharded(model):
        model, reference_model = place(model, reference_model, method, options, accelerator, parallel)
    pad_id = tokenizer.eos_token_id  # as the official code pads; a pad token may lack an embedding
    pad_to = options.max_length if method.official else None
    known_nll = {
        name: reference_nll(reference_model or model, views[name], pad_id, pad_to, options.max_tokens, accelerator)
        for name in method.reference_nll
    }
    if reference_model is not None and method.kl_view is None:  # it has answered: its memory is the training's
        if not is_sharded(reference_model):
            reference_model.to("cpu")
        reference_model = None
    # A sharded model's processes need as many forwards each; the reference's distribution is read row by row of a view.
    spread = parallel != "ddp"
    one_block = accelerator.num_processes > 1 or spread or method.official or method.kl_view is not None
    forward_tokens = None if one_block else FORWARD_TOKENS.get(accelerator.device.type)
    forward_autocast = nullcontext() if is_sharded(model) else accelerator.autocast()
    packs = not (options.compile or parallel == "deepspeed" or method.official or method.kl_view is not None)
    if options.compile:
        compile_layers(model)

    objective = Objective(model, method, _reference(model, method, reference_model))
    optimizer = _optimizer(objective, options)
    if parallel == "deepspeed":
        wrapped: Any = zero.start(objective, optimizer, options, accelerator.device)
    else:
        wrapped = objective if is_sharded(model) else accelerator.prepare(objective)
    peak = float(optimizer.param_groups[0]["lr"])
    warmup = int(plan.steps_per_epoch * options.warmup_epochs) if plan.steps_per_epoch > 1 else 0
    if options.tracker != "none":
        accelerator.init_trackers("unlearner", init_kwargs={})

    checkpoints = folder / "checkpoints"
    step = 0
    if newest := processes.agreed(checkpoint.latest(checkpoints)):
        step = newest[0]
        checkpoint.load(model, optimizer, newest[1])
    log = _Log(folder / "log.jsonl", step, accelerator)
    epoch_ends = plan.epoch_ends()
    save_at = set(range(options.save_every, plan.steps, options.save_every)) if options.save_every else set(epoch_ends)

    with (
        progress_bar(method.name, plan.steps, step) as bar,
        _ctrl_c() as interrupted,
        nullcontext() if options.compile else fast_products(model, reference_model),
        packing(bare(model), forward_autocast) if packs else nullcontext(False) as packed,
    ):
        while True:
            if step in epoch_ends and at_epoch is not None:
                with torch.compiler.set_stance("force_eager") if options.compile else nullcontext():
                    stop = at_epoch(model, epoch_ends[step])
                if stop:
                    break
            if step == plan.steps:
                break
            wrapped.train()
            lr = peak * _schedule(step, warmup, plan.steps)
            for group in optimizer.param_groups:
                group["lr"] = lr
            _seed_step(options.seed, step)
            parts = micro_batches(
                plan, views, step, max_tokens=options.max_tokens, pad_to=pad_to,
                rank=accelerator.process_index, processes=accelerator.num_processes,
            )  # fmt: skip
            losses = torch.zeros(3, device=accelerator.device)
            for number, part in enumerate(parts):
                batch = assemble(
                    part,
                    views,
                    pad_id,
                    known_nll,
                    official=method.official,
                    forward_tokens=forward_tokens,
                    packed=packed,
                ).to(accelerator.device)
                last = number == len(parts) - 1
                # Sharded gradients are summed after every forward: kept until the last, they would lie there whole.
                with nullcontext() if last or spread else accelerator.no_sync(wrapped):
                    values = within(model, wrapped, batch)
                    # Processes average their gradients; the weights already are those of the whole step's mean.
                    loss = values[0] * accelerator.num_processes
                    if parallel == "deepspeed":
                        zero.backward(wrapped, loss, last=last)
                    else:
                        accelerator.backward(loss)
                losses += values.detach()
            if parallel == "deepspeed":  # its last backward pass has changed the weights
                norm = zero.norm(wrapped)
            else:
                norm = full(nn.utils.clip_grad_norm_(objective.parameters(), options.clip))
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            done = min((step + 1) * plan.step_items, plan.total_items) / plan.items
            log.add(step + 1, done, lr, losses, norm)
            step += 1
            stop = processes.any_of(interrupted())
            due = step in save_at and step < plan.steps
            bar(step, **(log.flush() if stop or due or step in epoch_ends or step % options.log_every == 0 else {}))
            if due or stop:
                checkpoint.save(model, optimizer, checkpoints, step, options.keep_checkpoints)
            if stop:
                raise KeyboardInterrupt

    log.flush()
    if options.compile:
        restore_layers(model)
    name = "adapter" if options.lora and not options.merge else "model"
    checkpoint.save_model(accelerator, wrapped, tokenizer, folder / name, merge=options.merge)
    processes.barrier()
    for tracker in accelerator.trackers:  # end_training would also take down the process group, still needed
        tracker.finish()
    return accelerator.unwrap_model(wrapped).model


def assemble(
    part: MicroBatch,
    views: Mapping[str, View],
    pad_id: int,
    known_nll: Mapping[str, np.ndarray],
    *,
    official: bool,
    forward_tokens: int | None = None,
    packed: bool = False,
) -> Batch:
    """The tensors of one micro-batch: all views' rows, each with its weight in the step's means (`Batch.build`)."""
    tensors = {name: padded(views[name], rows, pad_id, part.pad_to) for name, rows in part.rows.items()}
    weights = {
        name: RowWeights(*(
            torch.from_numpy(w[name]).float() for w in (part.token_weight, part.sequence_weight, part.position_weight)
        ))
        for name in part.rows
    }  # fmt: skip
    # Right-padded rows need no mask, save where official mode lets padding count.
    batch = Batch.build(
        tensors, official=official, weights=weights, keep_mask=official, forward_tokens=forward_tokens, packed=packed
    )
    return with_reference_nll(batch, {name: torch.from_numpy(nll[part.rows[name]]) for name, nll in known_nll.items()})


@torch.no_grad()
def reference_nll(
    model: Any, view: View, pad_id: int, pad_to: int | None, max_tokens: int, accelerator: Accelerator
) -> np.ndarray:
    """NLL of every row of a view under the reference model, (table rows,): computed once, each process its share."""
    model.eval()
    order = np.argsort(view.table.lengths, kind="stable")[accelerator.process_index :: accelerator.num_processes]
    out = torch.zeros(len(view.table), device=accelerator.device)
    widest = int(view.table.lengths.max(initial=1)) if pad_to is None else pad_to
    size = max(1, max_tokens // widest)
    one_block = pad_to is not None or is_sharded(model)
    forward_tokens = None if one_block else FORWARD_TOKENS.get(accelerator.device.type)
    with (
        progress_bar("reference scores", len(order)) as bar,
        nullcontext() if is_sharded(model) else accelerator.autocast(),
        whole(model),
        fast_products(model),
    ):
        for first in range(0, len(order), size):
            rows = order[first : first + size]
            tensors = {"view": padded(view, rows, pad_id, pad_to)}
            batch = Batch.build(
                tensors, official=pad_to is not None, keep_mask=pad_to is not None, forward_tokens=forward_tokens
            ).to(accelerator.device)
            out[torch.from_numpy(rows).to(out.device)] = score_views(model, batch, {"view": ["logp"]})[
                "view"
            ].nll.float()
            bar(first + len(rows))
    return accelerator.reduce(out, "sum").cpu().numpy()


def place(
    model: Any, reference: Any, method: Method, options: TrainOptions, accelerator: Accelerator, parallel: Engine
) -> tuple[Any, Any]:
    """The model as it is to be trained, with its adapter, and the reference model: on their device, with fsdp spread
    over the processes. With deepspeed the model stays where it is, and the reference is spread as with fsdp."""
    set_seed(options.seed)
    dtype = weights_dtype(options)
    if parallel != "ddp" and reference is None and needs_copy(method, options, parallel):
        reference = frozen(model)
    if options.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    if parallel == "ddp":
        widen(model, dtype).to(accelerator.device)
    elif parallel == "deepspeed":
        widen(model, dtype)
    if options.lora:
        model = add_lora(model, options)
    if reference is not None:
        reference.eval().requires_grad_(False)
        if parallel == "ddp":
            widen(reference, dtype).to(accelerator.device)
    bf16 = accelerator.mixed_precision == "bf16"
    for part in {"ddp": (), "fsdp": (model, reference), "deepspeed": (reference,)}[parallel]:
        if part is not None:
            shard(part, accelerator.device, dtype, bf16=bf16, offload=options.cpu_offload)
    return model, reference


def needs_copy(method: Method, options: TrainOptions, parallel: str) -> bool:
    """Whether a frozen copy of the model is the reference in every step, or, with deepspeed, before the first."""
    if parallel == "deepspeed" and method.reference_nll:
        return True
    return method.kl_view is not None and not options.lora


def _reference(model: Any, method: Method, given: Any) -> Reference | None:
    if method.kl_view is None:
        return None
    if given is None:
        return Reference.of(model)
    if is_sharded(given):
        given.unshard()  # embeddings and norm stay whole, for no forward of its own gathers them; layers do not
    return Reference(given, adapter_off=False)


def _schedule(step: int, warmup: int, steps: int) -> float:
    """Share of the peak learning rate: a linear rise from 0, a linear fall to 0 (that of transformers)."""
    if step < warmup:
        return step / warmup
    return (steps - step) / max(1, steps - warmup)


def _seed_step(seed: int, step: int) -> None:
    """Dropout draws by step and process, so that a run goes on anywhere, and with any number of processes."""
    state = np.random.SeedSequence([seed, step, processes.rank()]).generate_state(1, np.uint64)
    torch.manual_seed(int(state[0] >> 1))


def _optimizer(objective: nn.Module, options: TrainOptions) -> torch.optim.Optimizer:
    assert options.lr is not None  # commands fill it in before they come here
    trained = [p for p in objective.parameters() if p.requires_grad]
    if options.optimizer == "adamw-8bit":
        try:
            from bitsandbytes.optim import AdamW8bit
        except ImportError as error:
            raise UserError("--optimizer adamw-8bit needs bitsandbytes: pip install 'unlearner[8bit]'.") from error
        return AdamW8bit(trained, lr=options.lr, weight_decay=options.weight_decay)
    return torch.optim.AdamW(trained, lr=options.lr, weight_decay=options.weight_decay, fused=True)


class _Log:
    """log.jsonl, a line a step. Values stay on the device until they are written, so that steps need not wait."""

    def __init__(self, path: Path, step: int, accelerator: Accelerator) -> None:
        self.path, self.accelerator = path, accelerator
        self.waiting: list[tuple[dict[str, float], Tensor]] = []
        if processes.is_main():
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
        if processes.is_main() and rows:
            import json

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


@contextmanager
def _ctrl_c() -> Iterator[Callable[[], bool]]:
    """Let Ctrl-C end the run after the current step, with a checkpoint; a second one ends it at once."""
    pressed = 0.0

    def note(number: int, frame: Any) -> None:
        nonlocal pressed
        if pressed and processes.count() > 1 and time.monotonic() - pressed < LAUNCHER_SECONDS:
            return
        if pressed:
            raise KeyboardInterrupt
        pressed = time.monotonic()
        warn("stopping after this step, with a checkpoint; press Ctrl-C again to stop at once")

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: pressed > 0
    finally:
        signal.signal(signal.SIGINT, before)
