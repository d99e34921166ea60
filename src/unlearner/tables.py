"""Tables for the terminal, on standard output."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from unlearner.bench.bench import BenchResult
from unlearner.distributed import is_main
from unlearner.evaluation.judges import describe
from unlearner.evaluation.metrics import METRICS
from unlearner.methods import FORGET, RETAIN, WHOLE, Method
from unlearner.workflows.forget import ForgetResult

HEADINGS = {"token_entropy": "entropy", "cosine_similarity": "cosine", "truth_ratio": "truth ratio"}


def out() -> Console:
    # Wide enough for the tables where nobody looks (a pipe, a file): there they are not cut.
    quiet = not is_main()
    terminal = Console(highlight=False, quiet=quiet)
    return terminal if terminal.is_terminal else Console(highlight=False, width=160, quiet=quiet)


def summary_table(summaries: Mapping[str, dict[str, Any]]) -> Table:
    """All sets' metrics, one line a set and model; MU and FE with their intervals in the model's first line."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("", "set"):
        table.add_column(heading, no_wrap=True)
    for name in METRICS:
        table.add_column(HEADINGS.get(name, name), justify="right")
    table.add_column("model utility", justify="right", no_wrap=True)
    table.add_column("forget efficacy", justify="right", no_wrap=True)
    for label, summary in summaries.items():
        for place, (name, metrics) in enumerate(summary["sets"].items()):
            first = place == 0
            table.add_row(
                label if first else "", name, *(_number(metrics[m]) for m in METRICS),
                _with_interval(summary, "model_utility") if first else "",
                _with_interval(summary, "forget_efficacy") if first else "",
                end_section=place == len(summary["sets"]) - 1,
            )  # fmt: skip
    return table


def print_summary(summaries: Mapping[str, dict[str, Any]]) -> None:
    """The table of evaluations, and who judged them."""
    console = out()
    console.print(summary_table(summaries))
    last = list(summaries.values())[-1]
    console.print(describe(last["embedding_model"], last["judge"]), style="dim", markup=False)
    for note in last["notes"]:
        console.print(note, style="dim", markup=False)


def print_records(folder: Path) -> None:
    """Where the records lie that all figures come from."""
    out().print(f"Every question with its answers and values: {folder / 'records.jsonl'}", markup=False, soft_wrap=True)


def print_report(page: Path) -> None:
    """Where the page lies, to be opened."""
    out().print(f"The report, to be opened in a browser: {page}", style="green", markup=False, soft_wrap=True)


def print_forget(result: ForgetResult, method: str, page: Path | None) -> None:
    """The end of a forget run: before and after, where the report and the model are."""
    if result.before is not None and result.after is not None:
        print_summary({"before": result.before.summary, f"after {method}": result.after.summary})
        print_records(result.output)
    if page is not None:
        print_report(page)
    console = out()
    console.print(f"The model is in {result.model}", style="green", markup=False, soft_wrap=True)


def print_bench(result: BenchResult) -> None:
    """The end of a bench: its table, what failed, where everything is, what to do next."""
    console = out()
    console.print(result.table, markup=False, soft_wrap=True)
    folder = result.output
    for what, name in (("Results", "results.csv"), ("Table", "table.tex"), ("Report", "report.html")):
        if (folder / name).is_file():
            console.print(f"{what}: {folder / name}", style="green", markup=False, soft_wrap=True)
    if result.failed:
        console.print(
            f"{len(result.failed)} cells failed; mend the cause and repeat the command, which runs only what is left.",
            style="red", markup=False, soft_wrap=True,
        )  # fmt: skip


def print_methods() -> None:
    """Every method's parts with formula, kind, needs and source."""
    console = out()
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("name", "formula", "kind", "needs", "source"):
        table.add_column(heading, overflow="fold")
    for title, losses in (("Forget losses", FORGET), ("Retain losses", RETAIN)):
        table.add_row(f"[bold]{title}[/]")
        for name, loss in losses.items():
            table.add_row(
                name,
                loss.formula,
                "targeted" if loss.targeted else "untargeted",
                _needs(Method(name, loss(), None)),
                loss.source,
            )
        table.add_row()
    table.add_row("[bold]Whole methods[/]")
    for name, (forget, retain) in WHOLE.items():
        method = Method.parse(name)
        kind = "targeted" if method.targeted else "untargeted"
        table.add_row(name, f"{forget.formula}  with  {retain.formula}", kind, _needs(method), retain.source)
    console.print(table)
    console.print(
        "\nA method is FORGET+RETAIN, any of the first with any of the second, or a forget loss alone: NPO+KL, GA.\n"
        "The paper's: ME+GD (untargeted), IDK+AP (targeted). Untargeted methods also forget plain text.\n"
        "CE: mean negative log-likelihood of labelled tokens; NLL: its sum over a sequence; E: mean over sequences;\n"
        "U: uniform distribution over the vocabulary V; ref: the model before unlearning.",
        markup=False,
    )


def _needs(method: Method) -> str:
    needs = []
    if any(view.startswith("retain") or view == "forget_mismatch" for view in method.needs):
        needs.append("retain set")
    if any(view.endswith("refusal") for view in method.needs):
        needs.append("refusals")
    if method.reference_nll:
        needs.append("reference scores, once")
    if method.kl_view:
        needs.append("reference model")
    return ", ".join(needs) or "–"


def print_metrics() -> None:
    """Every metric with formula and source, and the two aggregates."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("name", "formula", "source"):
        table.add_column(heading, overflow="fold")
    for name, metric in METRICS.items():
        table.add_row(name, metric.formula, metric.source)
    table.add_row(
        "model_utility", "harmonic mean of the six above over all sets but forget; 0 if any is 0", "arXiv 2410.08109"
    )
    table.add_row(
        "forget_efficacy", "1 − mean(rouge, probability, truth_ratio, cosine_similarity, entailment) on forget",
        "arXiv 2410.08109",
    )  # fmt: skip
    out().print(table)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _with_interval(summary: dict[str, Any], key: str) -> str:
    value, interval = summary[key], summary["intervals"][key]
    return "–" if value is None else f"{value:.3f} [dim]({interval[0]:.2f}–{interval[1]:.2f})[/]"
