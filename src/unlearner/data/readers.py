"""Files of rows: JSON, JSON lines, CSV and Parquet, by name or as FOLDER:NAME; documents; what comes through a pipe."""

import csv
import difflib
import io
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from unlearner import distributed
from unlearner.data.rows import numbered, parse_json
from unlearner.errors import UserError, did_you_mean, first_line, install

STANDARD_INPUT = "-"
DOCUMENTS = (".txt", ".md")
"""Files that are a document each, as they stand."""


def read_documents(source: str) -> list[tuple[str, Any]] | None:
    """The documents that `source` is, with their places: a text file, or a folder that holds such files and no rows;
    None where it is neither."""
    path = Path(source)
    if path.suffix.lower() in DOCUMENTS and (path.is_file() or path.is_fifo()):
        files = [path]
    elif path.is_dir() and not any(file.suffix.lower() in READERS for file in path.iterdir()):
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in DOCUMENTS and file.is_file())
    else:
        files = []
    if not files:
        return None
    return [(file.name, {"text": _text(file, read_bytes(file))}) for file in files]


def read_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """The rows of a file that `find_file` found, with their places; of a pipe without a known suffix the content
    decides: JSON where it begins with { or [, else CSV."""
    data = read_bytes(path)
    suffix = path.suffix.lower()
    if suffix not in READERS:
        suffix = ".json" if data.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"{", b"[")) else ".csv"
    return READERS[suffix](path, data)


def is_pipe(source: str) -> bool:
    """Whether a source, with or without a slice, comes through a pipe."""
    name = source.partition("[")[0]
    return name == STANDARD_INPUT or Path(name).is_fifo()


def read_bytes(path: Path) -> bytes:
    """The content of a file. What comes through a pipe can be read once, and is kept as long as the process lasts."""
    if str(path) == STANDARD_INPUT:
        if distributed.count() > 1:
            raise UserError("- (standard input) can be read by one process only: with several, give a file.")
        return _standard_input()
    if path.is_fifo():
        about = path.stat()
        return _piped(path, about.st_dev, about.st_ino)
    return path.read_bytes()


@cache
def _standard_input() -> bytes:
    return sys.stdin.buffer.read()


@cache
def _piped(path: Path, device: int, number: int) -> bytes:
    return path.read_bytes()


def find_file(source: str) -> Path:
    """The file that `source` names, itself or as FOLDER:NAME."""
    path = Path(source)
    folder, _, name = source.rpartition(":")
    if source == STANDARD_INPUT or path.is_fifo():
        return path
    if path.is_dir():
        names = _names(path)
        first = next(iter(names))
        raise UserError(f"{path} is a folder; name one of its files, as in {path}:{first} (there: {', '.join(names)}).")
    if not path.is_file():
        if not folder or not Path(folder).is_dir():
            raise UserError(_missing(source))
        names = _names(Path(folder))
        if name not in names:
            raise UserError(f"{folder} has no file named {name!r}; {did_you_mean(name, names)}")
        return names[name]
    if path.suffix.lower() not in READERS:
        known = ", ".join([*READERS, *DOCUMENTS])
        raise UserError(f"{path}: unknown extension {path.suffix!r}; use one of {known}.")
    return path


def _names(folder: Path) -> dict[str, Path]:
    """The folder's data files by name without extension; of several, the extension listed first in `READERS`."""
    names: dict[str, Path] = {}
    for extension in reversed(READERS):
        names |= {file.stem: file for file in folder.glob(f"*{extension}") if file.is_file()}
    if not names:
        known = ", ".join([*READERS, *DOCUMENTS])
        raise UserError(f"{folder} holds no data files; it needs some that end in {known}.")
    return dict(sorted(names.items()))


def _missing(source: str) -> str:
    """What to say of a source that is not there: the nearest name in its folder, the name after FOLDER: kept."""
    if source.startswith("--"):
        return f"There is no file {source}; a source is missing before this option."
    if (cut := re.fullmatch(r"(.+)\[.*\]", source)) and Path(cut[1]).exists():
        return f"{source}: a slice takes two whole numbers, either of which may be left out, as in {cut[1]}[0:40]."
    folder, colon, name = source.rpartition(":")
    path = Path(folder if colon else source)
    if not path.parent.is_dir():
        return f"There is no file {source}, nor a folder {path.parent}; check the path."
    there = [entry.name for entry in path.parent.iterdir() if (entry.is_dir() if colon else entry.name != path.name)]
    near = difflib.get_close_matches(path.name, there, n=1)
    remedy = f"did you mean {path.with_name(near[0])}{colon}{name if colon else ''}?" if near else "check the path."
    return f"There is no file {source}; {remedy}"


def _text(path: Path, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}, line {line}: this is not UTF-8 text; save the file as UTF-8.") from None


def _read_json(path: Path, data: bytes) -> Iterator[tuple[str, Any]]:
    text = _text(path, data)
    if text.lstrip().startswith("["):
        try:
            rows = parse_json(text)
        except ValueError as error:  # json's own message ends in the line
            raise UserError(f"{path} is not valid JSON: {error}; correct that place.") from None
        yield from numbered(rows)
        return
    # Not splitlines: U+2028 and its kin may stand inside a JSON string.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield f"line {number}", parse_json(line)
        except ValueError as error:
            why = getattr(error, "msg", error)
            raise UserError(
                f"{path}, line {number}: this is not valid JSON ({why}); write one object per line or one array."
            ) from None


def _read_csv(path: Path, data: bytes) -> Iterator[tuple[str, Any]]:
    with _long_cells():
        rows = list(_csv_rows(path, data))
    yield from rows


@contextmanager
def _long_cells() -> Iterator[None]:
    """Cells of any length: documents are longer than the 131,072 characters allowed by default. The limit is the whole
    process's, so it is set back."""
    before = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _csv_rows(path: Path, data: bytes) -> Iterator[tuple[str, Any]]:
    reader = csv.DictReader(io.StringIO(_text(path, data), newline=""), strict=True)
    last = 0  # where the last good row ended: on failure the reader's own count may or may not include the bad line
    try:
        last = reader.line_num if reader.fieldnames else 0
        names = list(reader.fieldnames or ())
        if twice := next((name for i, name in enumerate(names) if name in names[:i]), None):
            raise UserError(f"{path}, line {last}: the header names {twice!r} twice; rename one of the columns.")
        for cells in reader:
            last = reader.line_num
            if None in cells or None in cells.values():
                raise UserError(
                    f"{path}, line {last}: the row does not have as many cells as the header; "
                    "put texts with commas in double quotes."
                )
            yield f"line {last}", cells
    except csv.Error as error:
        raise UserError(
            f"{path}, line {last + 1}: this is not valid CSV ({error}); correct it, or save the data as JSON lines."
        ) from None


def _read_parquet(path: Path, data: bytes) -> Iterator[tuple[str, Any]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UserError(f"{path}: a .parquet file needs pyarrow; install it with: {install('data')}.") from None
    try:
        rows = parquet.ParquetFile(pyarrow.BufferReader(data)).read().to_pylist()
    except (pyarrow.ArrowException, ValueError, OSError) as error:  # OSError is what it says of broken content
        raise UserError(f"{path} is not a readable Parquet file ({first_line(error)}); write it again.") from None
    yield from numbered(rows)


READERS: dict[str, Callable[[Path, bytes], Iterator[tuple[str, Any]]]] = {
    ".jsonl": _read_json,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
