"""The mean over the seeds or splits of a bench."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean, stdev
from typing import Any

from unlearner.report.contents import BESIDE, TOTALS, Measurement, Part, Run


def mean_run(cells: Sequence[Run], label: str) -> Run:
    """The mean over seeds; records, options and log are the first one's."""
    befores = [cell.before for cell in cells if cell.before is not None]
    afters = [cell.after for cell in cells if cell.after is not None]
    numbers = [number for number in cells[0].steps if all(number in cell.steps for cell in cells)]
    kept = [cell.retention for cell in cells if cell.retention is not None]
    retention = None
    if kept:
        efficacy = [[fmean(v) for v in zip(*row, strict=True)] for row in zip(*(r.efficacy for r in kept), strict=True)]
        retention = replace(
            kept[0], before=[fmean(v) for v in zip(*(r.before for r in kept), strict=True)], efficacy=efficacy
        )
    return replace(
        cells[0], label=label, before=mean(befores), after=mean(afters), retention=retention,
        steps={number: mean([cell.steps[number] for cell in cells]) for number in numbers},
    )  # fmt: skip


def over_parts(parts: Sequence[Part]) -> list[Run]:
    """Every method's mean over the splits of a bench, for methods that are in all of them."""
    labels = [run.label for run in parts[0].runs]
    by_label = [{run.label: run for run in part.runs} for part in parts]
    return [
        mean_run([runs[label] for runs in by_label], label) for label in labels if all(label in r for r in by_label)
    ]


def mean(measured: Sequence[Measurement]) -> Measurement:
    """The mean of every figure that is defined, with one standard deviation down and up for its interval."""
    first = measured[0]
    beside = {kind: [f"{kind}.{name}" for name in first.summary.get(kind, {})] for kind in BESIDE}
    sets = [f"{name}.{metric}" for name in first.sets for metric in first.metrics]
    keys = [*TOTALS, *sets, *(key for found in beside.values() for key in found)]
    values = {key: [v for m in measured if (v := m.figure(key)) is not None] for key in keys}
    means = {key: fmean(found) if found else None for key, found in values.items()}
    spreads = {
        key: [fmean(found) - (sd := stdev(found)), fmean(found) + sd] if len(found) > 1 else None
        for key, found in values.items()
    }

    def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
        sets = {name: {metric: flat[f"{name}.{metric}"] for metric in first.metrics} for name in first.sets}
        more = {kind: {key.partition(".")[2]: flat[key] for key in found} for kind, found in beside.items()}
        return {**{key: flat[key] for key in TOTALS}, "sets": sets, **more}

    notes = list(dict.fromkeys(note for m in measured for note in m.summary.get("notes", [])))
    return Measurement({**first.summary, **nested(means), "intervals": nested(spreads), "notes": notes}, first.rows)
