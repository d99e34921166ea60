"""Ctrl-C ends a run after the current step, with a checkpoint."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from unlearner import distributed
from unlearner.console import warn

LAUNCHER_SECONDS = 2
"""Within these, a second Ctrl-C is the first one, passed on by torchrun."""


@contextmanager
def ctrl_c() -> Iterator[Callable[[], bool]]:
    """Let Ctrl-C end the run after the current step, with a checkpoint; a second one ends it at once."""
    pressed = 0.0

    def note(number: int, frame: Any) -> None:
        nonlocal pressed
        if pressed and distributed.count() > 1 and time.monotonic() - pressed < LAUNCHER_SECONDS:
            return
        if pressed:
            raise KeyboardInterrupt
        pressed = time.monotonic()
        warn("stopping after this step, with a checkpoint; press Ctrl-C again to stop at once")

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: pressed > 0
    finally:
        signal.signal(signal.SIGINT, before)
