"""OpenUnlearning's losses and gradient norms (shared/parity/field.json), on the batches of losses.json."""

import json
from pathlib import Path
from typing import Any

import pytest
from test_losses import cases, models, parity, tensors  # noqa: F401 - the fixtures are used by name

from unlearner import Method

KEYS = {
    "simnpo": "SIMNPO", "undial": "UNDIAL", "wga": "WGA", "satimp": "SATIMP", "ceu": "CEU", "pdu": "PDU",
    "kl_to_reference": "GA+KL",
}  # fmt: skip
"""Method of each key; the last one's retain loss is meant."""
OTHERS = {"rmu", "embedding_difference"}


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("name", KEYS)
def test_losses_and_gradients_are_openunlearnings(parity: Path, models: Any, name: str, number: int) -> None:  # noqa: F811
    model, reference = models
    case = json.loads((parity / "field.json").read_text())["losses"][number]
    views = tensors(cases(parity)[case["case"]]["batch"])
    found = [key for key in case["expected"] if key.split()[0] == name]
    assert found
    for key in found:
        given = dict(pair.split("=") for pair in key.split()[1:])
        options = {option: int(value) if option == "ignore_first" else float(value) for option, value in given.items()}
        method = Method.parse(KEYS[name], official=True, **options)
        model.zero_grad()
        losses = method.losses(model, {view: views[view] for view in method.needs}, reference=reference)
        loss = losses.retain if name == "kl_to_reference" else losses.forget
        assert loss.item() == pytest.approx(case["expected"][key]["loss"], rel=1e-4), key
        loss.backward()
        norm = sum(p.grad.square().sum() for p in model.parameters()).sqrt().item()
        assert norm == pytest.approx(case["expected"][key]["grad_norm"], rel=1e-3), key


def test_every_key_is_looked_at(parity: Path) -> None:  # noqa: F811
    losses = json.loads((parity / "field.json").read_text())["losses"]
    assert [each["case"] for each in losses] == list(range(6))
    assert {key.split()[0] for each in losses for key in each["expected"]} == {*KEYS, *OTHERS}
