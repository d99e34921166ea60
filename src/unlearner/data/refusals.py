"""Refusals: the sentences that targeted unlearning (IDK, DPO) teaches as answers to forgotten questions.

The built-in list, `refusals.txt`, was written for this project and takes the place of the paper's idontknow.jsonl.
"""

import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from unlearner.errors import UserError


def load_refusals(path: Path | None) -> list[str]:
    """The refusals in the text file `path`, one sentence per line without blank lines, or the built-in list if None."""
    if path is None:
        return _sentences(resources.files("unlearner.data").joinpath("refusals.txt").read_text(encoding="utf-8"))
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"the refusal file '{path}' is not UTF-8 text: save it as UTF-8, one sentence per line."
        ) from error
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UserError(
            f"cannot read the refusal file '{path}' ({reason}): name a text file with one sentence per line, or none "
            "for the built-in list."
        ) from error
    refusals = _sentences(text)
    if not refusals:
        raise UserError(f"the refusal file '{path}' is empty: write one sentence per line, or name no file.")
    return refusals


def is_refusal(text: str, refusals: Sequence[str]) -> bool:
    """Whether `text` is one of `refusals` or begins with one, whatever its case, white space and punctuation.

    A refusal counts only where its last word ends too: "I cannot say" does not begin "I cannot saying".
    """
    words = _plain(text) + " "
    return any(words.startswith(refusal + " ") for refusal in map(_plain, refusals) if refusal)


def _sentences(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _plain(text: str) -> str:
    """Lower-case words with single spaces between; an apostrophe vanishes, so that "don't" and "don’t" are one word."""
    return " ".join(re.findall(r"\w+", re.sub(r"['’`]", "", text.casefold())))
