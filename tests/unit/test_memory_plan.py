"""The memory plan of docs/lab/scaling.md: its parts against numbers worked by hand, and a straight line over layers."""

from functools import cache
from typing import Any

import pytest
from benchmarks import memory_plan
from benchmarks.memory_plan import plan
from benchmarks.shapes import SHAPES, Shape

pytestmark = pytest.mark.slow

SMALL = Shape(vocabulary=4096, hidden=64, inner=128, layers=6, heads=4, kv_heads=2)
"""A layer has 64·64 + 64·64 (q, o) + 2·64·32 (k, v) + 3·64·128 (MLP) + 2·64 (norms) = 36,992 weights."""
WEIGHTS = 2 * 4096 * 64 + 6 * 36_992 + 64


@cache
def planned(**changed: Any) -> dict[str, int]:
    return plan(SMALL, **{"tokens": 512, "chunk_bytes": 2**22, "checkpointing": True} | changed)


def test_shapes_have_as_many_weights_as_the_models() -> None:
    """As their model cards and checkpoints have them."""
    assert SMALL.parameters == WEIGHTS == 746_304
    assert SHAPES["1b"].parameters == 1_235_814_400
    assert SHAPES["8b"].parameters == 8_030_261_248
    assert SHAPES["70b"].parameters == 70_553_706_496


@pytest.mark.parametrize(
    ("changed", "weights", "gradients", "states"),
    [
        ({}, 2, 2, 4),
        ({"optimizer": "adamw-8bit"}, 2, 2, 2 + 8 / 256),
    ],
    ids=["pure-bf16", "8-bit states"],
)
def test_bytes_a_weight(changed: dict[str, str], weights: float, gradients: float, states: float) -> None:
    made = planned(**changed)
    assert made["weights"] == weights * WEIGHTS
    assert made["gradients"] == gradients * WEIGHTS
    # AdamW also counts its steps, a float32 for each of 6·9 + 3 tensors.
    assert made["states"] == pytest.approx(states * WEIGHTS, abs=4 * 57)
    assert made["total"] == sum(value for part, value in made.items() if part != "total")


def test_lora_trains_its_adapter_alone() -> None:
    """Rank 8: 8·(in + out) weights in float32 at q, k, v, o, gate, up and down; beneath them the model in bf16."""
    adapter = 6 * 8 * (2 * (64 + 64) + 2 * (64 + 32) + 3 * (64 + 128))
    made = planned(lora=True, checkpointing=False)
    assert made["weights"] == 2 * WEIGHTS + 4 * adapter
    assert made["gradients"] == 4 * adapter
    assert made["states"] == pytest.approx(8 * adapter, abs=4 * 6 * 14)


def test_kl_costs_a_frozen_copy() -> None:
    assert planned(name="ME+KL", checkpointing=False)["reference"] == 2 * WEIGHTS
    assert planned()["reference"] == planned(lora=True, checkpointing=False)["reference"] == 0


def test_many_layers_are_drawn_on_from_few() -> None:
    """The line through two and four layers meets a step of all six."""
    options = memory_plan.options_for(lora=False, precision="pure-bf16", checkpointing=True)
    method = memory_plan.Method.parse("ME+GD")
    followed = memory_plan._followed(SMALL, method, options, 512, 2**22, 6, "adamw")
    assert followed == pytest.approx(planned(), rel=0.01)


def test_what_passes_at_the_vocabulary_is_a_few_chunks_however_many_tokens() -> None:
    """Not the logits of all tokens: those of 2,720 labelled ones are 45 MB in float32, a chunk is 4 MiB."""
    assert planned()["vocabulary"] < planned(tokens=4096)["vocabulary"] < 6 * 2**22
