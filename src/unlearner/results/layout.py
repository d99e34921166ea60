"""What lies where in the directories that commands write. Names of files and keys stand here and nowhere else.

`EvaluationDirectory`: one evaluation. `RunDirectory`: a run of `forget`, `finetune`, `negate`, `repselect` or
`evaluate`. `AuditDirectory`: a run of `audit`. `CellDirectory`: a cell of a bench: a run, or one run for each task.
`BenchDirectory`: a bench. What `prepare` makes: `prepared.py`. All read; nothing here writes, makes a directory or
needs one to exist. docs/architecture.md has the same as a table.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from unlearner.errors import UserError, brief
from unlearner.files import read_json, read_jsonl
from unlearner.results.hash_keys import hash_key
from unlearner.results.records import Row, with_ids

VERSION = 2
"""Of the layout. 1: hashes under English phrases, records without `id`, no version in run.json."""

MODEL, ADAPTER = "model", "adapter"
LOCK = ".lock"
"""Names who works in a directory, and with `.since` since when (`lock.py`); there only as long."""


class Finished(TypedDict, total=False):
    """finished.json: what a run ended with."""

    steps: int
    model: str
    """The name of the folder that has the model made."""
    sha256: str
    """Of the model made, as `models.load.model_hash` has it: what an evaluation of it has under `model`."""
    files: dict[str, tuple[int, str]]
    """Size in bytes and sha256 of every file that is evidence, by its path in the run."""
    purged: list[str]
    """Files whose texts `unlearner purge` removed; their sizes and hashes are those of what it left."""


class Manifest(TypedDict, total=False):
    """run.json: what makes a run this run and no other, and what it ran on."""

    version: int
    command: str
    config: dict[str, Any]
    """Every option as resolved, without the output directory."""
    hashes: dict[str, str | None]
    """sha256 by `forget`, `retain`, `data`, `eval.SET`, `earlier.TASK`, `refusals`, `model`, `reference_model`,
    `retrained`, `finetuned`; None for a model on the hub."""
    data_warnings: list[str]
    """Sentences on what is odd about the data, with places and without texts (`data/quality.py`)."""
    versions: dict[str, str]
    hardware: dict[str, Any]
    execution: list[dict[str, Any]]
    """How it computes (`models/execution.py`), each with the `step` from which it holds; more than one where a run was
    continued elsewhere."""


def check_version(held: Mapping[str, Any], folder: Path) -> None:
    """Raises UserError where `folder`, whose run.json or bench.json is `held`, cannot be continued by this version."""
    version = held.get("version", 1)
    if version != VERSION:
        age = "an older" if version < VERSION else "a newer"
        raise UserError(f"--output {folder} was begun by {age} version of unlearner: choose another directory.")


class Inside:
    """A file or folder by its name in a directory: `log = Inside("log.jsonl")` is `path / "log.jsonl"`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, place: Any, kind: type) -> Path:
        where: Path = place.path
        return where / self.name


@dataclass(frozen=True)
class EvaluationDirectory:
    """The evaluation of one model: records, summary, and general ability where it was measured."""

    path: Path
    records = Inside("records.jsonl")
    summary = Inside("summary.json")
    """Written last: where it is, the evaluation is complete. Its keys: `evaluation/summary.py`."""
    ability = Inside("ability.json")

    @property
    def evaluated(self) -> bool:
        return self.summary.is_file()

    @property
    def batches(self) -> list[Path]:
        """Finished batches of an evaluation that is not done: passes.jsonl, passes-RANK.jsonl."""
        return sorted(self.path.glob("passes*.jsonl"))

    def batch_file(self, rank: int) -> Path:
        """Where the process `rank` keeps its batches."""
        return self.path / (f"passes-{rank}.jsonl" if rank else "passes.jsonl")

    def read_summary(self) -> dict[str, Any]:
        """Raises UserError where it is damaged."""
        try:
            held = read_json(self.summary)
            if not isinstance(held, dict) or not isinstance(held.get("sets"), dict):
                raise ValueError("it is no summary")
        except (OSError, ValueError) as error:
            raise UserError(
                f"{self.summary} cannot be read ({brief(error)}): remove it and repeat the command that made it."
            ) from error
        return held

    def read_records(self) -> list[Row]:
        """Its rows, every one with an `id`; empty where there are none."""
        return with_ids(row for row in read_jsonl(self.records) if isinstance(row, dict))

    def read_ability(self) -> dict[str, dict[str, float]]:
        """Task → metric → value; empty where none was measured."""
        return read_json(self.ability)["tasks"] if self.ability.is_file() else {}


