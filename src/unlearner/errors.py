"""The errors a user can mend: one clear sentence naming the file, row or option, and the remedy."""

import difflib
from collections.abc import Iterable

INTERRUPTED = "interrupted: what was finished is kept; repeat the same command to resume."
"""What a command says that Ctrl-C or SIGTERM ended."""


class UserError(Exception):
    """Something the user can fix. The command line prints it as one sentence and exits with code 2."""


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its kind, at most 300 characters."""
    return (next(filter(None, map(str.strip, str(error).splitlines())), "") or type(error).__name__)[:300]


def brief(error: BaseException) -> str:
    """What an error says, without the file that an OSError names; the rest of the sentence has it."""
    said: str | None = getattr(error, "strerror", None)
    return said or first_line(error)


def half_character(text: str) -> str | None:
    """What in a text is no character, such as \\ud83d: half of a pair, as JSON can escape it, or a byte of an argument
    that is not UTF-8. None where all is whole."""
    if text.isascii():
        return None
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"\\u{ord(text[error.start]):x}"
    return None


def plural(count: int, noun: str) -> str:
    """A number with its noun: `1 row`, `1,200 rows`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: the nearest choice, or all of them if none is near."""
    options = sorted(choices)
    lowered = {option.lower(): option for option in options}
    near = difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=0.5)
    if near:
        return f"did you mean {lowered[near[0]]!r}?"
    return f"choose from {', '.join(options)}."


def install(extra: str) -> str:
    """The command that installs an extra: of the checkout that is installed, or else from the index."""
    import json
    from importlib.metadata import PackageNotFoundError, distribution
    from urllib.parse import unquote, urlsplit

    try:
        told = json.loads(distribution("unlearner").read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        told = {}
    if "dir_info" not in told:
        return f'pip install "unlearner[{extra}]"'
    editable = "--editable " if told["dir_info"].get("editable") else ""
    return f'pip install {editable}"{unquote(urlsplit(told["url"]).path)}[{extra}]"'
