"""The bench: check everything, measure once what all cells share, tune, run the cells, write tables and report."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from rich.console import Console

from unlearner import distributed
from unlearner.bench.cells import Before, Cell, make_cell, splits, typed
from unlearner.bench.results import Results, write_results
from unlearner.bench.workers import Job, check_ray, run_all
from unlearner.config import BenchConfig
from unlearner.console import console, note, progress_bar, warn
from unlearner.data.readers import is_pipe
from unlearner.data.sources import load_records
from unlearner.errors import UserError
from unlearner.files import read_json, remove_leftovers, write_json
from unlearner.methods import Method
from unlearner.models.load import load_tokenizer, model_hash
from unlearner.report import can_write, write_report
from unlearner.results.evidence import check_unchanged
from unlearner.results.layout import VERSION, BenchDirectory, CellDirectory, check_version
from unlearner.results.lock import check_free, lock, released
from unlearner.results.run import check_apart, check_place, is_empty, make_directory, records_hash
from unlearner.scenarios import SCENARIOS
from unlearner.scenarios.base import BUILTIN
from unlearner.training.interrupt import time_limit
from unlearner.workflows.builtin import resolve_model
from unlearner.workflows.inputs import read_inputs
from unlearner.workflows.presets import with_preset

KEPT_UTILITY = 0.9
"""Tuning looks for the most forgetting among what keeps this share of model utility."""


@dataclass(frozen=True)
class BenchResult:
    """Where the bench lies, its table as Markdown, the cells that failed, with the reason, and how many there are."""

    output: Path
    table: str
    failed: dict[str, str]
    cells: int


def bench(config: BenchConfig) -> BenchResult:
    """Run what is left of the bench in `config.output` and write its results. Raises UserError before any work.

    Several processes (torchrun) share every cell, one cell after the other; the main one writes.
    """
    with time_limit(config.time_limit), released(config.output):
        return _run(_resolved(config))


def _run(config: BenchConfig) -> BenchResult:
    folder = Path(config.output)
    check_place(folder)
    if not BenchDirectory(folder).manifest.is_file() and not is_empty(folder):
        raise UserError(f"--output {folder} is not empty and holds no bench of unlearner: choose another directory.")
    grid = _grid(config)
    tuned = [(method, split) for method in config.methods for split in config.splits] if grid else []
    trials = {pair: _trials(config, *pair, grid) for pair in tuned}
    cells = _cells(config, {})
    about = _about(config, cells)
    distributed.join()
    if distributed.is_main():
        _open(folder, about)
        for place in BenchDirectory(folder).begun:
            for run in place.runs:
                check_unchanged(run.path, weights=False)

    def left(of: Sequence[Cell]) -> list[Cell]:
        finished = distributed.agreed([cell.finished for cell in of])
        return [cell for cell, done in zip(of, finished, strict=True) if not done]

    tries = left([cell for _, cell in (trial for pair in trials.values() for trial in pair)])
    unfinished = left(cells)
    firsts = {cell.split: cell.runs[0] for cell in reversed([*tries, *unfinished])}
    befores = [_before(config, split, firsts[split]) for split in config.splits if split in firsts]
    total = len(befores) + len(tries) + len(unfinished)
    if total == 0:
        note(f"{folder} is finished already")
    # A console of its own: single runs are silent meanwhile.
    with progress_bar("bench", total, console=Console(stderr=True)) as bar:
        done = 0

        def work(jobs: Sequence[Job]) -> None:
            nonlocal done
            for job in run_all(jobs, config) if jobs else ():
                done += 1
                bar(done)
                if not console.is_terminal:  # no bar there: a line in the log
                    note(f"{done} of {total}: {job.name}" + (f" failed: {job.error}" if job.error else ""))

        work(befores)
        work(tries)
        chosen = distributed.agreed({pair: _best(trials[pair]) for pair in tuned} if distributed.is_main() else {})
        if tuned:
            if distributed.is_main():
                write_json(BenchDirectory(folder).tuning, _told(trials, chosen))
            cells = _cells(config, chosen)
        for method, split in tuned:
            if chosen[method, split] is None:
                for cell in cells:
                    if (cell.method, cell.split) == (method, split):
                        cell.fail("no trial of --tune came to an end (tuning.json)")
        work([cell for cell in left(cells) if not tuned or chosen[cell.method, cell.split] is not None])
    main = distributed.is_main()
    return distributed.agreed(
        _result(Results(config, cells, about), folder) if main else BenchResult(folder, "", {}, 0)
    )


def _result(results: Results, folder: Path) -> BenchResult:
    """Write tables and report."""
    failed = {cell.name: cell.error for cell in results.cells if cell.error is not None}
    table = write_results(results, folder)
    if not failed:
        shutil.rmtree(BenchDirectory(folder).known, ignore_errors=True)
    if can_write() and any(cell.finished for cell in results.cells):
        write_report([folder], BenchDirectory(folder).report)
    return BenchResult(folder, table, failed, len(results.cells))


def _resolved(config: BenchConfig) -> BenchConfig:
    """The options with the scenario's methods, splits and model where none were given, names as they are written."""
    config.check()
    scenario = SCENARIOS[config.scenario]
    known = splits(config)
    where = "--forget" if config.forget else f"{config.scenario} on {config.data}"
    for split in config.splits:
        if split not in known:
            raise UserError(f"--splits: {where} has no {split!r}: choose from {', '.join(known)}.")
    if config.tasks is not None and not scenario.continual:
        raise UserError("--tasks is for the continual scenario: leave it out.")
    methods = [Method.parse(method).name for method in config.methods]
    if distributed.count() > 1 and (config.jobs > 1 or config.ray is not None):
        raise UserError(
            "torchrun's processes run one cell after the other, all of them together: leave out --jobs and --ray, or "
            "start unlearner bench without torchrun."
        )
    pipe = next((source for source in (*config.forget, config.retain or "") if is_pipe(source)), None)
    if pipe is not None and (config.jobs > 1 or config.ray is not None):
        raise UserError(
            f"{pipe} is a pipe, which one process alone can read: give a file, or leave out --jobs and --ray."
        )
    if config.ray is not None:
        check_ray()
    return replace(
        config,
        methods=methods or list(scenario.methods),
        splits=config.splits or list(known),
        model=config.model or BUILTIN,
        options={name.replace("-", "_"): str(value) for name, value in config.options.items()},
    )


