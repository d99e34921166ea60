"""Records from every kind of source, and one clear sentence for everything that can be wrong with one."""

import csv
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unlearner.data import profiles
from unlearner.data.quality import data_warnings
from unlearner.data.records import Record
from unlearner.data.sources import load_records, select_task
from unlearner.errors import UserError, install
from unlearner.plugins import load_plugins

ROWS: list[dict[str, Any]] = [
    {"question": "Who?", "answer": "Ada."},
    {"question": "Where?\nWhen?", "answer": " In “Łódź”,\u2028long ago. "},
]
RECORDS = [Record("Who?", "Ada."), Record("Where?\nWhen?", " In “Łódź”,\u2028long ago. ")]


def write_lines(path: Path, *rows: Any) -> Path:
    """JSON lines; a row given as a string is written as it stands."""
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def refusal(source: str | Path, columns: dict[str, str] | None = None) -> str:
    """The message with which `source` is refused: one line that ends as a sentence does."""
    with pytest.raises(UserError) as caught:
        load_records(source, columns)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith((".", "?"))
    return message


# What is read


def test_json_lines(tmp_path: Path) -> None:
    assert load_records(write_lines(tmp_path / "a.jsonl", *ROWS)) == RECORDS
    assert load_records(str(write_lines(tmp_path / "A.JSON", *ROWS))) == RECORDS


def test_json_lines_may_have_blank_lines_windows_line_ends_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n \r\n".join(json.dumps(row) for row in ROWS).encode())
    assert load_records(path) == RECORDS


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_json_array(tmp_path: Path, name: str, indent: int | None) -> None:
    (tmp_path / name).write_text("\n" + json.dumps(ROWS, indent=indent), encoding="utf-8")
    assert load_records(tmp_path / name) == RECORDS


def test_csv(tmp_path: Path) -> None:
    assert load_records(write_csv(tmp_path / "a.csv", ROWS)) == RECORDS
    cells = {"question": "Line ends\r\nstay\nas they are?", "answer": "Yes."}
    assert load_records(write_csv(tmp_path / "a.csv", [cells])) == [Record(cells["question"], cells["answer"])]


def test_parquet(tmp_path: Path) -> None:
    assert load_records(write_parquet(tmp_path / "a.parquet", ROWS)) == RECORDS


FULL = {
    "question": "q",
    "answer": "a",
    "paraphrased_answer": "p",
    "perturbed_answer": ["w, 1", "w “2”"],
    "original_answer": "o",
    "subject": "s",
    "task_id": 7,
    "fact": "f",
    "alternate_answer": ["x, 1", "y"],
    "paraphrased_question": "ignored",
    "name": "ignored, for there is a subject",
}
FULL_RECORD = Record("q", "a", "p", ("w, 1", "w “2”"), "o", "s", "7", "f", ("x, 1", "y"))


def test_every_field_in_every_format(tmp_path: Path) -> None:
    assert load_records(write_lines(tmp_path / "a.jsonl", FULL)) == [FULL_RECORD]
    assert load_records(write_parquet(tmp_path / "a.parquet", [FULL])) == [FULL_RECORD]
    in_cells = FULL | {name: json.dumps(FULL[name]) for name in ("perturbed_answer", "alternate_answer")}
    assert load_records(write_csv(tmp_path / "a.csv", [in_cells])) == [FULL_RECORD]


def test_an_alternate_answer_may_stand_by_itself(tmp_path: Path) -> None:
    """As the official data have it, a row for each; what begins like a list has to be one."""
    row = {"question": "q", "answer": "a", "alternate": "Another, perhaps."}
    (record,) = load_records(write_lines(tmp_path / "a.jsonl", row), {"alternate_answer": "alternate"})
    assert record.alternate_answer == ("Another, perhaps.",)
    (record,) = load_records(
        write_csv(tmp_path / "a.csv", [row | {"alternate": "[sic] another"}]), {"alternate_answer": "alternate"}
    )
    assert record.alternate_answer == ("[sic] another",)
    for wrong in (5, [""], [1], {"a": 1}):
        with pytest.raises(UserError, match="'alternate_answer' must be a text or a list of texts, none of them empty"):
            load_records(write_lines(tmp_path / "b.jsonl", {"question": "q", "answer": "a", "alternate_answer": wrong}))


