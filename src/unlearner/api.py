"""The commands as functions: `unlearner.forget`, `unlearner.finetune`, `unlearner.evaluate`. Options are those of
`config.py`, under the same names and with the same defaults as on the command line."""

from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from unlearner.config import EvaluateConfig, FinetuneConfig, ForgetConfig
from unlearner.errors import UserError, did_you_mean
from unlearner.evaluation.evaluate import evaluate as _evaluate
from unlearner.training.builtin import resolve_model
from unlearner.training.finetune import finetune as _finetune
from unlearner.training.forget import ForgetResult
from unlearner.training.forget import forget as _forget

Config = TypeVar("Config", ForgetConfig, FinetuneConfig, EvaluateConfig)


def forget(model: str | Path, **options: Any) -> ForgetResult:
    """Make `model` forget: `forget(model, forget="forget.jsonl", retain="retain.jsonl", method="ME+GD", output="out")`.

    Options: the fields of `ForgetConfig`. Gives where the run and its model lie, and both evaluations' summaries.
    Raises UserError for whatever the caller can mend.
    """
    return _forget(_config(ForgetConfig, model, options))


def finetune(model: str | Path, **options: Any) -> Path:
    """Teach `model` a source or several: `finetune("new:", data=["facts.jsonl"], output="taught", lr=1e-3)`.

    Options: the fields of `FinetuneConfig`. Gives the directory of the trained model. Raises UserError.
    """
    if isinstance(options.get("data"), str | Path):
        options["data"] = [options["data"]]
    return _finetune(_config(FinetuneConfig, model, options))


def evaluate(model: str | Path, **options: Any) -> dict[str, Any]:
    """Measure `model`: `evaluate(model, forget="forget.jsonl", retain="retain.jsonl", output="scores")`.

    Options: the fields of `EvaluateConfig`. Gives the summary, its keys those of `evaluation/summary.py`. Raises
    UserError.
    """
    config = _config(EvaluateConfig, model, options)
    return _evaluate(config, path=resolve_model(config.model))


def _config(config_type: type[Config], model: str | Path, options: dict[str, Any]) -> Config:
    """A command's options from keyword arguments, paths as texts."""
    given = {"model": model, **options}
    known = {f.name: f for f in fields(config_type)}
    for name, value in given.items():
        if name not in known:
            raise UserError(f"unknown option {name!r}: {did_you_mean(name, known)}")
        choices = get_args(known[name].type)
        if get_origin(known[name].type) is Literal and value not in choices:
            raise UserError(f"{name} cannot be {value!r}: {did_you_mean(str(value), choices)}")
    required = (f.name for f in known.values() if f.default is MISSING and f.default_factory is MISSING)
    missing = [name for name in required if name not in given]
    if missing:
        raise UserError(f"{' and '.join(missing)} must be given.")
    return config_type(**{name: _text(value) for name, value in given.items()})


def _text(value: Any) -> Any:
    """Sources and directories may be paths; a run records them as texts."""
    if isinstance(value, list):
        return [_text(item) for item in value]
    return str(value) if isinstance(value, Path) else value
