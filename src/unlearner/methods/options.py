"""Options of losses and surgeries are their dataclass fields: how values given by name, in Python or as text, become
them."""

from collections.abc import Iterable, Mapping
from dataclasses import Field, fields
from typing import Any, TypeVar, get_type_hints

from unlearner.errors import UserError, did_you_mean
from unlearner.methods.base import Loss
from unlearner.methods.registry import Found, find
from unlearner.methods.surgery import Surgery
from unlearner.values import convert

Part = TypeVar("Part", Loss, Surgery)


def options_of(loss: "type[Loss | Surgery]") -> dict[str, "Field[Any]"]:
    """The fields of a loss by the names under which they are given; `metadata={"option": ...}` adds a second name."""
    named: dict[str, Field[Any]] = {}
    for each in fields(loss):  # type: ignore[arg-type]
        named |= {name: each for name in (each.name, each.metadata.get("option")) if name is not None}
    return named


def make(part: type[Part], options: Mapping[str, Any]) -> Part:
    """A loss or a surgery with those of `options` that are its own. Raises UserError for a value of the wrong type."""
    types, named = get_type_hints(part), options_of(part)
    return part(**{
        named[name].name: convert(f"{part.name}'s option {name}", value, types[named[name].name])
        for name, value in options.items()
        if name in named
    })  # fmt: skip


def refuse_unknown(found: Found, options: Iterable[str]) -> None:
    """Raises UserError for one of `options` that none of a method's parts has, with what it is called here, or the
    nearest name."""
    known = {name for part in found.parts for name in options_of(part)}
    for name in options:
        if name not in known:
            elsewhere = found.losses[0].elsewhere.get(name)
            remedy = did_you_mean(name, known) if known else "it has none."
            raise UserError(f"{found.name} has no option {name!r}: {f'{elsewhere}.' if elsewhere else remedy}")


def split_pairs(pairs: Iterable[str]) -> dict[str, str]:
    """Options from `NAME=VALUE` texts of the command line. Raises UserError for any other text."""
    options: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise UserError(f"--method-options needs NAME=VALUE, such as beta=0.5, not {pair!r}.")
        options[name.strip().replace("-", "_")] = value.strip()
    return options


def read_pairs(method: str, pairs: Iterable[str]) -> dict[str, str]:
    """The options of a method from `NAME=VALUE` texts.

    Raises UserError for any other text, and for what is no option of the method.
    """
    options = split_pairs(pairs)
    refuse_unknown(find(method), options)
    return options
