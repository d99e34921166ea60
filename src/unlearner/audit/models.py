"""The models of an audit: checked to be alike before anything is loaded, loaded as they will be served, and let go."""

import copy
import gc
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from unlearner.config import AuditConfig
from unlearner.errors import UserError
from unlearner.models.anatomy import bare
from unlearner.models.load import load_config, quiet_transformers, uses_bf16
from unlearner.models.sharding import placed
from unlearner.workflows.builtin import resolve_model
from unlearner.workflows.subject import Subject


class Models:
    """`unlearned`, and `before` and `retrained` where they are given. Raises UserError where these are of another
    architecture."""

    def __init__(self, config: AuditConfig, tokenizer: Any) -> None:
        given = {"unlearned": config.model, "before": config.before, "retrained": config.retrained}
        self.config = config
        self.subjects = {
            name: Subject.of(replace(config, model=resolve_model(model)), tokenizer)
            for name, model in given.items()
            if model is not None
        }
        self._loaded: dict[str, Any] = {}
        shapes = {name: _shapes(subject, config) for name, subject in self.subjects.items()}
        ours, weights = shapes["unlearned"]
        for name, (kind, theirs) in shapes.items():
            if theirs != weights:
                meant = "that unlearning started from" if name == "before" else "that was trained in the same way"
                raise UserError(f"--{name} has {_difference(kind, theirs, ours, weights)}: give the model {meant}.")

    @property
    def names(self) -> list[str]:
        return list(self.subjects)

    def hashes(self) -> Mapping[str, str | None]:
        return {"model" if name == "unlearned" else name: s.fingerprint() for name, s in self.subjects.items()}

    def get(self, name: str) -> Any:
        """The model, an adapter merged into it: rounding and relearning do not see it otherwise."""
        if name not in self._loaded:
            subject, config = self.subjects[name], self.config
            dtype = torch.bfloat16 if uses_bf16(config.precision) else torch.float32
            subject.load(config, dtype)
            model = subject.model
            if subject.source is not None:
                model = placed(model, config, dtype)
            if hasattr(model, "peft_config"):
                mode = model.training
                own = model if subject.source is not None else copy.deepcopy(model)  # the caller's stays as it is
                model = own.merge_and_unload().train(mode)
            self._loaded[name] = model
        return self._loaded[name]

    def let_go(self, name: str) -> None:
        self._loaded.pop(name, None)
        if self.subjects[name].source is not None:
            self.subjects[name].model = None
        gc.collect()


def _difference(kind: str, theirs: Mapping[str, torch.Size], ours: str, weights: Mapping[str, torch.Size]) -> str:
    """What tells two models apart: their kind, else the first weight of another shape, else one that only one has."""
    if kind != ours:
        return f"another architecture ({kind}) than the model ({ours})"
    if name := next((name for name in weights if name in theirs and theirs[name] != weights[name]), None):
        there, here = (" × ".join(map(str, shape)) for shape in (theirs[name], weights[name]))
        return f"another size than the model ({name} is {there} there, {here} here)"
    name = min(theirs.keys() ^ weights.keys())
    return f"another depth than the model (only {'that' if name in theirs else 'this'} one has {name})"


def _shapes(subject: Subject, config: AuditConfig) -> tuple[str, dict[str, torch.Size]]:
    """The kind of a model and the shape of every weight; of one that is not loaded, from its configuration."""
    model = subject.model
    if subject.source is not None:
        held = load_config(subject.source, trust_remote_code=config.trust_remote_code)
        with torch.device("meta"), quiet_transformers():
            model = AutoModelForCausalLM.from_config(held, trust_remote_code=config.trust_remote_code)
    weights = {
        name.replace(".base_layer", ""): weight.shape
        for name, weight in bare(model).named_parameters()
        if "lora_" not in name
    }
    return type(bare(model)).__name__, weights
