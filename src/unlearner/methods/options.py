"""Options of losses and surgeries are their dataclass fields: how values given by name, in Python or as text, become
them."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, Field, fields
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from unlearner.errors import UserError, did_you_mean
from unlearner.methods.base import Loss
from unlearner.methods.registry import find
from unlearner.methods.surgery import Surgery

Part = TypeVar("Part", Loss, Surgery)
TEXTS = {"true": True, "false": False}
LONG = 40
"""Characters of a default value that are shown."""


def options_of(loss: "type[Loss | Surgery]") -> dict[str, "Field[Any]"]:
    """The fields of a loss by the names under which they are given; `metadata={"option": ...}` adds a second name."""
    named: dict[str, Field[Any]] = {}
    for each in fields(loss):  # type: ignore[arg-type]
        named |= {name: each for name in (each.name, each.metadata.get("option")) if name is not None}
    return named


def defaults(loss: "type[Loss | Surgery]") -> str:
    """A loss's options with their defaults, `beta=0.1`, in one line; those without a default alone."""
    return " ".join(f.name if f.default is MISSING else f"{f.name}={_brief(f.default)}" for f in fields(loss))  # type: ignore[arg-type]


def _brief(default: Any) -> str:
    text = str(default)
    return text if len(text) <= LONG else f"{text[:LONG]!r}…"


def make(part: type[Part], options: Mapping[str, Any]) -> Part:
    """A loss or a surgery with those of `options` that are its own. Raises UserError for a value of the wrong type."""
    types, named = get_type_hints(part), options_of(part)
    return part(**{
        named[name].name: convert(f"{part.name}'s option {name}", value, types[named[name].name])
        for name, value in options.items()
        if name in named
    })  # fmt: skip


def refuse_unknown(parts: "Sequence[type[Loss] | type[Surgery]]", options: Iterable[str]) -> None:
    """Raises UserError, with the nearest name, for one of `options` that none of a method's parts has."""
    known = {name for part in parts for name in options_of(part)}
    for name in options:
        if name not in known:
            what = "+".join(part.name for part in parts)
            raise UserError(f"{what} has no option {name!r}: {did_you_mean(name, known) if known else 'it has none.'}")


def read_pairs(method: str, pairs: Sequence[str]) -> dict[str, str]:
    """The options of a method from `NAME=VALUE` texts of the command line.

    Raises UserError for any other text, and for what is no option of the method.
    """
    options: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise UserError(f"--method-options takes NAME=VALUE, such as beta=0.5, not {pair!r}.")
        options[name.strip().replace("-", "_")] = value.strip()
    refuse_unknown(find(method).parts, options)
    return options


def convert(what: str, value: Any, kind: Any) -> Any:
    """`value`, or what it says as text, as the type `kind` of a field. Raises UserError that says `what` it is."""
    if get_origin(kind) in (Union, UnionType):
        choices = [choice for choice in get_args(kind) if choice is not type(None)]
        if len(choices) < len(get_args(kind)) and (value is None or value in ("none", "null")):
            return None
        assert len(choices) == 1, f"an option of several types: {kind}"
        return convert(what, value, choices[0])
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise UserError(f"{what} cannot be {value!r}: {did_you_mean(str(value), map(str, get_args(kind)))}")
        return value
    if kind is bool and isinstance(value, str):
        value = TEXTS.get(value.lower(), value)
    elif kind in (int, float) and isinstance(value, str):
        with suppress(ValueError):
            value = kind(value)
    elif kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind in NAMES and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
        raise UserError(f"{what} must be {NAMES[kind]}, not {value!r}.")
    return value


NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
