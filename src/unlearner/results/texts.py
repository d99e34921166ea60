"""Which files hold texts of the data, how they are made to hold none, and what is out of reach: the one place that
knows.

A text is redacted by putting its keyed hash in its place, so that equal texts stay equal and no text, however short,
can be guessed by who lacks the key. The key is made once, and kept in the cache: with it, rows of two runs agree.
"""

import hmac
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from unlearner.errors import UserError
from unlearner.files import cache_directory, json_text, jsonl, read_json, space_errors, write_json, write_text
from unlearner.results.evidence import file_hashes
from unlearner.results.history import histories_in, is_history, read_models
from unlearner.results.layout import AuditDirectory, BenchDirectory, EvaluationDirectory, RunDirectory, results_in
from unlearner.results.lock import check_free, lock, unlock
from unlearner.results.prepared import PreparedDirectory, is_probe, probe_files
from unlearner.results.records import Row
from unlearner.results.subjects import SubjectDirectory

TEXTS = ("question", "answer", "original_answer", "subject", "generation")
"""The texts of a row of `records.jsonl`; all else in it are numbers, and the name of its set."""
KEY = "redaction.key"
HASHES_OF_DATA = ("forget", "retain", "controls", "neighbours", "templates", "data", "refusals", "eval.", "earlier.")
SOURCES = (
    "forget", "retain", "forget_eval", "retain_eval", "real_authors", "world_facts", "data", "exclude", "refusals",
    "controls", "neighbours", "templates", "documents", "questions", "subjects", "prepared",
)  # fmt: skip
CACHES = ("tokens", "embeddings", "endpoint", "answers")
"""Folders of the cache that hold texts: as tokens, as embeddings, as answers of an endpoint or a model."""
MODELS = ("model", "before", "reference_model", "retrained")


def redacted(row: Row) -> Row:
    """A row of `records.jsonl` with its values and without its texts."""
    if row.get("redacted"):
        return row
    texts = {name: f"[{keyed(row[name])}]" for name in TEXTS if isinstance(row.get(name), str)}
    return {**row, **texts, "id": keyed(str(row["id"])), "redacted": True}


def redacted_outcomes(rows: Sequence[Row]) -> list[Row]:
    """Rows of `audit.jsonl` with their values and without names and answers."""
    clear = [row for row in rows if not row.get("redacted")]
    known = {text: keyed(text) for row in clear for text in (row["subject"], row["question"])}

    def without(row: Row) -> Row:
        kept = {name: value for name, value in row.items() if name != "text"}
        if about := row.get("about"):
            kept["about"] = _without_texts(about)
        if "topic" in row:
            kept["topic"] = keyed(row["topic"])
        return {**kept, "subject": f"[{known[row['subject']]}]", "question": known[row["question"]], "redacted": True}

    return [row if row.get("redacted") else without(row) for row in rows]


def redacted_attacks(attacks: Sequence[Row]) -> list[Row]:
    """The attacks of `audit.json` without the text of a prompt template: users' own may quote what was forgotten."""

    def without(attack: Row) -> Row:
        text = attack["options"].get("text")
        options = attack["options"] | ({"text": f"[{keyed(text)}]"} if isinstance(text, str) else {})
        return {**attack, "options": options}

    return [without(attack) for attack in attacks]


def redacted_audit(summary: Row) -> Row:
    """What `audit.json` holds, its subjects named as in the redacted rows."""
    if summary.get("redacted"):
        return summary
    names = {verdict["subject"]: f"[{keyed(verdict['subject'])}]" for verdict in summary["verdicts"]}

    def without(held: Any) -> Any:
        if isinstance(held, dict):
            return {names.get(key, key): without(value) for key, value in held.items()}
        if isinstance(held, list):
            return [without(value) for value in held]
        return names.get(held, held) if isinstance(held, str) else held

    kept: Row = without(summary)
    return _without_texts(kept)


def _without_texts(about: Row) -> Row:
    kept = {name: value for name, value in about.items() if name != "questions"}
    return {**kept, "attacks": redacted_attacks(kept["attacks"]), "redacted": True}


def keyed_hashes(hashes: Mapping[str, str | None]) -> dict[str, str | None]:
    """Hashes of a manifest, those of data such that nothing can be guessed from them."""
    return {
        name: keyed(value) if value is not None and name.startswith(HASHES_OF_DATA) else value
        for name, value in hashes.items()
    }


def keyed(text: str) -> str:
    """Sixteen hexadecimal digits that tell a text from others, and nothing about it to who lacks the key."""
    return hmac.new(_key(), text.encode(), sha256).hexdigest()[:16]


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
        raise UserError(f"{file} is not a key: remove it, and a new one is made.")
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
    for run in _runs(folder):
        for evaluation in run.evaluations:
            yield from (file for file in (evaluation.records, *evaluation.batches) if file.is_file())
        audit = AuditDirectory(run.path)
        made = run.alternates.path, audit.rows, audit.audit, audit.page, audit.parts
        yield from (path for path in (run.report, *made) if path.exists())
        yield from histories_in(run.path)
    yield from (cell.failed for cell in cells if cell.failed.is_file())
    if bench.known.is_dir():
        yield bench.known


