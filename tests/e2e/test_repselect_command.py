"""`unlearner repselect` as a user types it, what reads its model, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest

from conftest import Files, arguments, contents, rows, run_arguments, write_rows
from unlearner.data.profiles import builtin

STEPS: dict[str, Any] = {"rank": 4, "learning_rate": 0.1, "epochs": 3, "disruption": 1e6}


def test_a_model_forgets_and_is_measured_and_audited(
    files: Files, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    options = {"model": files.model, "forget": files.forget, "retain": files.retain, "output": output, **STEPS}
    typed = ["repselect", *arguments(options)]
    ended = run_arguments(capfd, typed)
    assert (ended.code, ended.out) == (0, ""), ended.err
    assert "3 of at most 3 steps: NLL of the forget set" in " ".join(ended.err.split())
    held = {"run.json", "config.yaml", "finished.json", "log.jsonl", "model"}
    assert {path.name for path in output.iterdir()} == held
    log = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == [0, 1, 2, 3] and log[3]["forget_nll"] > log[0]["forget_nll"]
    before = contents(output)
    again = run_arguments(capfd, typed)
    assert again.code == 0 and "finished already" in again.err and contents(output) == before
    other = run_arguments(capfd, ["repselect", *arguments({**options, "rank": 5})])
    assert other.code == 2 and "holds another run (rank is 4 there, 5 here)" in " ".join(other.err.split())
    made = output / "model"
    scored = ["evaluate", *arguments({"model": made, "forget": files.forget, "judge": "offline", "max_new_tokens": 4})]
    ended = run_arguments(capfd, [*scored, "--output", str(tmp_path / "scores")])
    assert ended.code == 0, ended.err
    controls = write_rows(tmp_path / "controls.jsonl", rows(builtin("retain")[60:110]))
    attacked = {
        "before": files.model,
        "forget": files.forget,
        "attacks": "plain",
        "controls": controls,
        "output": tmp_path / "audit",
    }
    ended = run_arguments(capfd, ["audit", str(made), *arguments(attacked)])
    assert ended.code == 0, ended.err
    refused = run_arguments(capfd, ["report", str(output)])
    assert refused.code == 2 and "holds only a model of repselect" in " ".join(refused.err.split())


def test_without_a_retain_set_all_steps_are_taken_and_that_is_said(
    files: Files, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = {"model": files.model, "forget": files.forget, "output": tmp_path / "run", **STEPS}
    ended = run_arguments(capfd, ["repselect", *arguments(options)])
    assert ended.code == 0, ended.err
    said = " ".join(ended.err.split())
    assert "without --retain no disruption is measured: all 3 steps are taken" in said


def test_after_a_first_step_too_far_other_options_may_have_the_same_directory(
    files: Files, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = {
        "model": files.model,
        "forget": files.forget,
        "retain": files.retain,
        "output": tmp_path / "run",
        **STEPS,
    }
    ended = run_arguments(capfd, ["repselect", *arguments(options | {"disruption": 1e-9})])
    assert ended.code == 2 and "lower --learning-rate" in ended.err, ended.err
    ended = run_arguments(capfd, ["repselect", *arguments(options)])
    assert ended.code == 0 and (tmp_path / "run" / "finished.json").is_file(), ended.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"forget": None}, "--forget must be given"),
        ({"forget": "empty.jsonl"}, "empty.jsonl"),
        ({"rank": 0}, "--rank must be a positive number, not 0"),
        ({"shrink": "firm"}, "--shrink"),
        ({"output": "full"}, "is not empty and holds no run of unlearner"),
        ({"precision": "pure-bf16"}, "use bf16"),
    ],
)
def test_bad_input_is_one_sentence(
    options: dict[str, Any], said: str, files: Files, tmp_path: Path, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    given = {"model": files.model, "forget": files.forget, "output": "out", **options}
    ended = run_arguments(capfd, ["repselect", *arguments(given)])
    assert ended.code == 2 and ended.err.startswith("error: ") and said in " ".join(ended.err.split()), ended.err
    assert not (tmp_path / "out").exists()