def _cells(config: BenchConfig, chosen: Mapping[tuple[str, str], dict[str, Any] | None]) -> list[Cell]:
    root = BenchDirectory(Path(config.output))
    return [
        make_cell(config, method, split, seed, root.cell(method, split, seed).path, chosen.get((method, split)) or {})
        for split in config.splits
        for method in config.methods
        for seed in config.seeds
    ]


# ------------------------------------------------------------------------------------------------------------ checking


def _about(config: BenchConfig, cells: Sequence[Cell]) -> dict[str, Any]:
    """What makes two benches the same bench; reads and checks all data and the model on the way. Raises UserError."""
    hashes: dict[str, str | None] = {}
    odd: list[str] = []
    for cell in cells:
        if cell.seed != config.seeds[0]:
            continue
        first = with_preset(cell.runs[0])
        if first.lora and not first.merge and cell.continual:
            raise UserError("--lora needs --merge in the continual scenario: the next task trains a new adapter.")
        odd += read_inputs(first).warnings
        if cell.continual:
            held = {record.task_id for record in load_records(first.forget, first.columns)}
            if missing := [run.task for run in cell.runs if run.task not in held]:
                raise UserError(f"{first.forget} has no task {missing[0]}: choose fewer by --tasks.")
        for name in ("forget", "retain", "forget_eval", "retain_eval", "real_authors", "world_facts"):
            source = getattr(first, name)
            if source is not None and source not in hashes:
                evaluates = name not in ("forget", "retain")
                hashes[source] = records_hash(load_records(source, first.eval_columns if evaluates else first.columns))
    model = resolve_model(str(config.model))
    load_tokenizer(model, trust_remote_code=cells[0].runs[0].trust_remote_code)
    for sentence in dict.fromkeys(odd):
        warn(sentence)
    published = None if config.forget else SCENARIOS[config.scenario].published
    own = {name: value for name in ("forget", "retain", "columns", "eval_columns") if (value := getattr(config, name))}
    return {
        **own,
        "version": VERSION,
        "scenario": config.scenario,
        "data": config.data,
        "model": config.model,
        "methods": config.methods,
        "splits": config.splits,
        "seeds": config.seeds,
        "reference": config.reference,
        "tasks": config.tasks,
        "tune": config.tune,
        "tune_seed": config.tune_seed,
        "threads": config.threads,
        "options": config.options,
        "hashes": {"model": model_hash(model), **hashes},
        "published": {}
        if published is None or config.builtin
        else {
            method: {
                split: dict(zip(("model_utility", "forget_efficacy"), pair, strict=True))
                for split, pair in published.figures[method].items()
                if split in config.splits
            }
            for method in config.methods
            if method in published.figures
        },
        "published_source": published.source if published else None,
        "published_model": published.model if published else None,
    }