@dataclass(frozen=True)
class RunDirectory(EvaluationDirectory):
    """A run; the evaluation in the directory itself is that of the model made, or of the model measured."""

    manifest = Inside("run.json")
    config = Inside("config.yaml")
    log = Inside("log.jsonl")
    checkpoints = Inside("checkpoints")
    finished = Inside("finished.json")
    """Written last: `Finished`."""
    report = Inside("report.html")
    audited = Inside("audit")
    """The audit of the model made, where one was asked for."""

    @property
    def alternates(self) -> EvaluationDirectory:
        """Its records: the forget rows with other answers, which the model wrote; batches while it writes."""
        return EvaluationDirectory(self.path / "alternates")

    @property
    def is_finished(self) -> bool:
        return self.finished.is_file()

    @property
    def before(self) -> EvaluationDirectory:
        return EvaluationDirectory(self.path / "before")

    @property
    def retrained(self) -> EvaluationDirectory:
        return EvaluationDirectory(self.path / "retrained")

    @property
    def epochs(self) -> dict[int, EvaluationDirectory]:
        """The finished evaluations after epochs, in order."""
        folders = (file.parent for file in (self.path / "epochs").glob("*/summary.json"))
        numbers = sorted(int(folder.name) for folder in folders if folder.name.isdecimal())
        return {number: self.epoch(number) for number in numbers}

    def epoch(self, number: int) -> EvaluationDirectory:
        return EvaluationDirectory(self.path / "epochs" / str(number))

    def earlier(self, task: str) -> EvaluationDirectory:
        """Continual: the evaluation of the model made on the forget set of a task before this run's."""
        return EvaluationDirectory(self.path / "earlier" / task)

    @property
    def evaluations(self) -> list[EvaluationDirectory]:
        """All that a run may hold: its own, before, of the retrained model, after epochs, of earlier tasks."""
        folders = [folder for name in ("epochs", "earlier") for folder in sorted((self.path / name).glob("*"))]
        return [self, self.before, self.retrained, *map(EvaluationDirectory, folders)]

    @property
    def weights(self) -> list[Path]:
        """The files of the model made, in order, without its card, which is its owner's to change."""
        folders = (self.path / MODEL, self.path / ADAPTER)
        return [f for folder in folders for f in sorted(folder.rglob("*")) if f.is_file() and f.name != "README.md"]

    @property
    def evidence(self) -> list[Path]:
        """The files, other than weights, on which what is told about the run rests; those that are there."""
        files = [file for each in self.evaluations for file in (each.records, each.summary, each.ability)]
        audit = AuditDirectory(self.path)
        return [file for file in (self.manifest, self.log, *files, audit.rows, audit.audit) if file.is_file()]

    def made(self, *, lora: bool, merge: bool) -> Path:
        """Where the trained model lies: an adapter alone, or a whole model."""
        return self.path / (ADAPTER if lora and not merge else MODEL)

    def read_manifest(self) -> Manifest:
        """run.json, its hashes under the keys of this version. Raises OSError or ValueError where it is not there or
        is no run.json, UserError where a newer version wrote it."""
        held = read_json(self.manifest)
        if not isinstance(held, dict) or not isinstance(held.get("version", 1), int):
            raise ValueError(f"{self.manifest} is no run.json")
        if held.get("version", 1) > VERSION:
            raise UserError(f"{self.manifest} was written by a newer version of unlearner: use that one.")
        held["hashes"] = {hash_key(name): value for name, value in held.get("hashes", {}).items()}
        return held  # type: ignore[return-value]


