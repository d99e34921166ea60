"""Files of rows: JSON, JSON lines, CSV and Parquet, by name or as FOLDER:NAME."""

import csv
import difflib
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unlearner.data.rows import numbered, parse_json
from unlearner.errors import UserError, did_you_mean

INSTALL = 'install it with: pip install "unlearner[data]"'


def find_file(source: str) -> Path:
    """The file that `source` names, itself or as FOLDER:NAME."""
    path = Path(source)
    folder, _, name = source.rpartition(":")
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
        raise UserError(f"{path}: unknown extension {path.suffix!r}; use one of {', '.join(READERS)}.")
    return path


def _names(folder: Path) -> dict[str, Path]:
    """The folder's data files by name without extension; of several, the extension listed first in `READERS`."""
    names: dict[str, Path] = {}
    for extension in reversed(READERS):
        names |= {file.stem: file for file in folder.glob(f"*{extension}") if file.is_file()}
    if not names:
        raise UserError(f"{folder} holds no data files; it needs some that end in {', '.join(READERS)}.")
    return dict(sorted(names.items()))


def _missing(source: str) -> str:
    """What to say of a source that is not there: the nearest name in its folder, the name after FOLDER: kept."""
    folder, colon, name = source.rpartition(":")
    path = Path(folder if colon else source)
    if not path.parent.is_dir():
        return f"There is no file {source}, nor a folder {path.parent}; check the path."
    there = [entry.name for entry in path.parent.iterdir() if (entry.is_dir() if colon else entry.name != path.name)]
    near = difflib.get_close_matches(path.name, there, n=1)
    remedy = f"did you mean {path.with_name(near[0])}{colon}{name if colon else ''}?" if near else "check the path."
    return f"There is no file {source}; {remedy}"


def _read_text(path: Path) -> str:
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}, line {line}: this is not UTF-8 text; save the file as UTF-8.") from None


def _read_json(path: Path) -> Iterator[tuple[str, Any]]:
    text = _read_text(path)
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
                f"{path}, line {number}: this is not valid JSON ({why}); write one object a line or one array."
            ) from None


def _read_csv(path: Path) -> Iterator[tuple[str, Any]]:
    with _long_cells():
        rows = list(_csv_rows(path))
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


def _csv_rows(path: Path) -> Iterator[tuple[str, Any]]:
    reader = csv.DictReader(io.StringIO(_read_text(path), newline=""), strict=True)
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


def _read_parquet(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UserError(f"{path}: a .parquet file needs pyarrow; {INSTALL}.") from None
    data = pyarrow.BufferReader(path.read_bytes())
    try:
        rows = parquet.ParquetFile(data).read().to_pylist()
    except (pyarrow.ArrowException, ValueError, OSError) as error:  # OSError is what it says of broken content
        raise UserError(f"{path} is not a readable Parquet file ({first_line(error)}); write it again.") from None
    yield from numbered(rows)


READERS: dict[str, Callable[[Path], Iterator[tuple[str, Any]]]] = {
    ".jsonl": _read_json,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}


def first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