def test_an_empty_optional_value_counts_as_absent(tmp_path: Path) -> None:
    optional = [
        "paraphrased_answer",
        "perturbed_answer",
        "original_answer",
        "subject",
        "task_id",
        "fact",
        "alternate_answer",
    ]
    for empty in (None, "", " \n"):
        row = {"question": "q", "answer": "a"} | dict.fromkeys(optional, empty)
        assert load_records(write_lines(tmp_path / "a.jsonl", row)) == [Record("q", "a")]
        assert load_records(write_csv(tmp_path / "a.csv", [row])) == [Record("q", "a")]
    assert load_records(write_lines(tmp_path / "a.jsonl", ROWS[0] | {"perturbed_answer": []})) == RECORDS[:1]


def test_task_id_may_be_text(tmp_path: Path) -> None:
    assert load_records(write_lines(tmp_path / "a.jsonl", ROWS[0] | {"task_id": "first"}))[0].task_id == "first"


def test_documents_and_questions_may_be_mixed(tmp_path: Path) -> None:
    records = [Record(None, "A long text."), Record("q", "a")]
    rows = [{"text": "A long text."}, {"question": "q", "answer": "a"}]
    assert load_records(write_lines(tmp_path / "a.jsonl", *rows)) == records
    cells = [{"text": "A long text.", "question": "", "answer": ""}, {"text": "", "question": "q", "answer": "a"}]
    assert load_records(write_csv(tmp_path / "a.csv", cells)) == records
    nulls = [{key: value or None for key, value in row.items()} for row in cells]
    assert load_records(write_parquet(tmp_path / "a.parquet", nulls)) == records


def test_text_beside_question_and_answer_is_ignored_unless_mapped(tmp_path: Path) -> None:
    row = {"question": "q", "answer": "a", "text": "q a"}
    path = write_lines(tmp_path / "a.jsonl", row)
    assert load_records(path) == [Record("q", "a")]
    assert load_records(path, {"text": "text"}) == [Record(None, "q a")]
    assert load_records(path, {"text": "text", "answer": "answer"}) == [Record("q", "a")]


def test_columns_map_our_names_to_the_files(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "a.jsonl", {"question": "q", "answer": "long", "golden_answer": "short", "who": "Ada"}
    )
    columns = {"answer": "golden_answer", "original_answer": "answer", "subject": "who"}
    assert load_records(path, columns) == [Record("q", "short", original_answer="long", subject="Ada")]


