"""Run directories: what lies where, what runs of older versions are, and what tells data and models apart."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from unlearner.data.records import Record
from unlearner.errors import UserError
from unlearner.evaluation.metrics import METRICS
from unlearner.files import read_json, read_jsonl, write_json
from unlearner.models.load import model_hash
from unlearner.report import write_report
from unlearner.report.comparison import list_questions
from unlearner.report.read import read
from unlearner.report.verdict import verdict
from unlearner.results.hash_keys import hash_key, hash_title
from unlearner.results.layout import VERSION, RunDirectory
from unlearner.results.records import with_ids
from unlearner.results.run import check_output, open_run, records_hash

RUN_V1 = Path(__file__).parents[1] / "fixtures" / "run-v1"
"""A run of `forget` as the first layout had it: no version, no ids, hashes under English phrases."""


def test_a_run_of_layout_1_opens_in_the_report(tmp_path: Path) -> None:
    page = write_report([RUN_V1], tmp_path / "report.html").read_text()
    for place in (RUN_V1, RUN_V1 / "before"):
        assert f"{read_json(place / 'summary.json')['forget_efficacy']:.3f}" in page
    for value in read_json(RUN_V1 / "run.json")["hashes"].values():
        assert value in page
    assert json.dumps(read_jsonl(RUN_V1 / "records.jsonl")[0]["generation"])[1:-1] in page


def test_runs_of_both_layouts_are_matched_by_question(tmp_path: Path) -> None:
    """Made into layout 2 by hand, the same run shares all its questions and its evaluation before."""
    newer = shutil.copytree(RUN_V1, tmp_path / "newer")
    held = read_json(newer / "run.json")
    hashes = {hash_key(name): value for name, value in held["hashes"].items()}
    hashes["model"] = "hashed in another way"  # as every hash of layout 2 is: no sign of another model
    write_json(newer / "run.json", {"version": 2, **held, "hashes": hashes})
    for place in (newer, newer / "before"):
        rows = RunDirectory(place).read_records()
        (place / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = read([RUN_V1, newer])
    assert report.runs[0].about["hashes"].keys() == hashes.keys()
    assert not any("did not start from the same model" in caution for caution in verdict(report).cautions)
    columns, questions = list_questions(report.parts, list(METRICS))
    assert [column.kind for column in columns] == ["before", "after", "after"]
    assert len(questions) == 12
    assert all(None not in question.generations for question in questions)


def test_a_run_begun_by_another_version_is_not_continued(tmp_path: Path) -> None:
    older = shutil.copytree(RUN_V1, tmp_path / "older")
    (older / "finished.json").unlink()
    held = read_json(older / "run.json")
    with pytest.raises(UserError, match=r"was begun by an older version of unlearner: choose another directory\.$"):
        check_output(older, "forget", held["config"])
    write_json(older / "run.json", {**held, "version": VERSION + 1})
    with pytest.raises(UserError, match="was begun by a newer version"):
        check_output(older, "forget", held["config"])
    with pytest.raises(UserError, match="was written by a newer version of unlearner"):
        read([older])


def test_a_run_is_known_by_its_hashes(tmp_path: Path) -> None:
    open_run(tmp_path / "run", "forget", {"lr": 1.0}, {"forget": "a", "eval.retain": "b"})
    assert RunDirectory(tmp_path / "run").read_manifest()["version"] == VERSION
    open_run(tmp_path / "run", "forget", {"lr": 1.0}, {"forget": "a", "eval.retain": "b"})
    with pytest.raises(UserError, match="with other contents of the evaluation set retain"):
        open_run(tmp_path / "run", "forget", {"lr": 1.0}, {"forget": "a", "eval.retain": "c"})


@pytest.mark.parametrize(
    ("phrases", "key", "title"),
    [
        (["the forget set"], "forget", "the forget set"),
        (["the retain set"], "retain", "the retain set"),
        (["the evaluation set forget", "forget set"], "eval.forget", "the evaluation set forget"),
        (["the evaluation set own", "own set"], "eval.own", "the evaluation set own"),
        (["the forget set of task 2"], "earlier.2", "the forget set of task 2"),
        (["the model", "model"], "model", "the model"),
        (["the refusals"], "refusals", "the refusals"),
        (["the reference model"], "reference_model", "the reference model"),
        (["the retrained model", "retrained model"], "retrained", "the retrained model"),
        (["data"], "data", "the data"),
    ],
)  # fmt: skip
def test_keys_of_hashes(phrases: list[str], key: str, title: str) -> None:
    """Every key that the commands of layout 1 wrote, and itself."""
    assert {hash_key(name) for name in [*phrases, key]} == {key}
    assert hash_title(key) == title


def test_ids_tell_rows_apart_and_last() -> None:
    rows = [{"set": s, "question": q, "answer": "a"} for s in ("forget", "retain") for q in ("q", "q", None)]
    ids = [row["id"] for row in with_ids(rows)]
    assert len(set(ids)) == 6
    assert with_ids(rows[3:])[0]["id"] == ids[3]  # whatever other sets there are
    assert with_ids([{**rows[0], "generation": "other"}])[0]["id"] == ids[0]
    assert ids[0] == "ff79c4e5325cdb9a"  # kept in files: never to change
    assert with_ids([{**rows[0], "id": "own"}])[0]["id"] == "own"


def test_the_hash_of_records() -> None:
    record = Record("q", "a", perturbed_answer=("x", "y"), subject="s")
    others = [
        replace(record, question=None), replace(record, answer="b"), replace(record, perturbed_answer=("xy",)),
        replace(record, perturbed_answer=("y", "x")), replace(record, subject=None, fact="s"),
    ]  # fmt: skip
    hashes = {records_hash([r]) for r in (record, *others)} | {records_hash([record, record]), records_hash([])}
    assert len(hashes) == 8
    assert records_hash([record]) == records_hash([replace(record)])
    assert records_hash(["a\nb"]) != records_hash(["a", "b"])
    assert records_hash([Record("q", "a")]) == records_hash([{"question": "q", "answer": "a"}])


@pytest.mark.parametrize(
    "file",
    [
        "model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja", "vocab.json", "merges.txt",
        "spiece.model", "special_tokens_map.json", "modeling_own.py", "additional_chat_templates/tools.jinja",
    ],
)  # fmt: skip
def test_the_hash_of_a_model_sees_all_its_files(file: str, tmp_path: Path) -> None:
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    before = model_hash(str(tmp_path))
    path.write_text("one")
    after = model_hash(str(tmp_path))
    path.write_text("two")
    assert len({before, after, model_hash(str(tmp_path))}) == 3


def test_the_hash_of_a_model_keeps_files_apart(tmp_path: Path) -> None:
    hashes = set()
    for number, (one, other) in enumerate([("ab", "c"), ("a", "bc"), ("avocab.txtb", "c")]):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "merges.txt").write_text(one)
        (folder / "vocab.txt").write_text(other)
        hashes.add(model_hash(str(folder)))
    assert len(hashes) == 3
