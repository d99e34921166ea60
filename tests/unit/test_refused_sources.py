"""What a source is refused for: one sentence that names file and row."""

import json
from pathlib import Path
from typing import Any

import pytest
from test_sources import ROWS, refusal, write_csv, write_lines, write_parquet

from unlearner.data.sources import load_records

# What is refused: sources


def test_missing_files(tmp_path: Path) -> None:
    write_lines(tmp_path / "forget.jsonl", *ROWS)
    assert refusal(tmp_path / "forgte.jsonl") == (
        f"There is no file {tmp_path}/forgte.jsonl; did you mean {tmp_path}/forget.jsonl?"
    )
    assert refusal(tmp_path / "xyz.csv") == f"There is no file {tmp_path}/xyz.csv; check the path."
    assert f"nor a folder {tmp_path}/no" in refusal(tmp_path / "no/a.jsonl")
    assert "forget.jsonl/a.jsonl" in refusal(tmp_path / "forget.jsonl/a.jsonl")
    assert refusal(f"{tmp_path}/forget.jsonl:forget").endswith("check the path.")
    long = "x" * 5000
    assert "cannot be read (File name too long)" in refusal(tmp_path / long)


def test_folders(tmp_path: Path) -> None:
    folder = tmp_path / "tofu"
    folder.mkdir()
    known = ".jsonl, .json, .csv, .parquet, .txt, .md"
    assert refusal(folder) == f"{folder} holds no data files; it needs some that end in {known}."
    write_lines(folder / "retain90.jsonl", *ROWS)
    write_lines(folder / "forget01.json", *ROWS)
    (folder / "README.md").write_text("no data")
    assert refusal(folder) == (
        f"{folder} is a folder; name one of its files, as in {folder}:forget01 (there: forget01, retain90)."
    )
    assert refusal(f"{folder}:forget1") == f"{folder} has no file named 'forget1'; did you mean 'forget01'?"
    assert refusal(f"{folder}:xyz") == f"{folder} has no file named 'xyz'; choose from forget01, retain90."
    assert refusal(f"{tmp_path}/tofo:forget01").endswith(f"did you mean {folder}:forget01?")


