"""Options of losses, metrics and attacks are their dataclass fields: values given for these, in Python or as text."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import MISSING, fields, is_dataclass, replace
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from unlearner.errors import UserError, did_you_mean, half_character

Part = TypeVar("Part")
TEXTS = {"true": True, "false": False}
LONG = 40
"""Characters of a default value that are shown."""
KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def with_options(
    flag: str, parts: Sequence[Part], pairs: Iterable[str], name_of: Callable[[Part], str], example: str
) -> list[Part]:
    """`parts` (metrics, attacks) with the options that `pairs` give them as NAME.OPTION=VALUE texts.

    A name may be told more fully after that (`sampling`: `sampling:temperature=0.7`), but not become another one.
    Raises UserError, with the nearest name, for a part that is not among them and for an option that it does not have.
    """
    found = list(parts)
    names = [name_of(part) for part in parts]
    for pair in pairs:
        text, equals, value = pair.partition("=")
        name, dot, option = text.strip().rpartition(".")
        if not (equals and dot and name and option):
            raise UserError(f"{flag} needs NAME.OPTION=VALUE, such as {example}, not {pair!r}.")
        if name not in names:
            raise UserError(f"{flag} {pair}: {name!r} is not among what was chosen: {did_you_mean(name, names)}")
        place, option = names.index(name), option.replace("-", "_")
        part: Any = found[place]
        known = [field.name for field in fields(part) if field.init] if is_dataclass(part) else []
        if option not in known:
            remedy = did_you_mean(option, known) if known else "it has none."
            raise UserError(f"{flag}: {name} has no option {option!r}: {remedy}")
        what, kind = f"{name}'s option {option}", get_type_hints(type(part))[option]
        several = get_origin(kind) is tuple
        values = [convert(what, v.strip(), get_args(kind)[0] if several else kind) for v in _split(value, several)]
        try:
            found[place] = replace(part, **{option: tuple(values) if several else values[0]})
        except UserError as error:
            raise UserError(f"{flag} {pair}: {error}") from None
        if name_of(found[place]).removeprefix(name)[:1] not in ("", ":"):
            raise UserError(f"{flag}: {name} is named after its {option}, which cannot be changed.")
    return found


def _split(value: str, several: bool) -> list[str]:
    return value.split(",") if several else [value]


def defaults(part: Any) -> str:
    """The options of a loss, metric or attack with their values, `beta=0.1`, in one line; those without a default
    alone. A class's are its defaults."""
    shown = []
    for each in fields(part) if is_dataclass(part) else ():
        value = each.default if isinstance(part, type) else getattr(part, each.name)
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        text = text if len(text) <= LONG else f"{text[:LONG]!r}…"
        shown.append(each.name if value is MISSING else f"{each.name}={text}")
    return " ".join(shown)


def convert(what: str, value: Any, kind: Any) -> Any:
    """`value`, or what it says as text, as the type `kind` of a field. Raises UserError that says `what` it is."""
    if get_origin(kind) in (Union, UnionType):
        choices = [choice for choice in get_args(kind) if choice is not type(None)]
        if len(choices) < len(get_args(kind)) and str(value).lower() in ("none", "null"):
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
    if kind in KINDS and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
        raise UserError(f"{what} must be {KINDS[kind]}, not {value!r}.")
    return value


def check_characters(options: Any) -> None:
    """Raises UserError for text that no file of records can hold: bytes of an argument that are not UTF-8, or half a
    character."""
    for each in fields(options):
        value = getattr(options, each.name)
        parts = [*value.keys(), *value.values()] if isinstance(value, dict) else value
        for text in parts if isinstance(parts, list | tuple) else [parts]:
            if isinstance(text, str) and (half := half_character(text)):
                raise UserError(
                    f"--{each.name.replace('_', '-')} is not text in UTF-8 ({half}): write it in UTF-8; a file with "
                    "such a name must be renamed."
                )
