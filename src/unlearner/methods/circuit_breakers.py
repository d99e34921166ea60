"""Circuit breakers, or representation rerouting (Zou et al. 2024, arXiv 2406.04313)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from unlearner.errors import UserError
from unlearner.methods.base import Loss, Needs, State, Views, check_positive
from unlearner.methods.rmu import check_layer

EPSILON = 1e-6
"""Added inside the norm, whose slope at 0, where training begins, is not defined."""


@dataclass(frozen=True)
class _Scheduled(Loss):
    """What both losses share: `layers` (numbers with commas between), the weight `alpha`, and the step's number, which
    moves the weight from one loss to the other over `schedule_steps` steps.

    `alpha` is a factor of both, which changes no step of AdamW but by clipping: it is not tuned.
    """

    source = "Zou et al. 2024, arXiv 2406.04313"
    defaults_from = "the authors' code, for models of 32 blocks"
    # The authors train 150 steps, half of their schedule, EleutherAI's code all of it; 50, ours, for shorter runs.
    grid = {"schedule_steps": (50, 150, 300)}

    layers: str = "9,19"
    alpha: float = 5.0
    schedule_steps: int = 300

    def __post_init__(self) -> None:
        check_positive("alpha", self.alpha)
        check_positive("schedule_steps", self.schedule_steps)
        for layer in self.numbers:
            check_layer(self.name, layer)

    @property
    def numbers(self) -> list[int]:
        try:
            return [int(each) for each in str(self.layers).split(",")]
        except ValueError as error:
            raise UserError(f"layers must be whole numbers with commas between, not {self.layers!r}.") from error

    @property
    def needs(self) -> Needs:
        return {self.role: self.numbers}

    @property
    def reference(self) -> Needs:
        return self.needs

    @property
    def trains(self) -> str:
        """The weights that the deepest of the layers depends on."""
        blocks = "|".join(str(n) for n in range(max(self.numbers) + 1))
        return rf"\.(layers|h|blocks)\.({blocks})\."

    def setup(self, config: Any, seed: int) -> State:
        return {"step": torch.zeros(())}

    def progress(self, step: Tensor) -> Tensor:
        """s, from 0 to 1 over `schedule_steps` steps."""
        return (step / self.schedule_steps).clamp(max=1.0)

    def after_step(self, loss: Tensor, step: Tensor) -> None:  # type: ignore[override]  # its state by name
        step += 1


@dataclass(frozen=True)
class Reroute(_Scheduled):
    """L = a(1 − s) mean over layers and tokens of relu(cos(h_θ(forget), h_ref(forget))): turn the states of what is to
    be forgotten until they have nothing of the old ones. a `alpha`, s = step/`schedule_steps`, at most 1.

    Defaults are the official code's: it reads transformers' `hidden_states[10]` and `[20]`, what blocks 9 and 19 give.
    It trains LoRA on blocks 0 to 20; here the blocks that its deepest layer depends on, with or without LoRA.
    """

    name = "REROUTE"
    formula = "a(1−s) mean_t relu(cos(h_θ(forget), h_ref(forget))) over layers"

    def __call__(self, views: Views, step: Tensor) -> Tensor:
        forget = views["forget"]
        assert forget.reference is not None
        alike = [
            cosine_similarity(forget.averaged_states(n), forget.reference.averaged_states(n), dim=-1).relu()
            for n in self.numbers
        ]
        return self.alpha * (1 - self.progress(step)) * forget.state_mean(torch.stack(alike).mean(0))


@dataclass(frozen=True)
class Hold(_Scheduled):
    """L = a·s mean over layers and tokens of ‖h_θ(retain) − h_ref(retain)‖₂: keep the states of the rest where they
    are. a and s as in REROUTE.

    A norm, not its square, as in the official code: a pull of constant size. That code averages over the states behind
    all blocks, padding counted as 0; here over the chosen layers, real tokens alone.
    """

    name = "HOLD"
    role = "retain"
    formula = "a·s mean_t ‖h_θ(retain) − h_ref(retain)‖ over layers"
    presets = {"paper": {"layers": "9,19", "alpha": 10.0, "schedule_steps": 300}}

    def __call__(self, views: Views, step: Tensor) -> Tensor:
        retain = views["retain"]
        assert retain.reference is not None
        apart = [retain.averaged_states(n) - retain.reference.averaged_states(n) for n in self.numbers]
        norms = [(each.square().sum(-1) + EPSILON**2).sqrt() for each in apart]
        return self.alpha * self.progress(step) * retain.state_mean(torch.stack(norms).mean(0))