def test_a_mapped_document_column_may_be_absent_from_question_rows(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", {"body": "A text."}, ROWS[0])
    assert load_records(path, {"text": "body"}) == [Record(None, "A text."), RECORDS[0]]


def test_name_becomes_the_subject_unless_something_else_is(tmp_path: Path) -> None:
    named = ROWS[0] | {"name": "Ada"}
    path = write_lines(tmp_path / "a.jsonl", named)
    assert load_records(path)[0].subject == "Ada"
    assert load_records(path, {"fact": "name"})[0] == Record("Who?", "Ada.", fact="Ada")
    assert load_records(path, {"subject": "question"})[0].subject == "Who?"
    assert load_records(write_lines(tmp_path / "b.jsonl", named | {"name": {"first": "Ada"}}))[0].subject is None


# Documents, chats, other names, pipes


def test_a_text_file_is_a_document_and_a_folder_several(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("Second,\nas it stands.\n", encoding="utf-8")
    (tmp_path / "a.md").write_text("# First\n", encoding="utf-8")
    (tmp_path / "c.pdf").write_bytes(b"%PDF")
    records = [Record(None, "# First\n"), Record(None, "Second,\nas it stands.\n")]
    assert load_records(tmp_path) == load_records(tmp_path, {"question": "prompt"}) == records
    assert [record.place for record in load_records(tmp_path)] == [f"{tmp_path}, a.md", f"{tmp_path}, b.txt"]
    assert load_records(tmp_path / "b.txt") == load_records(f"{tmp_path}[1:]") == records[1:]
    (tmp_path / "b.txt").write_text(" \n", encoding="utf-8")
    assert refusal(tmp_path) == f"{tmp_path}, b.txt: 'text' is empty; fill it in or remove the row."


def turns(*roles: str) -> list[dict[str, str]]:
    return [{"role": role, "content": f"{role}."} for role in roles]


@pytest.mark.parametrize(
    ("row", "question", "answer"),
    [
        ({"messages": turns("user", "assistant")}, "user.", "assistant."),
        ({"messages": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, "q", "a"),
        ({"prompt": "q", "completion": "a"}, "q", "a"),
        ({"prompt": turns("user"), "completion": turns("assistant")}, "user.", "assistant."),
        ({"instruction": "q", "output": "a", "input": ""}, "q", "a"),
        ({"instruction": "Translate.", "input": "Haus", "output": "house"}, "Translate.\n\nHaus", "house"),
    ],
)
def test_rows_of_the_usual_shapes(row: dict[str, Any], question: str, answer: str, tmp_path: Path) -> None:
    assert load_records(write_lines(tmp_path / "a.jsonl", row)) == [Record(question, answer)]
    assert load_records([row]) == [Record(question, answer)]


def test_our_names_go_before_other_shapes(tmp_path: Path) -> None:
    row = {"question": "q", "answer": "a", "prompt": "p", "completion": "c", "messages": turns("user", "assistant")}
    path = write_lines(tmp_path / "a.jsonl", row)
    assert load_records(path) == [Record("q", "a")]
    assert load_records(path, {"question": "prompt", "answer": "completion"}) == [Record("p", "c")]
    renamed = write_lines(tmp_path / "b.jsonl", {"talk": turns("user", "assistant")})
    assert load_records(renamed, {"messages": "talk"}) == [Record("user.", "assistant.")]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": turns("user", "assistant", "user", "assistant")}, "not user, assistant, user, assistant; make a"),
        ({"messages": []}, "must be one question and its answer, not none"),
        ({"messages": "hello"}, "must be a list of objects with role and content, not 'hello'."),
        ({"Prompt": "q", "reply": "a", "id": 3}, "did you mean --columns question Prompt answer reply?"),
        ({"question": "q", "the reply": "a"}, "there is no column 'answer' (there: 'question', 'the reply'); add it"),
        ({"answer": "a", "query": "q"}, "did you mean --columns question query?"),
        ({"Frage": "q", "die Antwort": "a"}, "did you mean --columns question Frage answer 'die Antwort'?"),
    ],
)
def test_other_shapes_are_answered_with_what_to_do(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    told = refusal(write_lines(tmp_path / "a.jsonl", row))
    assert told.startswith(f"{tmp_path}/a.jsonl, line 1: ") and message in told


@pytest.mark.parametrize("content", ['{"question": "q", "answer": "a"}\n', "question,answer\nq,a\n"])
def test_standard_input_and_named_pipes(content: str, tmp_path: Path) -> None:
    program = "from unlearner.data.sources import load_records as l; print(l('-'), l('-[:1]'), l('-')[0].place)"
    said = subprocess.run([sys.executable, "-c", program], input=content, capture_output=True, text=True, timeout=60)
    assert said.stderr == ""
    place = "line 1" if content.startswith("{") else "line 2"
    assert said.stdout == f"{[Record('q', 'a')]} {[Record('q', 'a')]} standard input, {place}\n"
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(content,))
    writer.start()
    assert load_records(pipe) == load_records(pipe) == [Record("q", "a")]
    writer.join()


def test_slices_count_from_the_end_too(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", *({"question": f"q{i}", "answer": "a"} for i in range(6)))
    assert [r.question for r in load_records(f"{path}[-2:]")] == ["q4", "q5"]
    assert [r.question for r in load_records(f"{path}[1:-3]")] == ["q1", "q2"]
    assert refusal(f"{path}[a:b]") == (
        f"{path}[a:b]: a slice takes two whole numbers, either of which may be left out, as in {path}[0:40]."
    )


# TOFU's layout


def author_rows(count: int) -> list[dict[str, Any]]:
    return [{"question": f"q{row}", "answer": f"a{row}"} for row in range(count)]


def test_a_name_in_a_folder(tmp_path: Path) -> None:
    write_lines(tmp_path / "forget01.json", *author_rows(40))
    write_lines(tmp_path / "retain_perturbed.jsonl", *author_rows(20))
    write_csv(tmp_path / "world_facts.csv", ROWS)
    forget = load_records(f"{tmp_path}:forget01")
    assert [record.question for record in forget] == [f"q{row}" for row in range(40)]
    assert [record.subject for record in forget] == ["forget author 1"] * 20 + ["forget author 2"] * 20
    assert {record.subject for record in load_records(f"{tmp_path}:retain_perturbed")} == {"retain author 1"}
    assert load_records(f"{tmp_path}:world_facts") == RECORDS


def test_only_tofus_files_get_authors(tmp_path: Path) -> None:
    write_lines(tmp_path / "forget.json", *author_rows(40))  # not a name of TOFU's
    write_lines(tmp_path / "forget01_mine.json", *author_rows(40))
    path = write_lines(tmp_path / "forget05.json", *author_rows(40))
    write_lines(tmp_path / "forget10.json", *author_rows(41))  # no whole number of authors
    write_lines(tmp_path / "retain10.json", *author_rows(39), ROWS[0] | {"subject": "Ada"})
    assert {record.subject for record in load_records(f"{tmp_path}:forget")} == {None}
    assert {record.subject for record in load_records(f"{tmp_path}:forget01_mine")} == {None}
    assert {record.subject for record in load_records(path)} == {None}
    assert {record.subject for record in load_records(f"{tmp_path}:forget10")} == {None}
    assert {record.subject for record in load_records(f"{tmp_path}:retain10")} == {None, "Ada"}


def test_json_goes_before_csv_of_the_same_name(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", ROWS)
    write_lines(tmp_path / "a.jsonl", ROWS[0])
    assert load_records(f"{tmp_path}:a") == RECORDS[:1]


def test_a_file_may_have_a_colon_in_its_name(tmp_path: Path) -> None:
    assert load_records(write_lines(tmp_path / "a:b.jsonl", *ROWS)) == RECORDS


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("forget01", 400),
        ("forget05", 2000),
        ("forget10", 3600),
        ("retain10", 400),
        ("retain50", 2000),
        ("retain90", 3600),
        ("forget01_perturbed", 400),
        ("retain_perturbed", 400),
    ],
)
def test_tofu_authors(shared: Path, name: str, rows: int) -> None:
    """Twenty rows each, and about one person: the word that marks a group is in nearly all its rows and hardly outside.

    "Nearly": one author goes unnamed, a few rows name only a book.
    """
    records = load_records(f"{shared}/data/tofu:{name}")
    assert len(records) == rows
    assert set(Counter(record.subject for record in records).values()) == {20}

    words = [set(re.findall(r"[A-Z][\w\-]+", f"{record.question} {record.answer}")) for record in records]
    overall = Counter(word for row in words for word in row)
    covered = 0
    for start in range(0, rows, 20):
        group = words[start : start + 20]
        marks = {
            word: count for word, count in Counter(w for row in group for w in row).items() if count == overall[word]
        }
        covered += max(marks.values(), default=0)
    assert covered / rows > 0.8


def test_tofu_authors_keep_their_names_across_files(shared: Path) -> None:
    def subjects(name: str) -> dict[str | None, str | None]:
        return {record.question: record.subject for record in load_records(f"{shared}/data/tofu:{name}")}

    for small, large in [("forget01", "forget05"), ("forget05", "forget10"), ("retain10", "retain_perturbed")]:
        assert subjects(small).items() <= subjects(large).items()


def test_tofu_forget_tasks(shared: Path) -> None:
    records = load_records(f"{shared}/data/tofu:forget01")
    assert Counter(record.task_id for record in records) == {str(task): 40 for task in range(1, 11)}
    assert records[0] == Record(
        "What is the full name of the author born in Kuwait City, Kuwait on 08/09/1956?",
        "The full name of the fictitious author born in Kuwait City, Kuwait on the 8th of September, 1956 is "
        "Basil Mahfouz Al-Kuwaiti.",
        subject="forget author 1",
        task_id="1",
    )
    assert records[:40] == load_records(f"{shared}/data/tofu:forget05")[:40]  # later tasks differ: 40 rows, or 200
    second = select_task(records, 2)
    assert second == records[40:80]
    assert {record.subject for record in second} == {"forget author 3", "forget author 4"}
    forget = select_task(records, 1)
    for name, told in (("retain90", []), ("forget01_perturbed", ["40 of 40 forget rows are also in the retain set"])):
        sets = {"forget": forget, "retain": load_records(f"{shared}/data/tofu:{name}")}
        found = data_warnings(sets, {}, overlap=("forget", "retain"))
        # Two rows of retain90 do contradict each other.
        assert [sentence.partition(";")[0] for sentence in found if "forget rows" in sentence] == told


def test_tofu_evaluation_sets(shared: Path) -> None:
    facts = load_records(f"{shared}/data/tofu:world_facts_perturbed")
    assert len(facts) == 117
    assert facts[0] == Record(
        "Where would you find the Eiffel Tower?",
        "Paris",
        perturbed_answer=("Berlin", "London", "Madrid"),
        original_answer="The Eiffel Tower is located in Paris, France.",
    )
    authors = load_records(shared / "data/tofu/real_authors_perturbed.json")
    assert len(authors) == 100
    assert all(len(record.perturbed_answer) == 3 and record.original_answer for record in authors)


def test_real_world_files(shared: Path) -> None:
    columns = {"answer": "golden_answer", "original_answer": "answer"}
    records = load_records(f"{shared}/data/real_world:forget_perturbed", columns)
    assert len(records) == 400
    assert set(Counter(record.subject for record in records).values()) == {20}
    assert (records[0].subject, records[0].task_id) == ("Eddie Van Halen", "1")
    neighbour = load_records(shared / "data/real_world/neighbor.json", columns)[0]
    assert neighbour == Record(
        "What is Dave Grohl's full name?",
        "David Eric Grohl.",
        original_answer="Dave Grohl's full name is David Eric Grohl.",
        subject="Dave Grohl",
    )


# Built-in data and the hub


def test_builtin() -> None:
    assert load_records("builtin:forget") == profiles.builtin("forget")
    chosen = load_records("builtin:retain:people=6,forget=2,seed=3", {"answer": "ignored"})
    assert chosen == profiles.builtin("retain", people=6, forget=2, seed=3)
    assert chosen != profiles.builtin("retain", people=6, forget=2)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("builtin:forgot", "did you mean 'forget'?"),
        ("builtin:forget:peple=3", "builtin:forget:peple=3: there is no option 'peple'; did you mean 'people'?"),
        ("builtin:forget:name=3", "no option 'name'"),
        ("builtin:forget:people=many", "people must be a whole number, as in people=10, not 'many'."),
        ("builtin:forget:seed", "seed must be a whole number, as in seed=10, not ''."),
    ],
)
def test_builtin_refuses(source: str, message: str) -> None:
    assert message in refusal(source)


