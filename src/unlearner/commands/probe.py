"""`unlearner probe`: what does a model know of a subject?"""

from unlearner.config import ProbeConfig

SUMMARY = "what does a model know of a subject? Is there anything to forget?"
OPTIONS = ProbeConfig
EXAMPLE = """\
Example:
  unlearner probe --model builtin:smollm2 --subject "Charles Darwin" """
NOTHING = 3
"""Exit code where the model knows nothing of the subject."""


def run(config: ProbeConfig) -> None:
    """Ask, and print every answer with what it is worth. Exit code 3 where nothing is known."""
    from rich.markup import escape
    from rich.table import Table

    from unlearner.commands.tables import out
    from unlearner.prepare.probe import probe

    found = probe(config)
    console = out()
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("question", overflow="fold")
    table.add_column("answer", overflow="fold")
    for heading in ("specificity", "agreement"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("it", no_wrap=True)
    for answer, verdict in zip(found.answers, found.verdicts, strict=True):
        table.add_row(
            escape(answer.question), escape(" ".join(answer.answer.split())), f"{answer.specificity:.2f}",
            f"{answer.agreement:.2f}", verdict,
        )  # fmt: skip
    console.print(table)
    console.print(found.evidence, style="dim", markup=False)
    console.print(found.verdict, style="green" if found.knows else "yellow", markup=False, soft_wrap=True)
    if not found.knows:
        raise SystemExit(NOTHING)
