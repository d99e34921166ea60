"""A run killed at any moment and started again ends with the very files of an uninterrupted one."""

import signal
from pathlib import Path
from typing import Any

import pytest

from conftest import Files, Moment, arguments, contents, in_process, run, stamps

KILLED = -signal.SIGKILL


def killed_and_continued(command: str, options: dict[str, Any], folder: Path, moments: list[Moment]) -> set[str]:
    """Run the command once undisturbed and once killed at each of `moments`, in turn; both must leave the same files.

    Gives the names of those.
    """
    whole, broken = folder / "whole" / "run", folder / "broken" / "run"
    for output in (whole, broken):
        output.parent.mkdir()
    assert in_process([command, *arguments({**options, "output": whole})], whole.parent) == 0
    typed = [command, *arguments({**options, "output": broken})]
    for moment in moments:
        assert in_process(typed, broken.parent, moment) == KILLED, f"{moment} never came"
    assert in_process(typed, broken.parent) == 0
    assert contents(broken) == contents(whole)
    return set(contents(whole))


@pytest.fixture
def training() -> dict[str, Any]:
    """Two epochs of three steps each, everything written as often as possible."""
    return {"lr": 1e-3, "epochs": 2, "batch_size": 2, "accumulation": 1, "save_every": 2, "log_every": 1}


@pytest.fixture
def forgetting(files: Files, training: dict[str, Any]) -> dict[str, Any]:
    data = {"model": files.model, "forget": files.forget, "retain": files.retain}
    return {**data, **training, "judge": "offline", "max_new_tokens": 12}


@pytest.mark.slow
def test_forget_evaluated_after_every_epoch(forgetting: dict[str, Any], tmp_path: Path) -> None:
    moments = [
        Moment("os.rename", "run/run.json"),
        Moment("os.rename", "run/config.yaml"),
        Moment("open", "before/passes.jsonl", 2),
        Moment("os.rename", "before/records.jsonl"),
        Moment("os.rename", "before/summary.json"),
        Moment("open", "run/log.jsonl", 2),
        Moment("os.rename", "checkpoints/step-000002"),
        Moment("open", "epochs/1/passes.jsonl", 2),
        Moment("os.rename", "epochs/1/summary.json"),
        Moment("shutil.rmtree", "checkpoints/step-000002"),
        Moment("open", "epochs/2/passes.jsonl", 2),
        Moment("os.rename", "run/model"),
        Moment("os.rename", "run/summary.json"),
        Moment("shutil.rmtree", "run/checkpoints"),
        Moment("os.rename", "run/finished.json"),
        Moment("os.rename", "run/report-figures"),
        Moment("os.rename", "run/report.html"),
    ]
    left = killed_and_continued("forget", {**forgetting, "evaluate": "epochs"}, tmp_path, moments)
    evaluation = ["records.jsonl", "summary.json"]
    figures = {name for name in left if name.startswith("report-figures/")}
    left -= figures
    assert {"report-figures/tradeoff.png", "report-figures/epochs.svg"} <= figures
    assert left == {
        "run.json", "config.yaml", "log.jsonl", "finished.json", *evaluation,
        "before", *(f"before/{name}" for name in evaluation),
        "epochs", *(f"epochs/{e}" for e in (1, 2)), *(f"epochs/{e}/{name}" for e in (1, 2) for name in evaluation),
        "model", "model/config.json", "model/generation_config.json", "model/model.safetensors",
        "model/tokenizer.json", "model/tokenizer_config.json", "model/README.md", "report.html", "report-figures",
    }  # fmt: skip


@pytest.mark.slow
def test_forget_with_an_adapter(forgetting: dict[str, Any], tmp_path: Path) -> None:
    """Dropout in the adapter: the state of the random numbers goes on too."""
    moments = [
        Moment("open", "run/log.jsonl", 4),
        Moment("os.rename", "checkpoints/step-000004"),
        Moment("os.rename", "run/adapter"),
        Moment("open", "run/passes.jsonl", 2),
        Moment("os.rename", "run/records.jsonl"),
    ]
    options = {**forgetting, "method": "NPO+KL", "lora": True, "lora_dropout": 0.3}
    left = killed_and_continued("forget", options, tmp_path, moments)
    assert "adapter/adapter_model.safetensors" in left
    assert not any(name.startswith("model") for name in left)
    assert "Warning" not in (tmp_path / "whole" / "said.txt").read_text()


@pytest.mark.slow
def test_forget_with_a_merged_adapter(forgetting: dict[str, Any], tmp_path: Path) -> None:
    moments = [Moment("os.rename", "run/model"), Moment("open", "run/passes.jsonl", 2)]
    killed_and_continued("forget", {**forgetting, "lora": True, "merge": True}, tmp_path, moments)


def test_finetune(files: Files, training: dict[str, Any], tmp_path: Path) -> None:
    moments = [
        Moment("open", "run/log.jsonl", 3),
        Moment("os.rename", "checkpoints/step-000004"),
        Moment("os.rename", "run/model"),
        Moment("shutil.rmtree", "run/checkpoints"),
        Moment("os.rename", "run/finished.json"),
    ]
    options = {**training, "model": "new:hidden=16,layers=1,heads=1,vocabulary=300", "data": files.all}
    killed_and_continued("finetune", options, tmp_path, moments)


def test_evaluate(files: Files, tmp_path: Path) -> None:
    moments = [
        Moment("os.rename", "run/run.json"),
        Moment("open", "run/passes.jsonl", 2),
        Moment("open", "run/passes.jsonl", 4),
        Moment("os.rename", "run/records.jsonl"),
        Moment("os.rename", "run/summary.json"),
        Moment("os.remove", "run/passes.jsonl"),
        Moment("os.rename", "run/finished.json"),
    ]
    options = {"model": files.model, "forget": files.forget, "retain": files.retain, "eval_tokens": 150}
    left = killed_and_continued("evaluate", {**options, "judge": "offline", "max_new_tokens": 12}, tmp_path, moments)
    assert left == {"run.json", "config.yaml", "records.jsonl", "summary.json", "finished.json"}


@pytest.mark.parametrize("command", ["forget", "finetune", "evaluate"])
def test_a_finished_run_is_left_as_it_is(
    command: str, forgetting: dict[str, Any], files: Files, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {
        "forget": {**forgetting, "evaluate": "end"},
        "finetune": {"model": files.model, "data": files.all, "epochs": 1},
        "evaluate": {"model": files.model, "forget": files.forget, "judge": "offline", "max_new_tokens": 12},
    }[command]
    first = run(capfd, command, **options, output=tmp_path / "run")
    assert first.code == 0
    before = stamps(tmp_path)
    again = run(capfd, command, **options, output=tmp_path / "run")
    assert again.code == 0
    assert again.out == first.out  # the same tables, the same directions
    assert stamps(tmp_path) == before
