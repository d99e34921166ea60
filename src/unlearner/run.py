"""A run is a directory: resolved options, versions, hashes, log, records, summary (DESIGN idea 5).

Nothing in it depends on when or where the run was made, so that a run cut short and continued ends with the very files
of an uninterrupted one.
"""

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import yaml

from unlearner.data.records import Record
from unlearner.errors import UserError
from unlearner.files import atomic_directory, remove_leftovers, write_json, write_text

PACKAGES = ("unlearner", "torch", "transformers", "accelerate", "peft", "tokenizers", "sentence-transformers", "numpy")


def check_output(output: str | Path, command: str, config: dict[str, Any]) -> bool:
    """Whether `output` holds this very run already, begun or finished.

    Raises UserError where the directory holds another run, or files of any other kind. Writes nothing.
    """
    folder = Path(output)
    if folder.is_file():
        raise UserError(f"--output {folder} is a file: choose a directory.")
    if not folder.is_dir() or not any(folder.iterdir()):
        return False
    about = folder / "run.json"
    if not about.is_file():
        raise UserError(f"--output {folder} is not empty and holds no run of unlearner: choose another directory.")
    try:
        held = json.loads(about.read_text(encoding="utf-8"))
        theirs = {"command": held["command"], **held["config"]}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{about} cannot be read: remove {folder} or choose another --output.") from error
    ours = {"command": command, **json.loads(json.dumps(config))}
    for key in sorted(set(ours) | set(theirs)):
        if ours.get(key) != theirs.get(key):
            raise UserError(
                f"--output {folder} holds another run ({key} is {theirs.get(key)!r} there, {ours.get(key)!r} here): "
                "choose another directory."
            )
    return True


def open_run(output: str | Path, command: str, config: dict[str, Any], hashes: dict[str, str | None]) -> Path:
    """The run's directory, made if it is new. Raises UserError where it was begun with other data or another model."""
    folder = Path(output)
    if not check_output(folder, command, config):
        with atomic_directory(folder) as fresh:
            write_text(fresh / "config.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
            about = {
                "command": command,
                "config": config,
                "hashes": hashes,
                "versions": versions(),
                "hardware": hardware(),
            }
            write_json(fresh / "run.json", about)
    remove_leftovers(folder)
    held = json.loads((folder / "run.json").read_text(encoding="utf-8"))["hashes"]
    changed = sorted(key for key in hashes if held.get(key) != hashes[key])
    if changed:
        raise UserError(f"--output {folder} was begun with other contents of {changed[0]}: choose another directory.")
    return folder


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


def records_hash(records: Iterable[Record]) -> str:
    """sha256 over the rows' contents, wherever they came from."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(repr(record).encode())
    return digest.hexdigest()
