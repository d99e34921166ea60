"""OpenUnlearning's numbers of its losses on hidden states, and of its KL (shared/parity/field.json)."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from test_losses import cases, models, parity, tensors  # noqa: F401 - two of them are fixtures
from torch import Tensor

from unlearner import Method


def check(loss: Tensor, model: Any, expected: dict[str, float], what: str) -> None:
    assert loss.item() == pytest.approx(expected["loss"], rel=1e-4), what
    grads = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    norm = torch.stack([grad.norm() for grad in grads if grad is not None]).norm()
    assert norm.item() == pytest.approx(expected["grad_norm"], rel=1e-3), what


@pytest.mark.parametrize("number", range(6))
def test_losses_on_states_are_those_of_openunlearning(parity: Path, models: Any, number: int) -> None:  # noqa: F811
    model, reference = models
    field = json.loads((parity / "field.json").read_text())
    case = field["losses"][number]
    views = tensors(cases(parity)[case["case"]]["batch"])
    expected = case["expected"]
    for steering in (2.0, 20.0):
        key = f"rmu layer={field['layer']} steering={steering}"
        method = Method.parse(
            "RMU", layer=field["layer"], steering=steering, control_vector=field["control_vector"], official=True
        )
        check(method.losses(model, {"forget": views["forget"]}, reference=reference).forget, model, expected[key], key)
    for name, key in (("REP", f"embedding_difference layer={field['layer']}"), ("KL", "kl_to_reference")):
        options = {"layer": field["layer"]} if name == "REP" else {}
        method = Method.parse(f"GA+{name}", official=True, **options)
        check(method.losses(model, views, reference=reference).retain, model, expected[key], key)
