"""Where records come from: a file, a folder in TOFU's layout, the Hugging Face hub, or the built-in generator.

A row needs `question` and `answer`, or `text` alone for a plain document; the other fields of `Record` are optional
and every further column is ignored. Texts are kept as they are: stripping would change the tokens.
"""

import csv
import difflib
import inspect
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from reprlib import repr as short
from typing import Any, NamedTuple

from unlearner.data.records import Record
from unlearner.errors import UserError, did_you_mean

FIELDS = frozenset(field.name for field in fields(Record)) | {"text"}
"""The names that `columns` may map to a column of the file."""

TOFU_FILE = re.compile(r"(forget|retain)(\d+(_perturbed)?|_perturbed)")
TOFU_ROWS_PER_AUTHOR = 20

SLICE = re.compile(r"(?P<source>.+)\[(?P<first>\d*):(?P<last>\d*)\]")

_INSTALL = 'install it with: pip install "unlearner[data]"'


def load_records(source: Any, columns: Mapping[str, str] | None = None) -> list[Record]:
    """The records of a source, in its order.

    `source` is one of

    - a file: `.jsonl` or `.json` (an array of objects, or one object a line: the content decides), `.csv` (a list is
      written as JSON in its cell) or `.parquet`;
    - `FOLDER:NAME`, TOFU's layout: `path/to/tofu:forget01` reads `forget01.json` (or `.jsonl`, ...) in that folder;
    - `hub:OWNER/NAME:CONFIG:SPLIT`, config and split optional (`hub:OWNER/NAME::SPLIT` gives the split alone);
      a local dataset folder may stand in the place of OWNER/NAME;
    - `builtin:NAME` or `builtin:NAME:people=100,seed=3`, options as in `unlearner.data.profiles.builtin`.

    Any of them may end in a slice of rows: `path/to/tofu:retain90[:360]`. Or it is data in memory: a list of dicts or
    Records, a `datasets.Dataset` or a pandas DataFrame.

    `columns` maps our field names to the source's column names, `{"answer": "golden_answer"}`; a field that is not in
    it is read from the column of its own name. Built-in data have no columns and ignore it.

    The subject comes from the column `subject` or, in rows without one and with no mapping, from text in `name`
    (the paper's real-world files). TOFU's files name nobody, but hold 20 consecutive rows per author: read as
    `FOLDER:forget05`, `FOLDER:retain_perturbed` and so on, their rows get the subjects "forget author 1", "forget
    author 2", ... Each of the continual files begins with the smaller one (forget01, forget05, forget10; likewise
    retain10, retain50, retain90), so one author has one name in all of them.

    Raises `UserError` for everything that the user can mend.
    """
    columns = columns or {}
    for field in columns:
        if field not in FIELDS:
            raise UserError(f"columns: there is no field {field!r}; {did_you_mean(field, FIELDS)}")
    if not isinstance(source, str | Path):
        return _in_memory(source, columns)
    if cut := SLICE.fullmatch(str(source)):
        whole = load_records(cut["source"], columns)
        chosen = whole[slice(*(int(end) if end else None for end in cut.group("first", "last")))]
        if not chosen:
            raise UserError(f"{source} takes none of the {len(whole)} rows; choose other ends.")
        return chosen
    name = str(source)
    if name.startswith("builtin:"):
        return _builtin(name.removeprefix("builtin:"))
    if name.startswith("hub:"):
        return _records(name, _hub(name.removeprefix("hub:")), columns)
    try:
        path = _find(name)
        records = _records(str(path), _READERS[path.suffix.lower()](path), columns)
    except OSError as error:
        raise UserError(
            f"{source} cannot be read ({error.strerror or error}); check the path and its rights."
        ) from error
    return records if path == Path(source) else _name_authors(path.stem, records)


