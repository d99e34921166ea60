"""Training that is killed, ended early, or diverges: the same bits afterwards, and no broken checkpoint."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_training import OPTIONS, Killed, assert_same_weights, fresh_model, killed_at_epoch, log_of, run, weights
from torch import nn
from torch.distributed.checkpoint import FileSystemReader
from transformers import TrainerCallback

from unlearner.errors import UserError
from unlearner.models.load import load_model
from unlearner.training import checkpoint, loop
from unlearner.training.loop import Measured

KINDS: dict[str, tuple[str, Callable[[], Any], dict[str, Any]]] = {
    "ME+GD": ("ME+GD", fresh_model, {}),
    "IDK+AP, tied": ("IDK+AP", lambda: fresh_model(tied=True), {}),
    "NPO+KL": ("NPO+KL", fresh_model, {}),
    "NPO+KL, LoRA with dropout": ("NPO+KL", fresh_model, {"lora": True}),
    "ME+GD, pure-bf16": ("ME+GD", lambda: fresh_model(dtype=torch.bfloat16), {"precision": "pure-bf16"}),
    "ME+GD, 8-bit states": ("ME+GD", fresh_model, {"optimizer": "adamw-8bit"}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_run_goes_on_to_the_same_bits(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after an epoch, and between epochs with log lines unwritten and a checkpoint half written."""
    name, make, changed = KINDS[kind]
    options = replace(OPTIONS, **changed)
    whole = run(name, tmp_path / "whole", model=make(), options=options)
    log = (tmp_path / "whole" / "log.jsonl").read_bytes()
    assert len(log_of(tmp_path / "whole")) == 8

    with pytest.raises(Killed):
        run(name, tmp_path / "epoch", model=make(), options=options, at_epoch=killed_at_epoch(2))
    assert [p.name for p in (tmp_path / "epoch" / "checkpoints").iterdir()] == ["step-000005"]
    assert len(log_of(tmp_path / "epoch")) == 5
    resumed = run(name, tmp_path / "epoch", model=make(), options=options)
    assert_same_weights(resumed, whole, atol=0)
    assert (tmp_path / "epoch" / "log.jsonl").read_bytes() == log

    save = checkpoint.save

    def save_and_die(model: Any, optimizer: Any, folder: Path, step: int, *more: Any) -> None:
        if step < 6:
            save(model, optimizer, folder, step, *more)
            return
        (folder / f".step-{step:06d}.tmp").mkdir()
        (folder / f".step-{step:06d}.tmp" / "__0_0.distcp").write_bytes(b"half")
        raise Killed

    often = replace(options, save_steps=2)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(loop.checkpoint, "save", save_and_die)
        run(name, tmp_path / "often", model=make(), options=often)
    resumed = run(name, tmp_path / "often", model=make(), options=often)
    assert_same_weights(resumed, whole, atol=0)
    assert (tmp_path / "often" / "log.jsonl").read_bytes() == log
    assert not list((tmp_path / "often" / "checkpoints").glob(".*"))


def test_a_run_goes_on_from_its_last_checkpoint_not_from_the_start(tmp_path: Path) -> None:
    """The weights that are handed over the second time are not those that are trained."""
    with pytest.raises(Killed):
        run("ME+GD", tmp_path, at_epoch=killed_at_epoch(2))
    other = fresh_model()
    nn.init.zeros_(other.lm_head.weight)
    resumed = run("ME+GD", tmp_path, model=other)
    assert_same_weights(resumed, run("ME+GD", tmp_path / "whole"), atol=0)


def test_checkpoints_are_few_and_with_lora_small(tmp_path: Path) -> None:
    run("ME+GD", tmp_path / "full", options=replace(OPTIONS, save_steps=1, save_total_limit=2))
    assert sorted(p.name for p in (tmp_path / "full" / "checkpoints").iterdir()) == ["step-000006", "step-000007"]
    assert checkpoint.latest(tmp_path / "full" / "checkpoints")[0] == 7
    run("ME+GD", tmp_path / "lora", options=replace(OPTIONS, lora=True, lora_rank=1))
    assert [p.name for p in (tmp_path / "lora" / "checkpoints").iterdir()] == ["step-000005"], "none of the last step"
    held = FileSystemReader(tmp_path / "lora" / "checkpoints" / "step-000005").read_metadata().state_dict_metadata
    weights = [name for name in held if name.startswith("model.")]
    assert weights and all("lora_" in name for name in weights), "the base weights do not change"


