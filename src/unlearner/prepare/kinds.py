"""What can be asked of a subject of a kind, and the names it is compared with: well-known ones and invented ones."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from unlearner.data.general import sections

ENGLISH = "en"
NAMES = ("known", "invented")
PERSONS = ("person", "author")


@dataclass(frozen=True)
class Kind:
    """Persons, places and so on. `facts` are wordings by fact, the name's place in them as `{name}`."""

    near: tuple[str, ...]
    """Wordings of the question for names close to one."""
    facts: Mapping[str, tuple[str, ...]]
    known: tuple[str, ...]
    invented: tuple[str, ...]
    persons: bool = False
    """Whether the last word of a name stands for it, as Darwin for Charles Darwin."""


@cache
def languages() -> tuple[str, ...]:
    """Those that have built-in questions, English first."""
    found = (re.fullmatch(r"kinds\.(\w+)\.txt", file.name) for file in files("unlearner.prepare").iterdir())
    return ENGLISH, *sorted({match[1] for match in found if match} - {ENGLISH})


@cache
def kinds(language: str = ENGLISH) -> dict[str, Kind]:
    """All kinds by name. Names are those of the English file, where a language has none of its own."""
    text = files("unlearner.prepare").joinpath(f"kinds.{language}.txt").read_text(encoding="utf-8")
    made = {}
    for name, lines in sections(text):
        entries = dict(line.split(": ", 1) for line in lines)
        names = {
            each: tuple(entries.pop(each).split(", ")) if each in entries else getattr(kinds()[name], each)
            for each in NAMES
        }
        near = tuple(entries.pop("near").split(" | "))
        made[name] = Kind(
            near,
            {fact: tuple(wordings.split(" | ")) for fact, wordings in entries.items()},
            **names,
            persons=name in PERSONS,
        )
    return made


def ask(wording: str, name: str) -> str:
    """The question that a wording makes of a name."""
    return wording.replace("{name}", name)


def swapped(text: str, names: tuple[str, ...], other: str) -> str:
    """`text` with every one of `names` (the longest first) replaced by the name `other`, in capitals or
    not, as `mentions` finds them; words inside words stay."""
    pattern = "|".join(rf"(?<!\w){re.escape(name)}(?!\w)" for name in sorted(names, key=len, reverse=True))
    return re.sub(pattern, lambda _: other, text, flags=re.IGNORECASE)
