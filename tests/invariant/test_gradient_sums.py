"""Gradients that add up in `.grad` itself: those of autograd, and memory that nobody else holds."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from test_training import assert_same_weights, fresh_model, run
from torch import Tensor, nn

from unlearner.models import onednn_linear
from unlearner.models.anatomy import bare
from unlearner.models.gradient_sums import GradientSums, sum_of
from unlearner.scoring.batch import Batch
from unlearner.scoring.constants import IGNORE
from unlearner.scoring.views import score_views
from unlearner.training import step

PAD = 5
"""A token that counts as padding, and that is among those read."""


def batch(number: int = 0) -> Batch:
    ids = torch.randint(0, 400, (2, 9), generator=torch.Generator().manual_seed(number))
    ids[0, 3] = ids[1, 7] = PAD
    labels = torch.where(torch.arange(9) < 4, IGNORE, ids)
    rows = {"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids)}
    return Batch.build({"forget": rows, "retain": rows}, keep_mask=False)


def made(*, tied: bool, dtype: torch.dtype = torch.float64) -> Any:
    model = fresh_model(tied=tied, dtype=dtype)
    model.get_input_embeddings().padding_idx = PAD
    return model


def backward(model: Any, sums: GradientSums | None, number: int = 0, chunk_bytes: int | None = None) -> None:
    """ME + GD of a batch."""
    with nullcontext() if sums is None else sums.collecting():
        scores = score_views(
            model, batch(number), {"forget": ["mean_logp"], "retain": ["logp"]}, chunk_bytes=chunk_bytes
        )
        loss = scores["forget"].mean_logp.mean() + scores["retain"].nll.mean()
        loss.backward()


def gradients(model: Any) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("chunk_bytes", [None, 4 * 400 * 8], ids=["one chunk", "chunks"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "apart"])
def test_they_are_those_of_autograd(tied: bool, chunk_bytes: int | None) -> None:
    model, plain = made(tied=tied), made(tied=tied)
    sums = GradientSums(model)
    assert len(sums.sums) == (1 if tied else 2)
    for number in (0, 1, 2):  # the second on top of the first, the third in the memory of both
        backward(model, sums, number, chunk_bytes)
        backward(plain, None, number, chunk_bytes)
        found = gradients(model)
        assert found.keys() == gradients(plain).keys()
        for name, expected in gradients(plain).items():
            torch.testing.assert_close(found[name], expected, rtol=1e-10, atol=1e-12)
        if number == 1:
            sums.keep_memory()
            before = model.get_output_embeddings().weight.grad.data_ptr()
            model.zero_grad(set_to_none=True)
            plain.zero_grad(set_to_none=True)
    assert model.get_output_embeddings().weight.grad.data_ptr() == before
    assert tied or not model.get_input_embeddings().weight.grad[PAD].any()


def test_by_onednn_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """In pieces of ten tokens of the vocabulary."""
    if not onednn_linear.has_onednn():
        pytest.skip("this PyTorch has no oneDNN")
    monkeypatch.setattr(onednn_linear, "mkl_is_slow", lambda: True)
    monkeypatch.setattr(onednn_linear, "LEAST_PRODUCTS", 1)
    monkeypatch.setattr(onednn_linear, "PIECE_BYTES", 10 * 32 * 4)
    model, exact = made(tied=True, dtype=torch.float32), made(tied=True)
    sums = GradientSums(model)
    for number in (0, 1):
        backward(model, sums, number)
        backward(exact, None, number)
    for name, expected in gradients(exact).items():
        torch.testing.assert_close(gradients(model)[name].double(), expected, rtol=1e-4, atol=1e-6)


def test_a_gradient_that_someone_took_is_not_written_to() -> None:
    model = made(tied=True)
    weight, sums = model.get_output_embeddings().weight, GradientSums(model)
    backward(model, sums)
    taken, copy = weight.grad, weight.grad.clone()
    model.zero_grad(set_to_none=True)
    backward(model, sums, 1)
    assert torch.equal(taken, copy)
    assert weight.grad is not taken


def test_what_is_not_trained_or_not_plain_is_left_to_autograd() -> None:
    frozen = made(tied=True)
    frozen.requires_grad_(False)
    adapted = get_peft_model(made(tied=False), LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"]))
    for model in (frozen, bare(adapted)):
        assert not GradientSums(model).sums
    scaled = made(tied=False)
    scaled.get_input_embeddings().scale_grad_by_freq = True
    sums = GradientSums(scaled)
    with sums.collecting():
        assert "forward" not in vars(scaled.get_input_embeddings())


def test_outside_nothing_is_changed() -> None:
    model = made(tied=True)
    weight, sums = model.get_output_embeddings().weight, GradientSums(model)
    with pytest.raises(ValueError), sums.collecting():
        assert sum_of(weight) is sums.sums[weight]
        raise ValueError
    assert sum_of(weight) is None
    assert "forward" not in vars(model.get_input_embeddings())
    assert isinstance(model.get_input_embeddings(), nn.Embedding)


@pytest.mark.parametrize("name", ["ME+GD", "NPO+GD", "NPO+GD+GRU"])
def test_a_run_ends_with_the_same_weights(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = []
    for summed in (True, False):
        if not summed:
            monkeypatch.setattr(step, "GradientSums", lambda model: None)
        weights.append(run(name, tmp_path / str(summed), model=fresh_model(tied=True, dtype=torch.float64)))
    assert_same_weights(*weights, atol=1e-9)
