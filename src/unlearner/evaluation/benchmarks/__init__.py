"""Benchmarks of the field: their own evaluation sets, each with its metric, and the figures that they print.

`--benchmarks muse:News wmdp:hub ...`: their sets are measured beside a command's own, and `summary.json` has their
figures under `benchmarks`; model utility and forget efficacy go without them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from unlearner.errors import UserError, did_you_mean
from unlearner.evaluation.benchmarks import knowundo, lume, muse, pistol, rwku, wmdp
from unlearner.evaluation.benchmarks.base import Benchmark, Figures, RowsBySet
from unlearner.evaluation.examples import EvalSet
from unlearner.evaluation.summary import mean_and_interval

BENCHMARKS: dict[str, Benchmark] = {
    "muse": muse.BENCHMARK,
    "wmdp": wmdp.BENCHMARK,
    "rwku": rwku.BENCHMARK,
    "lume": lume.BENCHMARK,
    "knowundo": knowundo.BENCHMARK,
    "pistol": pistol.BENCHMARK,
}


def benchmark_sets(specs: Sequence[str]) -> list[EvalSet]:
    """The evaluation sets of NAME:PLACE, ... Raises UserError for an unknown name, or what is not there."""
    places = _places(specs)
    return [eval_set for name, place in places.items() for eval_set in BENCHMARKS[name].sets(place)]


def benchmark_summary(
    specs: Sequence[str], sets: Sequence[EvalSet], rows: Mapping[str, Sequence[dict[str, Any]]], seed: int = 0
) -> dict[str, dict[str, Any]]:
    """By benchmark, its `figures`, and of each of its `sets` metric, mean, interval and count."""
    made: dict[str, dict[str, Any]] = {
        name: {"figures": figures, "sets": {}} for name, figures in benchmark_figures(specs, rows).items()
    }
    for each in sets:
        if each.metric is not None:
            mean, interval = mean_and_interval(rows[each.name], each.name, each.metric, seed)
            about = {"metric": each.metric, "mean": mean, "interval": interval, "count": len(each.records)}
            made[each.name.partition("_")[0]]["sets"][each.name] = about
    return made


def benchmark_figures(specs: Sequence[str], rows: RowsBySet) -> dict[str, Figures]:
    """By benchmark, its figures in the units in which it prints them, from the records alone; None where undefined."""
    return {name: BENCHMARKS[name].figures(place, rows) for name, place in _places(specs).items()}


def _places(specs: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for spec in specs:
        name, _, place = spec.partition(":")
        if name not in BENCHMARKS:
            raise UserError(f"--benchmarks: there is no benchmark {name!r}: {did_you_mean(name, BENCHMARKS)}")
        if not place:
            raise UserError(f"--benchmarks {spec}: say where its data is, as in {name}:FOLDER.")
        if name in found:
            raise UserError(f"--benchmarks names {name} twice: measure the second in a run of its own.")
        found[name] = place
    return found
