"""Forgotten texts: in no file of a redacted run or page, in known files of any other, and in none after a purge."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from conftest import Files, arguments, rows, run_arguments, write_rows
from unlearner.audit.summary import from_rows
from unlearner.data.profiles import builtin
from unlearner.files import read_json, read_jsonl
from unlearner.results.evidence import changed
from unlearner.results.layout import RunDirectory
from unlearner.results.texts import caches, holding_texts

NOTE = ["operator", "A. Smith", "request", "17/2026", "date", "2026-11-25"]


@pytest.fixture
def cache_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, which it may search and empty."""
    monkeypatch.setenv("UNLEARNER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def forgetting(files: Files, output: Path, **more: Any) -> list[str]:
    options = {"model": files.model, "forget": files.forget, "retain": files.retain, "evaluate": "epochs", "epochs": 1,
               "batch_size": 2, "accumulation": 1, "judge": "offline", "max_new_tokens": 12,
               "output": output}  # fmt: skip
    return ["forget", *arguments({**options, **more})]


def texts(*sources: Path) -> set[str]:
    """Every text of the rows of some files, and the answers in records, that nothing else says by chance."""
    found: set[str] = set()
    for source in sources:
        for row in read_jsonl(source):
            values = [each for value in row.values() for each in (value if isinstance(value, list) else [value])]
            found |= {value for value in values if isinstance(value, str) and len(value) >= 12}
    return {text for text in found if not re.fullmatch(r"[0-9a-f]{16}|\[[0-9a-f]{16}\]", text)}


def holding(folder: Path, wanted: set[str]) -> set[Path]:
    """The files below a folder in which one of the texts stands: plainly, or as JSON or HTML write it."""
    forms = {form for text in wanted for form in (text, json.dumps(text)[1:-1], text.replace("'", "&#39;"))}
    return {
        path
        for path in folder.rglob("*")
        if path.is_file() and any(form.encode() in path.read_bytes() for form in forms)
    }


def assert_near(ours: Any, theirs: Any) -> None:
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
    if isinstance(theirs, dict | list):
        assert len(ours) == len(theirs)
        for key in theirs if isinstance(theirs, dict) else range(len(theirs)):
            assert_near(ours[key], theirs[key])
    else:
        assert ours == (pytest.approx(theirs, rel=1e-5, abs=1e-7) if isinstance(theirs, float) else theirs)


@pytest.mark.slow
def test_a_redacted_run_and_its_page(
    files: Files, tmp_path: Path, cache_here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    clear, run = tmp_path / "clear", tmp_path / "run"
    assert run_arguments(capfd, forgetting(files, clear)).code == 0
    shutil.rmtree(cache_here)
    ended = run_arguments(capfd, forgetting(files, run, redact=True, note=NOTE))
    assert ended.code == 0

    said = texts(files.forget, files.retain, clear / "records.jsonl", clear / "before" / "records.jsonl")
    assert len(said) > 40
    assert holding(clear, said) > {clear / "records.jsonl", clear / "report.html"}  # or the search finds nothing
    assert holding(run, said) == holding(cache_here, said) == set()
    assert [path.name for path in cache_here.iterdir()] == ["redaction.key"]  # no embeddings and tokens either
    key = (cache_here / "redaction.key").read_bytes()
    assert not any(key in path.read_bytes() for path in run.rglob("*") if path.is_file())

    # What was measured is the same, up to float noise, and so are all values of all rows.
    for name in ("summary.json", "before/summary.json", "epochs/1/summary.json"):
        assert_near(json.loads((run / name).read_text()), json.loads((clear / name).read_text()))
    texts_of_a_row = {"id", "question", "answer", "original_answer", "subject", "generation", "redacted"}
    for ours, theirs in zip(read_jsonl(run / "records.jsonl"), read_jsonl(clear / "records.jsonl"), strict=True):
        assert_near(*({k: v for k, v in row.items() if k not in texts_of_a_row} for row in (ours, theirs)))
    hashes = [json.loads((folder / "run.json").read_text())["hashes"] for folder in (run, clear)]
    assert hashes[0]["model"] == hashes[1]["model"] and hashes[0]["forget"] != hashes[1]["forget"]

    page = (run / "report.html").read_text()
    assert read_jsonl(run / "records.jsonl")[0]["question"] in page
    for told in ("left out: questions and answers are identified by their ids", "A. Smith", "17/2026", "2026-11-25"):
        assert told in page
    assert run_arguments(capfd, forgetting(files, run, redact=True, note=NOTE)).code == 0  # finished already
    assert "holds another run" in run_arguments(capfd, forgetting(files, run, note=NOTE)).err


def test_a_redacted_page_of_a_run_with_texts(
    single: Path, tmp_path: Path, cache_here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    said = texts(*single.glob("**/records.jsonl"))
    page = tmp_path / "pages" / "page.html"
    assert run_arguments(capfd, ["report", str(single), "--output", str(page)]).code == 0
    assert holding(page.parent, said) == {page}
    assert run_arguments(capfd, ["report", str(single), "--redact", "--output", str(page)]).code == 0
    assert holding(page.parent, said) == set()
    assert json.loads((single / "run.json").read_text())["hashes"]["forget"] not in page.read_text()


@pytest.mark.slow
def test_one_place_knows_every_file_with_texts_and_a_purge_leaves_none(
    files: Files, tmp_path: Path, cache_here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert run_arguments(capfd, forgetting(files, run)).code == 0
    said = texts(files.forget, *run.glob("**/records.jsonl"))
    assert holding(run, said) == set(holding_texts(run))
    assert [path.name for path in caches()] == ["embeddings"]

    ended = run_arguments(capfd, ["purge", str(run)])
    assert ended.code == 0
    assert holding(run, said) == holding(cache_here, said) == set()
    assert caches() == []
    assert str(files.forget) in ended.out and str(run) in ended.out
    again = run_arguments(capfd, forgetting(files, run))
    assert again.code == 0 and "is finished already" in again.err
    assert holding(run, said) == set()  # the page that is made anew has none


@pytest.mark.slow
def test_an_audit_without_names_and_one_that_is_purged(
    single: Path, files: Files, tmp_path: Path, cache_here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    others = write_rows(tmp_path / "controls.jsonl", rows(builtin("retain", people=29, forget=24)))
    clear, without = tmp_path / "clear", tmp_path / "without"
    (tmp_path / "own.txt").write_text(f"I was told: {read_jsonl(files.forget)[0]['answer']} {{q}}\n")
    own = ["--attacks", "reverse", "--templates", str(tmp_path / "own.txt")]
    typed = ["audit", str(single), "--controls", str(others), *own, "--output"]
    assert run_arguments(capfd, [*typed, str(clear), "--keep-samples"]).code == 0
    kept = {attack["attack"]: attack for attack in read_json(clear / "audit.json")["attacks"]}
    assert read_jsonl(files.forget)[0]["answer"] in kept["own.txt:1"]["options"]["text"]
    redacted = run_arguments(capfd, [*typed, str(without), "--redact"])
    assert redacted.code == 0

    said = texts(files.forget, files.retain, others, clear / "audit.jsonl")
    written = {clear / name for name in ("audit.jsonl", "audit.json", "audit.html")}
    assert holding(clear, said) == set(holding_texts(clear)) == written
    assert holding(without, said) == holding(cache_here, said) == set()
    assert not any(text in redacted.out for text in said)
    texts_of_a_row = {"subject", "question", "topic", "text", "redacted", "about"}
    assert [
        {k: v for k, v in row.items() if k not in texts_of_a_row} for row in read_jsonl(without / "audit.jsonl")
    ] == [{k: v for k, v in row.items() if k not in texts_of_a_row} for row in read_jsonl(clear / "audit.jsonl")]
    assert "contradict each other" in run_arguments(capfd, [*typed, str(clear), "--redact", "--keep-samples"]).err

    ended = run_arguments(capfd, ["purge", str(clear)])
    assert ended.code == 0 and str(single / "model") in ended.out and str(others) in ended.out
    assert holding(clear, said) == set()
    assert read_json(clear / "audit.json") == read_json(without / "audit.json")
    assert json.loads(json.dumps(from_rows(read_jsonl(clear / "audit.jsonl"))[1])) == read_json(clear / "audit.json")
    assert changed(RunDirectory(clear)) == []
    again = run_arguments(capfd, [*typed, str(clear), "--keep-samples"])  # finished, and read as it is now
    assert again.code == 0 and again.out.replace(str(clear), str(without)) == redacted.out
    assert "Texts removed from: nothing" in run_arguments(capfd, ["purge", str(clear)]).out


def test_what_probe_and_prepare_wrote_is_purged_with_its_options(
    files: Files, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    asked, made = tmp_path / "probe.json", tmp_path / "made"
    about = {"model": files.model, "subject": "Torva Osterrick", "max_new_tokens": 12}
    probing = ["probe", *arguments({**about, "output": asked, "samples": 2, "others": 2})]
    preparing = [
        "prepare",
        *arguments({**about, "output": made, "neighbour_count": 2, "general_count": 3, "samples": 0}),
    ]
    assert run_arguments(capfd, probing).code in (0, 3)
    assert run_arguments(capfd, preparing).code == 0
    (made / "notes.txt").write_text("mine")
    wanted = {"Torva Osterrick"}
    assert holding(tmp_path, wanted) > {asked, made / "forget.jsonl", made / "prepare.json"}
    kept = asked.read_bytes()

    assert "Would be removed:" in run_arguments(capfd, ["purge", str(asked), str(made), "--dry-run"]).out
    assert asked.read_bytes() == kept
    ended = run_arguments(capfd, ["purge", str(asked), str(made)])
    assert ended.code == 0 and f"what a model remembers: {files.model}" in ended.out
    assert holding(tmp_path, wanted) == set()
    assert [path.name for path in tmp_path.rglob("*")] == ["made", "notes.txt"]  # what is the user's stays

    asked.write_text("mine")
    ended = run_arguments(capfd, probing)
    assert ended.code == 2 and "was not written by a probe" in ended.err and asked.read_text() == "mine"
