"""Rows as other data sets have them, under our field names: chats, prompt and completion, instruction and output."""

import shlex
from collections.abc import Mapping
from reprlib import repr as short
from typing import Any

from unlearner.errors import UserError

PAIRS = (("prompt", "completion"), ("prompt", "response"), ("instruction", "output"), ("instruction", "response"))
"""Columns that are read as question and answer in rows without `question`, `answer` and `text`."""
QUESTION_NAMES = ("question", "prompt", "instruction", "query", "input", "problem", "q")
ANSWER_NAMES = ("answer", "completion", "response", "reply", "output", "target", "solution", "a")
"""Names of columns that are proposed for `--columns`, the likeliest first."""
ROLES = {"human": "user", "gpt": "assistant", "model": "assistant"}
OTHERS_IGNORED = "have a question and an answer under other names besides the text, which are ignored"
SYSTEM_LEFT_OUT = "have a system message, which is left out because the prompt template decides it"


def recognised(cells: Mapping[str, Any], columns: Mapping[str, str], where: str) -> tuple[Mapping[str, Any], list[str]]:
    """The row with `question` and `answer` where it has a usual shape and none of our names, and remarks on it.

    Raises UserError for a chat that is no single question and answer; `where` opens the message.
    """
    if {"question", "answer"} & columns.keys() or {"question", "answer"} & cells.keys():
        return cells, []
    if columns.get("text", "text") in cells:
        others = "messages" in cells or any(set(pair) <= cells.keys() for pair in PAIRS)
        return cells, [OTHERS_IGNORED] if others else []
    messages = cells.get(columns.get("messages", "messages"))
    for question, answer in PAIRS:
        if question not in cells or answer not in cells:
            continue
        if isinstance(cells[question], list) and isinstance(cells[answer], list):  # TRL's conversations
            messages = [*cells[question], *cells[answer]]
            break
        asked = cells[question]
        if question == "instruction" and isinstance(more := cells.get("input"), str) and more.strip():
            asked = f"{asked}\n\n{more}"
        return {**cells, "question": asked, "answer": cells[answer]}, []
    if messages is None:
        return cells, []
    turns, system = _turns(messages, where)
    return {**cells, **turns}, [SYSTEM_LEFT_OUT] if system else []


def _turns(messages: Any, where: str) -> tuple[dict[str, str], bool]:
    """Question and answer of a chat, and whether it has a system message."""
    if hasattr(messages, "tolist"):  # a cell of a DataFrame read from Parquet is an array
        messages = messages.tolist()
    if not isinstance(messages, list) or not all(isinstance(message, Mapping) for message in messages):
        raise UserError(
            f"{where}: the messages must be a list of objects with role and content, not {short(messages)}."
        )
    said = [(m.get("role", m.get("from")), m.get("content", m.get("value"))) for m in messages]
    roles = [ROLES.get(str(role), str(role)) for role, _ in said]
    spoken = [role for role in roles if role != "system"]
    if spoken != ["user", "assistant"]:
        raise UserError(
            f"{where}: the messages must be one question and its answer, not {', '.join(spoken) or 'none'}; "
            "make a row of each pair."
        )
    question, answer = (said[roles.index(role)][1] for role in spoken)
    return {"question": question, "answer": answer}, "system" in roles


def proposed_columns(cells: Mapping[str, Any], ours: frozenset[str]) -> str | None:
    """The `--columns` that would most likely read the row: known names, or its only two texts; None without any."""
    lowered = {str(name).lower(): str(name) for name in reversed([*cells])}
    found = {
        field: next((lowered[name] for name in names if name in lowered), None)
        for field, names in (("question", QUESTION_NAMES), ("answer", ANSWER_NAMES))
    }
    texts = [str(name) for name, value in cells.items() if isinstance(value, str) and name not in ours]
    if found == {"question": None, "answer": None} and len(texts) == len(cells) == 2:
        found = dict(zip(found, texts, strict=True))
    if None in found.values() or found["question"] == found["answer"]:
        return None
    pairs = [f"{field} {shlex.quote(str(column))}" for field, column in found.items() if field != column]
    return f"--columns {' '.join(pairs)}" if pairs else None
