"""The questions about a subject: those of its kind and the user's own."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from unlearner.audit.detector import normalised
from unlearner.data.general import mentions
from unlearner.errors import UserError, did_you_mean
from unlearner.options import SubjectOptions
from unlearner.prepare.kinds import Kind, kinds, languages, swapped
from unlearner.prepare.knowledge import family_name

OWN = "question "
"""What the facts of the user's own questions are called, and their number."""
ARTICLE = re.compile(r"^the ", re.IGNORECASE)


@dataclass(frozen=True)
class About:
    """A subject with all that is asked of it; `facts` are wordings by fact, the name's place in them as `{name}`."""

    names: tuple[str, ...]
    """The name and its aliases."""
    kind: Kind
    facts: dict[str, tuple[str, ...]]

    @property
    def name(self) -> str:
        return self.names[0]

    def others(self, names: Iterable[str]) -> tuple[str, ...]:
        """Those of `names` that are not this subject."""
        return tuple(name for name in names if not is_any(name, self.names))

    def is_in(self, text: str, own: str = "") -> bool:
        """Whether a text, about the name `own`, speaks of this subject."""
        return speaks_of(text, self.names, persons=self.kind.persons, own=own)

    def origin(self, fact: str) -> str:
        """Who wrote the questions about a fact: template, user, or endpoint."""
        return "template" if fact in self.kind.facts else "user" if fact.startswith(OWN) else "endpoint"


def is_same(name: str, other: str) -> bool:
    """Whether one of two names has all words of the other, as Charles Robert Darwin those of Charles Darwin; or the
    same letters, as JRR Tolkien and J. R. R. Tolkien."""
    words, others = (normalised(each).split() for each in (name, other))
    return {*words} <= {*others} or {*others} <= {*words} or "".join(words) == "".join(others)


def is_any(name: str, names: Iterable[str]) -> bool:
    """Whether a name is the same as one of several."""
    return any(is_same(name, each) for each in names)


def speaks_of(text: str, names: tuple[str, ...], *, persons: bool, own: str = "") -> bool:
    """Whether a text has one of the `names` of a subject in any case, or, with a capital letter or as it was given,
    what stands for one: the family name of `persons`, of others the name without its article. So a rose is no Rose. In
    the name `own`, which the text is about, that does not count: Emma Darwin is not Charles Darwin."""
    if mentions(text, names):
        return True
    short = {family_name(name) if persons else ARTICLE.sub("", name) for name in names}
    rest = swapped(text, (own,), "")
    found = (said[0] for each in short for said in re.finditer(rf"(?<!\w){re.escape(each)}(?!\w)", rest, re.IGNORECASE))
    return any(said in short or said[0].isupper() for said in found)


def about(options: SubjectOptions, *, endpoint: bool = False) -> About:
    """The subject that the options name; with own questions, or an endpoint that can write some, in any language.
    Raises UserError for one that cannot be asked about."""
    names = tuple(name.strip() for name in (options.subject, *options.alias))
    for flag, name in zip(("--subject", *["--alias"] * len(options.alias)), names, strict=True):
        if sum(letter.isalnum() for letter in name) < 2:
            raise UserError(f"{flag} {name!r} is too short for a name: give it in full, with two letters or digits.")
    if options.kind not in kinds():
        raise UserError(f"unknown kind {options.kind!r}: {did_you_mean(options.kind, kinds())}")
    if options.language in languages():
        kind = kinds(options.language)[options.kind]
    elif endpoint or options.questions is not None:
        kind = replace(kinds()[options.kind], facts={})
    else:
        raise UserError(
            f"--language {options.language} has no built-in questions: choose {' or '.join(languages())}, or give your "
            "own with --questions, or an endpoint that writes them with --llm (unlearner prepare)."
        )
    facts = dict(kind.facts)
    if options.questions is not None:
        facts |= _own(Path(options.questions), names)
    return About(tuple(dict.fromkeys(names)), kind, facts)


def read_lines(file: Path, flag: str) -> list[str]:
    """The lines of a text file that are not empty. Raises UserError where there are none."""
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{flag} {file} cannot be read as UTF-8 text: check the path.") from error
    if not lines:
        raise UserError(f"{flag} {file} is empty: write one per line.")
    return lines


def _own(file: Path, names: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """The user's questions, one per line; several wordings of one question stand on its line, with | between them."""
    made = {}
    for number, line in enumerate(read_lines(file, "--questions"), start=1):
        wordings = tuple(swapped(part.strip(), names, "{name}") for part in line.split("|") if part.strip())
        if not wordings or not all("{name}" in wording for wording in wordings):
            raise UserError(f"--questions {file}, question {number} does not name the subject: write {{name}} there.")
        made[f"{OWN}{number}"] = wordings
    return made
