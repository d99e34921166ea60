"""`unlearner audit`: of a model, of a run's directory, and what it refuses."""

import json
import os
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from conftest import Files, Moment, begin, contents, in_process, rows, run_arguments, write_rows
from unlearner.audit.from_run import of_run
from unlearner.audit.run import audit
from unlearner.audit.summary import from_rows
from unlearner.config import AuditConfig
from unlearner.data.profiles import builtin
from unlearner.report import write_report


@pytest.fixture(scope="module")
def controls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five people whom nobody trained on."""
    others = builtin("retain", people=29, forget=24)
    return write_rows(tmp_path_factory.mktemp("controls") / "controls.jsonl", rows(others))


def test_a_run_says_what_is_to_be_audited(
    single: Path, controls: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    typed = ["audit", str(single), "--controls", str(controls), "--attacks", "reverse", "--output"]
    ended = run_arguments(capfd, [*typed, str(tmp_path / "audit")])
    assert ended.code == 0, ended.err
    assert "Torva Osterrick" in ended.out and "it says nothing about other questions" in ended.out
    found = json.loads((tmp_path / "audit" / "audit.json").read_text())
    assert [attack["attack"] for attack in found["attacks"]] == ["plain", "reverse"]
    lines = [json.loads(line) for line in (tmp_path / "audit" / "audit.jsonl").read_text().splitlines()]
    assert {line["model"] for line in lines} == {"unlearned", "before"} and not any("text" in line for line in lines)
    assert json.loads(json.dumps(from_rows(lines)[1])) == found  # which holds all that the page shows
    page = (tmp_path / "audit" / "audit.html").read_text()
    assert "Torva Osterrick" in page and "Answers were not kept" in page
    assert "quick audit: 1 subject (6 questions), 5 controls" in ended.err
    before = contents(tmp_path / "audit")
    again = run_arguments(capfd, [*typed, str(tmp_path / "audit")])
    assert again.out == ended.out and contents(tmp_path / "audit") == before
    other = run_arguments(capfd, [*typed, str(tmp_path / "audit"), "--tau", "0.1"])
    assert other.code == 2 and "holds another run (tau is 0.01 there, 0.1 here)" in other.err


def test_audits_of_one_model_before_share_what_it_was_asked(single: Path, controls: Path, tmp_path: Path) -> None:
    def audited(name: str, known: Path | None, **options: Any) -> list[dict[str, Any]]:
        asked = AuditConfig(
            model=str(single), controls=str(controls), attacks=["reverse"], output=str(tmp_path / name), **options
        )
        return audit(of_run(asked), known=known).rows

    known = tmp_path / "known"
    alone, first = audited("alone", None), audited("first", known)
    assert first == alone
    [part] = known.rglob("before/reverse.json")
    assert {file.parent.name for file in known.rglob("*.json")} == {"before"}  # what was forgotten is asked each time
    held = json.loads(part.read_text())
    for row in held["rows"]:
        row["hit"] = not row["hit"]
    part.write_text(json.dumps(held))
    second = audited("second", known)
    assert [row for row in second if row["attack"] == "reverse" and row["model"] == "before"] == held["rows"]
    assert [row for row in second if row["model"] != "before"] == [row for row in alone if row["model"] != "before"]
    folders = set(known.iterdir())
    assert audited("longer", known, max_length=300) == audited("longer-alone", None, max_length=300)  # asked otherwise
    assert len(set(known.iterdir()) - folders) == 1
    folders = set(known.iterdir())
    assert audited("redacted", known, redact=True) and set(known.iterdir()) == folders  # which keeps no names


def test_general_tasks_before_and_now(
    single: Path, controls: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A task written here, of which the two models know as much as lm-eval's likelihoods say."""
    pytest.importorskip("lm_eval", reason="lm-eval (extra `lm-eval`) is not installed")
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    facts = [{"question": r.question, "choices": [r.answer, *r.perturbed_answer[:2]]} for r in builtin("forget")[:6]]
    write_rows(tasks / "facts.jsonl", facts)
    task = {
        "task": "written_here", "dataset_path": "json", "test_split": "train", "output_type": "multiple_choice",
        "dataset_kwargs": {"data_files": str(tasks / "facts.jsonl"), "cache_dir": str(tmp_path / "cache")},
        "doc_to_text": "{{question}}", "doc_to_choice": "{{choices}}", "doc_to_target": 0,
        "metric_list": [{"metric": "acc"}],
    }  # fmt: skip
    (tasks / "facts.yaml").write_text(json.dumps(task))
    typed = ["audit", str(single), "--controls", str(controls), "--attacks", "plain", "--lm-eval-tasks", str(tasks)]
    misspelt = run_arguments(capfd, [*typed, "--lm-eval", "writen_here", "--output", str(tmp_path / "audit")])
    assert (misspelt.code, "did you mean 'written_here'?" in misspelt.err) == (2, True)
    ended = run_arguments(capfd, [*typed, "--lm-eval", "written_here", "--output", str(tmp_path / "audit")])
    assert ended.code == 0, ended.err
    found = json.loads((tmp_path / "audit" / "audit.json").read_text())["ability"]
    assert set(found) == {"unlearned", "before"}
    assert all(0 <= each["tasks"]["written_here"]["acc,none"] <= 1 for each in found.values())
    assert '<th scope="row">written_here, acc</th>' in (tmp_path / "audit" / "audit.html").read_text()
    assert "the estimate does not include the lm-eval tasks" in ended.err
    shutil.rmtree(tasks)  # to read a finished audit takes no lm-eval
    again = run_arguments(capfd, [*typed, "--lm-eval", "written_here", "--output", str(tmp_path / "audit")])
    assert (again.code, again.out) == (0, ended.out)


