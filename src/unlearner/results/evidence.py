"""What the files of a finished run were, so that one that is changed or cut afterwards is named.

finished.json holds the size and the sha256 of the log, of every record and summary, and of every file of the model
made. They are read again when the command is repeated, when the run is reported, and when its model is measured or
unlearned further. The weights are the dear part: a model of seven billion parameters in bf16 is 14 GB, which takes
ten to thirty seconds, as does the hash of the input model that every command makes. The cells of a bench are many:
of their weights only the sizes are compared.
"""

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from unlearner.console import warn
from unlearner.distributed import is_main
from unlearner.errors import UserError
from unlearner.files import read_json, write_json
from unlearner.results.layout import ADAPTER, MODEL, RunDirectory
from unlearner.results.lock import unlock


def finish_run(folder: Path, **about: Any) -> None:
    """Write finished.json, the last file of a run, with `about` in it; the directory is free from then on."""
    from unlearner.models.load import model_hash  # with torch and transformers: a report should not wait for them

    run = RunDirectory(folder)
    made = next((path for path in (run.path / MODEL, run.path / ADAPTER) if path.is_dir()), None)
    with ThreadPoolExecutor() as pool:  # hashing lets go of Python's lock
        whole = None if made is None else pool.submit(model_hash, str(made))
        files = file_hashes(run)
        sha256 = {} if whole is None else {"sha256": whole.result()}
    write_json(run.finished, {**about, **sha256, "files": files})
    unlock(folder)


def file_hashes(run: RunDirectory, names: Iterable[str] | None = None) -> dict[str, tuple[int, str | None]]:
    """Size and sha256 of every file of a run that is evidence, or of those called `names`, by its path in the run."""
    files = [*run.evidence, *run.weights] if names is None else [run.path / name for name in names]
    with ThreadPoolExecutor() as pool:
        hashes = pool.map(_digest, files)
        return {
            file.relative_to(run.path).as_posix(): (file.stat().st_size, digest)
            for file, digest in zip(files, hashes, strict=True)
        }


def changed(run: RunDirectory, *, weights: bool = True, others: bool = True) -> list[str]:
    """What is no longer as it was when the run finished: the names of files, each with what is wrong with it.

    Empty for a run that is not finished, or was finished by a version that kept no hashes. Without `weights` only the
    sizes of the model's files are looked at, and the whole model may be gone; without `others` only the sizes of all
    others.
    """
    try:
        told = read_json(run.finished) if run.is_finished else {"files": {}}
        held = {name: (size, digest) for name, (size, digest) in told.get("files", {}).items()}
        if not {"files", "steps"} & told.keys():
            raise ValueError
    except (OSError, ValueError, TypeError, AttributeError):
        return [f"{run.finished.name} is damaged"]
    made = {file.relative_to(run.path).as_posix() for file in run.weights}
    if not (weights or made):
        held = {name: value for name, value in held.items() if name.partition("/")[0] not in (MODEL, ADAPTER)}
    sizes = {name: _size(run.path / name) for name in held}
    wrong = {name: "is missing" for name, size in sizes.items() if size is None}
    wrong |= {
        name: f"has {size} bytes instead of {held[name][0]}"
        for name, size in sizes.items()
        if size not in (None, held[name][0])
    }
    read = [name for name in held if name not in wrong and (weights if name in made else others)]
    with ThreadPoolExecutor() as pool:
        digests = pool.map(_digest, [run.path / name for name in read])
        for name, digest in zip(read, digests, strict=True):
            if digest is None:
                wrong[name] = "cannot be read"
            elif digest != held[name][1]:
                wrong[name] = "has other contents"
    return [f"{name} {wrong[name]}" for name in held if name in wrong]


def check_unchanged(folder: Path, *, weights: bool = True) -> None:
    """Raises UserError where a file of the finished run in `folder` is no longer what it was."""
    if found := changed(RunDirectory(folder), weights=weights):
        more = f", and {len(found) - 1} more" if len(found) > 1 else ""
        raise UserError(
            f"{folder} was changed after its run had finished: {found[0]}{more}: restore it, or run the command "
            "again in another directory."
        )


def warn_changed(model: str | Path) -> None:
    """Say so where `model` is what a run made and its files are no longer what they were."""
    folder = Path(model).absolute()
    if not is_main() or folder.name not in (MODEL, ADAPTER) or not folder.is_dir():
        return
    for each in changed(RunDirectory(folder.parent), others=False):
        if each.startswith(f"{folder.name}/"):
            warn(f"{folder.parent / each}: it was changed after the run that made it had finished")


def _size(file: Path) -> int | None:
    return file.stat().st_size if file.is_file() else None


def _digest(file: Path) -> str | None:
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError:
        return None
