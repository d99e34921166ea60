"""The command line under torchrun: a process that is killed ends the run and is named, repeating goes on; two agents,
as on two machines; what only one process may do."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from conftest import Files, arguments, contents
from unlearner.config import EvaluateConfig, TrainOptions
from unlearner.errors import UserError
from unlearner.modeling import sharding
from unlearner.modeling.load import load_model


def torchrun(typed: list[str], *, launch: tuple[str, ...] = ("--standalone", "--nproc-per-node=2")) -> subprocess.Popen:
    command = [sys.executable, "-m", "torch.distributed.run", *launch, "-m", "unlearner", *typed]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def forgetting(files: Files, output: Path) -> list[str]:
    return [
        "forget",
        *arguments({
            "model": files.model, "forget": files.forget, "retain": files.retain, "output": output, "method": "NPO+KL",
            "epochs": 8, "batch_size": 2, "accumulation": 1, "lr": 1e-3, "judge": "offline", "max_new_tokens": 120,
            "eval_tokens": 260, "save_every": 3, "parallel": "fsdp",
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
def test_a_killed_process_ends_the_run_and_repeating_it_goes_on(files: Files, tmp_path: Path) -> None:
    """Killed in the evaluation before, then in training: the same files as if nothing had happened."""
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    moments: list[tuple[int, Callable[[], bool]]] = [
        (1, lambda: any((killed / "before").glob("passes*.jsonl"))),
        (0, lambda: any((killed / "checkpoints").glob("step-*"))),
    ]
    for rank, moment in moments:
        code, said, seconds = kill_one(torchrun(forgetting(files, killed)), rank, moment)
        assert code != 0 and seconds < 60
        assert f"rank      : {rank} " in said.partition("Root Cause")[2] and "SIGKILL" in said
        assert not (killed / "model").exists()
    again, undisturbed = torchrun(forgetting(files, killed)), torchrun(forgetting(files, whole))
    for run in (again, undisturbed):
        out, said = run.communicate(timeout=400)
        assert run.returncode == 0, said
        assert out.count("The model is in") == 1 and said.count("2 processes, fsdp") == 1
    assert contents(killed) == contents(whole)


@pytest.mark.slow
def test_two_agents_make_what_one_makes(files: Files, tmp_path: Path) -> None:
    """As on two machines: an agent with one process on each, who find each other by a c10d rendezvous."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
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
            torchrun(forgetting(files, output), launch=(*launch, f"--rdzv-conf=is_host={int(node == 0)}"))
            for node in range(nodes)
        ]
        for run in runs:
            _, said = run.communicate(timeout=400)
            assert run.returncode == 0, said
        made.append(contents(output))
    assert made[0] == made[1]


def test_the_choice_is_by_size_and_said(
    files: Files, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    model = load_model(str(files.model))
    size = sum(p.nbytes for p in model.parameters())
    monkeypatch.setattr(sharding.processes, "count", lambda: 2)
    monkeypatch.setattr(sharding.processes, "agreed", lambda value: value)
    for share, training, asked in ((3.9, "fsdp", "ddp"), (4.1, "ddp", "ddp"), (0.9, "fsdp", "fsdp")):
        monkeypatch.setattr(sharding, "device_memory", lambda device, share=share: share * size / sharding.ROOM)
        assert sharding.choose(model, TrainOptions(model="")) == training
        assert sharding.choose(model, EvaluateConfig(model="", output="")) == asked
    assert sharding.choose(model, TrainOptions(model="", parallel="fsdp")) == "fsdp"
    said = capfd.readouterr().err
    assert "2 processes, fsdp, each with a part of every weight: weights, gradients and optimiser states take" in said
    assert "as --parallel says" in said
    with pytest.raises(UserError, match="--cpu-offload goes with --parallel fsdp"):
        sharding.choose(model, TrainOptions(model="", parallel="ddp", cpu_offload=True))


@pytest.mark.slow
def test_a_bench_under_torchrun_says_how_to_start_it(tmp_path: Path) -> None:
    run = torchrun(["bench", "fictitious", "--output", str(tmp_path / "bench")])
    _, said = run.communicate(timeout=300)
    assert run.returncode != 0 and "call it without torchrun" in said
    assert not (tmp_path / "bench").exists()
