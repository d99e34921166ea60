"""The reference model: a means, not a model (DESIGN idea 3).

NPO and DPO need one number per sequence, computed once before training (`reference_nlls`). KL needs a distribution in
every step: with LoRA it comes from the same weights with the adapter off, otherwise from a frozen copy. The loop asks
for `states` and does not know which.
"""

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from unlearner.modeling.scoring import Head, backbone


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
