"""What a benchmark is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from unlearner.evaluation.examples import EvalSet

RowsBySet = Mapping[str, Sequence[dict[str, Any]]]
"""Rows of `records.jsonl` by evaluation set."""
Figures = dict[str, float | None]


@dataclass(frozen=True)
class Benchmark:
    """Its sets and figures, both of the PLACE that stands behind `NAME:`."""

    sets: Callable[[str], list[EvalSet]]
    figures: Callable[[str, RowsBySet], Figures]


def values(rows: RowsBySet, name: str, metric: str) -> list[float]:
    """The values of `metric` on the set `name`, those that are defined."""
    return [row[metric] for row in rows.get(name, ()) if row.get(metric) is not None]


def mean(rows: RowsBySet, name: str, metric: str, unit: float = 1.0) -> float | None:
    """The mean of `metric` on the set `name`, times `unit`; None where nothing is defined."""
    found = values(rows, name, metric)
    return unit * fmean(found) if found else None
