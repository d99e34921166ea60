"""A real language model through `prepare` and `forget`, as a user types them: SmolLM2-135M-Instruct knows a famous
author and no invented one, and forgets what it said of him sooner than what it says of others."""

import math
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from conftest import run
from unlearner.files import read_jsonl

ASKED = {"kind": "author", "samples": 2, "max_new_tokens": 16}


def test_of_an_invented_author_there_is_nothing_to_forget(
    smollm: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ended = run(capfd, "prepare", **ASKED, model=smollm, subject="Quillor Vantresk", output=tmp_path / "data")
    assert ended.code == 3 and not (tmp_path / "data").exists(), ended.err


def test_it_forgets_an_author_and_keeps_others(smollm: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    prepared = run(
        capfd, "prepare", **ASKED, model=smollm, subject="William Shakespeare", alias="Shakespeare",
        neighbour_count=3, general_count=8, output=data,
    )  # fmt: skip
    assert prepared.code == 0, prepared.err
    forgotten = run(
        capfd, "forget", model=smollm, forget=f"{data}:forget", retain=f"{data}:retain", forget_eval=f"{data}:subject",
        retain_eval=f"{data}:neighbours_held_out", metrics="probability", batch_size=4, learning_rate=1e-4,
        gradient_accumulation_steps=1, forget_coeff=0.5, epochs=3, save_steps=100, output=out,
    )  # fmt: skip
    assert forgotten.code == 0, forgotten.err
    before, after = (likelihoods(folder) for folder in (out / "before", out))

    def left(name: str) -> float:
        """The probability of the answers to the questions of a source, as a share of before."""
        asked = [row["question"] for row in read_jsonl(data / f"{name}.jsonl")]
        return fmean(after[question] for question in asked) / fmean(before[question] for question in asked)

    assert left("forget") < 0.5 and left("unseen_wordings") < 0.7
    assert left("neighbours_held_out") > 0.8


def likelihoods(folder: Path) -> dict[str, float]:
    """Of each answer, the geometric mean of the probabilities of its tokens."""
    rows: list[dict[str, Any]] = read_jsonl(folder / "records.jsonl")
    return {row["question"]: math.exp(-row["answer_nll"] / row["answer_tokens"]) for row in rows}
