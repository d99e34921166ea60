"""One process works in a directory at a time: `.lock` in it says who, on any file system that several machines share.

The lock is filelock's lease: a file that its holder touches every few seconds. It needs no lock of the kernel's, which
network file systems may keep to one machine. A holder that died is recognised at once on its own machine, by pid and
time of start, and on others by its silence; clocks are not compared.
"""

import atexit
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import LeaseCompromise, SoftFileLease, Timeout

from unlearner.console import note
from unlearner.errors import UserError
from unlearner.files import space_errors
from unlearner.results.layout import LOCK

BEAT_SECONDS = 2.0
LEASE_SECONDS = 20.0
"""After so long without a beat a holder on another machine counts as gone; Python's lock may be held for seconds."""
FIRST_SECONDS = 1.0
"""Enough to take the place of a dead process of this machine."""

_held: dict[Path, SoftFileLease] = {}


def lock(folder: Path) -> None:
    """Have `folder`, which is there, for this process until `unlock`, or until it ends; once more is no harm.

    Raises UserError where another process works in it.
    """
    place = folder.resolve() / LOCK
    if place in _held:
        return
    lease = _lease(place)
    with space_errors(place):
        if not _take(lease, FIRST_SECONDS):
            _watch(lease, place, folder)
        _since(place).write_text(f"{datetime.now():%Y-%m-%d %H:%M:%S}", encoding="utf-8")
    _held[place] = lease


def unlock(folder: Path) -> None:
    """Leave `folder` to others, if it is held; nothing of the lock stays."""
    place = folder.resolve() / LOCK
    if lease := _held.pop(place, None):
        _since(place).unlink(missing_ok=True)
        lease.release()


def check_free(folder: Path) -> None:
    """Raises UserError where another process works in `folder`. Only what a dead one left is removed."""
    place = folder.resolve() / LOCK
    if place.exists() and place not in _held and os.access(folder, os.W_OK):
        lock(folder)
        unlock(folder)


@contextmanager
def waiting(folder: Path) -> Iterator[None]:
    """Have `folder` for the block, after whoever works in it; it is made where it is not there."""
    with space_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lease = _lease(folder.resolve() / LOCK)
        if not _take(lease, FIRST_SECONDS):
            note(f"another process is working in {folder}: waiting for it")
            lease.acquire()
    try:
        yield
    finally:
        lease.release()


@contextmanager
def released(output: str | Path | None) -> Iterator[None]:
    """Whatever happens in the block, a lock on `output` that was taken there is given up at its end."""
    try:
        yield
    finally:
        if output is not None:
            unlock(Path(output))


def is_lock(path: Path) -> bool:
    """Whether a file belongs to a lock."""
    return path.name.startswith(LOCK)


def _lease(place: Path) -> SoftFileLease:
    return SoftFileLease(
        place, lease_duration=LEASE_SECONDS, heartbeat_interval=BEAT_SECONDS, on_compromise=_lost, thread_local=False
    )


def _take(lease: SoftFileLease, seconds: float) -> bool:
    try:
        lease.acquire(timeout=seconds)
    except Timeout:
        return False
    return True


def _watch(lease: SoftFileLease, place: Path, folder: Path) -> None:
    """Take a lock that is held, once its holder is silent for long enough. Raises UserError as soon as it is not."""
    owner = lease.owner
    host = "" if owner is None else owner.hostname.partition("?")[0]  # filelock adds the namespace of pids
    here = host == socket.gethostname()  # it would have been taken if its process were dead
    first, until = _beat(place), time.monotonic() + LEASE_SECONDS + 2 * BEAT_SECONDS
    while not here and _beat(place) == first and time.monotonic() < until:
        if _take(lease, BEAT_SECONDS / 2):
            return
    since = _since(place)
    when = f", since {since.read_text(encoding='utf-8')}" if since.is_file() else ""
    who = "" if owner is None else f" (pid {owner.pid}, host {host}{when})"
    raise UserError(
        f"another process{who} is working in {folder}: wait until it has finished, or choose another directory."
    )


def _beat(place: Path) -> tuple[int, int] | None:
    try:
        found = place.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _since(place: Path) -> Path:
    return place.with_name(f"{LOCK}.since")


def _lost(compromise: LeaseCompromise) -> None:
    """This process stood still for so long that another has the directory: two may not write."""
    if compromise.reason in ("owner-changed", "evicted"):
        folder = Path(compromise.lock_file).parent
        print(f"error: another process has taken over {folder}, because this one stopped responding.", file=sys.stderr)
        os._exit(1)


@atexit.register
def _leave_all() -> None:
    for place in list(_held):
        unlock(place.parent)
