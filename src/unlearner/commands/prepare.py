"""`unlearner prepare`: from a name or documents to what is forgotten, kept and measured."""

import shlex
from typing import TYPE_CHECKING

from unlearner.commands.probe import NOTHING
from unlearner.config import PrepareConfig

if TYPE_CHECKING:
    from unlearner.prepare.prepare import Prepared

SUMMARY = "make the rows to forget, to keep and to measure with from a name or documents"
OPTIONS = PrepareConfig
EXAMPLE = """\
Examples:
  unlearner prepare --model builtin:smollm2 --subject "Charles Darwin" --output data/darwin
  unlearner prepare --model path/to/model --subject "Ann Bell" --documents cv.pdf letters/ --output data/bell
  unlearner prepare --model path/to/model --subject "Ann Bell" --llm http://localhost:8000/v1 --output data/drafted

Read rows.html in the folder, and repeat the command with --drop ID ... for what should not be there."""


def run(config: PrepareConfig) -> None:
    """Make the sources, and print what they are and how to go on. Exit code 3 where nothing is known of the subject."""
    from rich.table import Table

    from unlearner.commands.tables import out
    from unlearner.prepare.prepare import NothingToForgetError, prepare

    console = out()
    try:
        made = prepare(config)
    except NothingToForgetError as nothing:
        console.print(str(nothing), style="yellow", markup=False, soft_wrap=True)
        raise SystemExit(NOTHING) from None
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("source", no_wrap=True)
    table.add_column("rows", justify="right", no_wrap=True)
    for name, count in made.rows.items():
        table.add_row(f"{made.folder}:{name}", str(count))
    console.print(table)
    console.print(f"Read the rows before you train on them: {made.page}", style="yellow", markup=False, soft_wrap=True)
    console.print(f"Next: {shlex.join(_next(config.model, made))} --output ...", markup=False, soft_wrap=True)


def _next(model: str, made: "Prepared") -> list[str]:
    """The command that forgets: with the setting that fits so few rows and all that is held out, where there is enough
    for that."""
    from unlearner.search.material import NEEDED

    typed = ["unlearner", "forget", "--model", model]
    if all(name in made.rows for name in NEEDED):
        return [*typed, "--prepared", str(made.folder)]
    options = {"forget": "forget" if "forget" in made.rows else "passages", "retain": "retain"}
    options |= {"forget-eval": "subject"} if "subject" in made.rows else {}
    for option, source in (options | {"retain-eval": "neighbours_held_out"}).items():
        typed += [f"--{option}", f"{made.folder}:{source}"]
    return typed if "forget" in made.rows else [*typed, "--method", "NPO+GD"]