def select_task(records: Iterable[Record], task_id: str | int) -> list[Record]:
    """The records of one task of continual unlearning."""
    records = list(records)
    chosen = [record for record in records if record.task_id == str(task_id)]
    if not chosen:
        tasks = _tasks(records)
        remedy = f"choose from {', '.join(tasks)}." if tasks else "none of the records has a task_id."
        raise UserError(f"There is no task {str(task_id)!r}; {remedy}")
    return chosen


def later_tasks(records: Iterable[Record], task_id: str | int) -> list[Record]:
    """The records of all tasks that come after this one: what a continual run still has to keep."""
    records = list(records)
    tasks = _tasks(records)
    later = tasks[tasks.index(str(task_id)) + 1 :]
    return [record for record in records if record.task_id in later]


def earlier_tasks(records: Iterable[Record], task_id: str | int) -> list[str]:
    """The tasks that come before this one."""
    tasks = _tasks(records)
    return tasks[: tasks.index(str(task_id))]


def _tasks(records: Iterable[Record]) -> list[str]:
    """The tasks in the order in which they first occur."""
    return list(dict.fromkeys(record.task_id for record in records if record.task_id is not None))


def duplicates(a: Iterable[Record], b: Iterable[Record]) -> int:
    """How many rows of `a` also occur in `b`, question and answer: what is to be forgotten should not be retained."""
    pairs = {(record.question, record.answer) for record in b}
    return sum((record.question, record.answer) in pairs for record in a)


def _in_memory(source: Any, columns: Mapping[str, str]) -> list[Record]:
    """The records of a list, a Dataset or a DataFrame; an empty cell of the latter may be None or NaN."""
    name = f"the {type(source).__name__} in memory"
    if isinstance(source, list | tuple):
        rows = source
        if rows and all(isinstance(row, Record) for row in rows):
            return list(rows)
    elif hasattr(source, "to_dict") and hasattr(source, "itertuples"):
        rows = source.astype(object).where(source.notna(), None).to_dict("records")
    elif hasattr(source, "column_names") and not isinstance(source.column_names, dict):
        rows = source
    else:
        raise UserError(f"{name} is no data: give a source, a list of dicts, a Dataset or a DataFrame.")
    return _records(name, ((f"row {number}", row) for number, row in enumerate(rows, start=1)), columns)


# From rows to records


