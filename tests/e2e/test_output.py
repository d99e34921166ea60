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


@pytest.mark.slow
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
    assert started.returncode == 2
    said = err.splitlines()
    expected = ["interrupted: what was finished is kept; repeat the same command to resume."]
    if any("Teaching a tiny" in line for line in said):  # on a quick machine the libraries are loaded by then
        expected.insert(0, "warning: stopping after this step, with a checkpoint; press Ctrl-C again to stop at once")
    told = [line for line in said if "Teaching a tiny" not in line]
    assert told == expected or told == expected[-1:]  # the training may have been about to begin


@pytest.mark.parametrize(
    "code",
    [
        "exec('raise KeyboardInterrupt')",  # Python remembers it, and would end by the signal
        "import never_hears",
        "Never()",
    ],
    ids=["code of a string", "an import", "a destructor"],
)
def test_an_interrupt_that_comes_where_it_cannot_be_heard(code: str, tmp_path: Path) -> None:
    swallowing = """
import os, signal, time
def swallow():
    os.kill(os.getpid(), signal.SIGINT)
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        try:
            time.sleep(0.01)
        except BaseException:
            pass
"""
    (tmp_path / "never_hears.py").write_text(f"{swallowing}\nswallow()\n")
    (tmp_path / "program.py").write_text(f"""
import io, time
from rich.console import Console
from unlearner.commands import main
{swallowing}
class Never:
    def __del__(self):
        swallow()
def run():
    Console(file=io.StringIO()).print("", style="yellow", soft_wrap=True)  # loads what it needs, and runs its strings
    {code}
    time.sleep(100)
main.COMMANDS["metrics"].run = run
main.script()
""")
    ended = subprocess.run(
        [sys.executable, tmp_path / "program.py", "metrics"], capture_output=True, text=True, timeout=60
    )
    said = "interrupted: what was finished is kept; repeat the same command to resume.\n"
    assert (ended.returncode, ended.stderr) == (2, said)
