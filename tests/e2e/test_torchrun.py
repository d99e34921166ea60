"""The command line under torchrun: a process that is killed ends the run and is named, repeating goes on; two agents,
as on two machines; what only one process may do."""

import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from conftest import Files, arguments, contents, in_process, run_arguments
from forked import together
from unlearner.commands.main import main
from unlearner.config import EvaluateConfig
from unlearner.errors import UserError
from unlearner.models import sharding
from unlearner.models.load import load_model
from unlearner.options import TrainOptions


def torchrun(
    typed: list[str], *, launch: tuple[str, ...] = ("--standalone", "--nproc-per-node=2"),
    launcher: str = "torch.distributed.run",
) -> subprocess.Popen:  # fmt: skip
    command = [sys.executable, "-m", launcher, *launch, "-m", "unlearner", *typed]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def forgetting(files: Files, output: Path, parallel: str = "fsdp", **changed: Any) -> list[str]:
    """A run that is long enough to be killed in its evaluation before, and in training."""
    return [
        "forget",
        *arguments({
            "model": files.model, "forget": files.forget, "retain": files.retain, "output": output, "method": "NPO+KL",
            "epochs": 8, "batch_size": 2, "accumulation": 1, "lr": 1e-3, "judge": "offline", "max_new_tokens": 120,
            "eval_tokens": 260, "save_every": 3, "parallel": parallel, **changed,
        }),
    ]  # fmt: skip


def kill_one(run: subprocess.Popen, rank: int, when: Callable[[], bool]) -> tuple[int, str, float]:
    """Kill -9 of one process at a moment; exit code, what was said, and the seconds until all had ended."""
    patience = time.monotonic() + 60
    while not when():
        assert run.poll() is None and time.monotonic() < patience, run.communicate()
        time.sleep(0.01)
    workers = psutil.Process(run.pid).children()
    (victim,) = [worker for worker in workers if worker.environ().get("RANK") == str(rank)]
    victim.send_signal(signal.SIGKILL)
    start = time.monotonic()
    _, said = run.communicate(timeout=90)
    assert not any(worker.is_running() for worker in workers)
    return run.returncode, said, time.monotonic() - start


@pytest.mark.slow
@pytest.mark.parametrize(
    "parallel",
    ["fsdp", pytest.param("deepspeed", marks=pytest.mark.skipif(not find_spec("deepspeed"), reason="needs deepspeed"))],
)
def test_a_killed_process_ends_the_run_and_repeating_it_goes_on(files: Files, tmp_path: Path, parallel: str) -> None:
    """Killed in the evaluation before, then in training: the same files as if nothing had happened."""
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    moments: list[tuple[int, Callable[[], bool]]] = [
        (1, lambda: any((killed / "before").glob("passes*.jsonl"))),
        (0, lambda: any((killed / "checkpoints").glob("step-*"))),
    ]
    for rank, moment in moments:
        code, said, seconds = kill_one(torchrun(forgetting(files, killed, parallel)), rank, moment)
        assert code != 0 and seconds < 60
        assert f"rank      : {rank} " in said.partition("Root Cause")[2] and "SIGKILL" in said
        assert not (killed / "model").exists()
    again = torchrun(forgetting(files, killed, parallel))
    told = "".join(again.communicate(timeout=400))
    assert again.returncode == 0, told
    together(2, tmp_path / "said", main, forgetting(files, whole, parallel))
    undisturbed = "".join(said.read_text() for said in (tmp_path / "said").iterdir())
    for said in (told, undisturbed):
        assert said.count("The model is in") == 1 and said.count(f"2 processes, {parallel}") == 1
    assert contents(killed) == contents(whole)