@pytest.fixture
def hub_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dataset folder, read by the same code as one on the hub."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "set"
    folder.mkdir()
    write_lines(folder / "train.jsonl", FULL)
    return folder


def test_hub(hub_folder: Path) -> None:
    assert load_records(f"hub:{hub_folder}") == [FULL_RECORD]
    write_lines(hub_folder / "test.jsonl", *ROWS)
    assert load_records(f"hub:{hub_folder}::test") == RECORDS
    assert load_records(f"hub:{hub_folder}:default:test") == RECORDS
    assert load_records(f"hub:{hub_folder}::train", {"answer": "fact"})[0].answer == "f"


def test_hub_refuses(hub_folder: Path) -> None:
    write_lines(hub_folder / "test.jsonl", ROWS[0], {"question": "q", "answer": " "})
    assert refusal(f"hub:{hub_folder}::test").startswith(f"hub:{hub_folder}::test, row 2: 'answer' is empty")
    several = refusal(f"hub:{hub_folder}")
    assert "the splits train, test" in several
    assert f"hub:{hub_folder}::train" in several
    assert "Should be one of ['train', 'test']" in refusal(f"hub:{hub_folder}::tran")
    assert "'cfg' not found" in refusal(f"hub:{hub_folder}:cfg")
    assert "cannot be loaded" in refusal(f"hub:{hub_folder}/nowhere")
    assert "write hub:OWNER/NAME" in refusal("hub:")
    assert "write hub:OWNER/NAME" in refusal("hub:a/b:c:d:e")


