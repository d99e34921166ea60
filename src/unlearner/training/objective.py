"""The module that accelerate wraps: model and method together, so that one forward gives the losses of a batch."""

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from unlearner.methods import Losses, Method
from unlearner.methods.base import has_after_step
from unlearner.methods.surgery import Role
from unlearner.models.anatomy import bare
from unlearner.scoring.batch import Batch
from unlearner.scoring.views import score_views
from unlearner.training.reference import Reference


class Objective(nn.Module):
    """`forward(batch)` gives (total, forget, retain), shape (3,), gradient in the first; with a role, forget or retain,
    those of that loss alone, the other 0.

    Scoring happens in here, inside the wrapped module's forward: hooks of DDP and FSDP see it. `states` are the losses'
    own tensors (`Loss.setup`), the same in all processes.
    """

    def __init__(self, model: nn.Module, method: Method, reference: Reference | None = None, *, seed: int = 0) -> None:
        super().__init__()
        self.model = model
        self.method = method
        self.reference = reference  # no nn.Module: it is neither trained, sharded nor saved
        self.states = method.setup(bare(model).config.get_text_config(), seed)

    def forward(self, batch: Batch, role: Role | None = None) -> Tensor:
        method = self.method.half(role)
        asked = method.asked
        assert not asked or self.reference is not None
        known = self.reference.ask(batch, asked) if self.reference is not None and asked else None
        views = score_views(self.model, batch, method.needs, known=known, asked=asked, demote=method.demote)
        losses = method.combine(views, self.states)
        total = method.total(losses)
        if role == "retain":
            losses = Losses(losses.retain, losses.forget)
        return torch.stack([total, *(loss.detach() for loss in losses)])

    def to_device(self, device: torch.device) -> None:
        """Bring the losses' own tensors to where the batches will be."""
        self.states = {
            loss: {name: tensor.to(device) for name, tensor in state.items()} for loss, state in self.states.items()
        }

    def logged(self) -> dict[str, Tensor]:
        """Those of the losses' own tensors that are to be in the log."""
        return {name: self.states[part.name][name] for part in self.method.parts for name in part.logged}

    def after_step(self, losses: Tensor, accelerator: Accelerator) -> None:
        """Tell the losses the values of the step just done: `losses` (3,) is this process' share of them."""
        parts = [part for part in self.method.parts if has_after_step(part)]
        if not parts:
            return
        step = Losses(*accelerator.reduce(losses[1:].clone(), "sum"))
        with torch.no_grad():
            for part in parts:
                value = step.forget if part is self.method.forget else step.retain
                part.after_step(value, **self.states.get(part.name, {}))
