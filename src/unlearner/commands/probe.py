"""`unlearner probe`: what does a model know of a subject?"""

from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from unlearner.config import ProbeConfig

if TYPE_CHECKING:
    from unlearner.prepare.knowledge import Probe

SUMMARY = "find out what a model knows about a subject, and so whether there is anything to forget"
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
    from unlearner.prepare.page import PROBE
    from unlearner.prepare.probe import probe

    found = probe(config)
    console = out()
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("question", overflow="fold")
    table.add_column("answer", overflow="fold")
    for heading in ("specificity", "agreement"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for answer, verdict in zip(found.answers, found.verdicts, strict=True):
        table.add_row(
            escape(answer.question), escape(" ".join(answer.answer.split())), f"{answer.specificity:.2f}",
            f"{answer.agreement:.2f}", verdict,
        )  # fmt: skip
    table.add_section()
    for row in _others(found):
        table.add_row(*row, style="dim")
    console.print(table)
    console.print(found.evidence, style="dim", markup=False)
    console.print(found.verdict, style="green" if found.knows else "yellow", markup=False, soft_wrap=True)
    if config.output is None:
        console.print("To keep this, with a page to read, add --output FILE.json.", style="dim", markup=False)
    else:
        page = Path(config.output).with_suffix(PROBE.suffix)
        console.print(
            f"All answers, including those about the other names: {page}", style="green", markup=False, soft_wrap=True
        )
    if not found.knows:
        raise SystemExit(NOTHING)


def _others(found: "Probe") -> list[tuple[str, str, str, str, str]]:
    """The same figures for names that are well known, and that nobody can know: means over all their answers."""
    return [
        (
            f"The same for {len({answer.name for answer in answers})} {what} names", f"mean of {len(answers)} answers",
            f"{fmean(a.specificity for a in answers):.2f}", f"{fmean(a.agreement for a in answers):.2f}",
            f"knows {found.share_known(answers):.0%}",
        )
        for what, answers in (("well-known", found.known), ("invented", found.invented)) if answers
    ]  # fmt: skip
