"""What a report shows, read from run directories and benches: summaries, records, logs, and what is missing of them."""

import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from statistics import fmean, stdev
from typing import Any

from unlearner.errors import UserError
from unlearner.evaluation.ability import FILE as ABILITY
from unlearner.evaluation.metrics import METRICS
from unlearner.files import read_jsonl

SETS = ("forget", "retain", "real_authors", "world_facts")
"""The order in which sets are shown; others follow."""
TOTALS = ("forget_efficacy", "model_utility", "model_utility_retain", "forget_quality")


@dataclass(frozen=True)
class Measurement:
    """An evaluation of one model, or the mean of the evaluations over the seeds of a bench."""

    summary: dict[str, Any]
    """As in `evaluation/summary.py`, and `ability`: lm-eval's tasks. Of a mean, the intervals are one standard
    deviation down and up."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Its records, of a mean those of the first seed; empty if they are not there."""

    def figure(self, key: str) -> float | None:
        """`model_utility`, `forget_efficacy`, a metric on a set: `forget.rouge`, or a task of lm-eval: `ability.NAME`;
        None where undefined."""
        return _at(self.summary, key)

    def interval(self, key: str) -> tuple[float, float] | None:
        found = _at(self.summary.get("intervals", {}), key)
        return None if found is None else (float(found[0]), float(found[1]))

    @property
    def sets(self) -> list[str]:
        return ordered(self.summary["sets"])

    def count(self, name: str) -> int:
        """Number of questions of a set."""
        return int(self.summary.get("counts", {}).get(name, 0))

    def right(self, name: str) -> int | None:
        """How many answers of a set the judge found to agree with the reference."""
        share = self.figure(f"{name}.entailment")
        return None if share is None else round(share * self.count(name))


