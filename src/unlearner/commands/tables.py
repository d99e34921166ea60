"""What several commands print, on standard output."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from unlearner.distributed import is_main
from unlearner.evaluation.judges import describe
from unlearner.evaluation.metrics import METRICS

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


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _with_interval(summary: dict[str, Any], key: str) -> str:
    value, interval = summary[key], summary["intervals"][key]
    return "–" if value is None else f"{value:.3f} [dim]({interval[0]:.2f}–{interval[1]:.2f})[/]"
