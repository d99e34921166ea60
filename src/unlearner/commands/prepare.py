"""`unlearner prepare`: from a name to what is forgotten, kept and measured."""

from unlearner.config import PrepareConfig

SUMMARY = "from a name to the rows to forget, to keep and to measure with"
OPTIONS = PrepareConfig
EXAMPLE = """\
Example:
  unlearner prepare --model builtin:smollm2 --subject "Charles Darwin" --output data/darwin"""


def run(config: PrepareConfig) -> None:
    """Make the sources, and print what they are and how to go on."""
    from rich.table import Table

    from unlearner.commands.tables import out
    from unlearner.prepare.prepare import prepare

    made = prepare(config)
    console = out()
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("source", no_wrap=True)
    table.add_column("rows", justify="right", no_wrap=True)
    for name, count in made.rows.items():
        table.add_row(f"{made.folder}:{name}", str(count))
    console.print(table)
    console.print("Read the rows before you train on them: a model's answers can be wrong.", style="yellow")
    console.print(
        f"Next: unlearner forget --model {config.model} --forget {made.folder}:forget --retain {made.folder}:retain "
        f"--retain-eval {made.folder}:neighbours_held_out --output ...",
        markup=False, soft_wrap=True,
    )  # fmt: skip
