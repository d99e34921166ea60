"""The one training loop: from a plan of items to a trained model, resumable at any step, top to bottom in this file."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from unlearner import distributed
from unlearner.console import progress_bar
from unlearner.data.batches import MicroBatch, Plan, micro_batches, padded
from unlearner.data.views import View
from unlearner.methods import Method
from unlearner.models import deepspeed
from unlearner.models.anatomy import Head
from unlearner.models.execution import using
from unlearner.models.sharding import Engine, full, is_sharded, within
from unlearner.options import TrainOptions
from unlearner.random_state import own_random_state
from unlearner.results.layout import RunDirectory
from unlearner.scoring.batch import Batch, RowWeights
from unlearner.scoring.views import layers_of
from unlearner.training import checkpoint, execution
from unlearner.training.callbacks import Callbacks
from unlearner.training.checks import check_compiles
from unlearner.training.interrupt import ctrl_c
from unlearner.training.log import Log
from unlearner.training.objective import Objective
from unlearner.training.reference import Ragged, reference_logp, reference_nll, step_reference
from unlearner.training.setup import make_optimizer, place

if TYPE_CHECKING:
    from transformers import TrainerCallback

AtEpoch = Callable[[nn.Module, int], bool]
"""Called with the model and the number of the epoch just done; True ends the training."""


class Trained(NamedTuple):
    """What the loop gives back."""

    model: Any
    log: list[dict[str, float]]
    """A row for each step since the run began: step, epoch, lr, loss, forget, retain, grad_norm."""


@own_random_state()
def train(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    method: Method,
    views: Mapping[str, View],
    plan: Plan,
    options: TrainOptions,
    folder: Path | None,
    *,
    accelerator: Accelerator,
    parallel: Engine = "ddp",
    reference_model: Any = None,
    peft_config: Any = None,
    at_epoch: AtEpoch | None = None,
    callbacks: "Sequence[TrainerCallback]" = (),
) -> Trained:
    """Train `model` by `method` on the items of `plan`, in place.

    `parallel` is how several processes share the work; with fsdp, `place` may have been called already.
    Goes on from the newest checkpoint in `folder`/checkpoints. Every step's losses, gradient norm and learning rate
    are a line of `folder`/log.jsonl. Without a folder nothing is written. `callbacks` are told what happens, and may
    end the training. Returns the trained model and the log. Raises UserError, naming the step, when a loss or gradient
    is no longer finite; checkpoints only ever hold finite ones.
    """
    if not is_sharded(model):
        model, reference_model = place(model, reference_model, method, options, accelerator, parallel, peft_config)
    pad_id = tokenizer.eos_token_id  # as the official code pads; a pad token may lack an embedding
    pad_to = options.max_length if method.official else None
    asked = [model] if reference_model is None else [model, reference_model]
    how = execution.plan_training(asked, method, options, parallel, accelerator, folder)
    passing = (pad_id, pad_to, options.max_tokens_per_forward, accelerator)
    with using(how):
        known_nll = {name: reference_nll(asked[-1], views[name], *passing) for name in method.reference_nll}
        known_logp = {name: reference_logp(asked[-1], views[name], *passing) for name in method.reference_logp}
    if reference_model is not None and not method.asked:  # it has answered: its memory is the training's
        if not is_sharded(reference_model):
            reference_model.to("cpu")
        reference_model = None
    spread = parallel != "ddp"
    reference = step_reference(model, method, reference_model)
    models = execution.all_models(model, reference)
    if how.compiled:
        check_compiles(method)
    official_view = None
    if method.official:
        official_view = partial(method.forget.official_view, vocabulary=Head.of(model).vocabulary)
    objective = Objective(model, method, reference, seed=options.seed)
    objective.to_device(accelerator.device)
    optimizer = make_optimizer(objective, options)
    if parallel == "deepspeed":
        wrapped: Any = deepspeed.start(objective, optimizer, options, accelerator.device)
    else:
        if accelerator.ddp_handler is not None and layers_of(method.needs):
            accelerator.ddp_handler.find_unused_parameters = True  # a loss may read no further than its layer
        wrapped = objective if is_sharded(model) else accelerator.prepare(objective)
    peak = float(optimizer.param_groups[0]["lr"])
    warmup = int(plan.steps_per_epoch * options.warmup_epochs) if plan.steps_per_epoch > 1 else 0
    checkpoints = None if folder is None else RunDirectory(folder).checkpoints
    step = 0
    if checkpoints is not None and (newest := distributed.agreed(checkpoint.latest(checkpoints))):
        step = newest[0]
        checkpoint.load(model, optimizer, newest[1], objective.states)
    told = Callbacks(callbacks, options, folder, plan, model=model, processing_class=tokenizer, optimizer=optimizer)
    log = Log(folder, step, accelerator, told)
    told.on_train_begin(step)
    epoch_ends = plan.epoch_ends()
    save_at = set(range(options.save_steps, plan.steps, options.save_steps)) if options.save_steps else set(epoch_ends)

    with (
        progress_bar(method.name, plan.steps, step) as bar,
        ctrl_c() as interrupted,
        execution.executing(how, models, accelerator),
    ):
        while True:
            if step in epoch_ends:
                told.on_epoch_end(step)
                if at_epoch is not None:
                    with torch.compiler.set_stance("force_eager") if options.torch_compile else nullcontext():
                        told.stopped |= at_epoch(model, epoch_ends[step])
                    told.on_evaluate(step)
            if told.stopped or step == plan.steps:
                break
            wrapped.train()
            lr = peak * _schedule(step, warmup, plan.steps)
            for group in optimizer.param_groups:
                group["lr"] = lr
            _seed_step(options.seed, step)
            parts = micro_batches(
                plan, views, step, max_tokens=options.max_tokens_per_forward, pad_to=pad_to,
                rank=accelerator.process_index, processes=accelerator.num_processes,
            )  # fmt: skip
            losses = torch.zeros(3, device=accelerator.device)
            for number, part in enumerate(parts):
                batch = assemble(
                    part,
                    views,
                    pad_id,
                    known_nll,
                    known_logp,
                    official=method.official,
                    forget_view=official_view,
                    reference=method.asked,
                    forward_tokens=execution.forward_tokens(how, accelerator.device),
                    packed=how.rows == "packed",
                ).to(accelerator.device)
                last = number == len(parts) - 1
                # Sharded gradients are summed after every forward: kept until the last, they would lie there whole.
                with nullcontext() if last or spread else accelerator.no_sync(wrapped):
                    values = within(model, wrapped, batch)
                    # Processes average their gradients; the weights already are those of the whole step's mean.
                    loss = values[0] * accelerator.num_processes
                    if parallel == "deepspeed":
                        deepspeed.backward(wrapped, loss, last=last)
                    else:
                        accelerator.backward(loss)
                losses += values.detach()
            if parallel == "deepspeed":  # its last backward pass has changed the weights
                norm = deepspeed.norm(wrapped)
            else:
                norm = full(nn.utils.clip_grad_norm_(objective.parameters(), options.max_grad_norm))
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            done = min((step + 1) * plan.step_items, plan.total_items) / plan.items
            objective.after_step(losses, accelerator)
            log.add(step + 1, done, lr, losses, norm, objective.logged())
            step += 1
            told.on_step_end(step)
            stop = distributed.any_of(interrupted())
            due = step in save_at and step < plan.steps
            flush = stop or due or told.stopped or step in epoch_ends or step % options.logging_steps == 0
            bar(step, **(log.flush() if flush else {}))
            if due or stop or told.stopped or step == plan.steps:
                log.check_weights(model, step)
            if checkpoints is not None and (due or stop):
                checkpoint.save(model, optimizer, checkpoints, step, options.save_total_limit, objective.states)
                told.on_save(step)
            if stop:
                raise KeyboardInterrupt

    log.flush()
    told.on_train_end(step)
    return Trained(accelerator.unwrap_model(wrapped).model, log.rows)


def assemble(
    part: MicroBatch,
    views: Mapping[str, View],
    pad_id: int,
    known_nll: Mapping[str, np.ndarray],
    known_logp: Mapping[str, Ragged] = MappingProxyType({}),
    *,
    official: bool,
    forget_view: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] | None = None,
    reference: Collection[str] = (),
    forward_tokens: int | None = None,
    packed: bool = False,
) -> Batch:
    """The tensors of one micro-batch: all views' rows, each with its weight in the step's means (`Batch.build`).

    `forget_view` changes the forget view's tensors.
    """
    tensors: dict[str, Mapping[str, Tensor]] = {
        name: padded(views[name], rows, pad_id, part.pad_to) for name, rows in part.rows.items()
    }
    if forget_view is not None and "forget" in tensors:
        tensors["forget"] = forget_view(tensors["forget"])
    weights = {
        name: RowWeights(*(
            torch.from_numpy(w[name]).float()
            for w in (part.token_weight, part.sequence_weight, part.position_weight, part.state_weight)
        ))
        for name in part.rows
    }  # fmt: skip
    # Right-padded rows need no mask, except where official mode lets padding count.
    batch = Batch.build(
        tensors, official=official, weights=weights, keep_mask=official, forward_tokens=forward_tokens, packed=packed,
        reference=reference,
    )  # fmt: skip
    batch = batch.with_reference_nll({name: torch.from_numpy(nll[part.rows[name]]) for name, nll in known_nll.items()})
    return batch.with_reference_logp({v: torch.from_numpy(logp.of(part.rows[v])) for v, logp in known_logp.items()})


def _schedule(step: int, warmup: int, steps: int) -> float:
    """Share of the peak learning rate: a linear rise from 0, a linear fall to 0 (that of transformers)."""
    if step < warmup:
        return step / warmup
    return (steps - step) / max(1, steps - warmup)


def _seed_step(seed: int, step: int) -> None:
    """Dropout draws by step and process, so that a run goes on anywhere, and with any number of processes."""
    state = np.random.SeedSequence([seed, step, distributed.rank()]).generate_state(1, np.uint64)
    torch.manual_seed(int(state[0] >> 1))
