"""The module that accelerate wraps: model and method together, so that one forward gives the losses of a batch."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from unlearner.methods import Losses, Method
from unlearner.scoring.batch import Batch
from unlearner.scoring.views import score_views
from unlearner.training.reference import Reference


class Objective(nn.Module):
    """`forward(batch)` gives (total, forget, retain), shape (3,), gradient in the first.

    Scoring happens in here, inside the wrapped module's forward: hooks of DDP and FSDP see it.
    """

    def __init__(self, model: nn.Module, method: Method, reference: Reference | None = None) -> None:
        super().__init__()
        self.model = model
        self.method = method
        self.reference = reference  # no nn.Module: it is neither trained, sharded nor saved

    def forward(self, batch: Batch) -> Tensor:
        distribution = None
        if self.method.kl_view is not None:
            assert self.reference is not None
            view = batch.views[self.method.kl_view]
            rows = slice(view.first_row, view.first_row + view.rows)
            mask = None if batch.attention_mask is None else batch.attention_mask[rows]
            states, head = self.reference.states(batch.input_ids[rows], mask)
            offset = view.first_row * batch.input_ids.shape[1]
            distribution = states.flatten(0, 1).index_select(0, view.kl_index - offset), head
        losses = self.method.combine(score_views(self.model, batch, self.method.needs, reference=distribution))
        total = self.method.total(losses)
        return torch.stack([total, *(loss.detach() for loss in losses)])


def with_reference_nll(batch: Batch, known: dict[str, Tensor]) -> Batch:
    """The batch with the reference's sequence NLLs, view → (B,), put in."""
    if not known:
        return batch
    views = {name: replace(view, reference_nll=known.get(name)) for name, view in batch.views.items()}
    return replace(batch, views=views)


__all__ = ["Losses", "Objective", "with_reference_nll"]
