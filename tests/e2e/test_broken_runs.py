"""Runs that are interrupted, limited, in each other's way, or changed afterwards."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from test_bad_input import evaluating

from conftest import Files, Moment, arguments, begin, contents, in_process, run_arguments, start
from unlearner.errors import UserError
from unlearner.models.load import load_tokenizer
from unlearner.report.read import read

# -------------------------------------------------------------------------------------------------------------- Ctrl-C


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_training(sent: signal.Signals, files: Files, tmp_path: Path) -> None:
    broken, whole = tmp_path / "broken" / "run", tmp_path / "whole" / "run"
    options = {"model": files.model, "forget": files.forget, "retain": files.retain, "evaluate": "none", "epochs": 20,
               "batch_size": 1, "accumulation": 1, "log_every": 1}  # fmt: skip
    for output in (broken, whole):
        output.parent.mkdir()
    process = start(["forget", *arguments({**options, "output": broken})])
    log = broken / "log.jsonl"
    until = time.monotonic() + 60
    while time.monotonic() < until and not (log.exists() and log.read_bytes().count(b"\n") >= 8):
        time.sleep(0.002)
    process.send_signal(sent)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 2, said
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith("interrupted: what was finished is kept; repeat the same command")

    (kept,) = (broken / "checkpoints").iterdir()
    steps = log.read_bytes().count(b"\n")
    assert kept.name == f"step-{steps:06d}"
    assert 8 <= steps < 120
    typed = ["forget", *arguments({**options, "output": broken})]
    assert in_process(typed, broken.parent, Moment("open", "run/log.jsonl", 2)) == -signal.SIGKILL
    assert log.read_bytes().count(b"\n") == steps  # it went on from there and not from the beginning
    assert in_process(typed, broken.parent) == 0
    assert in_process(["forget", *arguments({**options, "output": whole})], whole.parent) == 0
    assert contents(broken) == contents(whole)


def test_a_time_limit(files: Files, tmp_path: Path) -> None:
    """It ends a run as Ctrl-C does, and makes it no other run."""
    (tmp_path / "run").mkdir()
    options = {"model": files.model, "forget": files.forget, "retain": files.retain, "evaluate": "none", "epochs": 300,
               "batch_size": 1, "accumulation": 1, "log_every": 1, "output": tmp_path / "run" / "out"}  # fmt: skip
    assert in_process(["forget", *arguments({**options, "time_limit": 0.1})], tmp_path / "run") == 2
    said = (tmp_path / "run" / "said.txt").read_text().splitlines()
    assert "warning: --time-limit 0.1 minutes have passed" in said
    assert said[-1].startswith("interrupted: what was finished is kept; repeat the same command")
    (kept,) = (tmp_path / "run" / "out" / "checkpoints").iterdir()
    assert kept.name > "step-000000"
    assert "time_limit" not in (tmp_path / "run" / "out" / "run.json").read_text()


def test_ctrl_c_while_evaluating(files: Files, tmp_path: Path) -> None:
    broken, whole = tmp_path / "broken" / "run", tmp_path / "whole" / "run"
    options = {"model": files.model, "forget": files.forget, "judge": "offline", "max_new_tokens": 12}
    for output in (broken, whole):
        output.parent.mkdir()
    typed = ["evaluate", *arguments({**options, "output": broken})]
    assert in_process(typed, broken.parent, Moment("open", "run/passes.jsonl", 2, signal.SIGINT)) == 2
    said = (broken.parent / "said.txt").read_text()
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith("interrupted: what was finished is kept; repeat the same command")
    assert in_process(typed, broken.parent) == 0
    assert in_process(["evaluate", *arguments({**options, "output": whole})], whole.parent) == 0
    assert contents(broken) == contents(whole)


# ------------------------------------------------------------------------------------------ rights, limits, two at once


def test_a_model_that_may_not_be_read(files: Files) -> None:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        folder.chmod(0o755)
        model = shutil.copytree(files.model, folder / "model")
        if os.geteuid() != 0:
            pytest.skip("only root can become somebody else")
        for locked, mode in ((model / "config.json", 0o600), (model, 0o700)):
            locked.chmod(mode)
            os.seteuid(65534)
            try:
                with pytest.raises(UserError, match=rf"^the model {locked}\S* cannot be read \(Permission denied\)"):
                    load_tokenizer(str(model))
            finally:
                os.seteuid(0)


@pytest.mark.slow
def test_two_runs_in_one_directory(files: Files, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The second is refused, and the first ends as if it had been alone."""
    options = {"model": files.model, "forget": files.forget, "retain": files.retain, "evaluate": "none", "epochs": 25,
               "batch_size": 1, "accumulation": 1, "log_every": 1}  # fmt: skip
    broken, whole = tmp_path / "broken" / "run", tmp_path / "whole" / "run"
    for output in (broken, whole):
        output.parent.mkdir()
    typed = ["forget", *arguments({**options, "output": broken})]
    first = begin(typed, broken.parent)
    until = time.monotonic() + 60
    while time.monotonic() < until and not (broken / "log.jsonl").exists():
        time.sleep(0.002)
    second = run_arguments(capfd, typed)
    assert first.is_alive()
    assert second.code == 2
    assert re.fullmatch(
        rf"error: another process \(pid {first.pid}, host \S+, since [0-9: -]+\) is working in {broken}: wait until it "
        r"has finished, or choose another directory\.\n",
        second.err,
    )
    first.join()
    assert first.exitcode == 0
    assert in_process(["forget", *arguments({**options, "output": whole})], whole.parent) == 0
    assert contents(broken) == contents(whole)