@pytest.mark.slow
def test_two_agents_and_accelerate_make_what_one_agent_makes(files: Files, tmp_path: Path) -> None:
    """As on two machines: an agent with one process on each, who find each other by a c10d rendezvous."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    short = {"epochs": 2, "max_new_tokens": 16}
    made = []
    for nodes in (1, 2):
        output = tmp_path / str(nodes)
        launch = (
            f"--nnodes={nodes}",
            f"--nproc-per-node={2 // nodes}",
            "--rdzv-backend=c10d",
            "--local-addr=127.0.0.1",
        )
        launch += (f"--rdzv-id={nodes}", f"--rdzv-endpoint=127.0.0.1:{port}")
        runs = [
            torchrun(forgetting(files, output, **short), launch=(*launch, f"--rdzv-conf=is_host={int(node == 0)}"))
            for node in range(nodes)
        ]
        for run in runs:
            _, said = run.communicate(timeout=400)
            assert run.returncode == 0, said
        made.append(contents(output))
    launch = ("--multi_gpu", "--num_processes=2", "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no")
    typed = forgetting(files, tmp_path / "accelerate", **short)
    run = torchrun(typed, launch=launch, launcher="accelerate.commands.launch")
    _, said = run.communicate(timeout=400)
    assert run.returncode == 0, said
    assert made[0] == made[1] == contents(tmp_path / "accelerate")


def test_what_accelerate_would_do_to_the_model_is_refused(
    files: Files, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    ended = run_arguments(capfd, forgetting(files, tmp_path / "run"))
    assert ended.code == 2 and "use --parallel fsdp instead" in ended.err
    assert not (tmp_path / "run").exists()


def test_the_choice_is_by_size_and_said(
    files: Files, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    model = load_model(str(files.model))
    size = sum(p.nbytes for p in model.parameters())
    monkeypatch.setattr(sharding.distributed, "count", lambda: 2)
    monkeypatch.setattr(sharding.distributed, "agreed", lambda value: value)
    for share, training, asked in ((3.9, "fsdp", "ddp"), (4.1, "ddp", "ddp"), (0.9, "fsdp", "fsdp")):
        monkeypatch.setattr(sharding, "device_memory", lambda device, share=share: share * size / sharding.ROOM)
        assert sharding.choose(model, TrainOptions(model=""), torch.float32) == training
        assert sharding.choose(model, EvaluateConfig(model="", output=""), torch.float32) == asked
    assert sharding.choose(model, TrainOptions(model="", parallel="fsdp"), torch.float32) == "fsdp"
    said = capfd.readouterr().err
    assert "2 processes, fsdp, each with a part of every weight: weights, gradients and optimiser states take" in said
    assert "as --parallel says" in said
    train, ask = TrainOptions(model="", parallel="deepspeed"), EvaluateConfig(model="", output="", parallel="deepspeed")
    assert sharding.choose(model, train, torch.float32) == "deepspeed"
    assert sharding.choose(model, ask, torch.float32) == "fsdp"
    with pytest.raises(UserError, match="--cpu-offload needs --parallel fsdp"):
        sharding.choose(model, TrainOptions(model="", parallel="ddp", cpu_offload=True), torch.float32)


@pytest.mark.slow
def test_a_bench_under_torchrun_is_that_of_one_process(
    files: Files, tofu: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two continual tasks, tuned; the trial whose gradient is not finite fails in all processes, and they go on."""

    def typed(output: Path, parallel: str) -> list[str]:
        return ["bench", "continual", *arguments({
            "data": tofu, "model": files.model, "splits": "forget01", "methods": "NPO+KL", "seeds": 1, "tasks": 2,
            "lr": 1e-3, "tune": "forget_coeff=1,1e36", "epochs": 1, "batch_size": 2, "accumulation": 1,
            "judge": "offline", "max_new_tokens": 8, "parallel": parallel, "output": output,
        })]  # fmt: skip

    one, two = tmp_path / "one", tmp_path / "two"
    assert in_process(typed(one, "ddp"), tmp_path) == 0, (tmp_path / "said.txt").read_text()
    monkeypatch.setenv("UNLEARNER_CACHE", str(tmp_path / "cache"))  # as in the other process
    run = torchrun(typed(two, "fsdp"))
    out, said = run.communicate(timeout=400)
    assert run.returncode == 0 and out.count("Report:") == 1, said
    assert contents(one).keys() == contents(two).keys()
    tuned = json.loads((two / "tuning.json").read_text())["NPO+KL"]["forget01"]
    assert tuned["chosen"] == {"forget_coeff": 1.0}
    assert re.search("norm (nan|inf)", tuned["trials"][1]["error"])
    places = [
        path.relative_to(one) for path in sorted(one.rglob("records.jsonl")) if "forget_coeff=1e+36" not in path.parts
    ]
    assert len(places) == 2 * (2 * 2 + 1)  # the trial and the run: of both tasks before and after, of the first again
    for name in (*places, "results.csv"):
        for ours, theirs in zip(*(values(folder / name) for folder in (two, one)), strict=True):
            assert ours == (pytest.approx(theirs, rel=1e-4, abs=1e-5) if isinstance(theirs, float) else theirs), name


def values(path: Path) -> list[Any]:
    """Every value in a file of rows, numbers as numbers."""
    if path.suffix == ".csv":
        return [value for row in csv.DictReader(path.open()) for value in flat(dict(row))]
    return [value for line in path.read_text().splitlines() for value in flat(json.loads(line))]


def flat(value: Any) -> list[Any]:
    if isinstance(value, dict | list):
        return [part for inner in (value.values() if isinstance(value, dict) else value) for part in flat(inner)]
    with suppress(TypeError, ValueError):
        return [float(value)]
    return [value]


def test_what_a_bench_under_torchrun_cannot_have(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("unlearner.distributed.count", lambda: 2)
    ended = run_arguments(capfd, ["bench", "fictitious", "--jobs", "2", "--output", str(tmp_path / "bench")])
    assert ended.code == 2 and "leave out --jobs and --ray" in ended.err
    assert not (tmp_path / "bench").exists()
