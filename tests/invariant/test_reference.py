"""The reference: what of it is in memory, and what it answers."""

from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest
import torch
from accelerate import PartialState
from test_training import OPTIONS, assert_same_weights, fresh_model, log_of, run
from torch import nn

from unlearner import Method
from unlearner.scoring.batch import Batch
from unlearner.training.objective import Objective
from unlearner.training.reference import Reference
from unlearner.training.setup import add_lora

# ------------------------------------------------------------------------------------------------------------ reference


def storage(*modules: nn.Module) -> int:
    """Bytes of all weights and buffers, each memory once."""
    tensors = chain.from_iterable((*module.parameters(), *module.buffers()) for module in modules)
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def batch_of(ids: torch.Tensor) -> Batch:
    return Batch.build({"retain": {"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids)}})


def test_with_lora_the_reference_is_no_second_copy() -> None:
    model = add_lora(fresh_model(), OPTIONS)
    reference = Reference.of(model)
    objective = Objective(model, Method.parse("ME+KL"), reference)
    assert not reference.holds_copy
    assert storage(objective, reference.model) == storage(model) < 1.5 * storage(fresh_model())


def test_without_lora_the_reference_is_a_frozen_copy() -> None:
    model = fresh_model()
    reference = Reference.of(model)
    objective = Objective(model, Method.parse("ME+KL"), reference)
    assert reference.holds_copy
    assert storage(objective, reference.model) == pytest.approx(2 * storage(model), rel=0.01)
    assert not any(p.requires_grad for p in reference.model.parameters())
    assert len(list(objective.parameters())) == len(list(model.parameters())), "it is neither trained nor saved"
    assert objective.state_dict().keys() == {f"model.{key}" for key in model.state_dict()}
    asked = batch_of(torch.arange(3, 9)[None])
    before = reference.ask(asked, {})
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.5)
    after = reference.ask(asked, {})
    assert torch.equal(before.states.last, after.states.last)
    assert torch.equal(before.head.weight, after.head.weight)


def test_with_the_adapter_off_the_model_is_its_own_reference() -> None:
    """Whatever the adapter holds, without dropout, and everything as it was afterwards."""
    model = add_lora(fresh_model(), OPTIONS).train()
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter)
    ids = torch.arange(3, 23).reshape(2, 10)
    states = Reference.of(model).ask(batch_of(ids), {}).states.last
    expected = fresh_model().model(input_ids=ids).last_hidden_state.flatten(0, 1)
    torch.testing.assert_close(states, expected, rtol=0, atol=0)
    assert not states.requires_grad
    assert model.training and all(module.training for module in model.modules())
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained and all("lora_" in name for name in trained)
    assert (model.get_base_model().model(input_ids=ids).last_hidden_state.flatten(0, 1) - expected).abs().max() > 0.1


@pytest.mark.parametrize("lora", [False, True], ids=["copy", "adapter off"])
def test_the_reference_is_asked_without_dropout(lora: bool) -> None:
    """Neither the adapter's nor the model's own, while the model trains with it."""
    model = fresh_model()
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    model = (add_lora(model, OPTIONS) if lora else model).train()
    ids = torch.arange(3, 43)[None]
    states = Reference.of(model).ask(batch_of(ids), {}).states.last[None]
    torch.testing.assert_close(states, fresh_model().eval().model(input_ids=ids).last_hidden_state)
    body = model.get_base_model().model if lora else model.model
    assert (body(input_ids=ids).last_hidden_state - states).abs().max() > 0.01


def test_kl_with_the_adapter_off_is_kl_with_an_explicit_copy(tmp_path: Path) -> None:
    """Loss by loss along the run; with dropout in the adapter, which the reference must not feel."""
    options = replace(OPTIONS, lora=True)
    own = run("NPO+KL", tmp_path / "own", options=options)
    copied = run("NPO+KL", tmp_path / "copy", options=options, reference_model=fresh_model())
    rows = log_of(tmp_path / "own")
    for a, b in zip(rows, log_of(tmp_path / "copy"), strict=True):
        assert a == pytest.approx(b, rel=1e-6, abs=1e-6)
    assert max(row["retain"] for row in rows) > 1e-4, "KL should have left 0"
    assert_same_weights(own, copied, atol=1e-5)


def test_another_reference_model_is_used_where_one_is_given(tmp_path: Path) -> None:
    """NPO's first step: margin 0 with the model itself, (2/β) log 2; not so with another one."""
    run("NPO+KL", tmp_path / "itself")
    run("NPO+KL", tmp_path / "other", reference_model=fresh_model(tied=True))
    itself, other = log_of(tmp_path / "itself")[0], log_of(tmp_path / "other")[0]
    assert itself["forget"] == pytest.approx(13.862944, rel=1e-4)
    assert itself["retain"] == pytest.approx(0, abs=1e-5)
    assert other["forget"] != pytest.approx(13.862944, rel=1e-2)
    assert other["retain"] > 0.1


def test_the_processes_stay_joined_after_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`forget` evaluates when training is done, and there its processes wait for one another."""
    ended: list[bool] = []
    monkeypatch.setattr(PartialState, "destroy_process_group", lambda self, group=None: ended.append(True))
    run("ME+GD", tmp_path, options=replace(OPTIONS, epochs=1))
    assert not ended
