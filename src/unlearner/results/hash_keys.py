"""Keys of the hashes in run.json: those of layout 1 under today's names, and each in words."""

import re
from collections.abc import Mapping

_PHRASES = {
    r"the (forget|retain) set": r"\1",
    r"the evaluation set (.+)": r"eval.\1",
    r"the forget set of task (.+)": r"earlier.\1",
    r"(?:the )?(model|refusals)": r"\1",
    r"the reference model": "reference_model",
    r"(?:the )?retrained model": "retrained",
    r"(.+) set": r"eval.\1",
}
"""Keys of hashes in layout 1, and what they are called now."""
_TITLES = {
    r"(forget|retain)": r"the \1 set",
    r"eval\.(.+)": r"the evaluation set \1",
    r"earlier\.(.+)": r"the forget set of task \1",
    r"reference_model": "the reference model",
    r"retrained": "the retrained model",
    r"finetuned": "the fine-tuned model",
    r"(.+)": r"the \1",
}


def hash_key(name: str) -> str:
    """The key of a hash, from any layout's: `the evaluation set retain` and `eval.retain` give `eval.retain`."""
    return _first(_PHRASES, name)


def hash_title(key: str) -> str:
    """A key of `Manifest.hashes` in words: `eval.retain` is "the evaluation set retain"."""
    return _first(_TITLES, key)


def _first(rules: Mapping[str, str], text: str) -> str:
    found = ((re.fullmatch(pattern, text), words) for pattern, words in rules.items())
    return next((match.expand(words) for match, words in found if match), text)
