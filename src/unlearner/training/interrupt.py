"""Ctrl-C, SIGTERM and --time-limit end a run after the current step, with a checkpoint."""

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
STOPS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def ctrl_c() -> Iterator[Callable[[], bool]]:
    """Let Ctrl-C, or SIGTERM, end the run after the current step, with a checkpoint; a second one ends it at once.

    Both may come for one reason: from a terminal and from a bench that ends its cells, or from torchrun.
    """
    pressed: dict[int, float] = {}

    def note(number: int, frame: Any) -> None:
        now = time.monotonic()
        if number in pressed:
            if distributed.count() > 1 and now - pressed[number] < LAUNCHER_SECONDS:
                return
            raise KeyboardInterrupt
        pressed[number] = now
        if len(pressed) == 1:
            how = "press Ctrl-C again" if number == signal.SIGINT else "a second signal is needed"
            warn(f"stopping after this step, with a checkpoint; {how} to stop at once")

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.signal(number, note) for number in STOPS}
    try:
        yield lambda: bool(pressed)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def time_limit(minutes: float | None) -> Iterator[None]:
    """After so many minutes the block is interrupted as by Ctrl-C; only in the main thread, which alone can be."""
    main = threading.main_thread()
    if minutes is None or not minutes > 0 or threading.current_thread() is not main:  # what it cannot be is told later
        yield
        return

    def stop() -> None:
        warn(f"--time-limit {minutes:g} minutes have passed")
        signal.pthread_kill(main.ident or 0, signal.SIGINT)  # also out of a call of the system

    timer = threading.Timer(60 * minutes, stop)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
