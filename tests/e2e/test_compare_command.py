"""`unlearner compare`: a run's two models asked by the command line and standard input; what is kept, and purged."""

import io
import os
from pathlib import Path

import pytest

from conftest import Files, arguments, run, run_arguments, surroundings
from unlearner.commands.main import main
from unlearner.files import read_jsonl
from unlearner.results.layout import RunDirectory

QUICK = {"samples": 1, "max_new_tokens": 8}


@pytest.fixture(scope="module")
def forgotten(files: Files, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was not measured."""
    output = tmp_path_factory.mktemp("compare") / "run"
    options = {"model": files.model, "forget": files.forget, "method": "GA", "evaluate": "none", "epochs": 6,
               "batch_size": 4, "accumulation": 1, "lr": 3e-3, "output": output}  # fmt: skip
    with surroundings(cache):
        main(["forget", *arguments(options)])
    return output


def test_a_run_knows_both_models(forgotten: Path, files: Files, capfd: pytest.CaptureFixture[str]) -> None:
    row = read_jsonl(files.forget)[0]
    asking = {"ask": row["question"], "answer": row["answer"], "history": forgotten / "asked.jsonl", **QUICK}
    ended = run_arguments(capfd, ["compare", str(forgotten), *arguments(asking)])
    assert ended.code == 0, ended.err
    by_name = run_arguments(capfd, ["compare", str(files.model), str(forgotten / "model"), *arguments(asking)])
    assert by_name.out == ended.out
    # A run's directory stands for the model it made, where another model is given.
    other = run_arguments(capfd, ["compare", str(files.model), str(forgotten), *arguments(asking)])
    assert other.out == ended.out

    lines = ended.out.splitlines()
    assert lines[0] == row["question"]
    assert [line.split("  ")[0] for line in lines[1:6] if line[0] != " "] == [
        "before", "after", "given", "before, sampled", "after, sampled"
    ]  # fmt: skip
    kept = read_jsonl(forgotten / "asked.jsonl")
    assert len(kept) == 3 and kept[0]["answer"] == row["answer"]
    before, after = kept[0]["probability"].values()
    assert before > 2 * after  # it was taught the answer, then made to forget it
    given = next(line for line in lines if line.startswith("given"))
    assert f"{before:.3f} → {after:.3f}" in given or "e-" in given
    assert "[-" in given  # no terminal: words carry numbers

    listed = run(capfd, "purge", runs=forgotten, dry_run=True)
    assert str(forgotten / "asked.jsonl") in listed.out
    alone = forgotten.parent / "alone.jsonl"
    alone.write_bytes((forgotten / "asked.jsonl").read_bytes())
    ended = run_arguments(capfd, ["purge", str(forgotten), str(alone)])
    assert ended.code == 0 and f"what a model remembers: {files.model}" in ended.out
    assert not alone.exists() and not (forgotten / "asked.jsonl").exists()
    assert RunDirectory(forgotten).is_finished


def test_questions_come_by_standard_input(
    forgotten: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Who is Ada?\n\nWhere is Bob? => In Rome.\n"))
    ended = run_arguments(capfd, ["compare", str(forgotten), *arguments(QUICK)])
    assert ended.code == 0
    heads = [line for line in ended.out.splitlines() if line.endswith("?")]
    assert heads == ["Who is Ada?", "Where is Bob?"]
    assert sum(line.startswith("given") for line in ended.out.splitlines()) == 1


def test_questions_are_typed_in_a_terminal(
    forgotten: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, terminal = os.openpty()
    os.write(here, f"{'word ' * 50}\nWho is Ada?\n\nWho is Bob? => A smith.\n\x04".encode())
    with os.fdopen(terminal) as typed:
        monkeypatch.setattr("sys.stdin", typed)
        ended = run_arguments(capfd, ["compare", str(forgotten), *arguments({**QUICK, "max_length": 30})])
    os.close(here)
    assert ended.code == 0
    assert "--max-length 30 leaves no room" in ended.err  # the next question may do
    assert [line for line in ended.out.splitlines() if line.startswith(("Who", "given"))][:2] == [
        "Who is Ada?",
        "Who is Bob?",
    ]


def test_an_audit_takes_what_was_kept(
    forgotten: Path, files: Files, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    row = read_jsonl(files.forget)[0]
    asked, out = tmp_path / "asked.jsonl", tmp_path / "audit"
    asking = {"ask": f"{row['subject']} — what of this name?", "answer": row["answer"], "subject": row["subject"]}
    assert (
        run_arguments(capfd, ["compare", str(forgotten), *arguments({**asking, "history": asked, **QUICK})]).code == 0
    )
    auditing = {"controls": "builtin:retain[120:200]", "retain": files.retain, "attacks": "plain", "output": out}
    ended = run_arguments(
        capfd, ["audit", str(forgotten), *arguments({**auditing, "forget": asked, "templates": asked})]
    )
    assert ended.code == 0, ended.err
    attacks = {each["attack"] for each in read_jsonl(out / "audit.jsonl") if each["group"] == "forget"}
    assert "asked.jsonl:1" in attacks


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({}, "there is no question: give --ask"),
        ({"web": True, "ask": "Who?"}, "leave one out"),
        ({"web": True, "port": 70000}, "--port must be a whole number from 0 to 65535"),
        ({"ask": "Who?", "history": "/proc/asked.jsonl"}, "--history /proc/asked.jsonl"),
        ({"ask": "Who?", "after": "/no/such/model"}, "there is no model directory /no/such/model"),
        ({"ask": "word " * 700, "max_length": 100}, "leaves no room"),
    ],
)  # fmt: skip
def test_what_cannot_be(
    options: dict[str, object], part: str, forgotten: Path, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    ended = run_arguments(capfd, ["compare", str(forgotten), *arguments({**QUICK, **options})])
    assert ended.code == 2 and ended.err.count("\n") == 1 and part in ended.err, ended.err


def test_a_directory_of_another_kind_is_named(files: Files, capfd: pytest.CaptureFixture[str]) -> None:
    taught = files.model.parent
    assert "is not a finished run of `unlearner forget`" in run(capfd, "compare", model=taught, ask="Who?").err
    ended = run(capfd, "compare", model=files.forget.parent, ask="Who?")
    assert ended.code == 2 and "holds neither a model nor a run" in ended.err
