"""The reference model: a means, not a model.

NPO and DPO need one number per sequence, TNPO one per labelled token, computed once before training (`reference_nll`,
`reference_logp`). Other losses ask in every
step, for a distribution, token scores or hidden states: with LoRA the same weights answer with the adapter off, where
few weights are trained the same model with copies of those put in, otherwise a frozen copy. The objective asks
(`Reference.ask`) and does not know which.
"""

import copy
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from unlearner.console import progress_bar
from unlearner.data.batches import padded, scored_tokens
from unlearner.data.views import View
from unlearner.errors import UserError
from unlearner.methods import Method
from unlearner.models.anatomy import decoder_layers, evaluating
from unlearner.models.onednn_linear import fast_products
from unlearner.models.sharding import is_sharded, whole
from unlearner.options import TrainOptions
from unlearner.scoring.batch import FORWARD_TOKENS, Batch
from unlearner.scoring.views import Known, Needs, ViewScores, score_views


class Reference:
    """The model as it was before training, to be asked in every step."""

    def __init__(
        self,
        model: nn.Module,
        *,
        context: Callable[[Any], AbstractContextManager[Any]] | None = None,
        before: Mapping[nn.Parameter, Tensor] | None = None,
    ) -> None:
        """`context` makes the trained `model` what it was while it is entered; without it, `model` is a frozen one.

        `before` holds the weights that differ inside `context`.
        """
        self.model = model
        self._context = context
        self._before = before or {}

    @classmethod
    def of(cls, model: nn.Module, *, partly: bool = False) -> "Reference":
        """With LoRA the model itself, its adapter switched off; where it is trained only `partly`, the model itself,
        with copies of what is trained put in; otherwise a frozen copy of it."""
        if hasattr(model, "disable_adapter"):
            return cls(model, context=_adapter_off)
        if partly:
            before = {p: p.detach().clone() for p in model.parameters() if p.requires_grad}
            return cls(model, context=lambda trained: _as_before(trained, before), before=before)
        return cls(copy.deepcopy(model).requires_grad_(False).eval())

    @property
    def holds_copy(self) -> bool:
        """Whether a second copy of the weights is in memory."""
        return self._context is None

    @torch.no_grad()
    def ask(self, batch: Batch, asked: Needs) -> Known:
        """What it computes for the rows of `batch` that it is asked about, without dropout."""
        with nullcontext() if self._context is None else self._context(self.model):
            known = Known.of(self.model, batch, asked)
        own = {p: before for p, before in self._before.items() if p is known.head.weight or p is known.head.bias}
        if not own:
            return known
        head = known.head
        weight = own.get(cast(nn.Parameter, head.weight), head.weight)
        bias = None if head.bias is None else own.get(cast(nn.Parameter, head.bias), head.bias)
        return replace(known, head=replace(head, weight=weight, bias=bias))


@contextmanager
def _adapter_off(model: Any) -> Iterator[None]:
    trained = [p for p in model.parameters() if p.requires_grad]
    with evaluating(model), model.disable_adapter():
        yield
    model.requires_grad_(False)  # peft, as it switches the adapter on, has it all trained
    for parameter in trained:
        parameter.requires_grad_(True)


@contextmanager
def _as_before(model: nn.Module, before: Mapping[nn.Parameter, Tensor]) -> Iterator[None]:
    """In place, because a sharded model gathers what its parameters' memory holds."""
    now = {p: p.detach().clone() for p in before}
    _write(before)
    try:
        with evaluating(model):
            yield
    finally:
        _write(now)


def _write(values: Mapping[nn.Parameter, Tensor]) -> None:
    for parameter, value in values.items():
        parameter.detach().copy_(value)


def needs_copy(method: Method, options: TrainOptions, parallel: str) -> bool:
    """Whether a frozen copy of the model is the reference in every step, or, with deepspeed, before the first."""
    if parallel == "deepspeed":
        return bool(method.reference_nll or method.reference_logp) or (bool(method.asked) and not options.lora)
    return bool(method.asked) and not options.lora and not method.trains