def _open(folder: Path, about: dict[str, Any]) -> None:
    """Make the bench's directory, for this process alone. Raises UserError where that cannot be."""
    check_apart(folder, about)
    check_free(folder)
    _is_begun(folder, about)
    make_directory(folder)
    lock(folder)
    if not _is_begun(folder, about):  # once more: now nobody else writes
        write_json(BenchDirectory(folder).manifest, about)
    remove_leftovers(folder)


def _is_begun(folder: Path, about: dict[str, Any]) -> bool:
    """Whether it holds this very bench. Raises UserError where it holds another, or files of any other kind."""
    file = BenchDirectory(folder).manifest
    if file.is_file():
        try:
            theirs = dict(read_json(file))
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{file} cannot be read: remove {folder} or choose another --output.") from error
        check_version(theirs, folder)
        for key in about:
            if theirs.get(key) == about[key]:
                continue
            if key == "hashes":
                raise UserError(
                    f"--output {folder} was begun with other data or another model: choose another directory."
                )
            raise UserError(
                f"--output {folder} holds another bench ({key} is {theirs.get(key)!r} there, {about[key]!r} here): "
                "choose another directory."
            )
    return file.is_file()


def _before(config: BenchConfig, split: str, run: Any) -> Before:
    known = BenchDirectory(Path(config.output)).known
    return Before(split, replace(run, output=str(known / f"before-{split}")), known, config.threads)


# -------------------------------------------------------------------------------------------------------------- tuning


def _grid(config: BenchConfig) -> list[dict[str, Any]]:
    """Every combination of the values of --tune. Raises UserError for what is no option, or no value of it."""
    axes: dict[str, list[Any]] = {}
    for axis in config.tune:
        name, equals, values = axis.partition("=")
        name = name.replace("-", "_")
        if not equals or not values:
            raise UserError(f"--tune {axis}: write an option and its values, as in learning_rate=1e-5,5e-6.")
        if name in config.options or name in axes:
            raise UserError(f"--tune tries values of {name}, which is also given: leave one out.")
        axes[name] = [typed(name, value) for value in values.split(",")]
        if any(axes[name].count(value) > 1 for value in axes[name]):
            raise UserError(f"--tune {axis} names a value twice: leave one out.")
    return [dict(zip(axes, values, strict=True)) for values in product(*axes.values())] if axes else []


def _trials(
    config: BenchConfig, method: str, split: str, grid: Sequence[dict[str, Any]]
) -> list[tuple[dict[str, Any], Cell]]:
    root = BenchDirectory(Path(config.output))
    folders = [root.trial(method, split, _label(values)).path for values in grid]
    return [
        (values, make_cell(config, method, split, config.tune_seed, folder, values))
        for values, folder in zip(grid, folders, strict=True)
    ]


def _label(values: Mapping[str, Any]) -> str:
    return ",".join(f"{name}={value}" for name, value in values.items())


def _figures(cell: Cell) -> tuple[float, float, float] | None:
    """Model utility before and after, and forget efficacy (continual: the mean over all tasks); None if it failed."""
    if not cell.finished:
        return None
    place = CellDirectory(cell.folder)
    if cell.continual:
        told = read_json(place.retention)
        last = told["forget_efficacy"][-1]
        return told["before"]["model_utility"], told["model_utility"][-1], sum(last) / len(last)
    before, after = place.before.read_summary(), place.read_summary()
    return before["model_utility"], after["model_utility"], after["forget_efficacy"]


def _best(trials: Sequence[tuple[dict[str, Any], Cell]]) -> dict[str, Any] | None:
    """The values of the best trial; the first of equals; None if all failed."""
    ended = [(values, figures) for values, cell in trials if (figures := _figures(cell)) is not None]
    if not ended:
        return None
    keeping = [(values, f) for values, f in ended if f[1] >= KEPT_UTILITY * f[0]]
    if keeping:
        return max(keeping, key=lambda trial: trial[1][2])[0]
    return max(ended, key=lambda trial: trial[1][1])[0]


def _told(
    trials: Mapping[tuple[str, str], Sequence[tuple[dict[str, Any], Cell]]],
    chosen: Mapping[tuple[str, str], dict[str, Any] | None],
) -> dict[str, Any]:
    """tuning.json: for each method and split what was tried, what came out, and what was chosen."""
    told: dict[str, Any] = {}
    for (method, split), cells in trials.items():
        rows = []
        for values, cell in cells:
            figures = _figures(cell)
            names = ("model_utility_before", "model_utility", "forget_efficacy")
            rows.append({**values, **(dict(zip(names, figures, strict=True)) if figures else {"error": cell.error})})
        told.setdefault(method, {})[split] = {"chosen": chosen[method, split], "trials": rows}
    return told
