"""The file in which `compare` keeps questions and answers: one's own words and a model's, so personal data.

A row serves `audit` as a row to forget (`question`, `answer`, `subject`) and as a template (`template`: the question,
`{name}` in the subject's place).
"""

import json
import os
from pathlib import Path
from typing import Any

from unlearner.errors import UserError
from unlearner.files import space_errors

KEYS = {"question", "answer", "answer_from", "before", "after", "models"}
"""What every row has."""


def is_history(file: Path) -> bool:
    """Whether `compare` wrote the file."""
    try:
        with file.open(encoding="utf-8") as lines:
            row = json.loads(lines.readline())
    except (OSError, ValueError):
        return False
    return isinstance(row, dict) and row.keys() >= KEYS


def histories_in(folder: Path) -> list[Path]:
    """The files in a folder that `compare` wrote."""
    return [file for file in sorted(folder.glob("*.jsonl")) if is_history(file)]


def read_models(file: Path) -> list[str]:
    """The names of the models of a history's first row."""
    with file.open(encoding="utf-8") as lines:
        return list(json.loads(lines.readline())["models"])


def check_history(file: Path) -> None:
    """Raises UserError where no history can be written."""
    if file.suffix != ".jsonl":
        raise UserError(f"--history {file} must end in .jsonl, as the sources of an audit do.")
    if not file.absolute().parent.is_dir():
        raise UserError(f"--history {file}: there is no folder {file.parent}; create it, or choose another place.")
    if file.is_dir() or (file.exists() and file.stat().st_size and not is_history(file)):
        raise UserError(f"--history {file} exists and was not written by compare: choose another file.")
    new = not file.exists()
    try:
        os.close(_opened(file))
        if new:
            file.unlink()
    except OSError as error:
        raise UserError(f"--history {file} cannot be written ({error.strerror}): choose another file.") from error


def append_history(file: Path, row: dict[str, Any]) -> None:
    """Add a row, in one write; a new file can be read by its owner alone."""
    assert row.keys() >= KEYS
    with space_errors(file), os.fdopen(_opened(file), "ab", buffering=0) as opened:
        opened.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")


def _opened(file: Path) -> int:
    return os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
