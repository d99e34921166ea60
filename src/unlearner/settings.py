"""The options of a run as it writes them down."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

UNTOLD = ("output", "time_limit", "execution", "audit", "audit_controls")
"""Options that do not make a run another run, such as what is done once it has ended."""
UNTOLD_BY_DEFAULT = ("note", "redact", "stop_when", "benchmarks", "chunk_documents")
"""Options that are written down only where they are given: runs without them are the runs they were before."""


def resolved(config: Any) -> dict[str, Any]:
    """The options as plain values, without the output directory: what makes two runs the same run."""
    told = {f.name: _plain(getattr(config, f.name)) for f in fields(config) if f.name not in UNTOLD}
    return {name: value for name, value in told.items() if value or name not in UNTOLD_BY_DEFAULT}


def _plain(value: Any) -> Any:
    """An option as it is written down: data and models in memory by what they are."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Mapping):
        return dict(value)
    if is_dataclass(value) and not isinstance(value, type):
        return repr(value)
    if isinstance(value, list) and all(isinstance(item, str | int | float) for item in value):
        return list(value)
    size = f", {len(value)} rows" if hasattr(value, "__len__") else ""
    return f"{type(value).__name__} in memory{size}"
