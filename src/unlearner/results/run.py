"""Begins a run's directory, or continues one: its options, versions and hashes (DESIGN idea 5).

Nothing in it depends on when or where the run was made, so that a run cut short and continued ends with the very files
of an uninterrupted one. What lies where is in `layout.py`.
"""

import importlib.metadata
import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from unlearner import distributed
from unlearner.data.records import Record
from unlearner.errors import UserError
from unlearner.files import is_leftover, remove_leftovers, space_errors, write_json, write_text
from unlearner.results.layout import VERSION, RunDirectory, check_version, hash_title
from unlearner.results.records import sha256

PACKAGES = ("unlearner", "torch", "transformers", "accelerate", "peft", "tokenizers", "sentence-transformers", "numpy")


def resolved(config: Any) -> dict[str, Any]:
    """The options as plain values, without the output directory: what makes two runs the same run."""
    return {f.name: _plain(getattr(config, f.name)) for f in fields(config) if f.name != "output"}


def _plain(value: Any) -> Any:
    """An option as it is written down: data and models in memory by what they are."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Mapping):
        return dict(value)
    if is_dataclass(value) and not isinstance(value, type):
        return repr(value)
    if isinstance(value, list) and all(isinstance(item, str | int | float) for item in value):
        return list(value)
    size = f", {len(value)} rows" if hasattr(value, "__len__") else ""
    return f"{type(value).__name__} in memory{size}"


def check_output(output: str | Path, command: str, config: dict[str, Any]) -> bool:
    """Whether `output` holds this very run already, begun or finished.

    Raises UserError where the directory holds another run, one of an older version, or files of any other kind. Writes
    nothing.
    """
    folder = Path(output)
    check_place(folder)
    manifest = RunDirectory(folder).manifest
    if not manifest.is_file():
        if not folder.is_dir() or all(is_leftover(path) for path in folder.iterdir()):
            return False
        raise UserError(f"--output {folder} is not empty and holds no run of unlearner: choose another directory.")
    try:
        held = json.loads(manifest.read_text(encoding="utf-8"))
        theirs = {"command": held["command"], **held["config"]}
    except (ValueError, KeyError, TypeError) as error:
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
        _open(folder, command, config, hashes, data_warnings)
    distributed.barrier()
    return folder


def _open(
    folder: Path,
    command: str,
    config: dict[str, Any],
    hashes: dict[str, str | None],
    data_warnings: Sequence[str],
) -> None:
    begun = check_output(folder, command, config)
    run = RunDirectory(folder)
    with space_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
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


def check_place(folder: Path) -> None:
    """Raises UserError where no directory can be made: a file is in the way, or the parent folder is not writable."""
    try:
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