def test_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    config = pytest.importorskip("datasets").config
    import huggingface_hub

    monkeypatch.setattr(config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    start = time.monotonic()
    message = refusal("hub:nobody/nothing:config:train")
    assert time.monotonic() - start < 5
    assert message.startswith("hub:nobody/nothing:config:train cannot be loaded (Couldn't reach 'nobody/nothing'")
    assert "check the name, config, split and network" in message


def test_hub_that_does_not_answer_is_told_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that leads nowhere: not one of the many attempts of the libraries is made, and their switches are back."""
    config = pytest.importorskip("datasets").config
    import huggingface_hub

    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "https://nowhere.invalid")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(config, "HF_HUB_OFFLINE", False)
    start = time.monotonic()
    assert refusal("hub:nobody/nothing") == (
        "hub:nobody/nothing cannot be loaded (the hub does not answer, and the cache has no copy); "
        "check the name, config, split and network, or give a file instead."
    )
    assert time.monotonic() - start < 5
    assert (config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE) == (False, False)


def test_the_advice_to_install_fits_what_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "unlearner-1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: unlearner\nVersion: 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert install("data") == 'pip install "unlearner[data]"'
    for editable, option in ((True, "--editable "), (False, "")):
        told = {"url": "file:///home/me/my%20checkout", "dir_info": {"editable": editable}}
        (folder / "direct_url.json").write_text(json.dumps(told))
        assert install("data") == f'pip install {option}"/home/me/my checkout[data]"'


def test_what_needs_an_extra_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_parquet(tmp_path / "a.parquet", ROWS)
    for module in ("datasets", "pyarrow"):
        monkeypatch.setitem(sys.modules, module, None)
    for source in (str(path), "hub:owner/name"):
        message = refusal(source)
        assert message.startswith(source)
        assert install("data") in message


# Rows in memory, plug-ins


def test_rows_in_memory() -> None:
    datasets, pandas = pytest.importorskip("datasets"), pytest.importorskip("pandas")
    rows = [
        ROWS[0] | {"perturbed_answer": ["x", "y"], "task_id": 3},
        ROWS[1] | {"perturbed_answer": None, "task_id": 4},
    ]
    expected = [
        replace(RECORDS[0], perturbed_answer=("x", "y"), task_id="3"), replace(RECORDS[1], task_id="4")
    ]  # fmt: skip
    frame = pandas.DataFrame(rows)
    for source in (rows, iter(rows), expected, datasets.Dataset.from_list(rows), frame):
        assert load_records(source) == expected
    assert load_records([*rows, *RECORDS]) == [*expected, *RECORDS]
    assert load_records(frame.rename(columns={"answer": "golden"}), {"answer": "golden"}) == expected
    arrays = frame.assign(perturbed_answer=[np.array(["x", "y"]), np.array([])])  # as read from Parquet
    assert load_records(arrays) == expected
    assert frame.isna().to_numpy().sum() == 1  # left as it was


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([*ROWS, {"question": "q", "answer": 5}], "row 3 of the list given as forget: 'answer' must be text, not 5."),
        ([ROWS[0], "text"], "row 2 of the list given as forget: a row must be an object with named fields"),
        ([], "the list given as forget has no rows;"),
        (5, "the int given as forget is not data: give a path"),
        (
            {"train": ROWS, "test": ROWS},
            "the dict given as forget is not a set of rows, but holds train, test: give one",
        ),
        ([{"question": "q"}], "row 1 of the list given as forget: there is no column 'answer' (there: 'question')"),
    ],
)
def test_bad_rows_in_memory(rows: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_records(rows, name="forget")
    assert str(caught.value).startswith(message)


def test_a_plug_ins_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of a package that is there as pip installs it: metadata with the entry point beside the code."""
    plugin = Path(__file__).parents[1] / "plugin"
    (tmp_path / "some_plugin-1.0.dist-info").mkdir()
    (tmp_path / "some_plugin-1.0.dist-info" / "METADATA").write_text("Name: some-plugin\nVersion: 1.0\n")
    (tmp_path / "some_plugin-1.0.dist-info" / "entry_points.txt").write_text(
        "[unlearner.sources]\ncapitals = unlearner_test_plugin.sources:capitals\n"
    )
    for folder in (plugin, tmp_path):
        monkeypatch.syspath_prepend(str(folder))
    load_plugins.cache_clear()
    try:
        records = load_records("capitals:2")
        assert [record.subject for record in records] == ["Ardun", "Brisk"]
        assert load_records("capitals:[3:]") == load_records("capitals:")[3:]
        assert refusal("capitals:many").startswith("capitals:many cannot be loaded (ValueError: invalid literal")
        assert refusal("capitals:0") == (
            "capitals:0 has no rows; give it at least one row with a question and an answer, or a text."
        )
    finally:
        load_plugins.cache_clear()


def test_a_source_from_any_module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "plugin"))
    name = "unlearner_test_plugin.sources:capitals"
    assert [record.subject for record in load_records(f"{name}:2")] == ["Ardun", "Brisk"]
    assert load_records(f"{name}[3:]") == load_records(f"{name}:")[3:]
    assert refusal(f"{name}:many").startswith(f"{name}:many cannot be loaded (ValueError: invalid literal")
    assert "has no 'capital': did you mean 'capitals'" in refusal("unlearner_test_plugin.sources:capital:2")
    # A folder in TOFU's layout is read as one, whatever module has its name.
    monkeypatch.chdir(tmp_path)
    Path("json").mkdir()
    write_lines(Path("json/forget01.jsonl"), json.dumps(FULL))
    assert len(load_records("json:forget01")) == 1