@dataclass(frozen=True)
class CellDirectory(RunDirectory):
    """A method on a split with a seed: a run, or in the continual scenario a folder of one run for each task."""

    retention = Inside("retention.json")
    """Continual, written last: forget efficacy after task k on the set of task j ≤ k, model utility after each."""
    failed = Inside("failed.json")
    """Why the cell failed; removed when it is tried again."""
    seconds = Inside("seconds.json")
    """How long a trial took, where time is its budget."""

    def task(self, number: int) -> RunDirectory:
        """The run of task `number`, from 1."""
        return RunDirectory(self.path / f"task-{number:02d}")

    @property
    def runs(self) -> list[RunDirectory]:
        """The runs that lie there: itself, or one for each task."""
        tasks = [RunDirectory(folder) for folder in sorted(self.path.glob("task-*"))]
        return tasks or [RunDirectory(self.path)]

    @property
    def finished_tasks(self) -> int:
        return sum(run.is_finished for run in self.runs)


@dataclass(frozen=True)
class BenchDirectory:
    """A bench: its cells, the trials of --tune, and the tables made of them."""

    path: Path
    manifest = Inside("bench.json")
    """What makes it this bench: options, hashes of data and model, published numbers."""
    tuning = Inside("tuning.json")
    """What was tried, what came out, what was chosen."""
    known = Inside(".known")
    """Evaluations by content, and what audits asked the original model, shared by cells; removed at the end."""
    report = Inside("report.html")

    def table(self, suffix: str) -> Path:
        """The table as `md` or `tex`."""
        return self.path / f"table.{suffix}"

    def results(self, suffix: str) -> Path:
        """The rows as `csv` or `parquet`."""
        return self.path / f"results.{suffix}"

    def cell(self, method: str, split: str, seed: int) -> CellDirectory:
        return CellDirectory(self.path / "cells" / method / split / f"seed-{seed}")

    def trial(self, method: str, split: str, label: str) -> CellDirectory:
        return CellDirectory(self.path / "tuning" / method / split / label)

    @property
    def begun(self) -> list[CellDirectory]:
        """The cells and trials that lie there."""
        return [
            CellDirectory(folder) for name in ("cells", "tuning") for folder in sorted(self.path.glob(f"{name}/*/*/*"))
        ]


@dataclass(frozen=True)
class AuditDirectory(RunDirectory):
    """An audit: outcome rows, and what was made of them."""

    rows = Inside("audit.jsonl")
    """A line for each answer (`audit/outcomes.py`)."""
    audit = Inside("audit.json")
    """Verdicts, tables, thresholds: where it is, all answers are in."""
    page = Inside("audit.html")
    parts = Inside("parts")
    """What is done of an audit under way, all answers among it, for its owner alone; removed once `audit` is there."""

    def part(self, model: str, attack: str) -> Path:
        """One attack on one model."""
        name = re.sub(r"[^\w.-]", "_", attack)
        return self.parts / model / f"{name}.json"

    def read_rows(self) -> list[Row]:
        return read_jsonl(self.rows)


def results_in(path: Path) -> list[Path]:
    """`path` itself where it is a run, an evaluation or a bench, else those that lie in it, in order: no deeper, or a
    slip would search a whole disk. Raises UserError for a folder that may not be read."""
    try:
        if holds_results(path):
            return [path]
        inside = sorted(each for each in path.iterdir() if each.is_dir() and not each.name.startswith("."))
        return list(filter(holds_results, inside))
    except OSError as error:
        where = error.filename or path
        raise UserError(f"{where} cannot be read ({error.strerror}): give the directory of a run.") from error


def holds_results(folder: Path) -> bool:
    """Whether a folder is a run, an evaluation or a bench."""
    run = RunDirectory(folder)
    return any(file.is_file() for file in (run.manifest, run.summary, BenchDirectory(folder).manifest))
