"""OpenUnlearning's losses and gradient norms (shared/parity/field.json), on the batches of losses.json."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from test_losses import cases, models, parity, tensors  # noqa: F401 - the fixtures are used by name

from unlearner import Method

KEYS = {
    "simnpo": "SIMNPO", "undial": "UNDIAL", "wga": "WGA", "satimp": "SATIMP", "ceu": "CEU", "pdu": "PDU",
    "rmu": "RMU", "kl_to_reference": "GA+KL", "embedding_difference": "GA+REP",
}  # fmt: skip
"""Method of each key; the last two's retain losses are meant."""
WHOLE_NUMBERS = {"ignore_first", "layer"}


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("name", KEYS)
def test_losses_and_gradients_are_openunlearnings(parity: Path, models: Any, name: str, number: int) -> None:  # noqa: F811
    model, reference = models
    field = json.loads((parity / "field.json").read_text())
    case = field["losses"][number]
    views = tensors(cases(parity)[case["case"]]["batch"])
    found = [key for key in case["expected"] if key.split()[0] == name]
    assert found
    for key in found:
        given = dict(pair.split("=") for pair in key.split()[1:])
        options: dict[str, Any] = {k: int(each) if k in WHOLE_NUMBERS else float(each) for k, each in given.items()}
        options |= {"control_vector": field["control_vector"]} if name == "rmu" else {}
        method = Method.parse(KEYS[name], official=True, **options)
        losses = method.losses(model, {view: views[view] for view in method.needs}, reference=reference)
        loss = losses.retain if "+" in KEYS[name] else losses.forget
        assert loss.item() == pytest.approx(case["expected"][key]["loss"], rel=1e-4), key
        grads = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
        norm = torch.stack([grad.norm() for grad in grads if grad is not None]).norm().item()
        assert norm == pytest.approx(case["expected"][key]["grad_norm"], rel=1e-3), key


def test_every_key_is_looked_at(parity: Path) -> None:  # noqa: F811
    losses = json.loads((parity / "field.json").read_text())["losses"]
    assert [each["case"] for each in losses] == list(range(6))
    assert {key.split()[0] for each in losses for key in each["expected"]} == {*KEYS}