class _Row(NamedTuple):
    """A row of a source, read under our field names; `where` opens every message about it."""

    where: str
    cells: Mapping[str, Any]
    columns: Mapping[str, str]

    def record(self) -> Record:
        document = self.is_document()
        return Record(
            question=None if document else self.required("question"),
            answer=self.required("text" if document else "answer"),
            paraphrased_answer=self.text("paraphrased_answer"),
            perturbed_answer=self.texts("perturbed_answer"),
            original_answer=self.text("original_answer"),
            subject=self.label(self.subject_field()),
            task_id=self.label("task_id"),
            fact=self.text("fact"),
        )

    def is_document(self) -> bool:
        """Question and answer go before `text`, unless `text` was asked for by mapping it and they were not."""
        pair = self.filled("question") or self.filled("answer")
        if pair and "text" in self.columns and not {"question", "answer"} & self.columns.keys():
            return self.filled("text")
        return not pair and self.column("text") in self.cells

    def subject_field(self) -> str:
        taken = "subject" in self.columns or "subject" in self.cells or "name" in self.columns.values()
        return "subject" if taken or not isinstance(self.cells.get("name"), str) else "name"

    def column(self, field: str) -> str:
        return self.columns.get(field, field)

    def filled(self, field: str) -> bool:
        return not _empty(self.cells.get(self.column(field)))

    def required(self, field: str) -> str:
        column = self.column(field)
        if column not in self.cells:
            raise self.no_column(column)
        text = self.text(field)
        if text is None:
            raise UserError(f"{self.where}: {column!r} is empty; fill it in or remove the row.")
        return text

    def optional(self, field: str) -> Any:
        """The value, None if it is empty or its column is not there; a column that was mapped must be there."""
        column = self.column(field)
        if field in self.columns and column not in self.cells:
            raise self.no_column(column)
        value = self.cells.get(column)
        return None if _empty(value) else value

    def text(self, field: str) -> str | None:
        value = self.optional(field)
        return None if value is None else self.checked(field, value, "text")

    def label(self, field: str) -> str | None:
        value = self.optional(field)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        return None if value is None else self.checked(field, value, "text or a whole number")

    def texts(self, field: str) -> tuple[str, ...]:
        value = self.optional(field)
        kind = "a list of texts, none of them empty"
        if isinstance(value, str):  # the way a list is written in a CSV cell
            try:
                value = _parse_json(value)
            except ValueError:
                raise self.wrong(field, value, kind) from None
        if value is None:
            return ()
        if not isinstance(value, list | tuple) or not all(isinstance(item, str) and item.strip() for item in value):
            raise self.wrong(field, value, kind)
        return tuple(self.checked(field, item, kind) for item in value)

    def checked(self, field: str, value: Any, kind: str) -> str:
        """The value if it is text that a tokenizer can take: JSON can escape half a surrogate pair, UTF-8 cannot."""
        if not isinstance(value, str):
            raise self.wrong(field, value, kind)
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError as error:
                half = f"\\u{ord(value[error.start]):x}"
                raise UserError(
                    f"{self.where}: {self.column(field)!r} holds half a character ({half}); correct or remove it."
                ) from None
        return value

    def wrong(self, field: str, value: Any, kind: str) -> UserError:
        return UserError(f"{self.where}: {self.column(field)!r} must be {kind}, not {short(value)}.")

    def no_column(self, column: str) -> UserError:
        there = ", ".join(map(repr, self.cells)) or "none"
        return UserError(f"{self.where}: there is no column {column!r} (there: {there}); add it or map it in columns.")


def _empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _records(name: str, rows: Iterable[tuple[str, Any]], columns: Mapping[str, str]) -> list[Record]:
    """The records of `rows`, which come with their place in the source called `name`."""
    checked = []
    for place, cells in rows:
        if not isinstance(cells, dict):
            raise UserError(
                f"{name}, {place}: a row must be an object with named fields such as "
                f'{{"question": ..., "answer": ...}}, not {short(cells)}.'
            )
        checked.append(_Row(f"{name}, {place}", cells, columns))
    if not checked:
        raise UserError(f"{name} has no rows; give it at least one row with a question and an answer, or a text.")
    # A row may do without `text`, or without question and answer; a column that no row has is a typing error.
    for column in columns.values():
        if not any(column in row.cells for row in checked):
            raise checked[0].no_column(column)
    return [row.record() for row in checked]


def _name_authors(name: str, records: list[Record]) -> list[Record]:
    """Subjects for a file of TOFU's, which is known by its name; see `load_records`."""
    file = TOFU_FILE.fullmatch(name)
    if not file or len(records) % TOFU_ROWS_PER_AUTHOR or any(record.subject for record in records):
        return records
    return [
        replace(record, subject=f"{file[1]} author {row // TOFU_ROWS_PER_AUTHOR + 1}")
        for row, record in enumerate(records)
    ]


# Files


def _find(source: str) -> Path:
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
    if path.suffix.lower() not in _READERS:
        raise UserError(f"{path}: unknown extension {path.suffix!r}; use one of {', '.join(_READERS)}.")
    return path


def _names(folder: Path) -> dict[str, Path]:
    """The folder's data files by name without extension; of several, the extension listed first in `_READERS`."""
    names: dict[str, Path] = {}
    for extension in reversed(_READERS):
        names |= {file.stem: file for file in folder.glob(f"*{extension}") if file.is_file()}
    if not names:
        raise UserError(f"{folder} holds no data files; it needs some that end in {', '.join(_READERS)}.")
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


