"""What the user sees on the terminal: progress bars, notes and warnings, all on standard error."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from importlib.util import find_spec
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from unlearner.distributed import is_main
from unlearner.terminal import Plain

console = Plain(stderr=True)
"""Progress, notes and warnings; results go to standard output."""
LINE_SECONDS = 30
"""Between two lines of progress where there is no terminal."""


def discard_output() -> None:
    """Let what is still to be printed go nowhere: nobody reads it, and the interpreter would complain as it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def note(text: str) -> None:
    """A line that the user may want to know, once if there are several processes."""
    if is_main():
        console.print(text, markup=False, style="dim", soft_wrap=True)


def warn(text: str) -> None:
    """A line that the user should not miss, once if there are several processes."""
    if is_main():
        console.print(f"warning: {text}", markup=False, style="yellow", soft_wrap=True)


@contextmanager
def quiet() -> Iterator[None]:
    """No bars, notes and warnings of single runs, where many are run: whoever runs them has their own."""
    before, console.quiet = console.quiet, True
    try:
        yield
    finally:
        console.quiet = before


@contextmanager
def progress_bar(name: str, total: int, done: int = 0, *, console: Console = console) -> Iterator[Callable[..., Any]]:
    """A bar with time left, in a terminal and in Jupyter; elsewhere, as in a log file, a line every half minute.

    Yields `update(done, **values)`; the losses among the values are shown beside it.
    """
    if not is_main():
        yield lambda now, **values: None
        return
    if not (console.is_terminal or (console.is_jupyter and find_spec("ipywidgets") is not None)):
        yield _Lines(name, total, done, console).update
        return
    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[values]}", markup=False),
        TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(name, total=total, completed=done, values="")

        def update(now: int, **values: float) -> None:
            shown = _losses(values)
            if shown:
                progress.update(task, completed=now, values=shown)
            else:
                progress.update(task, completed=now)

        yield update


class _Lines:
    """Progress as lines, at most one in `LINE_SECONDS`."""

    def __init__(self, name: str, total: int, done: int, console: Console) -> None:
        self.name, self.total, self.first, self.console = name, total, done, console
        self.began = self.said = time.monotonic()
        self.losses = ""

    def update(self, now: int, **values: float) -> None:
        self.losses = _losses(values) or self.losses
        clock = time.monotonic()
        if clock - self.said < LINE_SECONDS or now <= self.first:
            return
        self.said = clock
        left = (clock - self.began) / (now - self.first) * (self.total - now)
        parts = [f"{self.name}: {now} of {self.total}", self.losses, f"{timedelta(seconds=round(left))} left"]
        self.console.print(", ".join(filter(None, parts)), markup=False, style="dim", soft_wrap=True)


def _losses(values: Mapping[str, float]) -> str:
    return " ".join(f"{name} {values[name]:.4g}" for name in ("forget", "retain") if name in values)
