"""One optimiser step: passes over its rows, forward and backward, and what the optimiser is given of the gradients."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from unlearner import distributed
from unlearner.data.batches import MicroBatch, Plan, micro_batches, padded
from unlearner.data.views import View
from unlearner.methods.surgery import Role
from unlearner.models import deepspeed
from unlearner.models.anatomy import bare
from unlearner.models.execution import Execution
from unlearner.models.gradient_sums import GradientSums
from unlearner.models.sharding import Engine, full, within
from unlearner.options import TrainOptions
from unlearner.scoring.batch import Batch, RowWeights
from unlearner.scoring.constants import IGNORE
from unlearner.scoring.views import reads_labels_only
from unlearner.training import execution
from unlearner.training.objective import Objective
from unlearner.training.reference import Ragged

Changed = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]


@dataclass
class Steps:
    """The steps of a training, one after the other: `take` each. It is the `Step` that a surgery is given."""

    objective: Objective
    wrapped: Any
    """The objective as accelerate or DeepSpeed wraps it."""
    optimizers: Sequence[torch.optim.Optimizer]
    plan: Plan
    views: Mapping[str, View]
    options: TrainOptions
    how: Execution
    accelerator: Accelerator
    parallel: Engine
    pad_id: int
    pad_to: int | None
    known_nll: Mapping[str, np.ndarray]
    known_logp: Mapping[str, Ragged]
    forget_view: Changed | None = None
    """What official mode makes of the forget view."""
    parameters: list[nn.Parameter] = field(init=False)
    own: dict[str, Tensor] = field(init=False)
    """The surgery's own tensors."""
    sums: GradientSums | None = field(init=False)
    """Where gradients add up outside of autograd; None where processes or a GPU need them elsewhere."""

    def __post_init__(self) -> None:
        method = self.objective.method
        named = {name: p for name, p in self.objective.model.named_parameters() if p.requires_grad}
        self.parameters = list(named.values())
        self.has_retain = method.retain is not None
        self.peak_lr = float(self.optimizers[0].param_groups[0]["lr"])
        self.own = {} if method.surgery is None else method.surgery.setup(named)
        alone = self.parallel == "ddp" and self.accelerator.num_processes == 1
        on_cpu = self.accelerator.device.type == "cpu"
        self.sums = GradientSums(bare(self.objective.model)) if alone and on_cpu else None

    @property
    def states(self) -> dict[str, Mapping[str, Tensor]]:
        """What lies in checkpoints beside weights and optimisers: tensors of the losses and of the surgery."""
        surgery = self.objective.method.surgery
        return {**self.objective.states} if surgery is None else {**self.objective.states, surgery.name: self.own}

    def take(self, number: int, lr: float) -> tuple[Tensor, Tensor, Mapping[str, Tensor]]:
        """Take step `number`: this process' share of total, forget and retain loss, shape (3,), the gradient's norm
        before it was clipped, of several updates the largest, and the surgery's numbers for the log."""
        self.number, self.lr = number, lr
        for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
            group["lr"] = lr
        self.losses = torch.zeros(3, device=self.accelerator.device)
        self.norm: Tensor | None = None
        self.seen: set[Role | None] = set()
        surgery = self.objective.method.surgery
        told: Mapping[str, Tensor] = {}
        if surgery is None:
            self.backward()
            self.update()
        else:
            told = surgery(self, **self.own)
        assert self.norm is not None
        return self.losses, self.norm, told

    def backward(self, role: Role | None = None, draw: int = 0) -> None:
        """Add to `.grad` the gradient of the method's loss, or of one of its two, over all rows of the step.

        The losses are those of the first pass over their rows.
        """
        options, accelerator, method = self.options, self.accelerator, self.objective.method.half(role)
        _seed_step(options.seed, self.number)
        views = {name: self.views[name] for name in method.needs}
        parts = micro_batches(
            self.plan, views, self.number, max_tokens=options.max_tokens_per_forward, pad_to=self.pad_to,
            rank=accelerator.process_index, processes=accelerator.num_processes, draw=draw,
        )  # fmt: skip
        first = role not in self.seen
        self.seen.add(role)
        for number, part in enumerate(parts):
            batch = assemble(
                part,
                views,
                self.pad_id,
                {name: nll for name, nll in self.known_nll.items() if name in views},
                {name: logp for name, logp in self.known_logp.items() if name in views},
                official=method.official,
                forget_view=self.forget_view,
                reference=method.asked,
                forward_tokens=execution.forward_tokens(self.how, accelerator.device),
                packed=self.how.rows == "packed",
                prefix=self.how.prefix_tokens,
                labels_only=reads_labels_only(method.needs, method.asked),
            ).to(accelerator.device)
            last = number == len(parts) - 1
            # Sharded gradients are summed after every forward: kept until the last, they would lie there whole.
            synchronised = nullcontext() if last or self.parallel != "ddp" else accelerator.no_sync(self.wrapped)
            with synchronised, nullcontext() if self.sums is None else self.sums.collecting():
                values = within(self.objective.model, self.wrapped, batch, *([] if role is None else [role]))
                # Processes average their gradients; the weights already are those of the whole step's mean.
                loss = values[0] * accelerator.num_processes
                if self.parallel == "deepspeed":
                    deepspeed.backward(self.wrapped, loss, last=last)
                else:
                    accelerator.backward(loss)
            if first:
                self.losses += values.detach()

    def update(self, optimizer: int = 0, share: float = 1.0) -> None:
        """Clip the gradient, let an optimiser take a step at `share` of the learning rate, clear the gradient."""
        if self.parallel == "deepspeed":  # its last backward pass has changed the weights
            norm = deepspeed.norm(self.wrapped)
        else:
            norm = full(nn.utils.clip_grad_norm_(self.objective.parameters(), self.options.max_grad_norm))
            chosen = self.optimizers[optimizer]
            for group in chosen.param_groups:
                group["lr"] = self.lr * share
            chosen.step()
            if self.sums is not None and self.objective.method.surgery is None:  # which may have kept a gradient
                self.sums.keep_memory()
            chosen.zero_grad(set_to_none=True)
        self.norm = norm if self.norm is None else torch.maximum(self.norm, norm)


