"""Which settings are tried when a method is tuned: each method's own grid, of what its losses and its surgery declare.

`Loss.grid` names values by option. Where a loss has none, an option is tried with its default and with the values of
the loss's presets. All methods share the axes of OpenUnlearning's published search (arXiv 2506.12618): the learning
rate, and the weight of the retain loss. What changes nothing is no axis: coefficients of one loss alone, and what a
surgery names (`Surgery.inert`). RMU's layer is none either: layers of one model are none of another's.
"""

import random
from collections.abc import Mapping
from itertools import product, zip_longest
from typing import Any

from unlearner.methods.base import Loss
from unlearner.methods.options import make, options_of
from unlearner.methods.registry import find

RATE = "learning_rate"
RATES = (0.5, 1.0, 2.0, 5.0)
"""Factors of the rate that a run has untuned: rates themselves hold for one size of model. The published search takes
1, 2 and 5; here also a half, because fitted rates are higher."""
COEFFICIENTS = {"forget_coeff": (1.0,), "retain_coeff": (1.0, 2.0, 5.0)}

Axes = dict[str, tuple[Any, ...]]


def grid_of(method: str, given: Mapping[str, Any] | None = None) -> Axes:
    """The axes of a method by option; those of the learning rate are factors.

    `given` are options of the method that are not tuned: what changes nothing may depend on them.
    Raises UserError for a name not known.
    """
    losses, surgery = find(method).losses, find(method).surgery
    found: Axes = {RATE: RATES, "retain_coeff": COEFFICIENTS["retain_coeff"]}
    for loss in reversed(losses):  # the forget loss's word counts
        found |= {name: tuple(values) for name, values in loss.grid.items()} if loss.grid else _declared(loss)
    if surgery is not None:
        found |= {name: tuple(values) for name, values in surgery.grid.items()}
    # A factor of the whole loss changes no step of AdamW.
    inert = {*COEFFICIENTS} if len(losses) == 1 else set()
    if surgery is not None:
        inert |= {*make(surgery, given or {}).inert}
    return {name: values for name, values in found.items() if len(values) > 1 and name not in inert}


def _declared(loss: type[Loss]) -> Axes:
    """The numbers that a loss names for its options and for the coefficients, where they are several."""
    usual = {n: (f.default,) for n, f in options_of(loss).items() if isinstance(f.default, int | float)} | COEFFICIENTS
    named = {n: {preset[n] for preset in loss.presets.values() if n in preset} for n in usual}
    return {
        n: tuple(sorted({*values, *named[n]}))
        for n, values in usual.items() if not isinstance(values[0], bool) and named[n] - {*values}
    }  # fmt: skip


def rated(axes: Axes, rate: float) -> Axes:
    """The axes with rates in the place of factors, of a run's own `rate`; to six digits, so that 3 × 1e-5 is 3e-05."""
    return axes | {RATE: tuple(float(f"{factor * rate:.6g}") for factor in axes[RATE])} if RATE in axes else axes


def settings(axes: Mapping[str, tuple[Any, ...]], usual: Mapping[str, Any], seed: str) -> list[dict[str, Any]]:
    """Every point of a grid in an order drawn by a seed, the `usual` one first where it is one of them.

    The learning rates take turns, so that the first few points have every rate equally often: no other option decides
    as much, and a draw of six without a high rate says nothing about a method.
    """
    points = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    random.Random(seed).shuffle(points)
    points.sort(key=lambda point: any(value != usual.get(name) for name, value in point.items()))
    of_rate: dict[Any, list[dict[str, Any]]] = {}
    for point in points:
        of_rate.setdefault(point.get(RATE), []).append(point)
    return [point for turn in zip_longest(*of_rate.values()) for point in turn if point is not None]


def usual_options(method: str) -> dict[str, Any]:
    """The defaults of a method's losses and its surgery, by option."""
    return {name: field.default for part in reversed(find(method).parts) for name, field in options_of(part).items()}
