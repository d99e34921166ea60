"""The official code's losses and gradient norms (shared/parity/losses.json)."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from unlearner import Method

VIEWS = {"forget_idk": "forget_refusal", "retain_idk": "retain_refusal"}


@pytest.fixture(scope="module")
def parity(shared: Path) -> Path:
    return shared / "parity"


@pytest.fixture(scope="module")
def models(parity: Path):
    load = AutoModelForCausalLM.from_pretrained
    return load(parity / "model"), load(parity / "reference_model")


def cases(parity: Path) -> list[dict]:
    return json.loads((parity / "losses.json").read_text())


def tensors(batch: dict) -> dict:
    return {
        VIEWS.get(name, name): {key: torch.tensor(value) for key, value in view.items()} for name, view in batch.items()
    }


@pytest.mark.parametrize("number", range(6))
def test_losses_and_gradients_are_the_official_ones(parity: Path, models, number: int) -> None:
    model, reference = models
    case = cases(parity)[number]
    views = tensors(case["batch"])
    assert case["expected"]
    for key, expected in case["expected"].items():
        name, _, beta = key.partition("@beta=")
        method = Method.parse(name, beta=float(beta), official=True)
        model.zero_grad()
        losses = method.losses(model, views, reference=reference)
        assert losses.forget.item() == pytest.approx(expected["forget_loss"], rel=1e-4), key
        assert losses.retain.item() == pytest.approx(expected["regularization_loss"], rel=1e-4), key
        (0.7 * losses.forget + 1.3 * losses.retain).backward()
        parameters = dict(model.named_parameters())
        for parameter, norm in expected["grad_norms"].items():
            assert parameters[parameter].grad.norm().item() == pytest.approx(norm, rel=1e-3), (key, parameter)
        norms = torch.stack([p.grad.norm() for p in parameters.values()])
        assert norms.norm().item() == pytest.approx(expected["grad_norm_of_0.7f_plus_1.3r"], rel=1e-3), key


def test_all_six_batches_are_there(parity: Path) -> None:
    assert len(cases(parity)) == 6
