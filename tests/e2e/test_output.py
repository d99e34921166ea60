"""Standard output that nobody reads, that is full or closed, or that lacks a letter; Ctrl-C while libraries load."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = f"{sys.executable} -m unlearner"


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, timeout=120,
        env={**os.environ, **environment},
    )  # fmt: skip


@pytest.mark.parametrize("command", ["methods", "metrics", "forget --help", ""])
def test_a_reader_that_has_seen_enough(command: str) -> None:
    ended = shell(f"{PROGRAM} {command} | head -n 1")
    assert (ended.returncode, ended.stderr) == (0, "") and ended.stdout.count("\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("command", ["methods", "metrics", ""])
def test_a_full_disk(command: str) -> None:
    ended = shell(f"{PROGRAM} {command} > /dev/full")
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: standard output cannot be written (No space left on device)")
    assert ended.stderr.count("\n") == 1


def test_no_standard_output() -> None:
    ended = shell(f"{PROGRAM} methods >&-")
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_terminal_that_knows_ascii_alone() -> None:
    ended = shell(f"{PROGRAM} methods", PYTHONIOENCODING="ascii")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.isascii() and "\\u2212CE(forget)" in ended.stdout


@pytest.mark.parametrize("seconds", [0.3, 0.6, 1.0, 1.5, 2.0, 2.5])
def test_ctrl_c_while_libraries_load(seconds: float, tmp_path: Path) -> None:
    """One line, whatever the library at hand makes of the interrupt; before Python runs our code it is Python's own."""
    typed = ["evaluate", "--model", "builtin:", "--forget", "builtin:forget", "--output", str(tmp_path / "out")]
    started = subprocess.Popen(
        [sys.executable, "-m", "unlearner", *typed], stderr=subprocess.PIPE, text=True,
        env={**os.environ, "UNLEARNER_CACHE": str(tmp_path)},
    )  # fmt: skip
    time.sleep(seconds)
    started.send_signal(signal.SIGINT)
    _, err = started.communicate(timeout=120)
    if "unlearner/commands" not in err and "Traceback" in err:
        pytest.skip("the interpreter had not come to our code yet")
    # Between two handlers, or in a destructor, the interrupt is Python's own for a moment.
    assert started.returncode in (2, -signal.SIGINT)
    if started.returncode == 2:
        assert (
            err.splitlines()[-1]
            == "interrupted: what was finished is kept; repeat the same command to go on from there."
        )
