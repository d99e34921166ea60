"""`unlearner compare`: one's own questions to the model before and the model after, side by side."""

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from unlearner.comparing.options import CompareConfig
from unlearner.errors import UserError, install

if TYPE_CHECKING:
    from unlearner.comparing.compare import Compared
    from unlearner.comparing.words import Text

SUMMARY = "ask the original and the unlearned model your own questions, side by side"
OPTIONS = CompareConfig
EXAMPLE = """\
Examples:
  unlearner compare runs/me --ask "Where was Ada Lovelace born?" --answer "In London."
  unlearner compare path/to/model path/to/unlearned --history asked.jsonl
  unlearner compare runs/me --web"""
ARROW = " => "
"""Between a question and an answer in a line."""
STEPS = (0.5, 2.0, 5.0)
"""Nats from which a word is coloured, stronger and stronger."""
LESS, MORE = ("#ffe0d0", "#ffb08a", "#ff7840"), ("#dbeafe", "#9cc4fa", "#5a9bf5")
"""Orange for words that became less likely, blue for likelier ones: told apart by everybody."""


def run(config: CompareConfig) -> None:
    """Ask, and print what both models say; or show the page until Ctrl-C."""
    from unlearner.comparing.compare import Comparison
    from unlearner.training.interrupt import time_limit

    with time_limit(config.time_limit):
        config.check()
        if config.web:
            return _serve(config)
        typed = not config.ask and sys.stdin is not None and sys.stdin.isatty()
        comparison = Comparison(config) if typed else None
        for question, answer in _typed() if typed else _questions(config):
            comparison = comparison or Comparison(config)
            try:
                _print(comparison.ask(question, answer))
            except UserError as error:
                if not typed:
                    raise
                _say(str(error))
        if comparison is None:
            raise UserError("there is no question: give --ask, or write questions to standard input, one per line.")
    return None


def _serve(config: CompareConfig) -> None:
    try:
        from unlearner.comparing.web import serve
    except ModuleNotFoundError as missing:
        raise UserError(f"--web needs the package {missing.name}; install it with: {install('web')}.") from None
    serve(config)


def _questions(config: CompareConfig) -> Iterator[tuple[str, str | None]]:
    """Questions, each with the answer that is wanted or None: those of the options, or standard input's."""
    if config.answer is not None:
        yield config.ask[0], config.answer
    elif config.ask:
        yield from map(split, config.ask)
    elif sys.stdin is not None:
        try:
            yield from (split(line.strip()) for line in sys.stdin if line.strip())
        except UnicodeDecodeError:
            raise UserError("standard input is not UTF-8 text: write questions, one per line.") from None


def _typed() -> Iterator[tuple[str, str | None]]:
    """Questions as they are typed, until Ctrl-D."""
    from contextlib import suppress

    from unlearner.console import console

    with suppress(ImportError):
        import readline  # noqa: F401 - arrow keys, and what was asked before
    _say(f"Write a question; an answer after{ARROW.rstrip()} is measured too. Ctrl-D ends.")
    while True:
        try:
            line = console.input("[bold]question:[/] ").strip()
        except (EOFError, KeyboardInterrupt):  # Ctrl-D, Ctrl-C
            return
        if line:
            yield split(line)


def split(line: str) -> tuple[str, str | None]:
    """A question and, behind an arrow, the answer whose probability is wanted."""
    question, _, answer = line.partition(ARROW)
    return question, answer or None


def _say(sentence: str) -> None:
    from unlearner.console import console

    console.print(sentence, markup=False, style="dim", soft_wrap=True)


def _print(found: "Compared") -> None:
    """Both models' answers, likely and sampled, a line each: what is said, and its probability before and after."""
    from rich.table import Table
    from rich.text import Text as Line

    from unlearner.commands.tables import out

    console = out()
    coloured = console.is_terminal and console.color_system is not None and not console.no_color
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, style="dim")
    grid.add_column(overflow="fold")
    grid.add_column(no_wrap=True, justify="right")
    for label, text in (("before", found.before.answer), ("after", found.after.answer), ("given", found.given)):
        if text is not None:
            grid.add_row(label, shown(text, coloured), Line(chances(text)))
    for label, side in (("before, sampled", found.before), ("after, sampled", found.after)):
        for sample in side.samples:
            grid.add_row(label, Line(plain(" ".join(sample.split())) or "(nothing)"), "")
    console.print(Line(plain(found.question), style="bold"))
    console.print(grid)
    meaning = (
        "in orange became less likely, in blue more" if coloured else "show by how many nats they became more likely"
    )
    console.print(f"Probability per token before → after; words {meaning}.", style="dim", markup=False, soft_wrap=True)
    console.print()


def chances(text: "Text") -> str:
    """The probability a token under both models."""
    return " → ".join(f"{value:.3f}" if value >= 0.0005 else f"{value:.0e}" for value in text.probabilities)


def shown(text: "Text", coloured: bool) -> Any:
    """The words as rich's Text, coloured by how much their probability moved, or with the number behind them."""
    from rich.text import Text as Line

    line = Line("" if text.words else "(nothing)")
    for place, word in enumerate(text.words):
        line.append(" " if place else "")
        said = plain(word.text)
        step = sum(abs(word.moved) >= least for least in STEPS)
        if coloured:
            colour = (MORE if word.moved > 0 else LESS)[step - 1]
            line.append(said, style=f"black on {colour}" if step else "")
        else:
            line.append(said + (f"[{word.moved:+.1f}]" if abs(word.moved) >= 0.05 else ""))
    return line


def plain(text: str) -> str:
    """A model's text without the control characters with which it could steer a terminal."""
    return "".join(c if c.isprintable() or c in " \n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
