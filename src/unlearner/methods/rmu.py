"""RMU, representation misdirection (Li et al. 2024, arXiv 2403.03218), and its adaptive form (arXiv 2408.06223)."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unlearner.errors import UserError
from unlearner.methods.base import Loss, Needs, State, Views, check_positive


@dataclass(frozen=True)
class RMU(Loss):
    """L = mean over tokens of ‖h_θ(forget)_t − c·u‖²/H: drive the states of one layer to one far point.

    h the states behind decoder block `layer` (the first is 0), H their size, c `steering`, u a unit vector: drawn
    uniformly from [0, 1)^H by the run's seed, or `control_vector` (of any length) made a unit vector. Only the
    `down_proj` of blocks layer − 2 to layer are trained, or what the regular expression `trained` finds. The forward
    pass ends behind `layer` if the retain loss reads no further (REP).

    Averages run over the real tokens, question included. OpenUnlearning, and so `official`, takes the labelled tokens
    alone, and multiplies the mean of the rows' sums by the mean of the rows' 1/n. The paper's code counts padding too.
    Defaults are those of the paper's code; its weight of the retain loss is 100 there, OpenUnlearning's 1. Its
    preset is that for TOFU, where all weights are trained.
    """

    name = "RMU"
    formula = "mean_t ‖h_θ(forget) − c·u‖²/H at one layer, u a fixed unit vector"
    source = "Li et al. 2024, arXiv 2403.03218"
    defaults_from = "the paper's code, for models of 32 blocks"
    presets = {
        "paper": {"learning_rate": 5e-5, "retain_coeff": 100.0, "layer": 7, "steering": 20.0},
        "openunlearning": {
            "learning_rate": 1e-5,
            "retain_coeff": 1.0,
            "layer": 7,
            "steering": 2.0,
            "trained": ".",
            "epochs": 10.0,
        },
    }
    grid = {"steering": (1.0, 10.0, 20.0, 100.0)}  # OpenUnlearning's search, and the default; REP has the weights

    layer: int = 7
    steering: float = 20.0
    trained: str | None = None
    control_vector: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        check_positive("steering", self.steering)
        check_layer(self.name, self.layer)
        try:
            re.compile(self.trained or "")
        except re.error as error:
            raise UserError(f"{self.name}'s trained is not a regular expression ({error}): {self.trained}") from error
        if self.control_vector is not None:
            object.__setattr__(self, "control_vector", _numbers(self.control_vector))

    @property
    def needs(self) -> Needs:
        return {"forget": [self.layer]}

    @property
    def trains(self) -> str:
        if self.trained is not None:
            return self.trained
        blocks = "|".join(str(n) for n in range(max(0, self.layer - 2), self.layer + 1))
        return rf"\.({blocks})\.mlp\.down_proj\."

    def setup(self, config: Any, seed: int) -> State:
        if self.control_vector is None:
            u = torch.rand(config.hidden_size, generator=torch.Generator().manual_seed(seed))
        else:
            u = torch.tensor(self.control_vector)
        if len(u) != config.hidden_size:
            raise UserError(
                f"{self.name}'s control_vector has {len(u)} numbers, the model's states {config.hidden_size}."
            )
        return {"direction": u / u.norm()}

    def __call__(self, views: Views, direction: Tensor) -> Tensor:
        forget = views["forget"]
        away = forget.averaged_states(self.layer) - self.steering * direction
        return forget.state_mean(away.square().mean(-1))


@dataclass(frozen=True)
class AdaptiveRMU(RMU):
    """L = mean over tokens of ‖h_θ(forget)_t − b·m·u‖²/H, m the sequence's mean norm of h_ref(forget): RMU whose target
    is as far away as the layer's states are long.

    b is `scale`, all else as in RMU; weight of the retain loss 1200 in the official code. That code measures m once, on
    the first batch of each topic, before the model has changed. Here it is each sequence's own, under the reference:
    then it depends neither on which rows come first nor on how a step is cut. It costs a forward pass of the reference
    over the forget rows, up to the layer.
    """

    name = "ARMU"
    formula = "mean_t ‖h_θ(forget) − b·m·u‖²/H, m the mean norm of h_ref(forget) in the sequence"
    source = "Huu-Tien et al. 2024, arXiv 2408.06223"
    defaults_from = "the paper's code, its scale; layer and matrices RMU's"
    presets = {"paper": {"learning_rate": 5e-5, "retain_coeff": 1200.0, "layer": 7, "scale": 5.0}}
    grid = {"scale": (2.0, 5.0, 10.0)}  # ours, around the published 5

    steering: float = 1.0
    scale: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("scale", self.scale)

    @property
    def reference(self) -> Needs:
        return {"forget": [self.layer]}

    def __call__(self, views: Views, direction: Tensor) -> Tensor:
        forget = views["forget"]
        assert forget.reference is not None
        norms = forget.reference.averaged_states(self.layer).norm(dim=-1)
        row = forget.state_row
        sums = norms.new_zeros(forget.view.rows).index_add(0, row, norms)
        mean = sums / torch.bincount(row, minlength=forget.view.rows).clamp(min=1)
        far = self.steering * self.scale * mean[row][:, None]
        away = forget.averaged_states(self.layer) - far * direction
        return forget.state_mean(away.square().mean(-1))


def check_layer(name: str, layer: int) -> None:
    """Raises UserError for a layer that no model can have; which ones a model has is checked once it is there."""
    if layer < 0:
        raise UserError(f"{name}'s layer must be 0 or more, not {layer}: the first decoder block is 0.")


def _numbers(value: Any) -> tuple[float, ...]:
    """A vector given as a list, a tensor or an array, or as text with commas."""
    if isinstance(value, str):
        value = value.strip("[]() ").split(",")
    elif hasattr(value, "flatten"):
        value = value.flatten().tolist()
    try:
        numbers = tuple(float(each) for each in value) if isinstance(value, Iterable) else ()
    except (TypeError, ValueError):
        numbers = ()
    if not any(numbers) or not all(abs(each) < float("inf") for each in numbers):
        raise UserError("control_vector must be a list of numbers, not all of them 0.")
    return numbers
