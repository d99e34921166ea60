"""The table of evaluations at every width: a number is never cut."""

import io
from typing import Any

import pytest
from rich.console import Console

from unlearner.commands.tables import summary_table
from unlearner.evaluation.metrics import METRICS

SETS = ("forget", "retain", "real_authors", "world_facts")


def summary(first: int) -> dict[str, Any]:
    """Every figure another number."""
    numbers = iter(range(first, first + 100))
    sets = {name: {metric: next(numbers) / 1000 for metric in METRICS} for name in SETS}
    sets["forget"]["truth_ratio"] = None
    return {
        "sets": sets,
        "model_utility": next(numbers) / 1000,
        "forget_efficacy": next(numbers) / 1000,
        "intervals": {"model_utility": [0.9866, 0.9874], "forget_efficacy": None},
    }


@pytest.mark.parametrize("models", [["before"], ["before", "after ME+GD"], ["before", "after ME+GD", "after IDK+AP"]])
@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 200])
def test_every_number_is_there_in_full(width: int, models: list[str]) -> None:
    summaries = {label: summary(100 * place + 100) for place, label in enumerate(models)}
    file = io.StringIO()
    console = Console(file=file, width=width, highlight=False)
    console.print(summary_table(summaries, console))
    printed = file.getvalue()
    assert "…" not in printed and max(map(len, printed.splitlines())) <= width
    for found in summaries.values():
        values = [v for metrics in found["sets"].values() for v in metrics.values()]
        for value in (*values, found["model_utility"], found["forget_efficacy"]):
            assert value is None or f"{value:.3f}" in printed
    for label in models:
        assert label in printed
    # An interval has the digits of its figure: one of 0.99 to 0.99 says nothing of 0.987.
    assert printed.count("0.987–0.987") == len(models)