def _parse_json(text: str) -> Any:
    """The value; whatever json raises for a text comes as ValueError, its message in `args[0]`."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _read_json(path: Path) -> Iterator[tuple[str, Any]]:
    text = _read_text(path)
    if text.lstrip().startswith("["):
        try:
            rows = _parse_json(text)
        except ValueError as error:  # json's own message ends in the line
            raise UserError(f"{path} is not valid JSON: {error}; correct that place.") from None
        yield from ((f"row {number}", row) for number, row in enumerate(rows, start=1))
        return
    # Not splitlines: U+2028 and its kin may stand inside a JSON string.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield f"line {number}", _parse_json(line)
        except ValueError as error:
            why = getattr(error, "msg", error)
            raise UserError(
                f"{path}, line {number}: this is not valid JSON ({why}); write one object a line or one array."
            ) from None


def _read_csv(path: Path) -> Iterator[tuple[str, Any]]:
    csv.field_size_limit(2**31 - 1)  # documents are longer than the 131,072 characters that are allowed by default
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
                    f"{path}, line {last}: the row has not as many cells as the header; "
                    "put texts with commas in double quotes."
                )
            yield f"line {last}", cells
    except csv.Error as error:
        raise UserError(
            f"{path}, line {last + 1}: this is not valid CSV ({error}); mend it, or save the data as JSON lines."
        ) from None


def _read_parquet(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UserError(f"{path}: a .parquet file needs pyarrow; {_INSTALL}.") from None
    data = pyarrow.BufferReader(path.read_bytes())
    try:
        rows = parquet.ParquetFile(data).read().to_pylist()
    except (pyarrow.ArrowException, ValueError, OSError) as error:  # OSError is what it says of broken content
        raise UserError(f"{path} is not a readable Parquet file ({_first_line(error)}); write it again.") from None
    yield from ((f"row {number}", row) for number, row in enumerate(rows, start=1))


_READERS: dict[str, Callable[[Path], Iterator[tuple[str, Any]]]] = {
    ".jsonl": _read_json,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}


# Not files


def _hub(spec: str) -> Iterator[tuple[str, Any]]:
    name, config, split, *more = [*spec.split(":"), "", ""]
    if not name or any(more):
        raise UserError(f"hub:{spec}: write hub:OWNER/NAME, hub:OWNER/NAME:CONFIG or hub:OWNER/NAME:CONFIG:SPLIT.")
    try:
        from datasets import load_dataset
    except ImportError:
        raise UserError(f"hub:{spec} needs the datasets library; {_INSTALL}.") from None
    try:
        data = load_dataset(name, config or None, split=split or None)
    except Exception as error:  # datasets, huggingface_hub, httpx and the file formats each raise their own
        raise UserError(
            f"hub:{spec} cannot be loaded ({_first_line(error)}); "
            "check the name, config, split and network, or give a file instead."
        ) from error
    if isinstance(data, dict):
        if len(data) > 1:
            choice = f"hub:{name}:{config}:{next(iter(data))}"
            raise UserError(f"hub:{spec} has the splits {', '.join(data)}; choose one, as in {choice}.")
        (data,) = data.values()
    yield from ((f"row {number}", row) for number, row in enumerate(data.to_list(), start=1))


def _builtin(spec: str) -> list[Record]:
    from unlearner.data.profiles import builtin

    name, _, options = spec.partition(":")
    known = [option for option in inspect.signature(builtin).parameters if option != "name"]
    chosen: dict[str, int] = {}
    for option in filter(None, options.split(",")):
        key, _, value = option.partition("=")
        if key not in known:
            raise UserError(f"builtin:{spec}: there is no option {key!r}; {did_you_mean(key, known)}")
        try:
            chosen[key] = int(value)
        except ValueError:
            raise UserError(f"builtin:{spec}: {key} must be a whole number, as in {key}=10, not {value!r}.") from None
    return builtin(name, **chosen)
