"""Whole runs with a surgery against a plain loop: two gradients by autograd, the formula on one vector, AdamW."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_training import (
    OPTIONS,
    Killed,
    assert_moved,
    assert_same_weights,
    fresh_model,
    killed_at_epoch,
    log_of,
    plan_for,
    run,
    views_for,
)
from torch import Tensor

from unlearner import Method
from unlearner.data.batches import padded
from unlearner.training.loop import _schedule

SHORT = replace(OPTIONS, epochs=1, lora_dropout=0.0, batch_size=4, gradient_accumulation_steps=1, max_length=96)
"""Three steps, the last of two rows."""
Gradients = Callable[[str, int], Tensor]
"""Of a loss and a draw, at the weights as they are."""


class Plain:
    """A model that is trained by a loop of a few lines, on the rows that a run takes, by full padded batches."""

    def __init__(self, method: Method) -> None:
        self.method, self.model, self.reference = method, exact_model(), exact_model()
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.plan = plan_for(method, SHORT)
        self.views = views_for(method, self.plan, SHORT)
        self.optimizers = [torch.optim.AdamW(self.parameters, weight_decay=SHORT.weight_decay) for _ in range(2)]

    def steps(self) -> Iterator[Gradients]:
        warmup = int(self.plan.steps_per_epoch * SHORT.warmup_epochs)
        for number in range(self.plan.steps):
            epochs, items = self.plan.step(number)
            self.rate = SHORT.learning_rate * _schedule(number, warmup, self.plan.steps)  # type: ignore[operator]
            yield lambda role, draw, e=epochs, i=items: self.gradient(role, e * self.plan.draws + draw, i)

    def gradient(self, role: str, epochs: np.ndarray, items: np.ndarray) -> Tensor:
        batch = {name: padded(view, view.rows[epochs, items], 1) for name, view in self.views.items()}
        losses = self.method.losses(self.model, batch, reference=self.reference)
        coeff = self.method.forget_coeff if role == "forget" else self.method.retain_coeff
        found = torch.autograd.grad(coeff * getattr(losses, role), self.parameters)
        return torch.cat([each.flatten() for each in found])

    def update(self, gradient: Tensor, which: int = 0, share: float = 1.0) -> None:
        norm = gradient.norm()
        gradient = gradient * min(1.0, SHORT.max_grad_norm / float(norm + 1e-6))
        for parameter, part in zip(self.parameters, self.split(gradient), strict=True):
            parameter.grad = part
        self.optimizers[which].param_groups[0]["lr"] = self.rate * share
        self.optimizers[which].step()

    def split(self, vector: Tensor) -> list[Tensor]:
        pieces = vector.split([p.numel() for p in self.parameters])
        return [piece.view_as(p).clone() for piece, p in zip(pieces, self.parameters, strict=True)]

    @torch.no_grad()
    def move(self, by: Tensor) -> None:
        for parameter, part in zip(self.parameters, self.split(by), strict=True):
            parameter += part


def exact_model() -> Any:
    return fresh_model(dtype=torch.float64)


def plain_gru(loop: Plain) -> None:
    m = torch.zeros(())
    for gradient in loop.steps():
        m = 0.8 * gradient("retain", 0) + 0.2 * m
        g = gradient("forget", 0)
        loop.update(g - min(0.0, float(g @ m)) / (m @ m) * m)


def plain_blur(loop: Plain) -> None:
    for gradient in loop.steps():
        f, r = gradient("forget", 0), gradient("retain", 0)
        loop.update(f + r - (r @ f) / (f @ f) * f)


def plain_sam(loop: Plain) -> None:
    for gradient in loop.steps():
        g = gradient("forget", 0)
        up = 0.05 * g / g.norm()
        loop.move(up)
        there = gradient("forget", 0)
        loop.move(-up)
        loop.update(there + gradient("retain", 0))


def plain_dual_optim(loop: Plain) -> None:
    for gradient in loop.steps():
        loop.update(gradient("forget", 0))
        for draw in range(2):
            loop.update(gradient("retain", draw), 1, 0.5)


PLAIN: dict[str, tuple[Callable[[Plain], None], dict[str, float]]] = {
    "GRU": (plain_gru, {}),
    "BLUR": (plain_blur, {}),
    "SAM": (plain_sam, {"rho": 0.05}),
    "DUALOPTIM": (plain_dual_optim, {"retain_steps": 2, "retain_share": 0.5}),
}


@pytest.mark.parametrize("name", PLAIN)
def test_a_run_is_the_plain_loop(name: str, tmp_path: Path) -> None:
    """The reference's NLLs are float32 in the run."""
    plain, options = PLAIN[name]
    method = Method.parse(f"NPO+GD+{name}", forget_coeff=0.7, retain_coeff=0.9, **options)
    loop = Plain(method)
    plain(loop)
    trained = run(method, tmp_path, model=exact_model(), options=SHORT)
    assert_moved(trained)
    assert_same_weights(trained, loop.model, atol=1e-6)
    without = run(Method.parse("NPO+GD", forget_coeff=0.7, retain_coeff=0.9), tmp_path / "without", options=SHORT)
    gap = max((a - b).abs().max().item() for a, b in zip(trained.parameters(), without.parameters(), strict=True))
    assert gap > 1e-4, "or the surgery does nothing"


def test_the_log_has_the_losses_before_the_weights_were_moved(tmp_path: Path) -> None:
    """In the first step, which all begin at the same weights; and where a gradient was projected."""
    first = {}
    for name in ("", *(f"+{each}" for each in PLAIN)):
        run(Method.parse("NPO+GD" + name, forget_coeff=0.5), tmp_path / f"x{name}", options=SHORT)
        first[name] = log_of(tmp_path / f"x{name}")[0]
    for row in first.values():
        assert [row[key] for key in ("loss", "forget", "retain")] == pytest.approx(
            [first[""][key] for key in ("loss", "forget", "retain")], rel=1e-5
        )
        assert row["grad_norm"] > 0 and not math.isnan(row["grad_norm"])
    assert [row.get("projected") for row in first.values()] == [None, 1.0, 1.0, None, None]


@pytest.mark.parametrize("name", ["GRU", "SAM"])
def test_dropout_draws_the_same_in_every_pass(name: str, tmp_path: Path) -> None:
    """A killed run with dropout goes on to the same bits, and SAM's two passes see the same units: with a ρ that moves
    nothing the second is the first."""
    options = replace(OPTIONS, lora=True, epochs=2)
    method = Method.parse(f"NPO+GD+{name}", forget_coeff=0.5)
    whole = run(method, tmp_path / "whole", options=options)
    with pytest.raises(Killed):
        run(method, tmp_path / "killed", options=options, at_epoch=killed_at_epoch(1))
    assert_same_weights(run(method, tmp_path / "killed", options=options), whole, atol=0)
    if name == "SAM":
        still, forget = (
            run(Method.parse(each), tmp_path / each[-4:], model=exact_model(), options=options)
            for each in ("NPO+SAM", "NPO")
        )
        moved = run(Method.parse("NPO+SAM", rho=1e-13), tmp_path / "tiny", model=exact_model(), options=options)
        assert_same_weights(moved, forget, atol=1e-7)
        gap = max((a - b).abs().max().item() for a, b in zip(still.parameters(), forget.parameters(), strict=True))
        assert gap > 1e-5