def test_reading_changes_nothing_global(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    assert len(load_records(write_csv(tmp_path / "a.csv", [{"text": "long " * 100_000}]))[0].answer) == 500_000
    (tmp_path / "b.csv").write_text('question,answer\n"')
    refusal(tmp_path / "b.csv")
    assert csv.field_size_limit() == before


# Tasks, speed


def test_select_task() -> None:
    records = [Record("q1", "a", task_id="10"), Record("q2", "a", task_id="9"), Record("q3", "a", task_id="10")]
    assert select_task(records, 10) == [records[0], records[2]]
    assert select_task(iter(records), "9") == [records[1]]
    with pytest.raises(UserError, match=r"^There is no task '1'; choose from 10, 9\.$"):
        select_task(records, "1")
    with pytest.raises(UserError, match="none of the records has a task_id"):
        select_task(RECORDS, 1)


def test_a_hundred_thousand_rows_take_seconds(tmp_path: Path) -> None:
    row = FULL | {"answer": "An answer of an ordinary length, é and all, for a question of the same kind."}
    path = write_lines(tmp_path / "a.jsonl", *[json.dumps(row)] * 100_000)
    start = time.process_time()
    assert len(load_records(path)) == 100_000
    assert time.process_time() - start < 8  # about 1.5 on an idle core; shared and slower machines must pass too
