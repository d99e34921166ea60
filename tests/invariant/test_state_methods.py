"""Losses on hidden states, and on mixed prompts, in the loop, beside what `test_every_method` shows of them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_training import (
    EXACT,
    OPTIONS,
    Killed,
    assert_same_weights,
    fresh_model,
    killed_at_epoch,
    log_of,
    run,
    weights,
)

from unlearner import Method
from unlearner.errors import UserError

SHORT = replace(OPTIONS, lora_dropout=0.0, epochs=1.9, max_length=96)
METHODS = {
    "RMU+REP": Method.parse("RMU+REP", layer=1, steering=3.0, retain_coeff=2.0),
    "RMU+GD": Method.parse("RMU+GD", layer=0, steering=3.0),
    "ARMU+REP": Method.parse("ARMU+REP", layer=1, scale=2.0),
    "NPO+REP": Method.parse("NPO+REP", layer=0),
    "RR": Method.parse("RR", layers="0,1", schedule_steps=4),
    "MP-ME": Method.parse("MP-ME"),
    "MP-IDK": Method.parse("MP-IDK"),
}


def moved(model: Any) -> set[str]:
    """The weights that training changed."""
    start = weights(fresh_model(dtype=next(model.parameters()).dtype))
    return {name for name, tensor in weights(model).items() if not torch.equal(tensor, start[name])}


@pytest.mark.parametrize("name", ["RMU+REP", "MP-ME"])
def test_how_a_step_is_cut_changes_nothing_in_official_mode(name: str, tmp_path: Path) -> None:
    """There the mean over states depends on all rows of a group (`ViewScores.state_mean`)."""
    method = replace(METHODS[name], official=True)
    whole, parts = (
        run(
            method, tmp_path / str(n), model=fresh_model(dtype=torch.float64),
            options=replace(SHORT, max_tokens_per_forward=n),
            reference_model=fresh_model(tied=True, dtype=torch.float64),
        )
        for n in (10**9, 1)
    )  # fmt: skip
    assert moved(whole)
    assert_same_weights(whole, parts, atol=EXACT)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.asked])
def test_a_copy_of_the_whole_model_is_the_same_reference(name: str, tmp_path: Path) -> None:
    """As copies of the weights that train; with LoRA, as the adapter switched off."""
    ours = run(METHODS[name], tmp_path / "own", options=SHORT)
    assert_same_weights(
        ours, run(METHODS[name], tmp_path / "copy", options=SHORT, reference_model=fresh_model()), atol=2e-5
    )
    lora = replace(SHORT, lora=True)
    adapted, other = (
        run(METHODS[name], tmp_path / folder, options=lora, reference_model=reference)
        for folder, reference in (("adapter", None), ("adapter and copy", fresh_model()))
    )
    trained = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert trained and all("lora" in name for name in trained)
    for name in trained:
        torch.testing.assert_close(weights(adapted)[name], weights(other)[name], rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ["RMU+REP", "RR"])
def test_killed_and_repeated_an_adapter_has_the_same_bits(name: str, tmp_path: Path) -> None:
    """With its control vector, or the number of its step, from the checkpoint."""
    options = replace(SHORT, lora=True, lora_dropout=0.3, epochs=3)
    whole = run(METHODS[name], tmp_path / "whole", options=options)
    with pytest.raises(Killed):
        run(METHODS[name], tmp_path / "killed", options=options, at_epoch=killed_at_epoch(2))
    assert_same_weights(run(METHODS[name], tmp_path / "killed", options=options), whole, atol=0)
    assert log_of(tmp_path / "killed") == log_of(tmp_path / "whole")


def test_only_the_named_matrices_change(tmp_path: Path) -> None:
    made = run(METHODS["RMU+REP"], tmp_path / "rmu", options=SHORT)
    assert moved(made) == {f"model.layers.{n}.mlp.down_proj.weight" for n in (0, 1)}
    first = run(METHODS["RMU+GD"], tmp_path / "gd", options=SHORT)
    assert moved(first) == {"model.layers.0.mlp.down_proj.weight"}


def test_gradient_checkpointing_changes_nothing(tmp_path: Path) -> None:
    """A forward that ends early is computed again in the backward pass."""
    plain, again = (
        run(METHODS["RMU+REP"], tmp_path / str(on), options=replace(SHORT, gradient_checkpointing=on))
        for on in (False, True)
    )
    assert_same_weights(plain, again, atol=2e-5)


def test_a_layer_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"layer 7 does not exist: the model has layers 0 to 1"):
        run(Method.parse("NPO+REP"), tmp_path, options=SHORT)
