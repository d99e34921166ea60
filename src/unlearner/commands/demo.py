"""`unlearner demo`: a tiny built-in model forgets four invented people, and shows it."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unlearner.config import DemoConfig, ForgetConfig

if TYPE_CHECKING:
    from rich.table import Table

    from unlearner.results.layout import AuditDirectory
    from unlearner.workflows.forget import ForgetResult

SUMMARY = "watch a tiny built-in model forget: no data, network or GPU needed"
OPTIONS = DemoConfig
EXAMPLE = ""
SETTINGS: dict[str, dict[str, Any]] = {
    # Found by trying a few values on the built-in model; the paper's are for seven billion parameters.
    "ME+GD": {"learning_rate": 1e-3, "epochs": 10, "forget_coeff": 0.1},
    "IDK+AP": {"learning_rate": 3e-4, "epochs": 10},
}
ATTACKED = "ME+GD"
"""The method whose model is audited: to attack both would take a minute more."""


def config(method: str, options: DemoConfig) -> ForgetConfig:
    """The `unlearner forget` options of one half of the demo."""
    return ForgetConfig(
        model="builtin:", forget="builtin:forget", retain="builtin:retain", method=method,
        real_authors="builtin:neighbours", world_facts="builtin:world_facts", judge=options.judge, seed=options.seed,
        output=str(Path(options.output) / method), batch_size=4, gradient_accumulation_steps=1, max_new_tokens=48,
        **SETTINGS[method],
    )  # fmt: skip


def run(options: DemoConfig) -> None:
    """Show the demo that is asked for."""
    from unlearner.commands import real_demo
    from unlearner.errors import UserError
    from unlearner.options import check_budget

    check_budget(options.audit, "--audit", "none")
    if options.real and options.audit not in (DemoConfig.audit, "none"):
        raise UserError("--audit is for the built-in model, not for --real: leave it out.")
    real_demo.run(options) if options.real else tiny_demo(options)


def tiny_demo(options: DemoConfig) -> "dict[str, ForgetResult]":
    """Unlearn by ME+GD and by IDK+AP on the built-in data and print what came out."""
    from unlearner.audit.from_run import check_forget
    from unlearner.commands.tables import out, print_report, print_summary, print_verdict
    from unlearner.console import note
    from unlearner.data.profiles import builtin
    from unlearner.data.refusals import is_refusal, load_refusals
    from unlearner.report import add_report
    from unlearner.workflows.builtin import use_threads
    from unlearner.workflows.forget import forget

    _check(Path(options.output))
    attacked = None if options.audit == "none" else replace(config(ATTACKED, options), audit=options.audit)
    if attacked is not None:
        check_forget(attacked)
    results = {}
    for method in SETTINGS:
        note(f"{method}: forgetting {len(builtin('forget'))} questions about 4 people")
        with use_threads():
            results[method] = forget(config(method, options))
    before = next(iter(results.values())).before
    summaries = {"before": before} | {f"after {method}": result.after for method, result in results.items()}
    console = out()
    console.print()
    known = {label: measured.summary for label, measured in summaries.items() if measured}
    print_summary(known, config(next(iter(SETTINGS)), options))
    print_verdict([result.output for result in results.values()])
    for name, title in (("forget", "Three questions to be forgotten"), ("retain", "One to be kept")):
        console.print(_answers(results, name, title, [0, 11, 22] if name == "forget" else [5]))
    refusals = load_refusals(None)
    for name in ("forget", "retain"):
        rows = _rows(results["IDK+AP"].output, name)
        refused = sum(is_refusal(row["generation"], refusals) for row in rows)
        console.print(f"IDK+AP refuses {refused} of {len(rows)} {name} questions.", markup=False)
    page = add_report([result.output for result in results.values()])
    console.print("\nModels, summaries and every question with its answers:", markup=False)
    for result in results.values():
        console.print(f"  {result.output.resolve()}", style="green", markup=False, soft_wrap=True)
    if page is not None:
        print_report(page.resolve())
    if attacked is not None:
        _attack(attacked)
        add_report([result.output for result in results.values()])  # whose first lines are the audit's
    elif (held := _audit_of(results[ATTACKED].output)).is_finished:
        console.print(f"What still leaks after {ATTACKED} is reported in {held.path}.", markup=False, soft_wrap=True)
    else:
        console.print("What still leaks? Repeat the command without --audit none.", markup=False)
    console.print(
        "Next: unlearner forget --model YOUR_MODEL --forget forget.jsonl --retain retain.jsonl --output runs/mine",
        markup=False, soft_wrap=True,
    )  # fmt: skip
    return results


def _attack(attacked: ForgetConfig) -> None:
    """Say what still leaks from one of the runs, and how to learn it of the others."""
    from unlearner.audit.from_run import of_forget
    from unlearner.audit.run import audit
    from unlearner.commands.tables import out, show_audit
    from unlearner.console import note
    from unlearner.workflows.builtin import use_threads

    note(f"{attacked.method}: attacking the model, to see what still leaks")
    asked = of_forget(attacked)
    with use_threads():
        found = audit(asked)
    out().print(f"\nWhat still leaks after {attacked.method}:", markup=False)
    show_audit(found.summary, Path(asked.output))
    for method in SETTINGS.keys() - {attacked.method}:
        run = Path(str(attacked.output)).with_name(method)
        if not (held := _audit_of(run)).is_finished:
            command = shlex.join(["unlearner", "audit", str(run), "--output", str(held.path)])
            out().print(f"{method} was not attacked: {command}", markup=False, soft_wrap=True)


def _audit_of(run: Path) -> "AuditDirectory":
    from unlearner.results.layout import AuditDirectory, RunDirectory

    return AuditDirectory(RunDirectory(run).audited)


def _check(folder: Path) -> None:
    """Raises UserError where the demo's directory holds anything else."""
    from unlearner.errors import UserError
    from unlearner.report import check_page
    from unlearner.results.layout import RunDirectory
    from unlearner.results.run import check_place

    check_place(folder)
    page = RunDirectory(folder).report
    check_page(page)
    own = {*SETTINGS, page.name, f"{page.stem}-figures"}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name not in own and not path.name.startswith("."):
            raise UserError(
                f"--output {folder} holds {path.name}, which is not part of the demo: choose another directory."
            )


def _answers(results: "dict[str, ForgetResult]", name: str, title: str, chosen: list[int]) -> "Table":
    from rich.table import Table

    first = next(iter(results.values())).output
    generations = {"before": _rows(first / "before", name)}
    generations |= {f"after {method}": _rows(result.output, name) for method, result in results.items()}
    table = Table(
        title=f"\n{title}", title_justify="left", title_style="bold", box=None, pad_edge=False, show_header=False
    )
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    for row in chosen:
        question = generations["before"][row]
        table.add_row("question", question["question"])
        table.add_row("reference", question["answer"])
        for label, rows in generations.items():
            # Text of a model goes to the terminal unmarked: brackets in it are no styles.
            table.add_row(
                label, rows[row]["generation"].replace("[", r"\["), end_section=label == list(generations)[-1]
            )
    return table


def _rows(folder: Path, name: str) -> list[dict[str, Any]]:
    from unlearner.results.layout import EvaluationDirectory

    return [row for row in EvaluationDirectory(folder).read_records() if row["set"] == name]
