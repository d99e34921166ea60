"""Processes of their own that begin at once: importing torch takes longer than a tiny run, so a server process does it
once and forks for every command, and for every process of a group."""

import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from unlearner.commands.main import main

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by processes begun from here, which share the machine
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["warm"])


@dataclass(frozen=True)
class Moment:
    """The `count`th file operation `event` (as Python's audit events call it) on a path that ends in `path`:
    just before it, the process gets the signal."""

    event: str
    path: str
    count: int = 1
    signal: int = signal.SIGKILL


def in_process(typed: Sequence[str], folder: Path, moment: Moment | None = None) -> int:
    """Run a command in a process of its own; its exit code, −9 if it was killed.

    What it says goes to `folder`/said.txt, and `folder`/cache is its cache.
    """
    process = begin(typed, folder, moment)
    process.join(400)
    assert process.exitcode is not None, "the command hangs"
    return process.exitcode


def begin(typed: Sequence[str], folder: Path, moment: Moment | None = None) -> Any:
    """The process of `in_process`, begun."""
    environment = {**os.environ, "UNLEARNER_CACHE": str(folder / "cache")}
    _ensure_server()
    process = SERVER.Process(target=_command, args=(list(typed), environment, str(folder), moment))
    process.start()
    return process


def _ensure_server() -> None:
    """Begin the server, if there is none yet, where it finds `warm`: Python tells it of no path."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(Path(__file__).parent), before)))
    try:
        forkserver.ensure_running()
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before


def _command(typed: list[str], environment: dict[str, str], folder: str, moment: Moment | None) -> None:
    _live_in(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the server ignores it
    with (Path(folder) / "said.txt").open("a", buffering=1) as said:
        sys.stdout = sys.stderr = said
        if moment is not None:
            sys.addaudithook(_at(moment))
        try:
            main(typed)
        except KeyboardInterrupt:  # between here and main, which itself lets none out
            sys.exit(2)
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):  # as the program does (`commands.main.script`)
                signal.signal(number, signal.SIG_IGN)


def _live_in(environment: dict[str, str]) -> None:
    """Nothing of the server's own, which was begun in the environment of whatever test came first."""
    os.environ.clear()
    os.environ.update(environment)


def _at(moment: Moment) -> Callable[[str, tuple[Any, ...]], None]:
    """An audit hook: Python tells it of every file operation before it is done."""
    seen = 0

    def hook(event: str, details: tuple[Any, ...]) -> None:
        nonlocal seen
        if event != moment.event or not any(str(detail).endswith(moment.path) for detail in details[:2]):
            return
        seen += 1
        if seen == moment.count:
            os.kill(os.getpid(), moment.signal)

    return hook


# --------------------------------------------------------------------------------------------------------------- groups


def together(count: int, folder: Path, what: Callable[..., None], *given: Any) -> None:
    """`what(*given)` in each of `count` processes of one group, which are told who they are as torchrun tells it.

    What they say goes to `folder`/said-RANK.txt. Where one fails, the others are ended, and AssertionError says why.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "CUDA_VISIBLE_DEVICES": ""}
    group |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    running = []
    _ensure_server()
    for rank in range(count):
        environment = {**os.environ, **group, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        said = folder / f"said-{rank}.txt"
        said.touch()
        running.append(SERVER.Process(target=_member, args=(environment, said, what, given)))
        running[-1].start()
    left = {process.sentinel: process for process in running}
    while left:
        ended = [left.pop(sentinel) for sentinel in wait(list(left), timeout=600)]  # type: ignore[call-overload]
        if not ended or any(process.exitcode for process in ended):
            for process in left.values():
                process.kill()
            told = "\n".join((folder / f"said-{rank}.txt").read_text() for rank in range(count))
            raise AssertionError(told if ended else f"the processes hang\n{told}")


def _member(environment: dict[str, str], said: Path, what: Callable[..., None], given: tuple[Any, ...]) -> None:
    _live_in(environment)
    sys.stdout = sys.stderr = said.open("w", buffering=1)
    what(*given)
