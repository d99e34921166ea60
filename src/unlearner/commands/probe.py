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
    console.print(
        f"known: {found.share_known(found.answers):.0%} of these; of the same questions about well-known names "
        f"{found.share_known(found.known):.0%}, about invented ones {found.share_known(found.invented):.0%}. "
        f"An answer counts above a specificity of {found.scale.specificity:.2f} and an agreement of "
        f"{found.scale.agreement:.2f}.",
        style="dim", markup=False,
    )  # fmt: skip
    if found.knows:
        console.print(f"It knows of {found.subject}.", style="green", markup=False, soft_wrap=True)
        return
    console.print(
        f"It knows nothing of {found.subject}, as far as these questions go: there is nothing to forget.",
        style="yellow", markup=False, soft_wrap=True,
    )  # fmt: skip
    raise SystemExit(NOTHING)