@pytest.mark.slow
def test_two_commands_that_teach_the_builtin_model_share_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would teach it for the first time: one does, the other waits."""
    code = (
        "from unlearner.workflows import builtin\n"
        "from dataclasses import replace\n"
        "short = builtin.recipe\n"
        "builtin.recipe = lambda output: replace(short(output), epochs=1)\n"  # a minute's teaching takes too long here
        "print(builtin.builtin_model())"
    )
    environment = {**os.environ, "UNLEARNER_CACHE": str(tmp_path)}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    told = [process.communicate(timeout=300) for process in running]
    assert [process.returncode for process in running] == [0, 0], told
    assert told[0][0] == told[1][0] and Path(told[0][0].strip(), "config.json").is_file()
    assert sorted("another process is working" in err for _, err in told) == [False, True]


# ------------------------------------------------------------------------------------------ finished, and changed since


@pytest.mark.slow
def test_a_finished_run_that_was_changed(files: Files, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    options = {"model": files.model, "forget": files.forget, "retain": files.retain, "epochs": 1, "judge": "offline",
               "max_new_tokens": 8, "output": tmp_path / "run"}  # fmt: skip
    typed = ["forget", *arguments(options)]
    assert run_arguments(capfd, typed).code == 0
    made = tmp_path / "run" / "model"
    measured = evaluating(model=made, forget=files.forget, output=tmp_path / "scores", max_new_tokens=8)
    assert run_arguments(capfd, measured).code == 0
    told = json.loads((tmp_path / "scores" / "run.json").read_text())["hashes"]["model"]
    assert told == json.loads((tmp_path / "run" / "finished.json").read_text())["sha256"]

    for name in ("summary.json", "records.jsonl", "log.jsonl", "before/summary.json"):
        file = tmp_path / "run" / name
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        again = run_arguments(capfd, typed)
        assert again.code == 2 and "Traceback" not in again.err
        assert (
            f"{tmp_path / 'run'} was changed after its run had finished: {name} has {len(whole) // 2} bytes"
            in again.err
        )
        assert run_arguments(capfd, ["report", str(tmp_path / "run")]).code == 0
        assert f"{name} has {len(whole) // 2} bytes" in (tmp_path / "run" / "report.html").read_text()
        file.write_bytes(whole)

    weights = load_file(made / "model.safetensors")
    weights["model.norm.weight"][3] += 1
    save_file(weights, made / "model.safetensors", metadata={"format": "pt"})
    assert "model/model.safetensors has other contents" in run_arguments(capfd, typed).err
    other = run_arguments(capfd, [*measured[:-2], *arguments({"max_new_tokens": 9, "output": tmp_path / "other"})])
    assert other.code == 0
    assert f"{made / 'model.safetensors'} has other contents: it was changed after the run that made it" in other.err


@pytest.mark.parametrize(
    "name", ["records.jsonl", "summary.json", "before/records.jsonl", "log.jsonl", "finished.json"]
)
def test_a_report_on_damaged_files(name: str, single: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = shutil.copytree(single, tmp_path / "run")
    file = name.rpartition("/")[2]
    for damage in (b"[1, 2]\n", b"{}\n", b'{"sets": {"forget": 5}}\n', b"", b"\xff\xfe{"):
        (folder / name).write_bytes(damage)
        assert any(file in sentence for _, sentence in read([folder]).missing), damage
    ended = run_arguments(capfd, ["report", str(folder)])
    assert ended.code == 0, ended.err
    assert "Traceback" not in ended.err
    assert file in (folder / "report.html").read_text()