def assemble(
    part: MicroBatch,
    views: Mapping[str, View],
    pad_id: int,
    known_nll: Mapping[str, np.ndarray],
    known_logp: Mapping[str, Ragged] = MappingProxyType({}),
    *,
    official: bool,
    forget_view: Changed | None = None,
    reference: Collection[str] = (),
    forward_tokens: int | None = None,
    packed: bool = False,
    prefix: int = 0,
    labels_only: bool = False,
) -> Batch:
    """The tensors of one micro-batch: all views' rows, each with its weight in the step's means (`Batch.build`).

    `forget_view` changes the forget view's tensors. With `labels_only` nothing is read but scores of labelled tokens:
    rows end with the token that predicts the last of them.
    """
    tensors: dict[str, Mapping[str, Tensor]] = {
        name: padded(views[name], rows, pad_id, part.pad_to) for name, rows in part.rows.items()
    }
    if forget_view is not None and "forget" in tensors:
        tensors["forget"] = forget_view(tensors["forget"])
    if labels_only and not official:
        tensors = {name: {**view, "attention_mask": _predicting(view, prefix)} for name, view in tensors.items()}
    weights = {
        name: RowWeights(*(
            torch.from_numpy(w[name]).float()
            for w in (part.token_weight, part.sequence_weight, part.position_weight, part.state_weight)
        ))
        for name in part.rows
    }  # fmt: skip
    # Right-padded rows need no mask, except where official mode lets padding count.
    batch = Batch.build(
        tensors, official=official, weights=weights, keep_mask=official, forward_tokens=forward_tokens, packed=packed,
        prefix=prefix, reference=reference,
    )  # fmt: skip
    batch = batch.with_reference_nll({name: torch.from_numpy(nll[part.rows[name]]) for name, nll in known_nll.items()})
    return batch.with_reference_logp({v: torch.from_numpy(logp.of(part.rows[v])) for v, logp in known_logp.items()})


def _predicting(view: Mapping[str, Tensor], prefix: int) -> Tensor:
    """(B, T) attention mask without the tokens behind the last that predicts a labelled one."""
    mask, column = view["attention_mask"], torch.arange(view["labels"].shape[1])
    last = torch.where(view["labels"] != IGNORE, column, 0).amax(1, keepdim=True)
    return mask * (column < last.clamp(min=prefix + 1))


def _seed_step(seed: int, step: int) -> None:
    """Dropout draws by step and process, so that a run goes on anywhere, and with any number of processes."""
    state = np.random.SeedSequence([seed, step, distributed.rank()]).generate_state(1, np.uint64)
    torch.manual_seed(int(state[0] >> 1))
