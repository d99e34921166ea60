"""Where records come from: a file, a folder in TOFU's layout, the Hugging Face hub, the built-in generator, a plug-in,
or rows in memory.

A row needs `question` and `answer`, or `text` alone for a plain document; the other fields of `Record` are optional
and every further column is ignored. Texts are kept as they are: stripping would change the tokens.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from unlearner.console import note
from unlearner.data.benchmarks import is_benchmark, read_benchmark
from unlearner.data.builtin import read_builtin
from unlearner.data.hub import read_hub
from unlearner.data.readers import find_file, read_documents, read_rows
from unlearner.data.records import Record
from unlearner.data.rows import FIELDS, make_records, numbered, rows_in_memory
from unlearner.data.shapes import PAIRS
from unlearner.errors import UserError, did_you_mean, first_line
from unlearner.plugins import load_object, load_plugins

TOFU_FILE = re.compile(r"(forget|retain|holdout|full)(\d+(_perturbed)?|_perturbed|(?<=full))")
TOFU_ROWS_PER_AUTHOR = 20
MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
SLICE = re.compile(r"(?P<source>.+)\[(?P<first>-?\d+)?:(?P<last>-?\d+)?\]")

Source = str | Path | Iterable[Mapping[str, Any] | Record]
"""What `load_records` takes."""


def load_records(source: Source, columns: Mapping[str, str] | None = None, *, name: str = "") -> list[Record]:
    """The records of a source, in its order.

    `source` is one of

    - a file: `.jsonl` or `.json` (an array of objects, or one object per line: the content decides), `.csv` (a list is
      written as JSON in its cell) or `.parquet`; or `-`, standard input, or a named pipe (JSON if it begins so, else
      CSV);
    - a document: `.txt` or `.md`; or a folder of documents, in the order of their names;
    - `FOLDER:NAME`, TOFU's layout: `path/to/tofu:forget01` reads `forget01.json` (or `.jsonl`, ...) in that folder;
    - `hub:OWNER/NAME:CONFIG:SPLIT`, config and split optional (`hub:OWNER/NAME::SPLIT` gives the split alone);
      a local dataset folder may stand in the place of OWNER/NAME;
    - `muse:`, `wmdp:`, `rwku:`, `lume:`, `knowundo:`, `pistol:`: data sets of the field, see `data/benchmarks.py`;
    - `builtin:NAME` or `builtin:NAME:people=100,seed=3`, options as in `unlearner.data.profiles.builtin`;
    - `PLUGIN:SPEC`, where an installed package has an entry point PLUGIN in the group `unlearner.sources`: a function
      of SPEC that gives the rows as mappings; or `module:NAME:SPEC`, such a function in any module;
    - rows in memory: a list (or any other iterable) of dicts or of `Record`s, a `datasets.Dataset`, a pandas DataFrame.
      Messages about them say "row 3 of the list given as NAME", with `name` for NAME.

    All but the last may end in a slice of rows: `path/to/tofu:retain90[:360]`.

    `columns` maps our field names to the source's column names, `{"answer": "golden_answer"}`; a field that is not in
    it is read from the column of its own name. Built-in data and documents have no columns and ignore it. Rows with
    none of our names are read as chats of one question and answer (`messages`), or by the names of `shapes.PAIRS`.

    The subject comes from the column `subject` or, in rows without one and with no mapping, from text in `name`
    (the paper's real-world files). TOFU's files name nobody, but hold 20 consecutive rows per author: read as
    `FOLDER:forget05`, `FOLDER:retain_perturbed` and so on, their rows get the subjects "forget author 1", "forget
    author 2", ... Each of the continual files begins with the smaller one (forget01, forget05, forget10; likewise
    retain10, retain50, retain90), so one author has one name in all of them.

    Raises `UserError` for everything that the user can correct.
    """
    columns = columns or {}
    for field in columns:
        if field not in FIELDS:
            raise UserError(f"columns: there is no field {field!r}; {did_you_mean(field, FIELDS)}")
    if not isinstance(source, str | Path):
        given = f"the {type(source).__name__}" + (f" given as {name}" if name else "")
        return make_records(given, rows_in_memory(source, given), columns, "{place} of {name}")
    text = str(source)
    if cut := SLICE.fullmatch(text):
        whole = load_records(cut["source"], columns)
        chosen = whole[slice(*(int(end) if end else None for end in cut.group("first", "last")))]
        if not chosen:
            raise UserError(f"{text} selects none of the {len(whole)} rows; choose other ends.")
        return chosen
    return _read(text, columns)


def _read(source: str, columns: Mapping[str, str]) -> list[Record]:
    """All records of what a source names: its prefix says how, and without one it is a path."""
    prefix, colon, spec = source.partition(":")
    if colon and prefix == "builtin":
        return read_builtin(spec)
    if colon and prefix == "hub":
        records = make_records(source, _without_empty(source, read_hub(spec), columns), columns)
        name, _, config = spec.partition(":")
        return _name_authors(config.partition(":")[0], records) if name.endswith("/TOFU") else records
    if colon and is_benchmark(prefix, spec):
        rows = read_benchmark(prefix, spec)
        return make_records(source, _without_empty(source, rows, columns) if prefix == "wmdp" else rows, columns)
    if colon and (plugin := load_plugins("unlearner.sources").get(prefix)) is not None:
        return make_records(source, numbered(_asked(plugin, source, spec)), columns)
    if colon and _is_module(prefix) and not (Path(source).exists() or Path(prefix).is_dir()):
        name, _, spec = spec.partition(":")
        return make_records(source, numbered(_asked(load_object(f"{prefix}:{name}"), source, spec)), columns)
    try:
        if (documents := read_documents(source)) is not None:
            return make_records(source, documents, {})
        path = find_file(source)
        records = make_records("standard input" if source == "-" else str(path), read_rows(path), columns)
    except OSError as error:
        raise UserError(
            f"{source} cannot be read ({error.strerror or error}); check the path and its permissions."
        ) from error
    return records if path == Path(source) else _name_authors(path.stem, records)


def _without_empty(source: str, rows: Iterable[tuple[str, Any]], columns: Mapping[str, str]) -> list[tuple[str, Any]]:
    """The rows but for empty ones of a corpus, of which a note gives the number: a blank line of WikiText is a row."""
    rows, text = list(rows), columns.get("text", "text")
    asked = {columns.get(field, field) for field in ("question", "answer", "messages")}.union(*PAIRS)
    left = [
        (where, cells)
        for where, cells in rows
        if not isinstance(cells, Mapping) or text not in cells or asked & cells.keys() or str(cells[text] or "").strip()
    ]
    if len(left) < len(rows):
        note(f"{source}: {len(rows) - len(left):,} of {len(rows):,} rows are empty and were left out")
    return left


def _is_module(name: str) -> bool:
    """Whether it names a module that Python finds."""
    return bool(MODULE.fullmatch(name)) and find_spec(name.partition(".")[0]) is not None


def _asked(plugin: Callable[[str], Iterable[Mapping[str, Any]]], source: str, spec: str) -> list[Mapping[str, Any]]:
    """All rows of a plug-in's source. Raises UserError where the plug-in fails, whatever it raises."""
    try:
        return list(plugin(spec))
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{source} cannot be loaded ({type(error).__name__}: {first_line(error)}); check what follows the colon."
        ) from error


def _name_authors(name: str, records: list[Record]) -> list[Record]:
    """Subjects for a file of TOFU's, which is known by its name; see `load_records`."""
    file = TOFU_FILE.fullmatch(name)
    if not file or len(records) % TOFU_ROWS_PER_AUTHOR or any(record.subject for record in records):
        return records
    return [
        replace(record, subject=f"{file[1]} author {row // TOFU_ROWS_PER_AUTHOR + 1}")
        for row, record in enumerate(records)
    ]


# ---------------------------------------------------------------------------------------------------------------- tasks


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
