"""Keyword arguments as a command's options: read, checked, and shown by `help()`."""

from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from inspect import Parameter, signature
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from unlearner.errors import UserError, did_you_mean
from unlearner.evaluation.metrics.base import Metric
from unlearner.methods import Method
from unlearner.option_names import by_own_name, own_name

Function = TypeVar("Function", bound=Callable[..., Any])
Config = TypeVar("Config")

SOURCES = {
    "forget", "retain", "forget_eval", "retain_eval", "real_authors", "world_facts", "data", "exclude", "controls",
    "neighbours",
}  # fmt: skip
"""Options that may be data in memory: a list of dicts or Records, a Dataset, a DataFrame."""
MODELS = {"model", "reference_model", "before", "after"}
OBJECTS = {"method": Method, "metrics": Metric}
"""Options that may be objects in the place of their names."""


def takes(config: type[Any]) -> Callable[[Function], Function]:
    """Has `help()` and editors show a function's `**options`: the fields of `config`."""

    def tell(function: Function) -> Function:
        shown = signature(function)
        named = [parameter for parameter in shown.parameters.values() if parameter.kind != Parameter.VAR_KEYWORD]
        options = [
            Parameter(field.name, Parameter.KEYWORD_ONLY, annotation=_type(field), default=_default(field))
            for field in fields(config)
            if field.name not in shown.parameters
        ]
        options.sort(key=lambda option: option.default is not Parameter.empty)
        function.__signature__ = shown.replace(parameters=[*named, *options])  # type: ignore[attr-defined]
        return function

    return tell


def _type(field: "Field[Any]") -> Any:
    return Any if field.name in SOURCES | MODELS else str | None if field.name == "output" else field.type


def _default(field: "Field[Any]") -> Any:
    if field.name == "output":
        return None
    if field.default_factory is not MISSING:
        return field.default_factory()
    return Parameter.empty if field.default is MISSING else field.default


def config_from(config_type: type[Config], model: Any, options: dict[str, Any]) -> Config:
    """A command's options from keyword arguments, paths as texts. Raises UserError for what they cannot be."""
    known: dict[str, Field[Any]] = {f.name: f for f in fields(config_type)}  # type: ignore[arg-type]
    kinds = get_type_hints(config_type)
    given: dict[str, Any] = {"model": model}
    by_own_name(options, known)
    for name, value in options.items():
        ours = own_name(name)
        given[ours] = _metrics_of(value, name) if ours == "metrics" else text_of(value)
        if ours in OBJECTS and _is_object(given[ours], OBJECTS[ours]):
            continue
        if ours not in SOURCES | MODELS and not (ours == "output" and value is None):
            check_kind(name, given[ours], kinds[ours])
    given["model"] = text_of(model)
    if not isinstance(given["model"], str) and not hasattr(model, "get_input_embeddings"):
        raise UserError(f"model must be a directory, a hub id or a transformers model, not {model!r}.")
    if "output" in known:
        given.setdefault("output", None)
    missing = [f.name for f in known.values() if _is_required(f) and f.name not in given]
    if missing:
        raise UserError(f"{' and '.join(missing)} must be given.")
    return config_type(**given)


def _metrics_of(value: Any, option: str) -> Any:
    """A list of metrics as it was given, with an object in the place of each class; a metric alone as a list."""
    if isinstance(value, Metric) or (isinstance(value, type) and issubclass(value, Metric)):
        value = [value]
    if not isinstance(value, list):
        return value
    made = []
    for item in value:
        if isinstance(item, type) and issubclass(item, Metric):
            try:
                item = item()
            except TypeError as error:
                raise UserError(
                    f"{option} has the class {item.__name__}, which needs options ({error}): give an object."
                ) from None
        made.append(item)
    return made


def _is_object(value: Any, kind: type) -> bool:
    """Whether a value is an object of this kind, or a list of names with some of them."""
    if isinstance(value, list):
        return any(isinstance(item, kind) for item in value) and all(isinstance(item, kind | str) for item in value)
    return isinstance(value, kind)


def _is_required(field: "Field[Any]") -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def check_kind(name: str, value: Any, kind: Any) -> None:
    """Raises UserError for a value that is not of the option's type."""
    kinds = get_args(kind) if isinstance(kind, UnionType) or get_origin(kind) is Union else (kind,)
    if choices := [choice for each in kinds if get_origin(each) is Literal for choice in get_args(each)]:
        if value not in choices and not (value is None and type(None) in kinds):
            raise UserError(f"{name} cannot be {value!r}: {did_you_mean(str(value), choices)}")
        return
    if not any(_fits(value, each) for each in kinds):
        expected = " or ".join(_WORDS[get_origin(each) or each] for each in kinds if each is not type(None))
        raise UserError(f"{name} must be {expected}, not {value!r}.")


def _fits(value: Any, kind: Any) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    origin = get_origin(kind)
    if origin is list:
        return isinstance(value, list) and all(_fits(item, get_args(kind)[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(isinstance(item, str) for pair in value.items() for item in pair)
    return isinstance(value, kind)


_WORDS = {
    float: "a number",
    int: "a whole number",
    bool: "True or False",
    str: "a text",
    list: "a list of texts",
    dict: "a dict of texts",
    type(None): "None",
}


def text_of(value: Any) -> Any:
    """Sources and directories may be paths; a run records them as texts."""
    if isinstance(value, list) and any(isinstance(item, Path) for item in value):
        return [text_of(item) for item in value]
    return str(value) if isinstance(value, Path) else value
