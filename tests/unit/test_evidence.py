"""Finished runs whose files were changed, one process a directory, texts that are left out."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from unlearner.commands.purge import PurgeConfig
from unlearner.commands.purge import run as run_purge
from unlearner.errors import UserError
from unlearner.files import read_json, write_json, write_jsonl
from unlearner.models.load import model_hash
from unlearner.results import lock as locks
from unlearner.results.evidence import changed, check_unchanged, finish_run
from unlearner.results.layout import MODEL, RunDirectory
from unlearner.results.records import with_ids
from unlearner.results.run import open_run
from unlearner.results.subjects import Manifest, SubjectDirectory
from unlearner.results.texts import keyed, redacted


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNLEARNER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """The files of a small finished run."""
    made = RunDirectory(tmp_path / "run")
    (made.path / MODEL).mkdir(parents=True)
    (made.path / MODEL / "model.safetensors").write_bytes(b"w" * 1000)
    (made.path / MODEL / "config.json").write_text("{}")
    write_json(made.manifest, {"version": 2, "command": "forget", "config": {"forget": "people.jsonl", "model": "m"}})
    write_jsonl(made.log, [{"step": 1, "loss": 0.5}])
    for evaluation in (made.before, made):
        evaluation.path.mkdir(exist_ok=True)
        write_json(evaluation.summary, {"sets": {}})
        row = {"set": "forget", "question": "Who was Ada?", "answer": "A poet.", "subject": "Ada", "generation": "No."}
        write_jsonl(evaluation.records, with_ids([{**row, "rouge": 0.25}]))
    finish_run(made.path, steps=1, model=MODEL)
    return made


# ------------------------------------------------------------------------------------------------------------- evidence


def test_the_hash_of_the_model_made_is_that_of_an_evaluation_of_it(run: RunDirectory) -> None:
    held = read_json(run.finished)
    assert held["sha256"] == model_hash(str(run.path / MODEL))
    assert held["files"]["model/model.safetensors"][0] == 1000
    assert set(held["files"]) == {
        "run.json", "log.jsonl", "before/records.jsonl", "before/summary.json", "records.jsonl", "summary.json",
        "model/model.safetensors", "model/config.json",
    }  # fmt: skip
    assert changed(run) == []


@pytest.mark.parametrize(
    "name",
    ["run.json", "log.jsonl", "records.jsonl", "before/records.jsonl", "summary.json", "model/model.safetensors"],
)
def test_a_file_that_is_changed_cut_or_gone_is_named(run: RunDirectory, name: str) -> None:
    file = run.path / name
    whole, times = file.read_bytes(), file.stat()

    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))  # one bit, and the old time
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert changed(run) == [f"{name} has other contents"]
    assert (changed(run, weights=False) == []) == name.startswith("model/")

    file.write_bytes(whole[: len(whole) // 2])
    assert changed(run, weights=False) == [f"{name} has {len(whole) // 2} bytes instead of {len(whole)}"]

    file.unlink()
    assert changed(run) == [f"{name} is missing"]
    with pytest.raises(UserError, match=rf"was changed after its run had finished: {name} is missing: restore it"):
        check_unchanged(run.path)

    file.write_bytes(whole)
    assert changed(run) == []


def test_a_run_of_a_version_that_kept_no_hashes(run: RunDirectory) -> None:
    write_json(run.finished, {"steps": 1, "model": MODEL})
    run.log.unlink()
    assert changed(run) == []


# ---------------------------------------------------------------------------------------------------------------- lock

HOLDER = """
import sys, time
from pathlib import Path
from unlearner.results import lock as locks
locks.BEAT_SECONDS, locks.LEASE_SECONDS = float(sys.argv[2]), float(sys.argv[3])
locks.lock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


