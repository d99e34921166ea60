"""How the end of one process is the end of all.

A launcher ends the processes of its machine when one of them dies, and names it. It does not know those of other
machines: their collective operations wait for ever, or fail with an error that names nobody. So every process has a
thread that gives signs of life and watches for those of the next rank.
"""

import atexit
import json
import os
import sys
import threading
import time
import traceback
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

from unlearner.distributed.collectives import barrier
from unlearner.distributed.ranks import count, full_name, is_main, local_rank, rank
from unlearner.terminal import Plain

BEAT_SECONDS = 1.0
SILENCE_SECONDS = 45.0
"""After so long without a sign of life a process counts as gone; Python's lock may be held for some seconds."""
VERDICT_SECONDS = 4.0
"""How long a process whose collective operation broke listens for signs of life, to know which other is to blame."""
ERROR_SECONDS = 10.0
"""Within these all processes meet an error that has the same cause in all of them."""
LETTING_GO_SECONDS = 0.2
"""What a thread of gloo is given at the end to release what it holds of Python's."""
REPEAT = "repeat the same command to resume from what was finished."


def join() -> None:
    """Meet the other processes, once, and watch over them from then on."""
    global _watch
    if count() == 1 or _watch is not None:
        return
    import torch
    from torch import distributed

    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(local_rank())
    store, *_ = next(distributed.rendezvous("env://"))
    # Objects and flags travel between CPUs; a watch looks after the living, so nothing needs a short patience.
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if gpu else "gloo", store=distributed.PrefixStore("group", store),
        rank=rank(), world_size=count(), timeout=timedelta(hours=12),
    )  # fmt: skip
    _watch = _Watch(store.clone())
    _watch.start()
    atexit.register(_at_exit)


def leave() -> None:
    """Part from the other processes when all are done."""
    global _watch
    if _watch is None:
        return
    from torch import distributed

    barrier()
    _watch.stopped.set()
    _watch.join()
    barrier()  # nobody looks any more: now the process that holds the store may go
    _watch = None
    distributed.destroy_process_group()
    # DeepSpeed holds on to the group, so its threads are not waited for; one that lets go of the last operation when
    # Python is gone aborts the process.
    time.sleep(LETTING_GO_SECONDS)


def met_by_all(error: str) -> bool:
    """Whether every process has met this very error: then all stand at the same place, and may go on from there.

    One that has not may be inside a collective operation, waiting for those that have.
    """
    if _watch is None:
        return True
    _watch.errors += 1
    keys = [f"error/{_watch.errors}/{r}" for r in range(count())]
    _watch.store.set(keys[rank()], error)
    patience = time.monotonic() + ERROR_SECONDS
    while not _watch.store.check(keys):
        if time.monotonic() > patience:
            return False
        time.sleep(0.05)
    return {_watch.store.get(key).decode() for key in keys} == {error}


def fail(message: str, code: int, style: str = "bold red") -> NoReturn:
    """End this process with exit code `code` and, where there are others, those too; `message` is said once."""
    if count() > 1 and not is_main():
        time.sleep(VERDICT_SECONDS)  # an error that all processes meet is told by the main one
        message = f"{full_name()}: {message}"
    if _watch is None:
        _say(message, style)
        _tell_launcher(message)
        raise SystemExit(code)
    _watch.end(message, code, style)


def end_by(error: BaseException) -> None:
    """Tell the other processes, if there are any, of an error that nobody caught, and end with them."""
    if _watch is None:
        return
    # An operation that broke because another process is gone should not be told as this one's fault.
    if gone := _watch.silent():
        _watch.end(f"{gone} gone, so the run has ended: {REPEAT}", 1)
    if error is not getattr(sys, "last_value", None):  # else Python has printed it
        traceback.print_exception(error)
    first = next(iter(str(error).splitlines()), "")
    _watch.end(f"{full_name()} ended by {type(error).__name__}: {first}", 1)


def _at_exit() -> None:
    # Of a script of the user's that fails: to wait for the others there would be to wait for ever.
    error = getattr(sys, "last_value", None)
    if error is None:
        leave()
    else:
        end_by(error)


def _say(message: str, style: str) -> None:
    Plain(stderr=True).print(message, markup=False, style=style, soft_wrap=True)


def _tell_launcher(message: str) -> None:
    """Leave the message where torchrun looks for it: it ends its own summary, the last thing on the terminal."""
    if file := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        told = {"message": message, "extraInfo": {"py_callstack": message, "timestamp": str(int(time.time()))}}
        Path(file).write_text(json.dumps({"message": told}), encoding="utf-8")


class _Watch(threading.Thread):
    """Signs of life through the store in which the processes met."""

    def __init__(self, store: Any) -> None:
        super().__init__(name="watch", daemon=True)
        from torch.distributed import PrefixStore

        self.store = PrefixStore("unlearner", store)
        self.store.set_timeout(timedelta(seconds=30))
        self.stopped = threading.Event()
        self.errors = 0
        self.store.set(f"name/{rank()}", full_name())
        self.store.set(f"beat/{rank()}", "0")
        self.answered = time.monotonic()
        threading.Thread(target=self._guard, name="guard", daemon=True).start()

    def _guard(self) -> None:
        """A question to a machine that is cut off never returns."""
        while not self.stopped.wait(BEAT_SECONDS):
            if time.monotonic() - self.answered > SILENCE_SECONDS:
                lost = f"{full_name()} has lost contact with the main process's machine: {REPEAT}"
                _say(lost, "bold red")
                self._exit(f"1 {lost}")

    def run(self) -> None:
        beats, heard, since = 0, b"", time.monotonic()
        following = (rank() + 1) % count()
        while not self.stopped.wait(BEAT_SECONDS):
            try:
                if self.store.check(["end"]):
                    self._exit(self.store.get("end").decode())
                beats += 1
                self.store.set(f"beat/{rank()}", str(beats))
                beat, now = self.store.get(f"beat/{following}"), time.monotonic()
                self.answered = now
                if beat != heard:
                    heard, since = beat, now
                elif now - since > SILENCE_SECONDS:
                    name = self.store.get(f"name/{following}").decode()
                    self.end(f"{name} shows no sign of life, so the run ends: {REPEAT}", 1)
            except RuntimeError:  # torch's DistError: the store's machine does not answer
                self.end(f"{full_name()} has lost contact with the main process's machine: {REPEAT}", 1)

    def silent(self) -> str:
        """Names of the processes that give no sign of life, with their verb; empty where all do."""
        try:
            others = [r for r in range(count()) if r != rank()]
            before = {r: self.store.get(f"beat/{r}") for r in others}
            time.sleep(VERDICT_SECONDS)
            gone = [self.store.get(f"name/{r}").decode() for r in others if self.store.get(f"beat/{r}") == before[r]]
        except RuntimeError:
            return "the main process's machine is"
        return f"{', '.join(gone)} {'is' if len(gone) == 1 else 'are'}" if gone else ""

    def end(self, message: str, code: int, style: str = "bold red") -> NoReturn:
        """Say why the run ends, unless another process was first, and end this process."""
        ours = f"{code} {message}"
        try:
            first = self.store.compare_set("end", "", ours).decode()
        except RuntimeError:
            first = ours
        if first == ours:
            _say(message, style)
        self._exit(first)

    def _exit(self, reason: str) -> NoReturn:
        code, message = reason.split(" ", 1)
        _tell_launcher(message)
        sys.stdout.flush()
        os._exit(int(code))  # the main thread may be inside a library that waits for ever


_watch: _Watch | None = None
