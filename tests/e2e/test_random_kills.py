"""Runs stopped by SIGINT, SIGTERM or SIGKILL at random moments, and repeated, end with the files of undisturbed ones.

In the suite few; `UNLEARNER_KILLS=30 pytest tests/e2e/test_random_kills.py` for as many of each command, with
`UNLEARNER_KILLS_SEED` for other moments.
"""

import contextlib
import os
import random
import shutil
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
            {"methods": ["ME+GD"], "splits": ["people4"], "seeds": [1, 2][:KILLS], "jobs": 2, "model": files.model,
             **training, "epochs": 1, "eval_limit": 6, **measuring},
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
    landed = ended = 0
    while landed < KILLS and ended < 3 * KILLS:
        sent = SIGNALS[landed % 3]
        process = begin(typed, broken.parent)
        # Earlier the process is not yet the command: the server that forked it answers.
        timer = threading.Timer(draw.uniform(min(0.3, seconds / 4), seconds * 0.8), process_signal, (process.pid, sent))
        timer.start()
        process.join(400)
        timer.cancel()
        assert process.exitcode in (0, 2, -sent), (landed, sent, process.exitcode)
        landed += process.exitcode != 0
        if process.exitcode == 0:  # it came to its end between two signals: the next begin anew
            ended += 1
            assert contents(broken) == contents(whole)
            shutil.rmtree(broken)
    said = (broken.parent / "said.txt").read_text()
    assert "Traceback" not in said, said
    assert in_process(typed, broken.parent) == 0
    assert contents(broken) == contents(whole)
    print(f"{command}: {landed} signals in {ended + 1} runs, 0 differing files")


def process_signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
