"""Every option of every command with what it cannot be: exit code 2, one sentence, nothing made or changed.

The cases come from the commands' own options: a new command or option is tested as soon as it is in `COMMANDS` or in
its dataclass. What is special to an option is in test_bad_input.py.
"""

from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from conftest import arguments, run_arguments, stamps
from unlearner.commands.main import COMMANDS

GOOD: dict[str, Any] = {
    "model": "model", "forget": "forget.jsonl", "retain": "retain.jsonl", "data": "forget.jsonl", "output": "out",
    "scenario": "fictitious", "runs": "run", "subject": "Nobody", "shell": "bash", "base": "model",
    "finetuned": "model",
}  # fmt: skip
"""Values for options that must be given; commands are refused before they are looked at."""
MORE: dict[str, dict[str, Any]] = {
    "forget": {"forget": "forget.jsonl", "retain": "retain.jsonl"},
    "compare": {"after": "model", "ask": "Who?"},
    "evaluate": {"forget": "forget.jsonl"},
    "audit": {"forget": "builtin:forget[0:6]", "before": "model"},
    "bench": {"forget": "forget.jsonl", "retain": "retain.jsonl", "model": "model"},
}
"""What a command does not get by without, though no option says so."""
SOURCES = {"forget", "retain", "forget_eval", "retain_eval", "real_authors", "world_facts", "exclude", "controls"}
MODELS = {"model"}
OUTPUTS = {
    "a file": "notes.txt", "below a file": "notes.txt/run", "a dangling link": "dangling",
    "below a dangling link": "dangling/run", "somebody's folder": "theirs", "too long": "o" * 300,
}  # fmt: skip


def options_of(name: str) -> dict[str, Field[Any]]:
    return {f.name: f for f in fields(COMMANDS[name].OPTIONS)} if COMMANDS[name].OPTIONS else {}


WRITERS = [name for name in COMMANDS if "output" in options_of(name) and name != "report"]


def typed(name: str, *words: str, **given: Any) -> list[str]:
    """A command with all that it needs, then `words`."""
    needed = [f.name for f in options_of(name).values() if f.default is MISSING and f.default_factory is MISSING]
    return [name, *arguments({**{n: GOOD[n] for n in needed}, **MORE.get(name, {}), **given}), *words]


def bad_values(field: Field[Any], kind: Any) -> Iterator[tuple[list[str], str]]:
    """What an option cannot be, as it is typed, with a part of the sentence."""
    flag = "--" + field.name.replace("_", "-")
    kinds = [each for each in get_args(kind) if each is not type(None)] if isinstance(kind, UnionType) else [kind]
    if kind is bool:
        yield [f"{flag}=maybe"], flag
        return
    if get_origin(kind) not in (list, dict):
        yield [flag], f"{flag} needs a value"
    if get_origin(kind) is list and int in get_args(kind):
        yield [flag, "many"], flag
    elif get_origin(kind) is Literal:
        yield [flag, "nosuch"], f"{flag} cannot be 'nosuch'"
    elif int in kinds:
        yield [flag, "many"], f"{flag} must be a whole number, not 'many'"
    elif float in kinds:
        yield [flag, "much"], f"{flag} must be a number, not 'much'"
        yield [flag, "nan"], flag
    elif get_origin(kind) is dict:
        yield [flag, "alone"], f"{flag}"
    elif field.name in SOURCES:
        yield [flag, "nosuch.jsonl"], "no file nosuch.jsonl"
        yield [flag, "nosuch:x"], "nosuch"
    elif field.name in MODELS:
        yield [flag, "/no/such/model"], "there is no model directory /no/such/model"


def cases() -> Iterator[Any]:
    for name in COMMANDS:
        kinds = get_type_hints(COMMANDS[name].OPTIONS) if COMMANDS[name].OPTIONS else {}
        for option, field in options_of(name).items():
            for words, part in bad_values(field, kinds[option]):
                yield pytest.param(typed(name, *words), part, id=f"{name} {' '.join(words)}")
        yield pytest.param(typed(name, "--nosuch-option", "1"), "nosuch", id=f"{name}, an unknown option")
        if options_of(name):
            yield pytest.param(
                typed(name, "--config", "nosuch.yaml"), "nosuch.yaml cannot be read", id=f"{name}, no file"
            )
            yield pytest.param(typed(name, "--config", "notes.txt"), "notes.txt", id=f"{name}, a file of another kind")
        for option, field in options_of(name).items():
            if field.default is MISSING and field.default_factory is MISSING:
                flag = "--" + option.replace("_", "-")
                yield pytest.param(typed(name, **{option: None}), f"{flag}", id=f"{name} without {flag}")
    for name in WRITERS:
        for what, output in OUTPUTS.items():
            yield pytest.param(typed(name, output=output), "--output", id=f"{name}, --output is {what}")
    for name in ("report", "purge"):
        for runs in ("nowhere", "theirs", "notes.txt", "."):
            yield pytest.param([name, runs], runs, id=f"{name} {runs}")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    for name in ("forget.jsonl", "retain.jsonl"):
        (folder / name).write_text('{"question": "Who?", "answer": "Nobody."}\n')
    (folder / "notes.txt").write_text("mine")
    (folder / "theirs").mkdir()
    (folder / "theirs" / "thesis.txt").write_text("years of work")
    (folder / "dangling").symlink_to(folder / "gone" / "away")
    return folder


@pytest.mark.parametrize(("words", "part"), list(cases()))
def test_refused(
    words: list[str], part: str, place: Path, cache: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(place)
    before, kept = stamps(place), stamps(cache)
    ended = run_arguments(capfd, words)
    assert ended.code == 2, ended
    lines = [line for line in ended.err.splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 1 and lines[0].startswith("error: "), ended.err
    assert part in lines[0]
    assert ended.out == ""
    assert stamps(place) == before
    assert stamps(cache) == kept
