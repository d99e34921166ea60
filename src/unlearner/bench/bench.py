"""The bench: check everything, measure once what all cells share, tune, run the cells, write tables and report."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unlearner import distributed
from unlearner.bench.cells import Before, Cell, check_method_options, make_cell, splits
from unlearner.bench.results import Results, write_results
from unlearner.bench.tuning import Key, Tuning
from unlearner.bench.workers import Job, check_ray, run_all
from unlearner.config import BenchConfig
from unlearner.console import console, note, progress_bar, warn
from unlearner.data.readers import is_pipe
from unlearner.data.sources import load_records
from unlearner.errors import UserError
from unlearner.files import read_json, remove_leftovers, write_json
from unlearner.methods import Method
from unlearner.models.load import load_tokenizer, model_hash, skeleton
from unlearner.report import can_write, write_report
from unlearner.results.evidence import check_unchanged
from unlearner.results.layout import VERSION, BenchDirectory, check_version
from unlearner.results.lock import check_free, lock, released
from unlearner.results.run import check_apart, check_place, is_empty, make_directory, records_hash
from unlearner.scenarios import SCENARIOS
from unlearner.scenarios.base import BUILTIN
from unlearner.terminal import Plain
from unlearner.training.checks import check_parts
from unlearner.training.interrupt import time_limit
from unlearner.workflows.builtin import resolve_model
from unlearner.workflows.inputs import method_of, read_inputs
from unlearner.workflows.presets import with_preset


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
    tuning = Tuning(config)
    cells = _cells(config, {})
    about = _about(config, cells)
    _check_parts(str(config.model), tuning.cells or cells)
    distributed.join()
    if distributed.is_main():
        _open(folder, about)
        for place in BenchDirectory(folder).begun:
            for run in place.runs:
                check_unchanged(run.path, weights=False)

    tries, unfinished = _next_trials(tuning), _left(cells)
    firsts = {cell.split: cell.runs[0] for cell in reversed([*tries, *unfinished])}
    befores = [_before(config, split, firsts[split]) for split in config.splits if split in firsts]
    if not tries and not unfinished:
        note(f"{folder} is finished already")
    count = distributed.agreed(tuning.count if distributed.is_main() else None)
    total = len(befores) + len(unfinished) + (count or 0)
    # A console of its own: single runs are silent meanwhile.
    with progress_bar("bench", total, console=Plain(stderr=True)) as bar:
        work = _Work(config, bar, total)
        work.run(befores)
        chosen, told = _tune(tuning, tries, work, counted=count is not None)
        if tuning.races:
            cells = _cells(config, chosen)
            for cell in cells:
                if chosen[cell.method, cell.split] is None:
                    cell.fail("no trial of --tune finished (tuning.json)")
            unfinished = [cell for cell in _left(cells) if chosen[cell.method, cell.split] is not None]
        work.run(unfinished)
    main = distributed.is_main()
    return distributed.agreed(
        _result(Results(config, cells, about, told), folder) if main else BenchResult(folder, "", {}, 0)
    )


@dataclass
class _Work:
    """Runs jobs, and tells how far the bench has come."""

    config: BenchConfig
    bar: Callable[[int], None]
    total: int
    done: int = 0

    def run(self, jobs: Sequence[Job], *, counted: bool = True) -> None:
        for job in run_all(jobs, self.config) if jobs else ():
            self.done += counted
            self.bar(self.done)
            if not console.is_terminal:  # no bar there: a line in the log
                place = f"{self.done} of {self.total}" if counted else "tuning"
                note(f"{place}: {job.name}" + (f" failed: {job.error}" if job.error else ""))


def _left(cells: Sequence[Cell]) -> list[Cell]:
    finished = distributed.agreed([cell.finished for cell in cells])
    return [cell for cell, done in zip(cells, finished, strict=True) if not done]


def _next_trials(tuning: Tuning) -> list[Cell]:
    if distributed.is_main():
        tuning.drop_models()
    return distributed.agreed(tuning.left() if distributed.is_main() else [])


def _tune(
    tuning: Tuning, tries: list[Cell], work: _Work, *, counted: bool
) -> tuple[dict[Key, dict[str, Any] | None], dict[str, Any]]:
    """Run `tries` and the trials that follow from them: what was chosen, and what tuning.json holds."""
    while tries:
        work.run(tries, counted=counted)
        distributed.barrier()
        tuning.ended(tries)
        tries = _next_trials(tuning)
    if not tuning.races:
        return {}, {}
    chosen, told = distributed.agreed((tuning.chosen(), tuning.told()) if distributed.is_main() else ({}, {}))
    if distributed.is_main():
        write_json(BenchDirectory(Path(work.config.output)).tuning, told)
    return chosen, told


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
    methods = [Method.parse(method).name for method in config.methods] or list(scenario.methods)
    options = {name.replace("-", "_"): str(value) for name, value in config.options.items()}
    check_method_options(methods, options.get("method_options", "").split())
    if distributed.count() > 1 and (config.jobs > 1 or config.ray is not None):
        raise UserError(
            "torchrun's processes run the cells one after the other, all together: leave out --jobs and --ray, or "
            "start unlearner bench without torchrun."
        )
    pipe = next((source for source in (*config.forget, config.retain or "") if is_pipe(source)), None)
    if pipe is not None and (config.jobs > 1 or config.ray is not None):
        raise UserError(
            f"{pipe} is a pipe, which only one process can read: give a file, or leave out --jobs and --ray."
        )
    if config.ray is not None:
        check_ray()
    return replace(
        config,
        methods=methods,
        splits=config.splits or list(known),
        model=config.model or BUILTIN,
        options=options,
    )


def _cells(config: BenchConfig, chosen: Mapping[Key, dict[str, Any] | None]) -> list[Cell]:
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
                raise UserError(f"{first.forget} has no task {missing[0]}: choose fewer with --tasks.")
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
        "tune_budget": config.tune_budget,
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


def _check_parts(model: str, cells: Sequence[Cell]) -> None:
    """Raises UserError for what a method reads or trains of the model and the model lacks, such as a layer."""
    first = cells[0].runs[0]
    made = skeleton(resolve_model(model), trust_remote_code=first.trust_remote_code)
    methods = {str((run.method, run.method_options)): method_of(with_preset(run)) for run in (c.runs[0] for c in cells)}
    for method in methods.values() if made is not None else ():
        check_parts(made, method, lora=first.lora)


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
