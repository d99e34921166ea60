"""What lies where in the directories that commands write. Names of files and keys stand here and nowhere else.

`EvaluationDirectory`: one evaluation. `RunDirectory`: a run of `forget`, `finetune` or `evaluate`. `CellDirectory`: a
cell of a bench, which is a run, or one run for each task. `BenchDirectory`: a bench. All of them read; nothing here
writes, makes a directory or needs one to exist. docs/architecture.md has the same as a table.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from unlearner.errors import UserError
from unlearner.files import read_json, read_jsonl
from unlearner.results.records import Row, with_ids

VERSION = 2
"""Of the layout. 1: hashes under English phrases, records without `id`, no version in run.json."""

MODEL, ADAPTER = "model", "adapter"
PARTIAL = "passes"
"""Finished batches of an evaluation that is not done: passes.jsonl, passes-RANK.jsonl."""


class Manifest(TypedDict, total=False):
    """run.json: what makes a run this run and no other, and what it ran on."""

    version: int
    command: str
    config: dict[str, Any]
    """Every option as resolved, without the output directory."""
    hashes: dict[str, str | None]
    """sha256 by `forget`, `retain`, `data`, `eval.SET`, `earlier.TASK`, `refusals`, `model`, `reference_model`,
    `retrained`; None for a model on the hub."""
    data_warnings: list[str]
    """Sentences on what is odd about the data, with places and without texts (`data/quality.py`)."""
    versions: dict[str, str]
    hardware: dict[str, Any]


_PHRASES = {
    r"the (forget|retain) set": r"\1",
    r"the evaluation set (.+)": r"eval.\1",
    r"the forget set of task (.+)": r"earlier.\1",
    r"(?:the )?(model|refusals)": r"\1",
    r"the reference model": "reference_model",
    r"(?:the )?retrained model": "retrained",
    r"(.+) set": r"eval.\1",
}
"""Keys of hashes in layout 1, and what they are called now."""
_TITLES = {
    r"(forget|retain)": r"the \1 set",
    r"eval\.(.+)": r"the evaluation set \1",
    r"earlier\.(.+)": r"the forget set of task \1",
    r"reference_model": "the reference model",
    r"retrained": "the retrained model",
    r"(.+)": r"the \1",
}


def hash_key(name: str) -> str:
    """The key of a hash, from any layout's: `the evaluation set retain` and `eval.retain` give `eval.retain`."""
    return _first(_PHRASES, name)


def hash_title(key: str) -> str:
    """A key of `Manifest.hashes` in words: `eval.retain` is "the evaluation set retain"."""
    return _first(_TITLES, key)


def _first(rules: Mapping[str, str], text: str) -> str:
    found = ((re.fullmatch(pattern, text), words) for pattern, words in rules.items())
    return next((match.expand(words) for match, words in found if match), text)


def check_version(held: Mapping[str, Any], folder: Path) -> None:
    """Raises UserError where `folder`, whose run.json or bench.json is `held`, cannot be continued by this version."""
    version = held.get("version", 1)
    if version != VERSION:
        age = "an older" if version < VERSION else "a newer"
        raise UserError(f"--output {folder} was begun by {age} version of unlearner: choose another directory.")


@dataclass(frozen=True)
class EvaluationDirectory:
    """The evaluation of one model: records, summary, and general ability where it was measured."""

    path: Path

    @property
    def records(self) -> Path:
        return self.path / "records.jsonl"

    @property
    def summary(self) -> Path:
        """Written last: where it is, the evaluation is complete. Its keys: `evaluation/summary.py`."""
        return self.path / "summary.json"

    @property
    def ability(self) -> Path:
        return self.path / "ability.json"

    @property
    def evaluated(self) -> bool:
        return self.summary.is_file()

    def read_summary(self) -> dict[str, Any]:
        return read_json(self.summary)

    def read_records(self) -> list[Row]:
        """Its rows, every one with an `id`; empty where there are none."""
        return with_ids(row for row in read_jsonl(self.records) if isinstance(row, dict))

    def read_ability(self) -> dict[str, dict[str, float]]:
        """Task → metric → value; empty where none was measured."""
        return read_json(self.ability)["tasks"] if self.ability.is_file() else {}


@dataclass(frozen=True)
class RunDirectory(EvaluationDirectory):
    """A run; the evaluation in the directory itself is that of the model made, or of the model measured."""

    @property
    def manifest(self) -> Path:
        return self.path / "run.json"

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def log(self) -> Path:
        return self.path / "log.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def finished(self) -> Path:
        """Written last, by `forget` and `finetune`."""
        return self.path / "finished.json"

    @property
    def is_finished(self) -> bool:
        return self.finished.is_file()

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def audit(self) -> Path:
        """The audit of the model made, where one was asked for."""
        return self.path / "audit"

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

    @property
    def retention(self) -> Path:
        """Continual, written last: forget efficacy after task k on the set of task j ≤ k, model utility after each."""
        return self.path / "retention.json"

    @property
    def failed(self) -> Path:
        """Why the cell failed; removed when it is tried again."""
        return self.path / "failed.json"

    def task(self, number: int) -> RunDirectory:
        """The run of task `number`, from 1."""
        return RunDirectory(self.path / f"task-{number:02d}")

    @property
    def finished_tasks(self) -> int:
        return len(list(self.path.glob("task-*/finished.json")))


@dataclass(frozen=True)
class BenchDirectory:
    """A bench: its cells, the trials of --tune, and the tables made of them."""

    path: Path

    @property
    def manifest(self) -> Path:
        """What makes it this bench: options, hashes of data and model, published numbers."""
        return self.path / "bench.json"

    @property
    def tuning(self) -> Path:
        """What was tried, what came out, what was chosen."""
        return self.path / "tuning.json"

    @property
    def known(self) -> Path:
        """Evaluations by content, shared by cells; removed at the end."""
        return self.path / ".known"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

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


@dataclass(frozen=True)
class AuditDirectory:
    """An audit: outcome rows, and what was made of them."""

    path: Path

    @property
    def rows(self) -> Path:
        """A line for each answer (`audit/verdict.py`)."""
        return self.path / "audit.jsonl"

    @property
    def audit(self) -> Path:
        """Written last: verdicts, tables, thresholds."""
        return self.path / "audit.json"

    @property
    def parts(self) -> Path:
        """What is done of an audit under way; removed once `audit` is there."""
        return self.path / "parts"

    def part(self, model: str, attack: str) -> Path:
        """One attack on one model."""
        name = re.sub(r"[^\w.-]", "_", attack)
        return self.parts / model / f"{name}.json"

    def read_rows(self) -> list[Row]:
        return read_jsonl(self.rows)


def holds_results(names: set[str]) -> bool:
    """Whether a folder with files of these names is a run, an evaluation or a bench."""
    return bool({"run.json", "summary.json", "bench.json"} & names)