@dataclass(frozen=True)
class Run:
    """A run directory, or the cells of a bench that differ in nothing but the seed; `before` only where one forgets."""

    name: str
    """Its place under the directory that was asked for."""
    command: str
    about: dict[str, Any]
    """run.json, of several cells the first one's; empty if it is not there."""
    before: Measurement | None
    steps: dict[int, Measurement]
    """After every epoch, or in continual unlearning after every task."""
    after: Measurement | None
    log: list[dict[str, Any]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    """Sentences on what the directory lacks."""
    label: str = ""
    """What the report calls it: the method or model, and what tells it from the other runs."""
    retention: "Retention | None" = None

    @property
    def config(self) -> dict[str, Any]:
        return self.about.get("config", {})

    @property
    def subject(self) -> str:
        """The method, or the model that was evaluated: what gives a run its colour."""
        if self.command == "evaluate":
            return short_model(str(self.config.get("model", self.name)))
        return str(self.config.get("method", self.name)).upper() if self.config else self.name

    @property
    def utility_share(self) -> float | None:
        """Model utility after unlearning as a share of that before."""
        if self.before is None or self.after is None:
            return None
        before, after = self.before.figure("model_utility"), self.after.figure("model_utility")
        return after / before if before and after is not None else None


@dataclass(frozen=True)
class Retention:
    """Forget efficacy on the set of every task unlearned so far, after every task of continual unlearning."""

    tasks: list[str]
    before: list[float]
    """On every task's set, just before it is unlearned."""
    efficacy: list[list[float]]
    """Row k is after task k + 1, entry j on task j + 1's set, j ≤ k."""


@dataclass(frozen=True)
class Part:
    """What is compared with each other: all runs that were asked for, or one split of a bench."""

    title: str
    runs: list[Run]
    seeds: list[int] = field(default_factory=list)
    """Seeds that the figures are means over; empty where every run stands for itself."""
    step: str = "epoch"
    published: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Model utility and forget efficacy by method, as printed in a paper."""
    source: str = ""
    """Of the published figures: their model, and where they are printed."""
    other_model: bool = True
    """Whether that model is another than the one here, as far as their names tell."""

    @property
    def means(self) -> bool:
        """Whether the figures are means over seeds, and intervals standard deviations."""
        return len(self.seeds) > 1


@dataclass(frozen=True)
class Report:
    """Everything that a page shows."""

    parts: list[Part]
    benches: list[dict[str, Any]]
    """bench.json of every bench."""
    missing: list[tuple[str, str]]
    """What is not there: the name of a run or cell, and a sentence."""

    @property
    def runs(self) -> list[Run]:
        return [run for part in self.parts for run in part.runs]


@dataclass(frozen=True)
class Column:
    """One distinct evaluation: runs that started from the same model share their `before`."""

    label: str
    kind: str
    """`before`, `after`, or `model` (an evaluation alone)."""
    run: Run
    """The (first) run it belongs to."""
    measured: Measurement
    before: int | None = None
    """Index of the column to compare with."""


@dataclass(frozen=True)
class Question:
    """One row of an evaluation set, with an answer and values for every column; None where a column lacks the row."""

    part: str
    set: str
    question: str
    answer: str
    original_answer: str | None
    generations: list[str | None]
    values: list[tuple[int | None, ...] | None]
    """The metrics in thousandths, in the order of METRICS."""


def read(paths: Sequence[Path]) -> Report:
    """The runs and benches in `paths`. Raises UserError where a path holds none."""
    if not paths:
        raise UserError("nothing to report on: give one or more directories of runs.")
    alone: list[Run] = []
    parts: list[Part] = []
    benches, missing = [], []
    seen: set[Path] = set()
    for path in map(Path, paths):
        if not path.is_dir():
            raise UserError(f"{path} is no directory: give the --output of an earlier run, or a folder of such.")
        found = list(_folders(path))
        if not found:
            raise UserError(f"{path} holds no run of unlearner: give the --output of an earlier run.")
        if all(_command(folder) == "finetune" for folder in found):
            raise UserError(
                f"{path} holds fine-tuning only, of which there is no report: give a run of forget or evaluate."
            )
        for folder in found:
            if folder.resolve() in seen or _command(folder) == "finetune":
                continue
            seen.add(folder.resolve())
            name = folder.relative_to(path).as_posix() if folder != path else path.resolve().name
            if (folder / "bench.json").is_file():
                about = _read_json(folder / "bench.json")
                if about is None or "scenario" not in about:
                    raise UserError(f"{folder / 'bench.json'} cannot be read: repeat the bench's command.")
                benches.append({"name": name, **about})
                made, lacking = _bench(folder, about)
                parts += made
                missing += lacking
            else:
                alone.append(_run(folder, name))
    if alone:
        alone = _labelled(alone)
        missing = [(run.label, sentence) for run in alone for sentence in run.missing] + missing
        parts.insert(0, Part("Single runs" if parts else "", alone))
    if len(benches) > 1:  # two benches may have splits of the same name
        names = iter(bench["name"] for bench in benches for _ in bench["splits"])
        parts = [replace(part, title=f"{next(names)}, {part.title}") if part.seeds else part for part in parts]
    if len(parts) == 1:
        parts = [replace(parts[0], title="")]
    return Report(parts, benches, missing)


def columns(runs: Sequence[Run]) -> list[Column]:
    """Every distinct evaluation of `runs`, in order: before, and after by each run."""
    found: list[Column] = []
    many = len(runs) > 1
    for run in runs:
        before = None
        if run.before is not None:
            same = (i for i, c in enumerate(found) if c.kind == "before" and _same(c.measured, run.before))
            before = next(same, None)
            if before is None:
                before = len(found)
                found.append(Column(f"before {run.label}" if many else "before", "before", run, run.before))
        if run.after is not None:
            kind = "model" if run.command == "evaluate" else "after"
            label = run.label if many or kind == "model" else f"after {run.label}"
            found.append(Column(label, kind, run, run.after, before))
    if sum(column.kind == "before" for column in found) == 1:
        return [replace(column, label="before") if column.kind == "before" else column for column in found]
    return found


def list_questions(parts: Sequence[Part]) -> tuple[list[Column], list[Question]]:
    """All rows of all records, one for each distinct question of a part; sets in order, rows as in the records.

    Columns of the same name in several parts, such as a method on several splits, are one column.
    """
    by_label: dict[str, Column] = {}
    of_part = [columns(part.runs) for part in parts]
    for found in of_part:
        for column in found:
            before = None if column.before is None else list(by_label).index(found[column.before].label)
            by_label.setdefault(column.label, replace(column, before=before))
    places = {label: place for place, label in enumerate(by_label)}
    width = len(places)
    rows: dict[tuple[int, str], dict[tuple[Any, ...], Question]] = defaultdict(dict)
    for number, (part, found) in enumerate(zip(parts, of_part, strict=True)):
        for column in found:
            times: dict[tuple[Any, ...], int] = defaultdict(int)
            for row in column.measured.rows:
                key = (row.get("question"), row.get("answer"), row.get("original_answer"))
                times[key] += 1
                at, place = (*key, times[key]), (number, row["set"])
                if at not in rows[place]:
                    original = row.get("original_answer")
                    rows[place][at] = Question(
                        part.title, row["set"], clean(row.get("question") or ""), clean(row.get("answer") or ""),
                        None if original is None else clean(original), [None] * width, [None] * width,
                    )  # fmt: skip
                question = rows[place][at]
                question.generations[places[column.label]] = clean(row["generation"])
                question.values[places[column.label]] = _thousandths(row)
    order = sorted(rows, key=lambda place: (place[0], _order(place[1])))
    return list(by_label.values()), [question for place in order for question in rows[place].values()]


def ordered(names: Iterable[str]) -> list[str]:
    """Names of sets in the order in which they are shown."""
    return sorted(names, key=_order)


def clean(text: str) -> str:
    """A text as a page can hold it: control characters as their visible signs, broken surrogates replaced."""
    return text.translate(_CONTROLS).encode("utf-8", "replace").decode("utf-8")


_CONTROLS: dict[int, str] = dict.fromkeys(range(127, 160), "\ufffd")
_CONTROLS |= {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\t\n\r"}


def short_model(model: str) -> str:
    """The telling part of a model's path or hub id."""
    if model == "builtin:":
        return "built-in model"
    parts = [part for part in PurePosixPath(model).parts if part not in ("/", ".", "..")]
    while len(parts) > 1 and parts[-1] in ("model", "adapter"):
        parts.pop()
    return parts[-1] if parts else model


# ---------------------------------------------------------------------------------------------------------- directories


def _folders(path: Path) -> Iterator[Path]:
    """The run directories and benches in `path`, in order; what lies inside one belongs to it."""
    for folder, children, files in os.walk(path):
        if {"run.json", "summary.json", "bench.json"} & set(files):
            children.clear()
            yield Path(folder)
        else:
            children[:] = sorted(child for child in children if not child.startswith("."))


def _command(folder: Path) -> str | None:
    about = _read_json(folder / "run.json")
    return about.get("command") if about else None


def _run(folder: Path, name: str, *, rows: bool = True) -> Run:
    """A run directory; `rows`: with its records."""
    about = _read_json(folder / "run.json")
    missing: list[str] = []
    if about is None or not isinstance(about.get("config"), dict):
        missing.append("run.json is missing or cannot be read: options, versions and hashes are not known.")
        about = {}
    command = about.get("command") or ("forget" if (folder / "before").is_dir() else "evaluate")
    measured = about.get("config", {}).get("evaluate") != "none"
    forgets = command == "forget"
    before = _measurement(folder / "before", "before unlearning", missing, measured, rows) if forgets else None
    after = _measurement(folder, "after unlearning" if forgets else "of the model", missing, measured, rows)
    epochs = {}
    for file in (folder / "epochs").glob("*/summary.json"):
        summary = _summary(file)
        if file.parent.name.isdecimal() and summary is not None:
            epochs[int(file.parent.name)] = Measurement(summary)
    log = [row for row in read_jsonl(folder / "log.jsonl") if isinstance(row, dict)]
    if forgets:
        if not log:
            missing.append("log.jsonl is missing: there are no training curves.")
        if not (folder / "finished.json").is_file():
            missing.append("The run has not finished: repeat its command to go on with it.")
        if not measured:
            missing.append("The run was not to measure the model (--evaluate none): there is nothing to compare.")
    return Run(name, command, about, before, dict(sorted(epochs.items())), after, log, missing)


def _measurement(folder: Path, when: str, missing: list[str], expected: bool, rows: bool) -> Measurement | None:
    summary = _summary(folder / "summary.json")
    if summary is None:
        if expected:
            missing.append(f"The evaluation {when} is missing: it was not done, or was cut short.")
        return None
    if ability := _read_json(folder / ABILITY):
        tasks = ability.get("tasks", {}).items()
        summary["ability"] = {f"{t}, {m.removesuffix(',none')}": v for t, found in tasks for m, v in found.items()}
    if not rows:
        return Measurement(summary)
    found = [row for row in read_jsonl(folder / "records.jsonl") if isinstance(row, dict) and "generation" in row]
    if not found:
        missing.append(f"The records of the evaluation {when} are missing: its answers cannot be shown.")
    return Measurement(summary, found)


def _summary(file: Path) -> dict[str, Any] | None:
    summary = _read_json(file)
    return summary if summary and isinstance(summary.get("sets"), dict) else None


def _read_json(file: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


# -------------------------------------------------------------------------------------------------------------- benches


def _bench(folder: Path, about: Mapping[str, Any]) -> tuple[list[Part], list[tuple[str, str]]]:
    """A part for every split, in it a run for every method, the mean over its seeds; and which cells are not there."""
    continual = about["scenario"] == "continual"
    read_cell: Callable[..., Run | str] = _continual_cell if continual else _cell
    source = f"{about.get('published_model')}, {about.get('published_source')}"
    other = _plain_name(about.get("published_model")) not in _plain_name(about.get("model"))
    parts, missing = [], []
    for split in about["splits"]:
        runs = []
        for method in about["methods"]:
            cells: list[Run] = []
            for seed in about["seeds"]:
                cell = folder / "cells" / method / split / f"seed-{seed}"
                if failed := _read_json(cell / "failed.json"):
                    found: Run | str = f"failed: {failed.get('error')}"
                else:
                    found = read_cell(cell, method, rows=not cells) if cell.is_dir() else "has not begun."
                if isinstance(found, str):
                    missing.append((f"{method}, {split}, seed {seed}", found))
                else:
                    cells.append(found)
            if cells:
                runs.append(_mean_run(cells, method) if len(about["seeds"]) > 1 else replace(cells[0], label=method))
        published = {m: splits[split] for m, splits in about.get("published", {}).items() if split in splits}
        step = "task" if continual else "epoch"
        if runs:
            parts.append(Part(split, runs, list(about["seeds"]), step, published, source if published else "", other))
    return parts, missing


def _cell(folder: Path, method: str, *, rows: bool) -> Run | str:
    """A finished cell, or what it lacks."""
    run = _run(folder, method, rows=rows)
    if run.before is None or run.after is None or not (folder / "finished.json").is_file():
        return "has not finished: repeat the bench's command to go on with it."
    return run


def _continual_cell(folder: Path, method: str, *, rows: bool) -> Run | str:
    """The tasks of a finished cell as one run: before the first task, after every task, after the last.

    After a task, forget efficacy and the metrics of the forget set are means over the sets of all tasks so far, as they
    are answered then; before, they are of the first task's set.
    """
    told = _read_json(folder / "retention.json")
    if told is None:
        done = len(list(folder.glob("task-*/finished.json")))
        return f"has not finished ({done} tasks are done): repeat the bench's command to go on with it."
    tasks = told["tasks"]
    retention = Retention(tasks, told["before"]["forget_efficacy"], told["forget_efficacy"])
    places = [folder / f"task-{number:02d}" for number in range(1, len(tasks) + 1)]
    first = _run(places[0], method, rows=rows)
    steps = {}
    for number, place in enumerate(places, 1):
        with_rows = rows and number == len(places)
        looked = [*(place / "earlier" / task for task in tasks[: number - 1]), place]
        found = [m for each in looked if (m := _measurement(each, "", [], True, with_rows)) is not None]
        if first.before is None or len(found) < number:
            return "lacks the evaluations of some of its tasks."
        steps[number] = _joined(found, retention.efficacy[number - 1], tasks[:number])
    assert first.before is not None
    before = _joined([first.before], retention.before[:1], tasks[:1])
    return replace(first, before=before, steps=steps, after=steps[len(tasks)], missing=[], retention=retention)


def _joined(found: Sequence[Measurement], efficacy: list[float], tasks: list[str]) -> Measurement:
    """The forget sets of all tasks together, and what the last evaluation has besides."""
    last = found[-1].summary
    sets = {**last["sets"], "forget": _mean(found).summary["sets"]["forget"]}
    counts = {**last["counts"], "forget": sum(m.count("forget") for m in found)}
    asked = [
        {**row, "set": f"forget, task {task}"}
        for task, m in zip(tasks, found, strict=True)
        for row in m.rows
        if row["set"] == "forget"
    ]
    kept = [row for row in found[-1].rows if row["set"] != "forget"]
    summary = {**last, "sets": sets, "counts": counts, "forget_efficacy": fmean(efficacy), "intervals": {}}
    return Measurement(summary, asked + kept)


def _mean_run(cells: Sequence[Run], label: str) -> Run:
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
        cells[0], label=label, before=_mean(befores), after=_mean(afters), retention=retention,
        steps={number: _mean([cell.steps[number] for cell in cells]) for number in numbers},
    )  # fmt: skip


def over_parts(parts: Sequence[Part]) -> list[Run]:
    """Every method's mean over the splits of a bench, for methods that are in all of them."""
    labels = [run.label for run in parts[0].runs]
    by_label = [{run.label: run for run in part.runs} for part in parts]
    return [
        _mean_run([runs[label] for runs in by_label], label) for label in labels if all(label in r for r in by_label)
    ]


def _mean(measured: Sequence[Measurement]) -> Measurement:
    """The mean of every figure that is defined, with one standard deviation down and up for its interval."""
    first = measured[0]
    abilities = [f"ability.{name}" for name in first.summary.get("ability", {})]
    keys = [*TOTALS, *(f"{name}.{metric}" for name in first.sets for metric in METRICS), *abilities]
    values = {key: [v for m in measured if (v := m.figure(key)) is not None] for key in keys}
    means = {key: fmean(found) if found else None for key, found in values.items()}
    spreads = {
        key: [fmean(found) - (sd := stdev(found)), fmean(found) + sd] if len(found) > 1 else None
        for key, found in values.items()
    }

    def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
        sets = {name: {metric: flat[f"{name}.{metric}"] for metric in METRICS} for name in first.sets}
        ability = {key.removeprefix("ability."): flat[key] for key in abilities}
        return {**{key: flat[key] for key in TOTALS}, "sets": sets, "ability": ability}

    notes = list(dict.fromkeys(note for m in measured for note in m.summary.get("notes", [])))
    return Measurement({**first.summary, **nested(means), "intervals": nested(spreads), "notes": notes}, first.rows)


# -------------------------------------------------------------------------------------------------------------- labels


def _labelled(runs: list[Run]) -> list[Run]:
    """Label every run by its subject; where that is not enough, by the options in which it differs, or by its place."""
    labels = [run.subject for run in runs]
    for subject in {label for label in labels if labels.count(label) > 1}:
        same = [i for i, run in enumerate(runs) if run.subject == subject]
        configs = [runs[i].config for i in same]
        differing = [
            key for key in configs[0] if any(c.get(key) != configs[0][key] for c in configs) and key != "method"
        ]
        told = [", ".join(f"{key} {_short(c.get(key))}" for key in differing) for c in configs]
        enough = 0 < len(differing) <= 3 and len(set(told)) == len(told)
        for i, how in zip(same, told, strict=True):
            labels[i] = f"{subject}, {how}" if enough else f"{subject} ({runs[i].name})"
    counts: dict[str, int] = defaultdict(int)
    unique = []
    for run, label in zip(runs, labels, strict=True):
        counts[label] += 1
        unique.append(replace(run, label=clean(label if counts[label] == 1 else f"{label} ({counts[label]})")))
    return unique


def _plain_name(model: Any) -> str:
    return str(model).lower().replace("-", "")


def _short(value: Any) -> str:
    return value.rpartition("/")[2] if isinstance(value, str) else str(value)


# -------------------------------------------------------------------------------------------------------------- values


def _order(name: str) -> tuple[int, int, str]:
    """Known sets first; tasks' forget sets by their number."""
    known, _, task = name.partition(", task ")
    return (SETS.index(known) if known in SETS else len(SETS), int(task) if task.isdecimal() else 0, name)


def _at(values: Mapping[str, Any], key: str) -> Any:
    name, dot, metric = key.partition(".")
    if name == "ability":
        return values.get("ability", {}).get(metric)
    return values.get("sets", {}).get(name, {}).get(metric) if dot else values.get(key)


def _thousandths(row: Mapping[str, Any]) -> tuple[int | None, ...]:
    values = (row.get(metric) for metric in METRICS)
    return tuple(None if value is None else round(1000 * value) for value in values)


def _same(one: Measurement, other: Measurement) -> bool:
    """Whether two evaluations are of the same model, as far as can be seen at three decimals."""
    if not one.rows or len(one.rows) != len(other.rows):
        return one.summary == other.summary
    return all(
        (a["set"], a.get("question"), a.get("answer"), a["generation"])
        == (b["set"], b.get("question"), b.get("answer"), b["generation"])
        and _thousandths(a) == _thousandths(b)
        for a, b in zip(one.rows, other.rows, strict=True)
    )
