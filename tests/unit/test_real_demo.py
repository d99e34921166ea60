"""`unlearner demo --real` without its model: what it prepares and trains on, and the two tables that it prints."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from unlearner.commands.real_demo import SUBJECT, _answers, _figures, config, preparation
from unlearner.config import DemoConfig
from unlearner.files import write_jsonl

GROUPS = ("forget", "unseen_wordings", "neighbours_held_out", "general_held_out")


def printed(table: Table) -> list[str]:
    console = Console(width=200)
    with console.capture() as said:
        console.print(table)
    return [" ".join(line.split()) for line in said.get().splitlines()]


@pytest.fixture
def result(tmp_path: Path) -> Any:
    """A question a group but of `forget`, which has two; answers say what they are, and hold a bracket."""
    asked = {name: [f"{name}?"] for name in GROUPS} | {"forget": ["forget?", "forget again?"]}
    for folder in ("data", "run/before"):
        (tmp_path / folder).mkdir(parents=True)
    for name, questions in asked.items():
        write_jsonl(tmp_path / "data" / f"{name}.jsonl", [{"question": question} for question in questions])

    def records(when: str, rouge: float, nll: float) -> list[dict[str, Any]]:
        return [
            {
                "set": "forget", "question": q, "answer": "a", "generation": f"[red]{when} {q}",
                "rouge": rouge / (1 + i), "answer_nll": nll, "answer_tokens": 2,
            }
            for questions in asked.values() for i, q in enumerate(questions)
        ]  # fmt: skip

    write_jsonl(tmp_path / "run" / "before" / "records.jsonl", records("before", 1.0, -2 * math.log(0.8)))
    write_jsonl(tmp_path / "run" / "records.jsonl", records("after", 0.5, -2 * math.log(0.25)))
    return SimpleNamespace(output=tmp_path / "run")


def test_it_forgets_what_it_prepares(tmp_path: Path) -> None:
    options = DemoConfig(output=str(tmp_path), seed=3)
    made, run = preparation(options), config(options)
    made.check()
    run.check()
    assert (made.subject, made.model, made.seed) == (SUBJECT, run.model, run.seed)
    assert (run.forget, run.retain) == (f"{made.output}:forget", f"{made.output}:retain")
    assert run.forget_eval == f"{made.output}:subject" and run.output != made.output


def test_the_figures_are_means_over_the_questions_of_a_group(result: Any, tmp_path: Path) -> None:
    said = printed(_figures(tmp_path / "data", result))
    assert "questions trained on 2 0.75 0.38 0.80 0.25" in said
    assert "other wordings of them 1 1.00 0.50 0.80 0.25" in said
    assert not any("other facts" in line for line in said)  # none was left that no trained answer states


def test_three_answers_before_and_after(result: Any, tmp_path: Path) -> None:
    said = printed(_answers(tmp_path / "data", result))
    for name in ("forget", "unseen_wordings", "neighbours_held_out"):
        assert f"question {name}?" in said
        assert f"before [red]before {name}?" in said and f"after [red]after {name}?" in said
