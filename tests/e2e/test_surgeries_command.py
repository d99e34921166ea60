"""Surgeries and presets from the command line: what a run is told, keeps and goes on with."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from conftest import Files, arguments, contents, run_arguments
from unlearner.files import read_jsonl
from unlearner.training import loop


@pytest.fixture
def given(files: Files) -> dict[str, Any]:
    return {
        "model": files.model, "forget": files.forget, "retain": files.retain, "lr": 1e-3, "epochs": 3, "batch_size": 2,
        "accumulation": 1, "evaluate": "none", "save_every": 2, "log_every": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("NPO+GD+GRU", "momentum=0.6"),
        ("idk+ap+dualoptim", "retain_steps=2"),
        ("LLMU+BLUR", None),
        ("GA+SAM", "rho=0.1"),
    ],
)
def test_a_killed_run_goes_on_to_the_same_bits(
    method: str, options: str | None, given: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Killed after its second checkpoint of four: nothing that a surgery keeps is lost, nor drawn anew."""
    typed = ["forget", *arguments(given | {"method": method, "method_options": options})]
    save = loop.checkpoint.save

    def stopping(model: Any, optimizers: Any, folder: Path, step: int, *more: Any) -> None:
        save(model, optimizers, folder, step, *more)
        if step == 4:
            raise KeyboardInterrupt

    assert run_arguments(capfd, [*typed, "--output", str(tmp_path / "whole")]).code == 0
    with monkeypatch.context() as patch:
        patch.setattr(loop.checkpoint, "save", stopping)
        run_arguments(capfd, [*typed, "--output", str(tmp_path / "killed")])
    assert not (tmp_path / "killed" / "model").exists()
    ended = run_arguments(capfd, [*typed, "--output", str(tmp_path / "killed")])
    assert ended.code == 0, ended.err
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    rows = read_jsonl(tmp_path / "whole" / "log.jsonl")
    assert len(rows) == 9 and all(row["grad_norm"] > 0 for row in rows)


def test_without_a_preset_the_settings_are_those_of_the_losses(
    given: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """ME's forget coefficient of the fictitious scenario, and what is published of SimNPO."""
    for method, preset, coeff in (("ME+GD", None, 0.1), ("SIMNPO+GD", "paper", 0.125)):
        for name in (method, f"{method}+GRU"):
            output = tmp_path / name
            typed = given | {"method": name, "preset": preset, "output": output, "lr": None, "epochs": 1}
            ended = run_arguments(capfd, ["forget", *arguments(typed)])
            assert ended.code == 0, ended.err
            row = read_jsonl(output / "log.jsonl")[0]
            assert row["loss"] == pytest.approx(coeff * row["forget"] + row["retain"], rel=1e-5)
        plain, projected = (read_jsonl(tmp_path / n / "log.jsonl") for n in (method, f"{method}+GRU"))
        assert [row["lr"] for row in plain] == [row["lr"] for row in projected]


def test_a_preset_that_names_no_learning_rate_is_told_and_kept_in_the_run(
    given: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    typed = given | {"method": "UNDIAL+GD", "preset": "paper", "lr": None, "epochs": 1, "output": tmp_path / "out"}
    ended = run_arguments(capfd, ["forget", *arguments(typed)])
    assert ended.code == 0, ended.err
    assert "the preset paper of UNDIAL+GD names no learning rate" in " ".join(ended.err.split())
    assert "names no learning rate" in (tmp_path / "out" / "run.json").read_text()


def test_a_retain_set_that_no_loss_reads_is_told_and_kept_in_the_run(
    given: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    typed = given | {
        "method": "SimNPO",
        "preset": "openunlearning",
        "lr": None,
        "epochs": 1,
        "output": tmp_path / "out",
    }
    ended = run_arguments(capfd, ["forget", *arguments(typed)])
    assert ended.code == 0, ended.err
    said = " ".join(ended.err.split())
    assert said.count("SIMNPO has no retain loss, so no row of --retain is trained on") == 1 and "use SIMNPO+GD" in said
    assert "no row of --retain is trained" in (tmp_path / "out" / "run.json").read_text()


def test_official_pdu_on_a_model_with_no_position_to_spare(
    given: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Rows are padded to as many tokens as the model has positions, and none is that long."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(given["model"])
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=8, n_layer=1, n_head=1, n_positions=96, eos_token_id=1)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    tokenizer.save_pretrained(tmp_path / "gpt2")
    typed = given | {"model": tmp_path / "gpt2", "method": "PDU+GD", "official": True, "max_length": 96}
    ended = run_arguments(capfd, ["forget", *arguments(typed | {"output": tmp_path / "out"})])
    assert ended.code == 0, ended.err