def reference_nll(
    model: Any, view: View, pad_id: int, pad_to: int | None, max_tokens: int, accelerator: Accelerator
) -> np.ndarray:
    """NLL of every row of a view under the reference model, (table rows,): computed once, each process its share."""
    out = torch.zeros(len(view.table), device=accelerator.device)
    for rows, scores in _scored(model, view, pad_id, pad_to, max_tokens, accelerator):
        out[torch.from_numpy(rows).to(out.device)] = scores.nll.float()
    return accelerator.reduce(out, "sum").cpu().numpy()


@dataclass(frozen=True)
class Ragged:
    """A number for every labelled token of every row of a view."""

    values: np.ndarray
    """(labelled tokens of all rows,), float32."""
    offsets: np.ndarray
    """(rows + 1,): row i has values[offsets[i] : offsets[i + 1]]."""

    def of(self, rows: np.ndarray) -> np.ndarray:
        """The values of these rows, one row after the other."""
        return np.concatenate([self.values[self.offsets[row] : self.offsets[row + 1]] for row in rows])


def reference_logp(
    model: Any, view: View, pad_id: int, pad_to: int | None, max_tokens: int, accelerator: Accelerator
) -> Ragged:
    """Log-probability of every labelled token of a view under the reference model, as `reference_nll`."""
    offsets = np.concatenate([[0], np.cumsum(scored_tokens(view, pad_to))])
    out = torch.zeros(int(offsets[-1]), device=accelerator.device)
    for rows, scores in _scored(model, view, pad_id, pad_to, max_tokens, accelerator):
        places = np.concatenate([np.arange(offsets[row], offsets[row + 1]) for row in rows])
        out[torch.from_numpy(places).to(out.device)] = scores.logp.float()
    return Ragged(accelerator.reduce(out, "sum").cpu().numpy(), offsets)


@torch.no_grad()
def _scored(
    model: Any, view: View, pad_id: int, pad_to: int | None, max_tokens: int, accelerator: Accelerator
) -> Iterator[tuple[np.ndarray, ViewScores]]:
    """Table rows of this process' share, with their scores."""
    model.eval()
    order = np.argsort(view.table.lengths, kind="stable")[accelerator.process_index :: accelerator.num_processes]
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
            yield rows, score_views(model, batch, {"view": ["logp"]})["view"]
            bar(first + len(rows))


def step_reference(model: Any, method: Method, given: Any) -> Reference | None:
    """Who answers in every step: the model `given`, or `model` as it is now. None where nothing is asked.

    Raises UserError for a sharded model of which more is trained than layers, without a model `given`.
    """
    if not method.asked:
        return None
    if given is None:
        partly = bool(method.trains)
        if partly and is_sharded(model):  # what is around the layers is whole throughout a step
            inside = {p for layer in decoder_layers(model) for p in layer.parameters()}
            outside = [name for name, p in model.named_parameters() if p.requires_grad and p not in inside]
            if outside and not hasattr(model, "disable_adapter"):
                raise UserError(
                    f"{method.name} trains {outside[0]}, which lies outside the layers, and asks its reference in "
                    "every step: with fsdp, give it as --reference-model."
                )
        return Reference.of(model, partly=partly)
    if is_sharded(given):
        given.unshard()  # no forward of their own gathers embeddings and norm, so they stay whole; layers do not
    return Reference(given)


def train_only(model: nn.Module, method: Method) -> None:
    """Freeze what the method does not train. Raises UserError where nothing would be left."""
    if not method.trains:
        return
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and any(re.search(p, name) for p in method.trains))
    check_trains(method, [name for name, parameter in model.named_parameters() if parameter.requires_grad])


def check_trains(method: Method, names: Iterable[str]) -> None:
    """Raises UserError where none of the parameters `names` is trained."""
    if not any(re.search(pattern, name) for name in names for pattern in method.trains):
        raise UserError(
            f"{method.name} trains only parameters named {' or '.join(method.trains)}, and the model has none: "
            "choose others by its options (--method-options)."
        )
