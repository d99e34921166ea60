"""Runs stopped by SIGINT, SIGTERM or SIGKILL at random moments, and repeated, end with the files of undisturbed ones.

In the suite few; `UNLEARNER_KILLS=30 pytest tests/e2e/test_random_kills.py` for as many of each command, with
`UNLEARNER_KILLS_SEED` for other moments.
"""

import contextlib
import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from conftest import TINY, Files, arguments, begin, contents, in_process

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("UNLEARNER_KILLS", 2))
SEED = int(os.environ.get("UNLEARNER_KILLS_SEED", 7))
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


def options(command: str, files: Files) -> tuple[list[str], dict[str, Any]]:
    training = {"lr": 1e-3, "epochs": 3, "batch_size": 2, "accumulation": 1, "save_every": 2, "log_every": 1}
    measuring = {"judge": "offline", "max_new_tokens": 12}
    data = {"model": files.model, "forget": files.forget, "retain": files.retain}
    return {
        "forget": (["forget"], {**data, **training, **measuring, "evaluate": "epochs"}),
        "lora": (["forget"], {**data, **training, **measuring, "lora": True, "lora_dropout": 0.3}),
        "finetune": (["finetune"], {"model": TINY, "data": files.all, **training}),
        "bench": (
            ["bench", "fictitious"],
            {"methods": ["ME+GD"], "splits": ["people4"], "seeds": [1, 2] if KILLS > 2 else [1], "jobs": 2 if KILLS > 2 else 1, "model": files.model, **training,
             "epochs": 1, "eval_limit": 6, **measuring},
        ),
    }[command]  # fmt: skip


@pytest.mark.parametrize("command", ["forget", "lora", "finetune", "bench"])
def test_killed_at_random_moments(command: str, files: Files, tmp_path: Path) -> None:
    draw = random.Random(f"{SEED} {command}")
    typed, chosen = options(command, files)
    whole, broken = tmp_path / "whole" / "run", tmp_path / "broken" / "run"
    for output in (whole, broken):
        output.parent.mkdir()
    begun = time.monotonic()
    assert in_process([*typed, *arguments({**chosen, "output": whole})], whole.parent) == 0
    seconds = time.monotonic() - begun

    typed = [*typed, *arguments({**chosen, "output": broken})]
    done = 0
    for number in range(KILLS):
        sent = SIGNALS[number % 3] if KILLS > 2 else SIGNALS[number]
        process = begin(typed, broken.parent)
        timer = threading.Timer(draw.uniform(0, seconds * 0.9), process_signal, (process.pid, sent))
        timer.start()
        process.join(400)
        timer.cancel()
        assert process.exitcode in (0, 2, -sent), (number, sent, process.exitcode)
        done += process.exitcode == 0
    said = (broken.parent / "said.txt").read_text()
    assert "Traceback" not in said, said
    assert in_process(typed, broken.parent) == 0
    assert contents(broken) == contents(whole)
    print(f"{command}: {KILLS} signals, {done} of them after the end, 0 differing files")


def process_signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
