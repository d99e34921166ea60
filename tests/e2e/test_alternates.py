"""ALTPO's other answers: written by the starting model before training, kept, resumable, or a column of the data."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from conftest import Files, arguments, contents, run_arguments, write_rows
from forked import together
from unlearner.commands.main import main
from unlearner.data.records import Record
from unlearner.errors import UserError
from unlearner.files import read_jsonl
from unlearner.methods import Method
from unlearner.models import generation
from unlearner.workflows import alternates
from unlearner.workflows.alternates import _check_all_have, _others, _request

METHOD: dict[str, Any] = {"method": "ALTPO+GD", "method_options": ["samples=3", "max_new_tokens=12"]}


@pytest.fixture
def given(files: Files) -> dict[str, Any]:
    """A run of a few steps, whose prompts are batches by themselves."""
    return {
        "model": files.model, "forget": files.forget, "retain": files.retain, "lr": 1e-3, "epochs": 3, "batch_size": 2,
        "accumulation": 1, "evaluate": "none", "eval_tokens": 100, **METHOD,
    }  # fmt: skip


def forget(capfd: pytest.CaptureFixture[str], options: dict[str, Any], output: Path) -> Path:
    ended = run_arguments(capfd, ["forget", *arguments(options | {"output": output})])
    assert ended.code == 0, ended.err
    return output


def weights(run: Path) -> bytes:
    return (run / "model" / "model.safetensors").read_bytes()


def test_they_are_written_kept_and_serve_as_a_column(
    given: dict[str, Any], files: Files, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = forget(capfd, given, tmp_path / "run")
    rows = read_jsonl(run / "alternates/records.jsonl")
    assert [row["question"] for row in rows] == [row["question"] for row in read_jsonl(files.forget)]
    for row in rows:
        assert 1 <= len(row["alternate_answer"]) <= 3 and row["answer"] not in row["alternate_answer"]
    assert [path.name for path in (run / "alternates").iterdir()] == ["records.jsonl"]
    # A slip in the view, or in the seed, would give another model.
    again = forget(
        capfd, given | {"forget": run / "alternates/records.jsonl", "method_options": "samples=0"}, tmp_path / "again"
    )
    assert weights(again) == weights(run)
    assert not (again / "alternates/records.jsonl").exists()
    other = forget(capfd, given | {"seed": 5, "epochs": 1}, tmp_path / "other")
    assert (other / "alternates/records.jsonl").read_bytes() != (run / "alternates/records.jsonl").read_bytes()
    refused = forget(capfd, given | {"method": "DPO+GD", "method_options": None}, tmp_path / "dpo")
    gap = [(load_file(r / "model/model.safetensors")["lm_head.weight"]) for r in (run, refused)]
    assert (gap[0] - gap[1]).abs().max() > 1e-4, "it is the alternates that are preferred"


def test_a_run_killed_among_them_goes_on_and_makes_the_same(
    given: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = forget(capfd, given, tmp_path / "whole")
    generate, made = generation._generate_batch, []

    def interrupted(*values: Any, **options: Any) -> Any:
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(1)
        return generate(*values, **options)

    output = tmp_path / "killed"
    with monkeypatch.context() as patch:
        patch.setattr(generation, "_generate_batch", interrupted)
        ended = run_arguments(capfd, ["forget", *arguments(given | {"output": output})])
    assert "repeat the same command to resume" in ended.err
    kept = (output / "alternates" / "passes.jsonl").read_text().splitlines()
    assert len(kept) == 2 and not (output / "alternates/records.jsonl").exists()
    counted: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(generation, "_generate_batch", lambda *a, **b: counted.append(1) or generate(*a, **b))
        forget(capfd, given, output)
    assert len(counted) == 6 - 2, "what was written is not written again"
    assert (output / "alternates/records.jsonl").read_bytes() == (whole / "alternates/records.jsonl").read_bytes()
    assert weights(output) == weights(whole)


def test_a_redacted_run_keeps_none_and_a_purge_leaves_none(
    given: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run, redacted = (
        forget(capfd, given, tmp_path / "run"),
        forget(capfd, given | {"redact": True}, tmp_path / "redacted"),
    )
    assert weights(run) == weights(redacted)
    assert not list(redacted.glob("alternates*"))
    texts = [
        text
        for row in read_jsonl(run / "alternates/records.jsonl")
        for text in row["alternate_answer"]
        if len(text) > 8
    ]
    assert run_arguments(capfd, ["purge", str(run)]).code == 0
    left = b"".join(content for path, content in contents(run).items() if content and "model" not in path)
    assert texts and not any(text.encode() in left for text in texts)


@pytest.mark.slow
def test_two_processes_write_what_one_writes(
    given: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    one, two = forget(capfd, given, tmp_path / "one"), tmp_path / "two"
    typed = ["forget", *arguments(given | {"output": two, "parallel": "fsdp"})]
    together(2, tmp_path / "said", main, typed)
    assert (two / "alternates/records.jsonl").read_bytes() == (one / "alternates/records.jsonl").read_bytes()


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method_options": "samples=0"}, "forget.jsonl, row 1 has none: give a column alternate_answer"),
        ({"forget": "half.jsonl", "method_options": "samples=0"}, "half.jsonl, row 2 has none"),
        ({"forget": "text.jsonl"}, "text.jsonl, row 1 is plain text, and ALTPO+GD needs questions"),
        ({"forget": "wrong.jsonl"}, "'alternate_answer' must be a text or a list of texts"),
        ({"method_options": "samples=-1"}, "samples must be a whole number from 0 to 100"),
        ({"method_options": ["instruction=Say something else."]}, "instruction must have {question} in it"),
        ({"method_options": "temperature=0"}, "temperature must be positive"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    options: dict[str, Any], said: str, given: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    row = {"question": "Who?", "answer": "Ada.", "alternate_answer": ["Ben."]}
    write_rows(tmp_path / "half.jsonl", [row, {"question": "Who?", "answer": "Ada."}])
    write_rows(tmp_path / "text.jsonl", [{"text": "Once upon a time."}])
    write_rows(tmp_path / "wrong.jsonl", [row | {"alternate_answer": 5}])
    ended = run_arguments(capfd, ["forget", *arguments(given | {"output": tmp_path / "out"} | options)])
    assert ended.code == 2 and said in " ".join(ended.err.split()), ended.err
    assert not (tmp_path / "out").exists()


def test_what_the_model_wrote_is_cut_and_sifted() -> None:
    record = Record("Who?", "Ada Smith.", place="forget.jsonl, line 3")
    texts = ["Ben.  Question: Where?", "ada  smith", "", "Ben.", "Q: no", "Cleo, the Questioner."]
    assert _others(record, texts) == ("Ben.", "Cleo, the Questioner.")
    assert _others(record, ["Ada Smith", "Question: what?"]) == ()
    how = Method.parse("ALTPO", samples=2).alternates
    assert how is not None
    with pytest.raises(
        UserError, match=r"forget\.jsonl, line 3: the model wrote no other answer in 18 tries: give a column"
    ):
        _check_all_have([replace(record, alternate_answer=("Ben.",)), record], how)


def test_rows_whose_answer_was_repeated_are_asked_again(
    given: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first round's texts for two rows count as their answers; only those two are asked again, for more texts."""
    whole = read_jsonl(forget(capfd, given, tmp_path / "whole") / "alternates/records.jsonl")
    repeated = {row["question"] for row in whole[1:3]}
    asked: list[tuple[str, int]] = []
    others = alternates._others

    def sifted(record: Record, texts: list[str]) -> tuple[str, ...]:
        assert record.question is not None
        asked.append((record.question, len(texts)))
        return () if record.question in repeated and len(texts) == 3 else others(record, texts)

    monkeypatch.setattr(alternates, "_others", sifted)
    rows = read_jsonl(forget(capfd, given, tmp_path / "run") / "alternates/records.jsonl")
    assert asked == [(row["question"], 3) for row in whole] + [(row["question"], 12) for row in whole[1:3]]
    for row, first in zip(rows, whole, strict=True):
        assert 1 <= len(row["alternate_answer"]) <= 3, "no more than were asked for"
        assert (row["alternate_answer"] == first["alternate_answer"]) == (row["question"] not in repeated)


def test_a_question_with_braces_is_asked_as_it_is() -> None:
    how = Method.parse("ALTPO", instruction="{question} / {answer}").alternates
    assert how is not None
    asked = _request(Record("What is {answer} or {question}?", "A {question}."), how, seed=0)
    assert asked.prompt == "What is {answer} or {question}? / A {question}."