def caches() -> list[Path]:
    """What is kept across runs and holds texts."""
    return [folder for name in CACHES if (folder := cache_directory() / name).is_dir()]


def purge(paths: list[Path], *, dry_run: bool) -> Purged:
    """Take the texts out of runs, evaluations, audits, benches and folders of them, and empty the caches; remove what
    `prepare`, `probe` and `compare --history` wrote, and the names in a search.

    Records keep their values; finished.json names them as purged, with their new hashes. Raises UserError where there
    is nothing of the kind, and where a process is at work.
    """
    done = Purged()
    folders, searches = [], []
    for path in paths:
        if path.is_file() and is_history(path):
            done.removed.append(path)
            done.beyond += [f"what a model remembers: {model}" for model in read_models(path)]
            continue
        written = probe_files(path) if path.is_file() and is_probe(path) else PreparedDirectory(path).files
        if written:
            done.removed += written
            done.beyond += _named(read_json(written[-1])["options"])
            continue
        found, beside = results_in(path), _beside(path)
        if not (found or beside):
            raise UserError(f"{path} holds no run of unlearner: give the --output of an earlier run.")
        folders += found
        for files in beside:
            done.removed += files
            done.beyond += _named(read_json(files[-1])["options"])
        searches += [path] if SubjectDirectory(path).naming else []
        page = RunDirectory(path).report
        done.removed += [page] if found and path not in found and page.is_file() else []
    for search in searches:
        check_free(search)
    for run in (run for folder in folders for run in _runs(folder)):
        check_free(run.path)
    for folder in folders:
        for file in holding_texts(folder):
            if rewrite := _rewriting(file):
                done.redacted += [file] if rewrite() is not None else []
            else:
                done.removed.append(file)
        done.beyond += _beyond(folder)
    done.removed += caches()
    done.beyond = list(dict.fromkeys(done.beyond))
    if not dry_run:
        with ExitStack() as held:
            for folder in (*searches, *folders):
                held.callback(unlock, folder)
                lock(folder)
            _carry_out(done, folders)
    return done


def _carry_out(done: Purged, folders: list[Path]) -> None:
    """finished.json is first to tell what the files will be: a purge that is killed can be repeated."""
    texts = {file: text for file in done.redacted if (rewrite := _rewriting(file)) and (text := rewrite()) is not None}
    for run in (run for folder in folders for run in _runs(folder)):
        held = read_json(run.finished) if run.is_finished else {}
        ours = {f.relative_to(run.path).as_posix(): text for f, text in texts.items() if f.is_relative_to(run.path)}
        # A file that had been changed before is not vouched for.
        whole = {
            name
            for name, now in file_hashes(run, ours).items()
            if list(held.get("files", {}).get(name, ())) == list(now)
        }
        if whole:
            now = {
                name: (len(text.encode()), sha256(text.encode()).hexdigest())
                for name, text in ours.items()
                if name in whole
            }
            purged = sorted({*held.get("purged", []), *whole})
            write_json(run.finished, {**held, "files": held["files"] | now, "purged": purged})
    for file, text in texts.items():
        write_text(file, text)
    for path in done.removed:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _rewriting(file: Path) -> Callable[[], str | None] | None:
    """What gives a file's contents without texts, None if it has none; None for a file that can only be removed."""
    evaluation, audit = EvaluationDirectory(file.parent), AuditDirectory(file.parent)

    def rows() -> str | None:
        held = evaluation.read_records() if file == evaluation.records else audit.read_rows()
        if all(row.get("redacted") for row in held):
            return None
        return jsonl(map(redacted, held) if file == evaluation.records else redacted_outcomes(held))

    def summary() -> str | None:
        held = read_json(audit.audit)
        return None if held.get("redacted") else json_text(redacted_audit(held))

    return rows if file in (evaluation.records, audit.rows) else summary if file == audit.audit else None


def _runs(folder: Path) -> list[RunDirectory]:
    """The run in a folder, or the runs of a bench and its own directory; with their audits."""
    runs = [RunDirectory(folder), *(run for cell in BenchDirectory(folder).begun for run in cell.runs)]
    return [*runs, *(AuditDirectory(run.audited) for run in runs if run.audited.is_dir())]


def _beside(path: Path) -> list[list[Path]]:
    """What lies in a directory of `forget --subject` beside the run, or instead of one that was never begun: each list
    ends with a file that has the options under `options`."""
    made = [PreparedDirectory(inside).files for inside in sorted(path.iterdir())]
    return [files for files in (*made, SubjectDirectory(path).naming) if files]


def _named(options: Mapping[str, Any]) -> Iterator[str]:
    """The data and the models that options name: what a purge does not reach."""
    for name in SOURCES:
        given = options.get(name)
        for source in given if isinstance(given, list) else [given]:
            if source and not str(source).startswith("builtin:"):
                yield f"the data: {source}"
    for name in MODELS:
        if options.get(name) is not None:
            yield f"what a model remembers: {options[name]}"


def _beyond(folder: Path) -> Iterator[str]:
    """Sentences on what a purge of `folder` does not reach."""
    for run in _runs(folder):
        try:
            config = run.read_manifest().get("config", {})
        except (OSError, ValueError):
            continue
        yield from _named(config)
        if run.weights or run.checkpoints.is_dir():
            yield f"what a model remembers: the weights in {run.path}"
