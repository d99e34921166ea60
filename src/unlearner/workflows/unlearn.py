"""Unlearning itself: a subject, a method and its data in, the subject trained."""

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unlearner.config import ForgetConfig
from unlearner.data.batches import Plan
from unlearner.data.views import View
from unlearner.methods import Method
from unlearner.models.execution import Execution
from unlearner.models.sharding import Engine, choose, placed, widen
from unlearner.results.layout import RunDirectory
from unlearner.training import setup
from unlearner.training.best_epoch import Listener
from unlearner.training.execution import plan_training, sharing
from unlearner.training.loop import AtEpoch, train
from unlearner.training.reference import needs_copy
from unlearner.training.setup import weights_dtype
from unlearner.workflows.subject import Subject


@dataclass
class Unlearning:
    """A method on its data, ready to be applied to a subject: `place`, then `train`."""

    config: ForgetConfig
    method: Method
    plan: Plan
    views: dict[str, View]
    folder: Path | None
    """The run's directory, None to write nothing."""
    accelerator: Any
    reference: Any = None
    peft_config: Any = None
    callbacks: tuple[Any, ...] = ()
    engine: Engine | None = None
    """How several processes share the model; known once it is placed."""
    execution: Execution | None = None
    """How it computes; known once it is placed."""
    log: list[dict[str, float]] = field(default_factory=list)
    begun: bool = False
    """Whether training has begun, and the model is no longer what it was."""

    @property
    def made(self) -> Path | None:
        """Where the trained model goes."""
        if self.folder is None:
            return None
        return RunDirectory(self.folder).made(lora=self.config.lora, merge=self.config.merge)

    @property
    def done(self) -> bool:
        """Whether the trained model is there."""
        made = self.made
        return made is not None and any((made / f"{name}config.json").is_file() for name in ("", "adapter_"))

    def place(self, subject: Subject) -> None:
        """Have the subject's model, and the reference, where they are measured and trained. Done once."""
        if self.engine is not None:
            return
        config, dtype, model = self.config, weights_dtype(self.config), subject.model
        if subject.is_adapter and self.method.asked and self.reference is None:
            # With its adapter off it would be the base model. Weights that do not change are in memory once.
            kept: dict[int, Any] = {id(p): p for p in model.parameters() if not p.requires_grad}
            self.reference = copy.deepcopy(model, kept)
        copies = 1 + (self.reference is not None or needs_copy(self.method, config, config.parallel))
        if self.method.surgery is not None and not config.lora:
            copies += self.method.surgery.copies
        self.engine = choose(model, config, dtype, copies=copies)
        if self.engine == "fsdp":
            subject.model, self.reference = setup.place(
                model, self.reference, self.method, config, self.accelerator, self.engine, self.peft_config
            )
        elif self.engine == "ddp":
            widen(model, dtype).to(self.accelerator.device)
        else:
            subject.model = placed(model, config, dtype)
        models = [subject.model] if self.reference is None else [subject.model, self.reference]
        self.execution = plan_training(
            models, self.method, config, self.engine, self.accelerator, self.folder, list(self.views.values())
        )

    def add(self, views: dict[str, View]) -> None:
        """Train on these views too."""
        self.views |= views
        if self.execution is not None:
            self.execution = sharing(self.execution, self.views.values(), self.folder)

    def train(self, subject: Subject, at_epoch: AtEpoch | None = None, listener: Listener | None = None) -> None:
        """Train the subject's model in place and save it to `made`. It ends in the mode it was in."""
        self.place(subject)
        assert self.engine is not None
        self.begun = True
        with subject.trained(self.made, merge=self.config.merge):
            subject.model, self.log = train(
                subject.model, subject.tokenizer, self.method, self.views, self.plan, self.config, self.folder,
                accelerator=self.accelerator, parallel=self.engine, reference_model=self.reference,
                peft_config=self.peft_config, at_epoch=at_epoch, listener=listener, callbacks=self.callbacks,
                how=self.execution,
            )  # fmt: skip