@contextmanager
def holder(folder: Path, *, host: str | None = None) -> Iterator["subprocess.Popen[str]"]:
    """Another process that works in `folder`, on this machine or as on another one."""
    seconds = str(locks.BEAT_SECONDS), str(locks.LEASE_SECONDS)
    typed = [sys.executable, "-c", HOLDER, str(folder), *seconds]
    if host is not None:
        typed = ["unshare", "--uts", "sh", "-c", 'hostname "$1"; shift; exec "$@"', "sh", host, *typed]
    process = subprocess.Popen(typed, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stderr is not None
        if process.stdout.readline() != "held\n":
            pytest.skip(f"another host's name is not permitted here: {process.stderr.read()[-200:]}")
        yield process
    finally:
        process.kill()
        process.communicate()


def test_one_process_works_in_a_directory(tmp_path: Path) -> None:
    with holder(tmp_path) as other:
        who = rf"pid {other.pid}, host \S+, since 20\d\d-\d\d-\d\d \S+"
        message = rf"^another process \({who}\) is working in {tmp_path}: wait"
        for refused in (locks.lock, locks.check_free):
            with pytest.raises(UserError, match=message):
                refused(tmp_path)
        other.kill()
        other.wait()
        begun = time.monotonic()
        locks.check_free(tmp_path)
        locks.lock(tmp_path)  # the dead one's lock is no obstacle, at once
        assert time.monotonic() - begun < 2
    locks.lock(tmp_path)  # once more is no harm
    locks.unlock(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_process_on_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is known to live by its beats, and to be gone by its silence."""
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.2)
    monkeypatch.setattr(locks, "LEASE_SECONDS", 2.0)
    with holder(tmp_path, host="elsewhere") as other:
        with pytest.raises(
            UserError, match=rf"another process \(pid {other.pid}, host elsewhere, since .* is working in"
        ):
            locks.lock(tmp_path)
        other.kill()
        other.wait()
        begun = time.monotonic()
        locks.lock(tmp_path)
        assert time.monotonic() - begun > 0.9  # silent for the whole lease, part of it before we looked
    locks.unlock(tmp_path)


def test_a_lock_on_a_folder_that_is_waited_for(tmp_path: Path) -> None:
    with holder(tmp_path) as other:
        threading.Timer(1.5, lambda: (other.kill(), other.wait())).start()
        with locks.waiting(tmp_path):
            assert other.poll() is not None
    assert [path.name for path in tmp_path.iterdir() if "since" not in path.name] == []


def test_a_finished_run_on_a_disk_that_became_read_only(run: RunDirectory) -> None:
    """A dead process' lock in it, which cannot be removed there, keeps nobody out."""
    write_json(run.manifest, {"version": 2, "command": "forget", "config": {}, "hashes": {}})
    run.config.write_text("{}\n")
    finish_run(run.path, steps=1)
    with holder(run.path):
        pass
    left = {path.name for path in run.path.iterdir()}
    assert ".lock" in left
    for action in ("--bind", "remount,bind,ro"):
        option = [action, str(run.path)] if action == "--bind" else ["-o", action]
        done = subprocess.run(["mount", *option, str(run.path)], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"mounting is not permitted here: {done.stderr.strip()}")
    try:
        assert open_run(run.path, "forget", {}, {}) == run.path
        assert {path.name for path in run.path.iterdir()} == left
    finally:
        subprocess.run(["umount", str(run.path)], check=True)
    assert open_run(run.path, "forget", {}, {}) == run.path
    assert {path.name for path in run.path.iterdir()} == left - {".lock", ".lock.since"}


# --------------------------------------------------------------------------------------------------------------- texts


def test_redacted_rows_keep_values_and_tell_equal_texts(cache: Path) -> None:
    rows = with_ids(
        {"set": "forget", "question": q, "answer": "Yes.", "subject": None, "generation": g, "rouge": 0.5}
        for q, g in (("a", "Yes."), ("b", "No."))
    )
    first, second = map(redacted, rows)
    assert first["rouge"] == 0.5 and first["set"] == "forget" and first["subject"] is None
    assert first["generation"] == first["answer"] == second["answer"] != second["generation"]
    assert first["id"] != rows[0]["id"]
    assert redacted(first) == first
    assert (cache / "redaction.key").stat().st_mode & 0o777 == 0o600


def test_nobody_guesses_a_short_text_without_the_key(cache: Path) -> None:
    once = keyed("Yes.")
    assert keyed("Yes.") == once
    (cache / "redaction.key").unlink()
    assert keyed("Yes.") != once


def test_purge(run: RunDirectory, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run.report.write_text("<p>Ada</p>")
    (run.path / "passes.jsonl").write_text('{"batch": "1", "result": "Ada"}\n')
    (cache / "tokens" / "x").mkdir(parents=True)
    (cache / "embeddings").mkdir()
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}

    run_purge(PurgeConfig(runs=[str(run.path)], dry_run=True))
    dry = capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in run.path.rglob("*")} == before
    assert (cache / "tokens").is_dir()

    run_purge(PurgeConfig(runs=[str(run.path)]))
    said = capsys.readouterr().out
    assert dry.replace("would be removed from", "removed from").replace("Would be removed", "Removed") == said
    for name in ("records.jsonl", "before/records.jsonl", "passes.jsonl", "report.html"):
        assert str(run.path / name) in said
    assert "the data: people.jsonl" in said and "what a model remembers: m" in said
    left = b"".join(path.read_bytes() for path in run.path.rglob("*") if path.is_file())
    for text in (b"Ada", b"A poet.", b"No."):
        assert text not in left
    assert not run.report.exists() and not (cache / "tokens").exists() and not (cache / "embeddings").exists()
    assert json.loads(run.records.read_text())["rouge"] == 0.25
    assert changed(run) == []  # told by finished.json, so it is no change behind one's back
    assert read_json(run.finished)["purged"] == ["before/records.jsonl", "records.jsonl"]

    run_purge(PurgeConfig(runs=[str(run.path)]))
    assert "Texts removed from: nothing\nRemoved: nothing" in capsys.readouterr().out


@pytest.mark.parametrize(
    "made",
    [asdict(Manifest({"subject": ["Ada"]}, {}, {})), {"options": {"subject": ["Ada"]}, "hashes": {}, "before": {}}],
    ids=["now", "an earlier version"],
)
def test_a_purge_of_a_search_takes_the_names_away_too(made: dict[str, Any], run: RunDirectory, tmp_path: Path) -> None:
    search, other = tmp_path / "search", tmp_path / "other"
    for folder, held in ((search, made), (other, ["mine"])):
        shutil.copytree(run.path, folder / "ME+GD")
        write_json(folder / "search.json", held)
        (folder / "neighbours.txt").write_text("Ada's friend\n")
        run_purge(PurgeConfig(runs=[str(folder)]))
    assert not any(b"Ada" in file.read_bytes() for file in search.rglob("*") if file.is_file())
    assert read_json(other / "search.json") == ["mine"] and (other / "neighbours.txt").is_file()


@pytest.mark.parametrize("begun", [True, False], ids=["before the run", "before the search"])
def test_a_purge_of_a_search_that_was_cut_short(
    begun: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = SubjectDirectory(tmp_path / "search")
    for folder, subject in ((place.prepared(1), "Ada"), (place.prepared(2), "Ida")):
        folder.mkdir(parents=True)
        write_jsonl(folder / "forget.jsonl", [{"question": f"Who was {subject}?", "answer": "A poet."}])
        options = {"subject": subject, "model": "m", "documents": ["about.txt"], "neighbours": None}
        write_json(folder / "prepare.json", {"options": options, "rows": {"forget": 1}})
    (place.path / "notes.txt").write_text("mine")
    if begun:
        write_json(place.manifest, asdict(Manifest({"subject": ["Ada", "Ida"], "forget": "", "model": "m"}, {}, {})))
        place.neighbours.write_text("Ada's friend\n")
    config = PurgeConfig(runs=[str(place.path)])
    if begun:
        with holder(place.path), pytest.raises(UserError, match="is working in"):
            run_purge(config)
        assert place.manifest.is_file()
    capsys.readouterr()
    run_purge(config)
    said = capsys.readouterr().out
    assert [file.name for file in place.path.rglob("*") if file.is_file()] == ["notes.txt"]
    assert said.count("what a model remembers: m\n") == said.count("the data: about.txt\n") == 1
    assert said.count("the data: ") == 1
    with pytest.raises(UserError, match="holds no run of unlearner"):
        run_purge(config)


def test_a_purge_that_is_killed_can_be_repeated(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(path: Path, text: str) -> None:
        raise KeyboardInterrupt

    config = PurgeConfig(runs=[str(run.path)])
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("unlearner.results.texts.write_text", killed)
        run_purge(config)
    assert b"Ada" in run.records.read_bytes()
    run_purge(config)
    assert b"Ada" not in run.records.read_bytes() and changed(run) == []
    assert not [path for path in run.path.iterdir() if path.name.startswith(".lock")]


def test_a_purge_does_not_vouch_for_what_was_changed_before(run: RunDirectory) -> None:
    write_jsonl(run.records, [{**row, "rouge": 0.0} for row in run.read_records()])
    run_purge(PurgeConfig(runs=[str(run.path)]))
    assert [each.split()[0] for each in changed(run)] == ["records.jsonl"]


def test_what_is_at_work_is_not_purged(run: RunDirectory) -> None:
    with holder(run.path), pytest.raises(UserError, match="is working in"):
        run_purge(PurgeConfig(runs=[str(run.path)]))
    assert b"Ada" in run.records.read_bytes()


def test_purge_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is neither a directory of runs"):
        run_purge(PurgeConfig(runs=[str(tmp_path / "nowhere")]))
    with pytest.raises(UserError, match="holds no run of unlearner"):
        run_purge(PurgeConfig(runs=[str(tmp_path)]))
