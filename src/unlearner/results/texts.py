"""Which files hold texts of the data, how they are made to hold none, and what is out of reach: the one place that
knows.

A text is redacted by putting its keyed hash in its place, so that equal texts stay equal and no text, however short,
can be guessed by who lacks the key. The key is made once, and kept in the cache: with it, rows of two runs agree.
"""

import hashlib
import hmac
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile

from unlearner.errors import UserError
from unlearner.files import cache_directory, read_json, read_jsonl, space_errors, write_json, write_jsonl
from unlearner.results.evidence import file_hashes
from unlearner.results.layout import BenchDirectory, EvaluationDirectory, RunDirectory, results_in
from unlearner.results.lock import check_free
from unlearner.results.records import Row

TEXTS = ("question", "answer", "original_answer", "subject", "generation")
"""The texts of a row of `records.jsonl`; all else in it are numbers, and the name of its set."""
KEY = "redaction.key"
HASHES_OF_DATA = ("forget", "retain", "data", "refusals", "eval.", "earlier.")
SOURCES = (
    "forget", "retain", "forget_eval", "retain_eval", "real_authors", "world_facts", "data", "exclude", "refusals",
)  # fmt: skip
MODELS = ("model", "reference_model", "retrained")


def redacted(row: Row) -> Row:
    """A row of `records.jsonl` with its values and without its texts."""
    if row.get("redacted"):
        return row
    texts = {name: f"[{keyed(row[name])}]" for name in TEXTS if isinstance(row.get(name), str)}
    return {**row, **texts, "id": keyed(str(row["id"])), "redacted": True}


def keyed_hashes(hashes: Mapping[str, str | None]) -> dict[str, str | None]:
    """Hashes of a manifest, those of data such that nothing can be guessed from them."""
    return {
        name: keyed(value) if value is not None and name.startswith(HASHES_OF_DATA) else value
        for name, value in hashes.items()
    }


def keyed(text: str) -> str:
    """Sixteen hexadecimal digits that tell a text from others, and nothing about it to who lacks the key."""
    return hmac.new(_key(), text.encode(), hashlib.sha256).hexdigest()[:16]


def _key() -> bytes:
    file = cache_directory() / KEY
    with space_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.is_file():
            with NamedTemporaryFile(
                dir=file.parent, prefix=".key.", suffix=".tmp"
            ) as new:  # readable by the user alone
                new.write(secrets.token_bytes(32))
                new.flush()
                with suppress(FileExistsError):  # another process was first
                    os.link(new.name, file)
        key = file.read_bytes()
    if len(key) != 32:
        raise UserError(f"{file} is no key: remove it, and a new one is made.")
    return key


@dataclass
class Purged:
    """What a purge did, or would do."""

    redacted: list[Path] = field(default_factory=list)
    """Records that keep their values and lose their texts."""
    removed: list[Path] = field(default_factory=list)
    beyond: list[str] = field(default_factory=list)
    """What may hold forgotten texts, or the knowledge of them, and is not touched."""


def holding_texts(folder: Path) -> Iterator[Path]:
    """The files and folders with texts of the data in a run, an evaluation or a bench."""
    bench = BenchDirectory(folder)
    cells = bench.begun
    for run in (RunDirectory(folder), *(run for cell in cells for run in cell.runs)):
        for evaluation in run.evaluations:
            yield from (file for file in (evaluation.records, *evaluation.batches) if file.is_file())
        if run.report.is_file():
            yield run.report
    yield from (cell.failed for cell in cells if cell.failed.is_file())
    if bench.known.is_dir():
        yield bench.known


def caches() -> list[Path]:
    """What is kept across runs and holds texts, as tokens or as embeddings."""
    return [folder for name in ("tokens", "embeddings") if (folder := cache_directory() / name).is_dir()]


def purge(paths: list[Path], *, dry_run: bool) -> Purged:
    """Take the texts out of runs, evaluations, benches and folders of them, and empty the caches.

    Raises UserError where there is none, and where a process is at work in one.

    Records keep their values; finished.json names them as purged, with their new hashes.
    """
    done = Purged()
    folders = []
    for path in paths:
        found = results_in(path)
        if not found:
            raise UserError(f"{path} holds no run of unlearner: give the --output of an earlier run.")
        folders += found
        page = RunDirectory(path).report
        done.removed += [page] if path not in found and page.is_file() else []
    for folder in folders:
        check_free(folder)
        records = [file for file in holding_texts(folder) if _is_records(file)]
        done.redacted += [file for file in records if not all(row.get("redacted") for row in read_jsonl(file))]
        done.removed += [file for file in holding_texts(folder) if not _is_records(file)]
        done.beyond += _beyond(folder)
    done.removed += caches()
    done.beyond = list(dict.fromkeys(done.beyond))
    if not dry_run:
        for file in done.redacted:
            write_jsonl(file, [redacted(row) for row in EvaluationDirectory(file.parent).read_records()])
        for path in done.removed:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        for folder in folders:
            _tell_finished(folder, done.redacted)
    return done


def _is_records(file: Path) -> bool:
    return file == EvaluationDirectory(file.parent).records


def _tell_finished(folder: Path, files: list[Path]) -> None:
    """Have finished.json say what was purged, so that it does not pass for a change."""
    for run in (RunDirectory(folder), *(run for cell in BenchDirectory(folder).begun for run in cell.runs)):
        ours = [file.relative_to(run.path).as_posix() for file in files if file.is_relative_to(run.path)]
        held = read_json(run.finished) if run.is_finished else {}
        if ours and "files" in held:
            now = file_hashes(run, ours)
            kept = {name: now.get(name, value) for name, value in held["files"].items()}
            write_json(run.finished, {**held, "files": kept, "purged": sorted({*held.get("purged", []), *ours})})


def _beyond(folder: Path) -> Iterator[str]:
    """Sentences on what a purge of `folder` does not reach."""
    runs = [RunDirectory(folder), *(run for cell in BenchDirectory(folder).begun for run in cell.runs)]
    for run in runs:
        try:
            config = run.read_manifest().get("config", {})
        except (OSError, ValueError):
            continue
        for name in SOURCES:
            given = config.get(name)
            for source in given if isinstance(given, list) else [given]:
                if source is not None and not str(source).startswith("builtin:"):
                    yield f"the data: {source}"
        for name in MODELS:
            if config.get(name) is not None:
                yield f"what a model remembers: {config[name]}"
        if run.weights or run.checkpoints.is_dir():
            yield f"what a model remembers: the weights in {run.path}"
