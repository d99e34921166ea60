"""Files that are whole or not there: everything is written under a temporary name and renamed."""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from unlearner.errors import UserError


def cache_directory() -> Path:
    """Where the built-in model, token tables and embeddings are kept: `$UNLEARNER_CACHE`, or ~/.cache/unlearner."""
    return Path(os.environ.get("UNLEARNER_CACHE") or Path.home() / ".cache" / "unlearner")


NO_SPACE = ("No space left on device", "os error 28", "PytorchStreamWriter", "inline_container.cc")
"""How the libraries' words for a full disk are known; torch says only which of its lines could not write."""
TOO_LARGE = ("File too large", "os error 27")


@contextmanager
def space_errors(path: Path) -> Iterator[None]:
    """Turn "no space left" and "permission denied" into one sentence that names the file."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"no space left on device while writing {path}: free some and repeat the command."
            ) from error
        if error.errno == errno.EFBIG:
            raise _too_large(path) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EPERM):
            cached = path.is_relative_to(cache_directory())
            remedy = "set UNLEARNER_CACHE to a folder of yours" if cached else "choose another --output"
            raise UserError(f"cannot write {path} ({error.strerror}): {remedy}.") from error
        raise
    except Exception as error:  # safetensors and torch wrap the system's error in types of their own
        said = str(error)
        if any(sign in said for sign in TOO_LARGE) or (_limited() and any(sign in said for sign in NO_SPACE[2:])):
            raise _too_large(path) from error
        if any(sign in said for sign in NO_SPACE):
            raise UserError(
                f"no space left on device while writing {path}: free some and repeat the command."
            ) from error
        raise


def _limited() -> bool:
    """Whether the size of files is limited (`ulimit -f`)."""
    try:
        import resource
    except ImportError:
        return False
    return resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY


def _too_large(path: Path) -> UserError:
    return UserError(
        f"{path} is larger than files may be here: raise the limit (ulimit -f) or choose another disk, and repeat the "
        "command."
    )


def write_text(path: Path, text: str, *, private: bool = False) -> None:
    """Write a text file, whole or not at all; a `private` one can be read by its owner alone."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with space_errors(path):
        try:
            if private:
                temporary.touch(0o600)
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def json_text(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    write_text(path, json_text(value))


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def is_page(file: Path, generator: str) -> bool:
    """Whether a file is a page that says in its head that `generator` wrote it."""
    return file.is_file() and f'content="{generator}'.encode() in file.read_bytes()[:1000]


def jsonl(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]], *, private: bool = False) -> None:
    write_text(path, jsonl(rows), private=private)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSON-lines file of our own. A torn last line, as a killed process leaves it, is left out."""
    rows = []
    if path.exists():
        for line in path.read_text(encoding="utf-8").split("\n")[:-1]:
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return rows


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """A folder to fill, renamed to `path` when the block ends well and removed when it does not."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with space_errors(path):
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            yield temporary
            if path.is_dir():
                shutil.rmtree(path)
            temporary.rename(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """A folder of the cache, which `make` fills when it is not there yet. Of several processes that want it at once,
    one makes it and the others wait."""
    if not folder.is_dir():
        with space_errors(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(folder.with_name(f"{folder.name}.lock")):
                for killed in folder.parent.glob(f".{folder.name}.*.tmp"):
                    shutil.rmtree(killed, ignore_errors=True)
                if not folder.is_dir():
                    with atomic_directory(folder) as temporary:
                        make(temporary)
    return folder


def is_leftover(path: Path) -> bool:
    """Whether a file or folder has one of the temporary names used here."""
    return path.name.startswith(".") and path.suffix == ".tmp"


def remove_leftovers(folder: Path) -> None:
    """Delete temporary files and folders that a killed process left in `folder`, however deep."""
    for leftover in filter(is_leftover, list(folder.rglob(".*"))):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)
