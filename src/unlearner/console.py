"""What the user sees on the terminal: progress bars, notes and warnings, all on standard error."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from unlearner.distributed import is_main

console = Console(stderr=True, highlight=False)
"""Progress, notes and warnings; results go to standard output."""


def note(text: str) -> None:
    """A line that the user may want to know, once if there are several processes."""
    if is_main():
        console.print(text, markup=False, style="dim", soft_wrap=True)


def warn(text: str) -> None:
    """A line that the user should not miss, once if there are several processes."""
    if is_main():
        console.print(f"warning: {text}", markup=False, style="yellow", soft_wrap=True)


@contextmanager
def progress_bar(name: str, total: int, done: int = 0, *, console: Console = console) -> Iterator[Callable[..., Any]]:
    """A bar with time left. Yields `update(done, **values)`; the values, such as losses, are shown beside it."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[values]}"),
        TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, disable=not (is_main() and console.is_terminal)) as progress:
        task = progress.add_task(name, total=total, completed=done, values="")

        def update(now: int, **values: float) -> None:
            shown = " ".join(f"{k} {values[k]:.4g}" for k in ("forget", "retain") if k in values)
            if shown:
                progress.update(task, completed=now, values=shown)
            else:
                progress.update(task, completed=now)

        yield update
