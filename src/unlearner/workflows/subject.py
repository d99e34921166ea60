"""A subject: the model that is unlearned, taught or measured, with what belongs to it."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from unlearner import distributed
from unlearner.data.prompts import Template, find_template
from unlearner.errors import UserError
from unlearner.models.anatomy import bare, check_head
from unlearner.models.load import load_model, load_tokenizer, model_hash
from unlearner.options import ModelOptions, TrainOptions
from unlearner.results.evidence import warn_changed
from unlearner.training import checkpoint
from unlearner.training.checks import load_to_train
from unlearner.training.setup import merged, weights_dtype


@dataclass
class Subject:
    """A model with its tokenizer and prompt template. `source` is the directory or hub id that it is loaded from, None
    for an object in memory; `model` is None until it is loaded."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    template: Template
    source: str | None

    @classmethod
    def of(cls, options: ModelOptions, tokenizer: PreTrainedTokenizerBase | None = None) -> "Subject":
        """The subject that `options.model` names or is; one that has to be loaded is not loaded yet.

        `tokenizer` is by default the one beside the model. Raises UserError where there is none.
        """
        model: Any = options.model
        source = model if isinstance(model, str) else None
        place = source or str(getattr(bare(model), "name_or_path", ""))
        if tokenizer is None:
            if source is None and not (place and Path(place).is_dir()):
                raise UserError("a model in memory needs its tokenizer: give tokenizer=.")
            tokenizer = load_tokenizer(place, trust_remote_code=options.trust_remote_code)
        if tokenizer.eos_token_id is None:
            raise UserError("the tokenizer has no EOS token: set its eos_token.")
        return cls(model if source is None else None, tokenizer, find_template(options.template, tokenizer), source)

    @property
    def name(self) -> str:
        """Its source, or what it is."""
        return self.source or type(self.model).__name__

    @property
    def is_adapter(self) -> bool:
        """Whether it came with an adapter, which is then what is trained."""
        return self.source is None and hasattr(self.model, "peft_config")

    def load_to_train(self, options: TrainOptions) -> None:
        """Have the model as training starts from it. Raises UserError."""
        if self.source is not None:
            warn_changed(self.source)
            self.model = load_to_train(options)
            return
        if options.parallel == "deepspeed":
            raise UserError("--parallel deepspeed trains a model from a directory: save it and give its path.")
        if not any(parameter.requires_grad for parameter in self.model.parameters()):
            raise UserError(
                "the model has no weights to train: set requires_grad, or load an adapter with is_trainable=True."
            )
        self._check(weights_dtype(options))

    @contextmanager
    def trained(self, made: Path | None, *, merge: bool) -> Iterator[None]:
        """Inside, `model` is trained, or replaced by what is made of it. Then it is saved to `made`; without one, an
        adapter is added to the weights where `merge` says so. It ends in the mode it was in."""
        mode, before = self.model.training, [(p, p.requires_grad) for p in self.model.parameters()]
        yield
        if made is not None:
            checkpoint.save_model(self.model, self.tokenizer, made, merge=merge)
            distributed.barrier()
        elif merge:
            self.model = merged(self.model, before)
        self.model.train(mode)

    def load(self, options: ModelOptions, dtype: torch.dtype) -> None:
        """Have the model to be measured, in `dtype`; an object in memory as it is. Raises UserError."""
        if self.source is not None:
            trust = options.trust_remote_code
            warn_changed(self.source)
            self.model = load_model(self.source, dtype=dtype, trust_remote_code=trust, lazy=True)
        else:
            self._check(None)

    def _check(self, dtype: torch.dtype | None) -> None:
        """An object in memory: its weights as `dtype`, those of an adapter in float32, as peft makes them."""
        training = self.model.training
        try:
            check_head(self.model.eval())
        finally:
            self.model.train(training)
        for parameter in self.model.parameters() if dtype is not None else ():
            if parameter.is_floating_point():
                adapter = self.is_adapter and parameter.requires_grad
                parameter.data = parameter.data.to(torch.float32 if adapter else dtype)

    def fingerprint(self) -> str | None:
        """sha256 of what it is made of; None for a hub id, whose revision tells it."""
        return model_hash(self.source) if self.source is not None else weights_hash(self.model)


def weights_hash(model: torch.nn.Module) -> str:
    """sha256 over a model's weights, by name."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