def test_at_epoch_sees_every_epoch_and_can_end_the_run(tmp_path: Path) -> None:
    seen: list[tuple[int, bool]] = []

    def at_epoch(model: nn.Module, epoch: int) -> Measured:
        seen.append((epoch, bool((weights(model)["lm_head.weight"] != weights(fresh_model())["lm_head.weight"]).any())))
        return Measured({}, enough=epoch == 2)

    stopped = run("ME+GD", tmp_path, at_epoch=at_epoch)
    assert seen == [(1, True), (2, True)]
    assert len(log_of(tmp_path)) == 5
    assert_same_weights(load_model(str(tmp_path / "model")), stopped.cpu(), atol=0)


# -------------------------------------------------------------------------------------------------------- not finite


def test_a_run_that_diverges_names_its_step_and_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    """Weights poisoned after step 5: found when the log is next written, and before a checkpoint is."""

    def poison(model: nn.Module, epoch: int) -> Measured:
        if epoch == 2:
            nn.init.constant_(model.lm_head.weight, torch.nan)
        return Measured({}, enough=False)

    with pytest.raises(UserError) as error:
        run("ME+GD", tmp_path, at_epoch=poison)
    last = tmp_path / "checkpoints" / "step-000005"
    assert str(error.value).startswith("step 6: the loss is nan")
    assert f"the last good state is {last}: try a lower --learning-rate" in str(error.value)
    assert [p.name for p in last.parent.iterdir()] == ["step-000005"]
    assert [row["step"] for row in log_of(tmp_path)] == [1, 2, 3, 4, 5]
    assert not (tmp_path / "model").exists()
    assert_same_weights(run("ME+GD", tmp_path), run("ME+GD", tmp_path / "healthy"), atol=0)


def test_a_learning_rate_that_is_far_too_high_says_so(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"^step \d: the loss is .*no checkpoint had been written yet: try a lower --learning-rate"
    ):
        run("ME+GD", tmp_path, options=replace(OPTIONS, learning_rate=1e30, warmup_epochs=0))
    assert not (tmp_path / "model").exists() and not (tmp_path / "checkpoints").exists()


def test_weights_that_a_last_step_broke_are_not_saved(tmp_path: Path) -> None:
    """No loss is computed after the last step: a single one with such a rate ended as a success."""
    options = replace(OPTIONS, learning_rate=1e30, warmup_epochs=0, epochs=0.4)
    with pytest.raises(
        UserError, match=r"^step 1: the weights are no longer finite, or too large .*: try a lower --learning-rate"
    ):
        run("ME+GD", tmp_path, options=options)
    assert not (tmp_path / "model").exists() and not (tmp_path / "checkpoints").exists()


def test_broken_weights_after_the_last_step_leave_the_last_good_checkpoint(tmp_path: Path) -> None:
    class Poison(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **more: Any) -> None:
            if state.global_step == state.max_steps:
                nn.init.constant_(model.lm_head.weight, torch.inf)

    with pytest.raises(UserError) as error:
        run("ME+GD", tmp_path, callbacks=[Poison()])
    (last,) = (tmp_path / "checkpoints").iterdir()
    assert str(error.value).startswith("step 8: the weights are no longer finite")
    assert f"the last good state is {last}" in str(error.value)
    assert not (tmp_path / "model").exists()
    assert_same_weights(run("ME+GD", tmp_path), run("ME+GD", tmp_path / "healthy"), atol=0)


def test_a_first_loss_that_is_not_finite_is_no_fault_of_the_learning_rate(tmp_path: Path) -> None:
    model = fresh_model()
    nn.init.constant_(model.lm_head.weight, torch.nan)
    with pytest.raises(
        UserError, match=r"^step 1: the loss is nan .* before any weight has changed: .*--beta"
    ) as error:
        run("ME+GD", tmp_path, model=model)
    assert "--learning-rate" not in str(error.value)


def test_saved_files_have_the_rights_of_the_umask_and_one_order(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        run("ME+GD", tmp_path, options=replace(OPTIONS, lora=True, epochs=0.4))
    finally:
        os.umask(before)
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "adapter").iterdir()} == {0o640}
    modules = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["target_modules"]
    assert len(modules) == 14 and modules == sorted(modules)  # of a set, in an order that differs between processes