@pytest.mark.parametrize("name", ["notes.doc", "data.jsonl.gz", "data"])
def test_unknown_extensions(tmp_path: Path, name: str) -> None:
    path = write_lines(tmp_path / name, *ROWS)
    known = ".jsonl, .json, .csv, .parquet, .txt, .md"
    assert refusal(path) == f"{path}: unknown extension {path.suffix!r}; use one of {known}."


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", ""),
        ("a.json", "\n \n"),
        ("a.json", "[]"),
        ("a.csv", ""),
        ("a.csv", "question,answer\n"),
    ],
)
def test_no_rows(tmp_path: Path, name: str, content: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    assert refusal(path).startswith(f"{path} has no rows; give it at least one row")


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_not_utf8(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"question,answer\nwho,me\n" + "où,là\n".encode("latin-1"))
    assert refusal(path) == f"{path}, line 3: this is not UTF-8 text; save the file as UTF-8."


def test_broken_json(tmp_path: Path) -> None:
    lines = write_lines(tmp_path / "a.jsonl", ROWS[0], "", '{"question": "q", "answer": "a"')
    assert refusal(lines).startswith(f"{lines}, line 3: this is not valid JSON (Expecting ',' delimiter);")
    array = tmp_path / "a.json"
    array.write_text('[\n{"question": "q", "answer": "a"}\n{"question": "q"}]')
    message = refusal(array)
    assert message.startswith(f"{array} is not valid JSON: Expecting ',' delimiter: line 3 column 1")
    deep = write_lines(tmp_path / "deep.jsonl", ROWS[0], '{"a":' * 200_000)
    assert refusal(deep).startswith(f"{deep}, line 2: this is not valid JSON (nested too deeply)")
    digits = write_lines(tmp_path / "digits.jsonl", '{"task_id": ' + "1" * 5000 + "}")
    assert refusal(digits).startswith(f"{digits}, line 1: this is not valid JSON (")


def test_a_csv_cell_may_hold_a_whole_book(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"text\n{'x' * 200_000}\n")
    assert len(load_records(path)[0].answer) == 200_000


def test_broken_csv(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    for row in ("Who, me,Ada", "Who"):
        path.write_text(f"question,answer\nq,a\n{row}\n")
        assert refusal(path).startswith(f"{path}, line 3: the row does not have as many cells as the header;")
    for line, text in [
        (1, 'question,"answer'),
        (2, 'question,answer\n"Who?,Ada\nq,a'),
        (3, 'question,answer\nq,a\n"Who?"s,Ada\n'),
    ]:
        path.write_text(text)
        assert refusal(path).startswith(f"{path}, line {line}: this is not valid CSV (")


def test_broken_parquet(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    path = write_lines(tmp_path / "a.parquet", *ROWS)
    assert refusal(path).startswith(f"{path} is not a readable Parquet file (")
    data = bytearray(write_parquet(path, ROWS).read_bytes())
    data[4:30] = b"\xff" * 26  # where the first page begins: pyarrow answers with an OSError of several lines
    path.write_bytes(data)
    assert refusal(path).startswith(f"{path} is not a readable Parquet file (")


# What is refused: rows and columns


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (["q", "a"], "a row must be an object with named fields"),
        ("null", "a row must be an object with named fields"),
        ({"question": "q"}, "there is no column 'answer' (there: 'question'); add it or map it in columns."),
        ({"answer": "a", "text": ""}, "there is no column 'question' (there: 'answer', 'text')"),
        ({}, "there is no column 'question' (there: none)"),
        ({"question": "", "answer": "a"}, "'question' is empty; fill it in or remove the row."),
        ({"question": None, "answer": "a"}, "'question' is empty"),
        ({"question": "q", "answer": "\t\n "}, "'answer' is empty"),
        ({"text": " "}, "'text' is empty"),
        ({"question": 5, "answer": "a"}, "'question' must be text, not 5."),
        ({"question": "q", "answer": ["a"]}, "'answer' must be text, not ['a']."),
        ({"text": {"a": 1}}, "'text' must be text, not {'a': 1}."),
        (ROWS[0] | {"paraphrased_answer": False}, "'paraphrased_answer' must be text, not False."),
        (ROWS[0] | {"perturbed_answer": "wrong"}, "'perturbed_answer' must be a list of texts, none of them empty"),
        (ROWS[0] | {"perturbed_answer": '{"a": 1}'}, "'perturbed_answer' must be a list of texts"),
        (ROWS[0] | {"perturbed_answer": ["w", 3]}, "none of them empty, not ['w', 3]."),
        (ROWS[0] | {"perturbed_answer": ["w", " "]}, "none of them empty, not ['w', ' ']."),
        (ROWS[0] | {"task_id": 1.5}, "'task_id' must be text or a whole number, not 1.5."),
        (ROWS[0] | {"task_id": True}, "'task_id' must be text or a whole number, not True."),
        (ROWS[0] | {"subject": {}}, "'subject' must be text or a whole number, not {}."),
        ('{"question": "q", "answer": "\\ud83d"}', r"'answer' holds half a character (\ud83d); correct or remove it."),
    ],
)
def test_bad_rows(tmp_path: Path, row: Any, message: str) -> None:
    path = write_lines(tmp_path / "forget.jsonl", ROWS[0], "", row)
    refused = refusal(path)
    assert refused.startswith(f"{path}, line 3: ")
    assert message in refused
    array = tmp_path / "array.json"
    array.write_text(f"[{json.dumps(ROWS[0])}, {row if isinstance(row, str) else json.dumps(row)}]")
    assert refusal(array) == refused.replace(f"{path}, line 3", f"{array}, row 2")


def test_bad_cells_and_values(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", [*ROWS, {"question": "q", "answer": " "}])
    assert refusal(path).startswith(f"{path}, line 5: 'answer' is empty")  # the second row takes two lines
    path = write_csv(tmp_path / "a.csv", [ROWS[0] | {"perturbed_answer": "one; two"}])
    assert refusal(path).startswith(f"{path}, line 2: 'perturbed_answer' must be a list of texts")
    path = write_parquet(tmp_path / "a.parquet", [{"question": "q", "answer": 1}])
    assert refusal(path) == f"{path}, row 1: 'answer' must be text, not 1."


def test_bad_columns(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", ROWS[0] | {"golden": "g", "who": "w"}, ROWS[1] | {"who": "w"})
    assert refusal(path, {"anser": "golden"}) == "columns: there is no field 'anser'; did you mean 'answer'?"
    nowhere = f"{path}, line 1: there is no column 'gold' (there: 'question', 'answer', 'golden', 'who');"
    for field in ("answer", "text", "original_answer", "task_id", "perturbed_answer"):
        assert refusal(path, {field: "gold"}).startswith(nowhere)
    not_in_the_second = f"{path}, line 2: there is no column 'golden' (there: 'question', 'answer', 'who');"
    for field in ("answer", "original_answer", "subject"):
        assert refusal(path, {field: "golden"}).startswith(not_in_the_second)
    write_lines(path, ROWS[0] | {"golden": ""})
    assert refusal(path, {"answer": "golden"}).startswith(f"{path}, line 1: 'golden' is empty")
