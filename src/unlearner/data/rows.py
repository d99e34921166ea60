"""From the rows of a source to records: every message names the row and what to do about it."""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from reprlib import repr as short
from typing import Any, NamedTuple

from unlearner.data.records import Record
from unlearner.data.shapes import proposed_columns, recognised
from unlearner.errors import UserError, half_character

FIELDS = frozenset(field.name for field in fields(Record) if field.compare) | {"text", "messages"}
"""The names that `columns` may map to a column of the file."""
TEXT_IGNORED = "have a text besides question and answer, which is ignored"
PAIR_IGNORED = "have a question and an answer besides the text, which are ignored"


class _Row(NamedTuple):
    """A row of a source, read under our field names; `where` opens every message about it."""

    where: str
    cells: Mapping[str, Any]
    columns: Mapping[str, str]
    remarks: Sequence[str] = ()

    def record(self) -> Record:
        document = self.is_document()
        remarks = list(self.remarks)
        if self.filled("text") and (self.filled("question") or self.filled("answer")):
            remarks.append(PAIR_IGNORED if document else TEXT_IGNORED)
        return Record(
            question=None if document else self.required("question"),
            answer=self.required("text" if document else "answer"),
            paraphrased_answer=self.text("paraphrased_answer"),
            perturbed_answer=self.texts("perturbed_answer"),
            original_answer=self.text("original_answer"),
            subject=self.label(self.subject_field()),
            task_id=self.label("task_id"),
            fact=self.fact(),
            alternate_answer=self.texts("alternate_answer", one=True),
            place=self.where,
            remarks=tuple(remarks),
        )

    def fact(self) -> str | None:
        """As it is written, or a list of alternatives with `|` between them."""
        value = self.optional("fact")
        return self.text("fact") if value is None or isinstance(value, str) else "|".join(self.texts("fact"))

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

    def texts(self, field: str, *, one: bool = False) -> tuple[str, ...]:
        """A list; with `one` also a text by itself."""
        value = self.optional(field)
        kind = f"a {'text or a ' * one}list of texts, none of them empty"
        if isinstance(value, str) and not (one and not value.lstrip().startswith("[")):
            try:  # the way a list is written in a CSV cell
                value = parse_json(value)
            except ValueError:
                if not one:
                    raise self.wrong(field, value, kind) from None
        if isinstance(value, str) and one:
            value = [value]
        if value is None:
            return ()
        if hasattr(value, "tolist"):  # a cell of a DataFrame read from Parquet is an array
            value = value.tolist()
        if not isinstance(value, list | tuple) or not all(isinstance(item, str) and item.strip() for item in value):
            raise self.wrong(field, value, kind)
        return tuple(self.checked(field, item, kind) for item in value)

    def checked(self, field: str, value: Any, kind: str) -> str:
        """The value if it is text that a tokenizer can take: JSON can escape half a surrogate pair, UTF-8 cannot."""
        if not isinstance(value, str):
            raise self.wrong(field, value, kind)
        if half := half_character(value):
            raise UserError(
                f"{self.where}: {self.column(field)!r} holds half a character ({half}); correct or remove it."
            )
        return value

    def wrong(self, field: str, value: Any, kind: str) -> UserError:
        return UserError(f"{self.where}: {self.column(field)!r} must be {kind}, not {short(value)}.")

    def no_column(self, column: str) -> UserError:
        there = ", ".join(map(repr, self.cells)) or "none"
        wanted = column in ("question", "answer") and column not in self.columns.values()
        proposed = proposed_columns(self.cells, FIELDS) if wanted else None
        remedy = f"did you mean {proposed}?" if proposed else "add it or map it in columns."
        return UserError(f"{self.where}: there is no column {column!r} (there: {there}); {remedy}")


def _empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


class Cells(dict[str, Any]):
    """A JSON object; `twice` are the keys that stand in it more than once, of which the last counts."""

    twice: tuple[str, ...] = ()

    @classmethod
    def of(cls, pairs: list[tuple[str, Any]]) -> "Cells":
        made = cls(pairs)
        if len(made) < len(pairs):
            names = [name for name, _ in pairs]
            made.twice = tuple(name for name in made if names.count(name) > 1)
        return made


def parse_json(text: str | bytes) -> Any:
    """The value; whatever json raises for a text comes as ValueError, its message in `args[0]`."""
    try:
        return json.loads(text, object_pairs_hook=Cells.of)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def numbered(rows: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    """Rows with their places: "row 1", "row 2", ..."""
    return ((f"row {number}", row) for number, row in enumerate(rows, start=1))


def rows_in_memory(rows: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The rows of a list, a `datasets.Dataset` or a pandas DataFrame, with their places.

    Raises UserError for anything else. Neither library is imported: who has such an object has imported it.
    """
    pandas, datasets = sys.modules.get("pandas"), sys.modules.get("datasets")
    if pandas is not None and isinstance(rows, pandas.DataFrame):
        return numbered(rows.astype(object).where(rows.notna(), None).to_dict("records"))
    if isinstance(rows, Mapping):  # a DatasetDict, or columns
        raise UserError(f"{name} is not a set of rows, but holds {', '.join(map(str, rows))}: give one of them.")
    if datasets is not None and isinstance(rows, datasets.Dataset):
        return numbered(rows.to_list())
    if not isinstance(rows, Iterable):
        raise UserError(f"{name} is not data: give a path, a source, a list of dicts, a Dataset or a DataFrame.")
    return numbered(rows)


def make_records(
    name: str, rows: Iterable[tuple[str, Any]], columns: Mapping[str, str], where: str = "{name}, {place}"
) -> list[Record]:
    """The records of `rows`, which come with their place in the source called `name`; a `Record` stays as it is.

    `where` is how a message begins. Raises UserError for rows that cannot be used, or where there are none.
    """
    found: list[_Row | Record] = []
    for place, cells in rows:
        at = where.format(name=name, place=place)
        if isinstance(cells, Record):
            found.append(cells)
            continue
        if not isinstance(cells, Mapping):
            raise UserError(
                f"{at}: a row must be an object with named fields such as "
                f'{{"question": ..., "answer": ...}}, not {short(cells)}.'
            )
        remarks = [f"have the key {key!r} twice; the last one counts" for key in getattr(cells, "twice", ())]
        named, more = recognised(cells, columns, at)
        found.append(_Row(at, named, columns, remarks + more))
    if not found:
        raise UserError(f"{name} has no rows; give it at least one row with a question and an answer, or a text.")
    # A row may do without `text`, or without question and answer; a column that no row has is a typing error.
    checked = [row for row in found if isinstance(row, _Row)]
    for column in columns.values() if checked else ():
        if not any(column in row.cells for row in checked):
            raise checked[0].no_column(column)
    return [row.record() if isinstance(row, _Row) else row for row in found]
