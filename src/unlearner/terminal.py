"""The one kind of console that unlearner prints with."""

from typing import Any

from rich.console import Console


class Plain(Console):
    """Shows texts as they are: `:word:` is no emoji, and numbers have no colour."""

    def __init__(self, **options: Any) -> None:
        super().__init__(emoji=False, highlight=False, **options)
