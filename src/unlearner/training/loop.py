"""The one training loop: from a plan of items to a trained model, resumable at any step, top to bottom in this file."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedTokenizerBase

from unlearner import distributed
from unlearner.console import progress_bar
from unlearner.data.batches import Plan
from unlearner.data.views import View
from unlearner.methods import Method
from unlearner.models import deepspeed
from unlearner.models.anatomy import Head
from unlearner.models.execution import Execution, using
from unlearner.models.sharding import Engine, is_sharded
from unlearner.options import TrainOptions
from unlearner.random_state import own_random_state
from unlearner.results.layout import RunDirectory
from unlearner.scoring.views import layers_of
from unlearner.training import checkpoint, execution
from unlearner.training.best_epoch import BestEpoch, Listener
from unlearner.training.callbacks import Callbacks
from unlearner.training.checks import check_compiles
from unlearner.training.interrupt import ctrl_c
from unlearner.training.log import Log
from unlearner.training.objective import Objective
from unlearner.training.reference import reference_logp, reference_nll, step_reference
from unlearner.training.setup import make_optimizer, place
from unlearner.training.step import Steps

if TYPE_CHECKING:
    from transformers import TrainerCallback


class Measured(NamedTuple):
    """What was measured after an epoch."""

    figures: dict[str, float]
    """By name, such as forget_efficacy; the same in all processes."""
    enough: bool
    """Whether training may end."""


AtEpoch = Callable[[nn.Module, int], Measured]
"""Called with the model and the number of the epoch just done."""


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
    listener: Listener | None = None,
    callbacks: "Sequence[TrainerCallback]" = (),
    how: Execution | None = None,
) -> Trained:
    """Train `model` by `method` on the items of `plan`, in place.

    `parallel` is how several processes share the work; with fsdp, `place` may have been called already. `how` the run
    computes is decided here where it is not given. Afterwards the same parameters are to be trained as before.
    Goes on from the newest checkpoint in `folder`/checkpoints. Every step's losses, gradient norm and learning rate
    are a line of `folder`/log.jsonl. Without a folder nothing is written. `callbacks` are told what happens, and may
    end the training; so may a `listener`, which is asked after every epoch: then the best epoch is kept. Returns the
    trained model and the log. Raises UserError, naming the step, when a loss or gradient is no longer finite;
    checkpoints only ever hold finite ones.
    """
    with ExitStack() as undo:
        if not is_sharded(model):
            model, reference_model = place(
                model, reference_model, method, options, accelerator, parallel, peft_config, undo
            )
        if how is None:
            asked = [model] if reference_model is None else [model, reference_model]
            read = [views[name] for name in method.needs]
            how = execution.plan_training(asked, method, options, parallel, accelerator, folder, read)
        steps = _steps(model, reference_model, tokenizer, method, views, plan, options, how, accelerator, parallel)
        del reference_model  # where no step asks it, it has answered: its memory is the training's
        checkpoints = None if folder is None else RunDirectory(folder).checkpoints
        done = 0
        if checkpoints is not None and (newest := distributed.agreed(checkpoint.latest(checkpoints))):
            done = newest[0]
            checkpoint.load(model, steps.optimizers, newest[1], steps.states)
        told = Callbacks(
            callbacks, options, folder, plan, _followed(at_epoch, listener), model=model, processing_class=tokenizer,
            optimizer=steps.optimizers[0],
        )  # fmt: skip
        log = Log(folder, done, accelerator, told)
        told.on_train_begin(done)
        best = None if listener is None else BestEpoch(listener, plan.epoch_ends(), checkpoints, log)
        done = _Training(steps, checkpoints, told, log, best, at_epoch).go_on(done)
        log.flush()
        if best is not None:
            best.put_back(model, done)
        told.on_train_end(done)
        return Trained(accelerator.unwrap_model(steps.wrapped).model, log.rows)


def _steps(
    model: Any,
    reference_model: Any,
    tokenizer: PreTrainedTokenizerBase,
    method: Method,
    views: Mapping[str, View],
    plan: Plan,
    options: TrainOptions,
    how: Execution,
    accelerator: Accelerator,
    parallel: Engine,
) -> Steps:
    """The steps to take, from models that are placed: what is asked of the reference once is known, the objective is
    wrapped."""
    pad_id = tokenizer.eos_token_id  # as the official code pads; a pad token may lack an embedding
    pad_to = options.max_length if method.official else None
    asked = [model] if reference_model is None else [model, reference_model]
    passing = (pad_id, pad_to, options.max_tokens_per_forward, accelerator)
    with using(how):
        known_nll = {name: reference_nll(asked[-1], views[name], *passing) for name in method.reference_nll}
        known_logp = {name: reference_logp(asked[-1], views[name], *passing) for name in method.reference_logp}
    if reference_model is not None and not method.asked and not is_sharded(reference_model):
        reference_model.to("cpu")
    objective = Objective(model, method, step_reference(model, method, reference_model), seed=options.seed)
    if how.compiled:
        check_compiles(method)
    objective.to_device(accelerator.device)
    optimizers = [make_optimizer(objective, options) for _ in range(method.surgery.optimizers if method.surgery else 1)]
    if parallel == "deepspeed":
        wrapped: Any = deepspeed.start(objective, optimizers[0], options, accelerator.device)
    else:
        if accelerator.ddp_handler is not None and layers_of(method.needs):
            accelerator.ddp_handler.find_unused_parameters = True  # a loss may read no further than its layer
        wrapped = objective if is_sharded(model) else accelerator.prepare(objective)
    official_view = None
    if method.official:
        official_view = partial(method.forget.official_view, vocabulary=Head.of(model).vocabulary)
    return Steps(
        objective, wrapped, optimizers, plan, views, options, how, accelerator, parallel, pad_id, pad_to, known_nll,
        known_logp, official_view,
    )  # fmt: skip


class _Training(NamedTuple):
    """A training under way: its steps, and who is told of them."""

    steps: Steps
    checkpoints: Path | None
    told: Callbacks
    log: Log
    best: BestEpoch | None
    at_epoch: AtEpoch | None

    def go_on(self, step: int) -> int:
        """Take the steps after the first `step` of them; returns how many are done then."""
        steps, told, log = self.steps, self.told, self.log
        plan, options, objective, accelerator = steps.plan, steps.options, steps.objective, steps.accelerator
        model = objective.model
        warmup = int(plan.steps_per_epoch * options.warmup_epochs) if plan.steps_per_epoch > 1 else 0
        epoch_ends = plan.epoch_ends()
        save_at = set(range(options.save_steps, plan.steps, options.save_steps)) if options.save_steps else set()
        save_at |= set(epoch_ends) if self.best is not None or not options.save_steps else set()
        with (
            progress_bar(objective.method.name, plan.steps, step) as bar,
            ctrl_c() as interrupted,
            execution.executing(steps.how, execution.all_models(model, objective.reference), accelerator),
        ):
            while True:
                if step in epoch_ends:
                    self.end_epoch(step, epoch_ends[step])
                if told.stopped or step == plan.steps:
                    return step
                steps.wrapped.train()
                lr = steps.peak_lr * _schedule(step, warmup, plan.steps)
                losses, norm, more = steps.take(step, lr)
                epoch = min((step + 1) * plan.step_items, plan.total_items) / plan.items
                objective.after_step(losses, accelerator)
                log.add(step + 1, epoch, lr, losses, norm, {**objective.logged(), **more})
                step += 1
                told.on_step_end(step)
                stop = distributed.any_of(interrupted())
                due = step in save_at and step < plan.steps
                flush = stop or due or told.stopped or step in epoch_ends or step % options.logging_steps == 0
                bar(step, **(log.flush() if flush else {}))
                if due or stop or told.stopped or step == plan.steps:
                    log.check_weights(model, step)
                if due or stop:
                    self.save(step)
                if stop:
                    raise KeyboardInterrupt

    def end_epoch(self, step: int, epoch: int) -> None:
        """Have the model measured after an epoch, by those who asked for it; either may end the training."""
        told, model = self.told, self.steps.objective.model
        told.on_epoch_end(step)
        if self.at_epoch is None and self.best is None:
            return
        with torch.compiler.set_stance("force_eager") if self.steps.options.torch_compile else nullcontext():
            figures: dict[str, float] = {}
            if self.at_epoch is not None:
                figures, enough = self.at_epoch(model, epoch)
                told.stopped |= enough
            if self.best is not None:
                told.stopped |= self.best.after_epoch(model, step)
                figures |= self.best.measured(step)
        told.on_evaluate(step, figures)

    def save(self, step: int) -> None:
        """Write a checkpoint, where there is a folder for it."""
        if self.checkpoints is None:
            return
        steps, spared = self.steps, None if self.best is None else self.best.step
        keep = steps.options.save_total_limit
        checkpoint.save(steps.objective.model, steps.optimizers, self.checkpoints, step, keep, steps.states, spared)
        self.told.on_save(step)


def _followed(at_epoch: AtEpoch | None, listener: Listener | None) -> tuple[str, bool] | None:
    """The figure by which a callback may judge an epoch, and whether more is better; None where nothing is measured."""
    if listener is not None:
        first = listener.conditions[0]
        return first.measure, first.test[0] == ">"
    return None if at_epoch is None else ("forget_efficacy", True)


def _schedule(step: int, warmup: int, steps: int) -> float:
    """Share of the peak learning rate: a linear rise from 0, a linear fall to 0 (that of transformers)."""
    if step < warmup:
        return step / warmup
    return (steps - step) / max(1, steps - warmup)
