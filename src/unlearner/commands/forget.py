"""`unlearner forget`: forget a forget set, keep a retain set, measure before and after; or begin at a name."""

from pathlib import Path
from typing import TYPE_CHECKING

from unlearner.commands.probe import NOTHING
from unlearner.search.config import ForgetCommand

if TYPE_CHECKING:
    from unlearner.config import ForgetConfig
    from unlearner.search.subject import SubjectResult
    from unlearner.workflows.forget import ForgetResult

SUMMARY = "forget a forget set or a name, keep the rest, measure before and after"
OPTIONS = ForgetCommand
RARE = "*"
"""Beside a set of questions of which none has its fact in a quarter of the samples."""
SEARCHED = (
    "; this is the best that was found, and the frontier is shown above. Repeat the command with a longer --search, to "
    "continue it, or with other limits (--leak-below, --keep), by which the same trials are judged again"
)
UNSEARCHED = "; repeat the command with --search 20m, which looks for a setting that does"
"""What to do where the aim is not reached, with trials and without."""
EXAMPLE = """\
Examples:
  unlearner forget --model path/to/model --forget forget.jsonl --retain retain.jsonl --method ME+GD --output runs/me
  unlearner forget --model builtin:smollm2 --subject "Charles Darwin" --search 20m --output runs/darwin"""


def run(config: ForgetCommand) -> None:
    """Forget; print before and after, and where the records, the report and the model are."""
    from unlearner.search.listening import Listening
    from unlearner.workflows.forget import forget

    if config.audit is not None:
        from unlearner.audit.from_run import check_forget

        check_forget(config)
    if config.named:
        _from_name(config)
        return
    config.check()
    _tell(forget(config.plain, listens=Listening), config.plain)


def _tell(result: "ForgetResult", config: "ForgetConfig") -> None:
    from unlearner.commands.tables import out, print_records, print_report, print_summary, print_verdict
    from unlearner.report import add_report

    if result.before is not None and result.after is not None:
        page = add_report([result.output])
        print_summary({"before": result.before.summary, f"after {config.method}": result.after.summary}, config)
        print_verdict([result.output])
        print_records(result.output)
        if page is not None:
            print_report(page)
    if config.audit is not None:
        from unlearner.audit.from_run import of_forget
        from unlearner.audit.run import audit
        from unlearner.commands.tables import show_audit

        asked = of_forget(config)
        show_audit(audit(asked).summary, Path(asked.output))
    out().print(f"The model is in {result.model}", style="green", markup=False, soft_wrap=True)


def _from_name(command: ForgetCommand) -> None:
    """Exit code 3 where the model knows nothing of a subject, or --search reached no aim."""
    from unlearner.commands.tables import out
    from unlearner.prepare.prepare import NothingToForgetError
    from unlearner.search.subject import forget_subject

    try:
        result = forget_subject(command)
    except NothingToForgetError as nothing:
        out().print(str(nothing), style="yellow", markup=False, soft_wrap=True)
        raise SystemExit(NOTHING) from None
    _tell(result.run, result.config)
    _held_out(result)
    if command.search is not None and not result.reached:
        raise SystemExit(NOTHING)


def _held_out(result: "SubjectResult") -> None:
    """Held-out questions before and after, whether the aim was reached, and what else was tried."""
    from rich.markup import escape
    from rich.table import Table

    from unlearner.commands.tables import out
    from unlearner.results.subjects import label

    console = out()
    table = Table(box=None, header_style="bold", pad_edge=False, title="\nHeld out", title_justify="left")
    for place, heading in enumerate(("questions", "answered before", "facts before", "after", "of before")):
        table.add_column(heading, justify="left" if place == 0 else "right", no_wrap=True)
    for each in result.sets:
        shown = ["–" if rate is None else f"{rate:.0%}" for rate in (each.before, each.after, each.share)]
        table.add_row(each.name.replace("_", " "), f"{each.counted} of {each.questions}{RARE * each.rare}", *shown)
    console.print(table)
    console.print(
        "Facts: the share of the sampled answers that state the fact, over the questions whose fact came out in at "
        "least a quarter of the samples before.",
        style="dim", markup=False,
    )  # fmt: skip
    if any(each.rare for each in result.sets):
        console.print(
            f"{RARE} None of these facts came out that often: those that came out at all count, but say little.",
            style="yellow", markup=False,
        )  # fmt: skip
    ended = [trial for trial in result.trials if trial.found is not None]
    if ended:
        shown_trials = result.frontier
        table = Table(box=None, header_style="bold", pad_edge=False, title_justify="left")
        table.title = f"\n{len(ended)} trial{'s' * (len(ended) != 1)}; those that no other beats"
        for place, heading in enumerate(("setting", "leak", "neighbours", "general", "minutes")):
            table.add_column(heading, justify="left" if place == 0 else "right", overflow="fold")
        for trial in shown_trials:
            assert trial.found is not None
            figures = (trial.found.leak, trial.found.neighbours, trial.found.general)
            table.add_row(escape(str(trial)), *(f"{f:.0%}" for f in figures), f"{trial.seconds / 60:.1f}")
        console.print(table)
    said = "The aim is reached" if result.reached else "The aim is not reached"
    what = "" if result.reached else SEARCHED if ended else UNSEARCHED
    console.print(
        f"{said} with {label(result.setting, result.epochs)} ({result.aim}){what}.",
        style="green" if result.reached else "yellow", markup=False, soft_wrap=True,
    )  # fmt: skip
