"""transformers' callbacks: told what happens in the loop, and able to end it. Trackers are such callbacks."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from unlearner import distributed
from unlearner.data.batches import Plan
from unlearner.errors import UserError
from unlearner.options import TrainOptions

if TYPE_CHECKING:
    from transformers import TrainerCallback


def callbacks_of(given: Any) -> "tuple[TrainerCallback, ...]":
    """The callbacks as transformers' Trainer takes them: a list, or None; classes are made objects. Raises UserError
    for anything else."""
    from transformers import TrainerCallback

    several = () if given is None else given if isinstance(given, list | tuple) else (given,)
    found = tuple(each() if isinstance(each, type) else each for each in several)
    for each in found:
        if not isinstance(each, TrainerCallback):
            raise UserError(f"callbacks are transformers' TrainerCallbacks, not {type(each).__name__}.")
    return found


class Callbacks:
    """The callbacks of one training: those given, and the tracker's.

    They get what transformers' Trainer gives them: its TrainingArguments, a TrainerState, a TrainerControl, and as
    keywords model, processing_class (the tokenizer) and optimizer. Of the control, `should_training_stop` is followed,
    from whichever process it comes. `on_log` has a row for every step: loss, forget, retain, grad_norm, learning_rate,
    epoch. `on_evaluate` has what was measured after an epoch as `metrics`, eval_forget_efficacy and others; `followed`,
    a figure and whether more of it is better, is what EarlyStoppingCallback watches.
    """

    def __init__(
        self,
        given: "Sequence[TrainerCallback]",
        options: TrainOptions,
        folder: Path | None,
        plan: Plan,
        followed: tuple[str, bool] | None,
        **objects: Any,
    ) -> None:
        self.callbacks = [*given, *_tracker(options.report_to)]
        self.plan, self.followed, self.objects = plan, followed, objects
        self.stopped = False
        """Whether the training is to end."""
        if not self.callbacks:
            return
        from transformers import TrainerControl, TrainerState, TrainingArguments

        self.control = TrainerControl()
        main = distributed.is_main()
        self.state = TrainerState(
            max_steps=plan.steps, num_train_epochs=max(1, round(plan.epochs)), logging_steps=options.logging_steps,
            train_batch_size=options.batch_size, is_local_process_zero=main, is_world_process_zero=main,
        )  # fmt: skip
        self.arguments = TrainingArguments(
            output_dir=str(folder or ""), report_to=[], use_cpu=not torch.cuda.is_available(), seed=options.seed,
            learning_rate=options.learning_rate or 0.0, num_train_epochs=plan.epochs, max_steps=plan.steps,
            per_device_train_batch_size=options.batch_size, gradient_accumulation_steps=plan.accumulation,
            eval_strategy="no" if followed is None else "epoch", metric_for_best_model=followed and followed[0],
            greater_is_better=followed and followed[1], logging_steps=options.logging_steps,
            weight_decay=options.weight_decay, max_grad_norm=options.max_grad_norm,
            accelerator_config={"use_configured_state": True},  # or it would make accelerate's state anew
        )  # fmt: skip

    def on_train_begin(self, step: int) -> None:
        self._tell("on_train_begin", step)

    def on_step_end(self, step: int) -> None:
        self._tell("on_step_end", step)

    def on_epoch_end(self, step: int) -> None:
        self._tell("on_epoch_end", step)

    def on_evaluate(self, step: int, figures: dict[str, float]) -> None:
        self._tell("on_evaluate", step, metrics={f"eval_{name}": value for name, value in figures.items()})
        if not self.callbacks or self.followed is None or self.followed[0] not in figures:
            return
        name, more = self.followed
        best, value = self.state.best_metric, figures[name]
        if best is None or (value > best if more else value < best):
            self.state.best_metric, self.state.best_global_step = value, step

    def on_save(self, step: int) -> None:
        self._tell("on_save", step)

    def on_train_end(self, step: int) -> None:
        self._tell("on_train_end", step)

    def on_log(self, row: dict[str, float]) -> None:
        """A row of the log; the state that comes with it is that of the row's step."""
        if not self.callbacks:
            return
        step = int(row["step"])
        logs = {"learning_rate" if name == "lr" else name: value for name, value in row.items() if name != "step"}
        self.state.log_history.append({**logs, "step": step})
        self._tell("on_log", step, logs=logs)

    def _tell(self, event: str, step: int, **more: Any) -> None:
        if not self.callbacks:
            return
        self.state.global_step = step
        self.state.epoch = min(step * self.plan.step_items, self.plan.total_items) / self.plan.items
        for callback in self.callbacks:
            answer = getattr(callback, event)(self.arguments, self.state, self.control, **self.objects, **more)
            self.control = answer or self.control
        self.stopped |= distributed.any_of(self.control.should_training_stop)


def _tracker(name: str) -> "list[TrainerCallback]":
    if name == "none":
        return []
    from transformers.integrations import get_reporting_integration_callbacks

    return [make() for make in get_reporting_integration_callbacks(name)]