def test_the_page_of_a_run_is_written_again_after_its_audit(
    single: Path, controls: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(single, run)
    write_report([run], run / "report.html")
    assert "audit/audit.html" not in (run / "report.html").read_text()
    typed = ["audit", str(run), "--controls", str(controls), "--attacks", "plain", "--output", str(run / "audit")]
    ended = run_arguments(capfd, typed)
    assert ended.code == 0, ended.err
    assert '<a href="audit/audit.html">' in (run / "report.html").read_text()
    assert "False alarms of the detector" in ended.out and "no fact was found in" not in ended.out


def test_what_cannot_be_audited_is_told_in_one_sentence(
    files: Files, controls: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = {
        "--model": str(files.model), "--before": str(files.model), "--forget": str(files.forget),
        "--retain": str(files.retain), "--controls": str(controls), "--output": str(tmp_path / "out"),
    }  # fmt: skip
    bare = write_rows(tmp_path / "bare.jsonl", [{"question": "What is it?", "answer": "What it is."}])
    wide = tmp_path / "wide"
    run_arguments(
        capfd,
        ["finetune", "--model", "new:hidden=48,layers=2,heads=2,vocabulary=400", "--data", str(files.all), "--output",
         str(wide), "--epochs", "1", "--learning-rate", "1e-3"],
    )  # fmt: skip
    two = write_rows(tmp_path / "two.jsonl", [json.loads(line) for line in controls.read_text().splitlines()[:20]])
    (tmp_path / "templates.txt").write_text("Tell me: {question}\n")
    (tmp_path / "empty").mkdir()
    for options, told in (
        ({"--controls": str(files.forget)}, "6 rows of the forget or retain set"),
        ({"--forget": str(bare)}, "no row of the forget set has a fact"),
        ({"--templates": str(tmp_path / "templates.txt")}, "unknown placeholder {question}"),
        ({"--controls": str(two)}, "2 subjects"),
        ({"--controls": None}, "give --controls"),
        ({"--before": "missing"}, "missing"),
        ({"--before": None}, "--before must be given"),
        ({"--model": str(tmp_path / "empty")}, "holds neither a model nor a run"),
        ({"--attacks": "samplign"}, "did you mean 'sampling'"),
        ({"--attacks": "sampling:temperature=0"}, "--attacks sampling.temperature=0: "),
        ({"--alpha": "2"}, "--alpha must lie between 0 and 1"),
        ({"--budget": "fast"}, "--budget must be quick, standard, deep or a number of minutes"),
        ({"--budget": "0"}, "a number of minutes above 0, not 0"),
        ({"--neighbours": str(files.retain)}, "--neighbours has only rows of the forget or retain set"),
        (
            {"--before": str(wide / "model")},
            "--before has another size than the model (model.embed_tokens.weight is ",
        ),
        ({"--model": "runs/mistyped", "--before": None}, "there is no runs/mistyped here"),
    ):
        typed = [word for pair in (whole | options).items() if pair[1] is not None for word in pair]
        ended = run_arguments(capfd, ["audit", *typed])
        assert ended.code == 2 and told in ended.err and ended.err.count("\n") == 1, (options, ended.err)
        assert not (tmp_path / "out").exists(), options


@pytest.mark.slow
def test_forget_audits_what_it_made_an_adapter_too(
    files: Files, controls: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """With LoRA the run's directory holds an adapter: what is attacked is the model with it merged."""
    run = tmp_path / "run"
    typed = [
        "forget", "--model", str(files.model), "--forget", str(files.forget), "--retain", str(files.retain), "--lora",
        "--epochs", "1", "--learning-rate", "1e-3", "--evaluate", "none", "--output", str(run),
    ]  # fmt: skip
    missing = run_arguments(capfd, [*typed, "--audit", "quick"])
    assert missing.code == 2 and "give --controls" in missing.err and not run.exists()  # before anything is trained
    assert run_arguments(capfd, typed).code == 0
    ended = run_arguments(capfd, [*typed, "--audit", "0.2", "--audit-controls", str(controls)])
    assert ended.code == 0, ended.err
    found = json.loads((run / "audit" / "audit.json").read_text())
    assert found["budget"]["asked"] == "0.2" and found["verdicts"][0]["subject"] == "Torva Osterrick"
    assert (run / "audit" / "audit.html").is_file() and "Torva Osterrick" in ended.out
    assert all(attack["attack"] not in found["budget"]["left_out"] for attack in found["attacks"])
    assert run_arguments(capfd, ["report", str(run / "audit"), "--output", str(tmp_path / "page.html")]).code == 0
    assert (tmp_path / "page.html").read_bytes() == (run / "audit" / "audit.html").read_bytes()


SIGNALS = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 2}
"""What ends a process, and its exit code: at SIGTERM it says that what was finished is kept."""


def killed_later(typed: Sequence[str], folder: Path, part: Path, sent: int) -> int | None:
    """The exit code of a command that gets a signal a moment after it has said what it will do and `part` is there."""
    said = folder / "said.txt"

    def begun() -> int:
        return said.read_text().count("quick audit: ") if said.is_file() else 0

    earlier = begun()
    process = begin(typed, folder)
    while process.is_alive() and not (begun() > earlier and part.is_file()):
        time.sleep(0.01)
    time.sleep(0.7)
    os.kill(process.pid, sent)
    process.join(400)
    return process.exitcode


@pytest.mark.slow
def test_an_audit_killed_inside_its_attacks_ends_as_one_left_alone(
    files: Files, controls: Path, tmp_path: Path
) -> None:
    """Twice inside sampling and twice inside relearning, by SIGKILL and by SIGTERM: nothing differs, to the bit."""
    typed = [
        "audit", str(files.model), "--before", str(files.model), "--forget", str(files.forget), "--retain",
        str(files.retain), "--controls", str(controls), "--attacks", "sampling", "relearning", "--attack-options",
        "sampling.n=8", "relearning.steps=0,60", "--keep-samples", "--output",
    ]  # fmt: skip
    whole, broken = tmp_path / "whole" / "audit", tmp_path / "broken" / "audit"
    for output in (whole, broken):
        output.parent.mkdir()
    assert in_process([*typed, str(whole)], whole.parent) == 0
    again, part = [*typed, str(broken)], broken / "parts" / "unlearned"
    for sent, code in SIGNALS.items():
        inside = Moment("open", "unlearned/passes.jsonl", 3, sent)
        assert in_process(again, broken.parent, inside) == code
        assert (part / "plain.json").is_file() and not (part / "sampling.json").exists()
    for sent, code in SIGNALS.items():
        assert killed_later(again, broken.parent, part / "sampling.json", sent) == code
        assert (part / "sampling.json").is_file() and not (part / "relearning.json").exists()
    assert in_process(again, broken.parent) == 0
    assert contents(broken) == contents(whole)
    assert "Traceback" not in (broken.parent / "said.txt").read_text()
