"""Begins a run's directory, or continues one: its options, versions and hashes.

Nothing in it depends on when or where the run was made, so that a run cut short and continued ends with the very files
of an uninterrupted one. What lies where is in `layout.py`.
"""

import importlib.metadata
import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
import yaml

from unlearner import distributed
from unlearner.data.records import Record
from unlearner.errors import UserError
from unlearner.files import is_leftover, read_json, remove_leftovers, space_errors, write_json, write_text
from unlearner.results.evidence import check_unchanged
from unlearner.results.hash_keys import hash_title
from unlearner.results.layout import VERSION, RunDirectory, check_version
from unlearner.results.lock import check_free, is_lock, lock, unlock
from unlearner.results.records import sha256

PACKAGES = ("unlearner", "torch", "transformers", "accelerate", "peft", "tokenizers", "sentence-transformers", "numpy")


def check_output(output: str | Path, command: str, config: dict[str, Any]) -> bool:
    """Whether `output` holds this very run already, begun or finished.

    Raises UserError where the directory holds another run, one of an older version, or files of any other kind, where
    another process works in it, or where it belongs to the model. Writes nothing.
    """
    folder = Path(output)
    check_place(folder)
    check_apart(folder, config)
    manifest = RunDirectory(folder).manifest
    if distributed.is_main():
        check_free(folder)
    if not manifest.is_file():
        if is_empty(folder):
            return False
        raise UserError(f"--output {folder} is not empty and holds no run of unlearner: choose another directory.")
    try:
        held = json.loads(manifest.read_text(encoding="utf-8"))
        theirs = {"command": held["command"], **held["config"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{manifest} cannot be read: remove {folder} or choose another --output.") from error
    check_version(held, folder)
    ours = {"command": command, **json.loads(json.dumps(config))}
    for key in {**ours, **theirs}:  # in this order: a method is named before the settings that come with it
        if ours.get(key) != theirs.get(key):
            raise UserError(
                f"--output {folder} holds another run ({key} is {theirs.get(key)!r} there, {ours.get(key)!r} here): "
                "choose another directory."
            )
    return True


def open_run(
    output: str | Path,
    command: str,
    config: dict[str, Any],
    hashes: dict[str, str | None],
    data_warnings: Sequence[str] = (),
) -> Path:
    """The run's directory, made if it is new: by the main process, while the others wait.

    `hashes` and `data_warnings` are those of `layout.Manifest`. Raises UserError where it was begun with other data or
    another model.
    """
    folder = Path(output)
    distributed.barrier()  # nobody looks into the directory any more
    if distributed.is_main():
        run = RunDirectory(folder)
        make_directory(folder)
        if not run.is_finished:
            lock(folder)
        try:
            _begin(run, command, config, hashes, data_warnings)
        except BaseException:
            unlock(folder)
            raise
    distributed.barrier()
    return folder


def _begin(
    run: RunDirectory, command: str, config: dict[str, Any], hashes: dict[str, str | None], data_warnings: Sequence[str]
) -> None:
    """Write what makes the run this run, or compare it with what is there."""
    folder = run.path
    begun = check_output(folder, command, config)  # once more: now nobody else writes
    remove_leftovers(folder)
    if not begun:
        # First of all: from now on the directory is known as this run's.
        about = {
            "version": VERSION,
            "command": command,
            "config": config,
            "hashes": hashes,
            "data_warnings": list(data_warnings),
            "versions": versions(),
            "hardware": hardware(),
        }
        write_json(run.manifest, about)
    if not run.config.is_file():
        write_text(run.config, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    held = run.read_manifest()["hashes"]
    changed = sorted(hash_title(key) for key in hashes if held.get(key) != hashes[key])
    if changed:
        raise UserError(f"--output {folder} was begun with other contents of {changed[0]}: choose another directory.")
    if run.is_finished:
        check_unchanged(folder)


def is_empty(folder: Path) -> bool:
    """Whether a directory can be made there, or holds nothing that is anybody's."""
    return not folder.is_dir() or all(is_leftover(path) or is_lock(path) for path in folder.iterdir())


def make_directory(folder: Path) -> None:
    """Raises UserError where it cannot be made, of whatever kind the file system is."""
    try:
        with space_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:  # below /proc, for one
        raise UserError(f"--output {folder} cannot be made ({error.strerror}): choose another directory.") from error


def check_apart(folder: Path, config: Mapping[str, Any]) -> None:
    """Raises UserError for a directory inside that of a model which the run reads."""
    for option in ("model", "reference_model", "retrained"):
        model = Path(str(config.get(option) or "builtin:"))
        if model.is_dir() and folder.resolve().is_relative_to(model.resolve()) and any(model.glob("*config.json")):
            raise UserError(f"--output {folder} is inside {model}, the {option.replace('_', ' ')}: choose another.")


def kept_execution(folder: Path) -> dict[str, Any] | None:
    """How the run in `folder` computes (`models/execution.py`), as its run.json has it; None before that is decided."""
    run = RunDirectory(folder)
    plans = run.read_manifest().get("execution", []) if run.manifest.is_file() else []
    return {key: value for key, value in plans[-1].items() if key != "step"} if plans else None


def keep_execution(folder: Path, plan: Mapping[str, Any]) -> None:
    """Add to run.json, if there is one, how the run computes from `plan["step"]` on. Every process calls it."""
    run = RunDirectory(folder)
    if distributed.is_main() and run.manifest.is_file():
        held = read_json(run.manifest)
        with space_errors(folder):
            write_json(run.manifest, {**held, "execution": [*held.get("execution", []), dict(plan)]})
    distributed.barrier()


def check_place(folder: Path) -> None:
    """Raises UserError where no directory can be made: a file is in the way, or the parent folder is not writable."""
    try:
        for path in (folder, *folder.absolute().parents):
            if path.is_symlink() and not path.exists():
                raise UserError(
                    f"--output {folder} cannot be made because {path} is a link to nothing: choose another."
                )
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if not there.is_dir():
            raise UserError(f"--output {folder} cannot be made because {there} is a file: choose another directory.")
        if there != folder and not os.access(there, os.W_OK):
            raise UserError(f"--output {folder} cannot be made because {there} is not writable: choose another.")
    except OSError as error:  # a name that is too long, or a folder that may not be looked into
        raise UserError(f"--output {folder} cannot be used ({error.strerror}): choose another directory.") from error


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
    }


def records_hash(records: Iterable[Record | str | Mapping[str, Any]]) -> str:
    """sha256 over the contents of rows, wherever they came from.

    A row counts as JSON with its fields by name, those without a value left out: a field that `Record` gets later
    changes no hash of rows without it.
    """
    return sha256(*(_filled(record) if isinstance(record, Record) else record for record in records))


def _filled(record: Record) -> dict[str, Any]:
    values = {field.name: getattr(record, field.name) for field in fields(record) if field.compare}
    return {name: value for name, value in values.items() if value not in (None, ())}
