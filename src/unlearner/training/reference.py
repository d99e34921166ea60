"""The reference model: a means, not a model (DESIGN idea 3).

NPO and DPO need one number per sequence, computed once before training (`reference_nlls`). KL needs a distribution in
every step: with LoRA it comes from the same weights with the adapter off, otherwise from a frozen copy. The loop asks
for `states` and does not know which.
"""

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from unlearner.config import TrainOptions
from unlearner.console import progress_bar
from unlearner.data.batches import padded
from unlearner.data.views import View
from unlearner.methods import Method
from unlearner.models.anatomy import Head, backbone
from unlearner.models.onednn_linear import fast_products
from unlearner.models.sharding import is_sharded, whole
from unlearner.scoring.batch import FORWARD_TOKENS, Batch
from unlearner.scoring.views import score_views


class Reference:
    """Hidden states and output embedding of the model as it was before training."""

    def __init__(self, model: nn.Module, *, adapter_off: bool) -> None:
        self.model = model
        self._adapter_off = adapter_off

    @classmethod
    def of(cls, model: nn.Module) -> "Reference":
        """With LoRA the model itself, its adapter switched off; otherwise a frozen copy of it."""
        if hasattr(model, "disable_adapter"):
            return cls(model, adapter_off=True)
        frozen = copy.deepcopy(model).requires_grad_(False).eval()
        return cls(frozen, adapter_off=False)

    @property
    def holds_copy(self) -> bool:
        """Whether a second copy of the weights is in memory."""
        return not self._adapter_off

    @torch.no_grad()
    def states(self, input_ids: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Head]:
        """Last hidden states (R, T, H) without dropout, and the head that reads them."""
        switched: AbstractContextManager[Any] = _adapter_off(self.model) if self._adapter_off else _nothing()
        with switched:
            out = backbone(self.model)(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        return out.last_hidden_state, Head.of(self.model)


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@contextmanager
def _adapter_off(model: Any) -> Iterator[None]:
    training = model.training
    model.eval()  # a reference is asked without dropout
    try:
        with model.disable_adapter():
            yield
    finally:
        model.train(training)


def needs_copy(method: Method, options: TrainOptions, parallel: str) -> bool:
    """Whether a frozen copy of the model is the reference in every step, or, with deepspeed, before the first."""
    if parallel == "deepspeed" and method.reference_nll:
        return True
    return method.kl_view is not None and not options.lora


@torch.no_grad()
def reference_nll(
    model: Any, view: View, pad_id: int, pad_to: int | None, max_tokens: int, accelerator: Accelerator
) -> np.ndarray:
    """NLL of every row of a view under the reference model, (table rows,): computed once, each process its share."""
    model.eval()
    order = np.argsort(view.table.lengths, kind="stable")[accelerator.process_index :: accelerator.num_processes]
    out = torch.zeros(len(view.table), device=accelerator.device)
    widest = int(view.table.lengths.max(initial=1)) if pad_to is None else pad_to
    size = max(1, max_tokens // widest)
    one_block = pad_to is not None or is_sharded(model)
    forward_tokens = None if one_block else FORWARD_TOKENS.get(accelerator.device.type)
    with (
        progress_bar("reference scores", len(order)) as bar,
        nullcontext() if is_sharded(model) else accelerator.autocast(),
        whole(model),
        fast_products(model),
    ):
        for first in range(0, len(order), size):
            rows = order[first : first + size]
            tensors = {"view": padded(view, rows, pad_id, pad_to)}
            batch = Batch.build(
                tensors, official=pad_to is not None, keep_mask=pad_to is not None, forward_tokens=forward_tokens
            ).to(accelerator.device)
            out[torch.from_numpy(rows).to(out.device)] = score_views(model, batch, {"view": ["logp"]})[
                "view"
            ].nll.float()
            bar(first + len(rows))
    return accelerator.reduce(out, "sum").cpu().numpy()


def step_reference(model: Any, method: Method, given: Any) -> Reference | None:
    if method.kl_view is None:
        return None
    if given is None:
        return Reference.of(model)
    if is_sharded(given):
        given.unshard()  # embeddings and norm stay whole, for no forward of its own gathers them; layers do not
    return Reference(given, adapter_off=False)
