"""What an evaluation gives: a summary, and a record for every row that it was computed from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unlearner.results.layout import EvaluationDirectory

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Evaluation:
    """One model, measured on some sets.

    `summary` holds means, model utility, forget efficacy and their intervals; its keys are those of
    `evaluation/summary.py`. It shows itself as a small table in a notebook.
    """

    summary: dict[str, Any]
    folder: Path | None = None
    """The folder of records.jsonl and summary.json, None for an evaluation that was not written."""
    rows: list[dict[str, Any]] | None = None

    @classmethod
    def read(cls, folder: Path) -> "Evaluation | None":
        """The evaluation in a folder, None if there is none."""
        place = EvaluationDirectory(folder)
        return cls(place.read_summary(), folder) if place.evaluated else None

    @cached_property
    def records(self) -> list[dict[str, Any]]:
        """A row for each question: its set, question, answer, generation and the values of all metrics."""
        if self.rows is not None:
            return self.rows
        return [] if self.folder is None else EvaluationDirectory(self.folder).read_records()

    def figures(self) -> dict[str, float]:
        """Model utility, forget efficacy and the mean of every metric on every set (`forget_rouge`), as far as they
        were measured."""
        means = {f"{name}_{m}": value for name, values in self.summary["sets"].items() for m, value in values.items()}
        found = {name: self.summary[name] for name in AGGREGATES} | means
        return {name: value for name, value in found.items() if isinstance(value, int | float)}

    def to_pandas(self) -> "pd.DataFrame":
        """The records as a DataFrame, one row each."""
        import pandas as pd

        return pd.DataFrame(self.records)

    def __repr__(self) -> str:
        return f"Evaluation({', '.join(f'{name} {three_digits(self.summary[name])}' for name in AGGREGATES)})"

    def _repr_html_(self) -> str:
        sets, metrics = self.summary["sets"], measured_metrics(self.summary)
        head = "".join(f"<th>{escape(name)}</th>" for name in ("set", *metrics))
        body = "".join(
            f"<tr><td>{escape(name)}</td>{''.join(f'<td>{three_digits(values.get(m))}</td>' for m in metrics)}</tr>"
            for name, values in sets.items()
        )
        aggregates = ", ".join(
            f"{name.replace('_', ' ')} <b>{three_digits(self.summary[name])}</b>{interval(self.summary, name, ' ')}"
            for name in AGGREGATES
        )
        judged = escape(f"judge {self.summary['judge']}, embeddings {self.summary['embedding_model']}")
        return (
            f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
            f"<p>{aggregates}<br><small>{judged}</small></p>"
        )


AGGREGATES = ("model_utility", "forget_efficacy")


def measured_metrics(*summaries: Mapping[str, Any]) -> list[str]:
    """The metrics that a table of these summaries shows: those that were chosen."""
    return list(
        dict.fromkeys(
            name
            for summary in summaries
            for values in summary["sets"].values()
            for name in values
            if name in summary.get("measured", values)
        )
    )


def three_digits(value: Any) -> str:
    """A figure as tables have it."""
    return f"{value:.3f}" if isinstance(value, int | float) else "–"


def interval(summary: Mapping[str, Any], name: str, lead: str = "") -> str:
    """The interval of an aggregate in brackets, with `lead` in front; nothing where there is none."""
    ends = summary["intervals"].get(name)
    return "" if ends is None else f"{lead}({ends[0]:.3f}–{ends[1]:.3f})"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; a bar within a cell is escaped."""
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in (head, *rows)]
    first, *others = (f"| {' | '.join(row)} |" for row in escaped)
    return "\n".join([first, f"|{'---|' * len(head)}", *others])
