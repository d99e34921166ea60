"""The options of a run as it writes them down."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cached_property
from typing import Any

UNTOLD = ("output", "time_limit", "execution", "audit", "audit_controls")
"""Options that do not make a run another run, such as what is done once it has ended."""
UNTOLD_BY_DEFAULT = ("note", "redact", "stop_when", "benchmarks", "chunk_documents", "metric_options", "attack_options")
"""Options that are written down only where they are given: runs without them are the runs they were before."""


def resolved(config: Any) -> dict[str, Any]:
    """The options as plain values, without the output directory: what makes two runs the same run."""
    told = {f.name: _plain(getattr(config, f.name)) for f in fields(config) if f.name not in UNTOLD}
    untold = (*UNTOLD_BY_DEFAULT, *getattr(config, "untold_by_default", ()))
    return {name: value for name, value in told.items() if value or name not in untold}


def _plain(value: Any) -> Any:
    """An option as it is written down: data and models in memory by what they are."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Mapping):
        return dict(value)
    if is_dataclass(value) and not isinstance(value, type):
        return repr(value)
    if isinstance(value, list) and all(isinstance(item, str | int | float) or _is_metric(item) for item in value):
        return [item.as_text() if _is_metric(item) else item for item in value]
    size = f", {len(value)} rows" if hasattr(value, "__len__") else ""
    return f"{type(value).__name__} in memory{size}"


def _is_metric(value: Any) -> bool:
    """Whether it is a metric that was given as an object; their class stands above this module."""
    return hasattr(value, "as_text") and not isinstance(value, type)


def metric_as_text(metric: Any) -> str:
    """A metric that was given as an object: its name, its class and its options, the same in every process."""
    kind = type(metric)
    if is_dataclass(metric):
        options = {field.name: getattr(metric, field.name) for field in fields(metric)}
    else:  # what a cached property once found is no option
        found = getattr(metric, "__dict__", {})
        options = {n: v for n, v in found.items() if not isinstance(getattr(kind, n, None), cached_property)}
    told = ", ".join(f"{name}={_as_text(value)}" for name, value in options.items())
    return f"{metric.name} ({kind.__module__}:{kind.__qualname__}({told}))"


def _as_text(value: Any) -> str:
    """An option of a metric; no address in memory is in it."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_as_text(name)}: {_as_text(of)}' for name, of in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_as_text, value))}]"
    if isinstance(value, set | frozenset):
        return f"{{{', '.join(sorted(map(_as_text, value)))}}}"
    if hasattr(value, "__qualname__"):  # a class or a function
        return f"{value.__module__}:{value.__qualname__}"
    return type(value).__qualname__ if type(value).__repr__ is object.__repr__ else repr(value)
