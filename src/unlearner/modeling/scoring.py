"""Per-token scores without the full logits: the only place that shifts, masks, gathers and touches the vocabulary.

Position t predicts token t+1. `ViewIndex` holds the positions of a view that count; `token_scores` turns their hidden
states into log-probabilities (or what else a loss asks for) chunk by chunk; `ViewScores` is what a loss then reads.

B sequences, T tokens, N scored positions, H hidden size, V vocabulary size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import pairwise
from types import ModuleType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from unlearner.errors import UserError
from unlearner.modeling.packing import Packed
from unlearner.modeling.products import linear

IGNORE = -100
EPSILON = 1e-12
"""Added to a probability inside the mean log-probability, as the official ME loss does (PAPER section 3)."""
KINDS = ("logp", "mean_logp", "entropy", "kl")
CHUNK_BYTES = {"cpu": 64 * 2**20, "cuda": 512 * 2**20}
"""Memory of one chunk of logits; two or three such buffers live at a time."""
FORWARD_TOKENS = {"cpu": 128}
"""What a further forward and backward pass costs beside its tokens, in tokens of a model of few million parameters (of
a larger one less). Elsewhere rows are padded: a GPU is slowed more by many small kernels than by padding."""


# ---------------------------------------------------------------------------------------------------- the model's parts


def bare(model: nn.Module) -> Any:
    """The transformers model inside a PEFT wrapper, or the model itself."""
    wrapped: Any = model
    return wrapped.get_base_model() if hasattr(model, "get_base_model") else model


def backbone(model: nn.Module) -> nn.Module:
    """The transformer below the output embedding; returns `last_hidden_state` (B, T, H)."""
    inner = bare(model)
    body = inner.base_model
    if body is inner:
        raise UserError(f"{type(inner).__name__} has no body below its output embedding: not a causal language model.")
    return body


@dataclass(frozen=True)
class Head:
    """The output embedding: logits = softcap(scale · (hidden @ weight.T + bias))."""

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    @classmethod
    def of(cls, model: nn.Module) -> Self:
        """Read from a transformers causal LM, tied or not. Raises UserError if it is not a linear layer."""
        inner = bare(model)
        layer = inner.get_output_embeddings()
        if not isinstance(layer, nn.Linear):
            raise UserError(
                f"{type(inner).__name__}'s output embedding is {type(layer).__name__}, not a linear layer: "
                "this model cannot be scored."
            )
        config = inner.config.get_text_config()
        scale = 1.0
        for name, inverse in (("logit_scale", False), ("lm_head_multiplier", False), ("logits_scaling", True)):
            value = getattr(config, name, None)  # Cohere, Falcon-H1, Granite
            if value is not None:
                scale *= 1.0 / value if inverse else value
        return cls(layer.weight, layer.bias, scale, getattr(config, "final_logit_softcapping", None))

    @property
    def vocabulary(self) -> int:
        return self.weight.shape[0]

    def to(self, dtype: torch.dtype) -> Self:
        return replace(self, weight=self.weight.to(dtype), bias=None if self.bias is None else self.bias.to(dtype))

    def part(self, columns: slice) -> Self:
        """The head of a part of the vocabulary."""
        return replace(self, weight=self.weight[columns], bias=None if self.bias is None else self.bias[columns])

    def products(self, hidden: Tensor) -> Tensor:
        """(N, H) → (N, V) in the weight's type: the logits before scale and cap."""
        return linear(hidden.to(self.weight.dtype), self.weight, self.bias)

    def logits(self, hidden: Tensor) -> Tensor:
        """(N, H) → (N, V), at least float32."""
        z = self.products(hidden)
        z = z.to(torch.promote_types(z.dtype, torch.float32))
        if self.scale != 1.0:
            z = z * self.scale
        return z if self.softcap is None else self.softcap * torch.tanh(z / self.softcap)


@torch.inference_mode()
def check_head(model: nn.Module) -> None:
    """Refuse a model whose logits are not what `Head` computes: better here, by name, than wrong numbers later."""
    inner = bare(model)
    device = inner.get_input_embeddings().weight.device
    ids = torch.arange(4, device=device)[None]
    hidden = backbone(model)(input_ids=ids, use_cache=False).last_hidden_state[0]
    theirs = inner(input_ids=ids, use_cache=False).logits[0].float()
    ours = Head.of(model).logits(hidden).float()
    if theirs.shape != ours.shape or not torch.allclose(ours, theirs, rtol=2e-2, atol=2e-2 * float(theirs.abs().max())):
        raise UserError(
            f"{type(inner).__name__} (model type {inner.config.model_type!r}) computes its logits in a way that is "
            "not known here: this model is not supported."
        )


# --------------------------------------------------------------------------------------------------------- token scores


def token_scores(
    hidden: Tensor,
    head: Head,
    targets: Tensor,
    kinds: Sequence[str] = ("logp",),
    *,
    reference: tuple[Tensor, Head] | None = None,
    chunk_bytes: int | None = None,
    fused: bool | None = None,
) -> dict[str, Tensor]:
    """Scores of N positions, each (N,) in float32 (float64 for a float64 model), differentiable in hidden and head.

    - `logp`: log p(target)
    - `mean_logp`: (1/V) Σ_k log(p_k + 1e-12), of which ME is made
    - `entropy`: −Σ_k p_k log p_k, in nats
    - `kl`: KL(q ‖ p), with q from `reference` = (its hidden states (N, H'), its head)

    Logits exist for one chunk at a time, of about `chunk_bytes`: of positions in the forward pass, of the vocabulary in
    the backward pass. Their gradient has a closed form: where the head is trained they are computed again for it, else
    it is found on the way. `fused` has `logp` and `mean_logp` computed by Triton kernels (modeling/kernels.py); by
    default it is True on CUDA where they are there and a trial finds them faster.
    """
    unknown = set(kinds) - set(KINDS)
    assert not unknown, unknown
    assert ("kl" in kinds) == (reference is not None)
    if chunk_bytes is None:
        chunk_bytes = CHUNK_BYTES.get(hidden.device.type, CHUNK_BYTES["cpu"])
    kind = hidden.device.type
    compute = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else head.weight.dtype
    if fused is None:
        fused = kind == "cuda" and _kernels_gain(hidden.device, compute, head.vocabulary, tuple(kinds))
    values = _TokenScores.apply(
        hidden, head.weight, head.bias, targets, head, reference, tuple(kinds), chunk_bytes, compute, fused
    )
    return dict(zip(kinds, values, strict=True))


class _TokenScores(torch.autograd.Function):
    """With z the logits, p = softmax(z) and e_y the one-hot target, the gradients in z are

    logp:      e_y − p
    mean_logp: (1/V)(r − p Σ_k r_k),  r = p / (p + ε)
    entropy:   −p (log p + H)
    kl:        p − q
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        head: Head,
        reference: tuple[Tensor, Head] | None,
        kinds: tuple[str, ...],
        chunk_bytes: int,
        compute: torch.dtype,
        fused: bool,
    ) -> tuple[Tensor, ...]:
        n, vocabulary = hidden.shape[0], weight.shape[0]
        wide = torch.promote_types(compute, torch.float32)
        itemsize = compute.itemsize if fused else wide.itemsize
        rows = max(1, chunk_bytes // (vocabulary * itemsize))
        local = head.to(compute)
        if reference is not None and compute != weight.dtype:  # under autocast, which is off in the backward pass
            states, theirs = reference
            reference = states, local if theirs.weight is head.weight else theirs.to(compute)
        out = {kind: hidden.new_empty(n, dtype=wide) for kind in kinds}
        lse = hidden.new_empty(n, dtype=wide)
        sums = {kind: hidden.new_empty(n, dtype=wide) for kind in kinds}
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        needs_any = needs_hidden or needs_weight or needs_bias
        # Of a head that is not trained no more is asked than the gradient in hidden: found here, up to a factor a row.
        frozen_head = needs_hidden and not needs_weight and not needs_bias
        slopes = [torch.empty_like(hidden, dtype=compute) for _ in kinds] if frozen_head else []
        for start in range(0, n, rows):
            part = slice(start, start + rows)
            here, totals = ({kind: tensor[part] for kind, tensor in each.items()} for each in (out, sums))
            chunk = log_q = None  # the last ones' memory
            if fused:
                chunk = local.products(hidden[part].to(compute))
                _kernels().values(chunk, head, targets[part], lse[part], totals, here)
            else:
                if reference is not None:
                    states, theirs = reference
                    log_q = _log_softmax(theirs.logits(states[part]), totals["kl"])
                chunk = _log_softmax(local.logits(hidden[part].to(compute)), lse[part] if needs_any else None)
                _values(chunk, log_q, targets[part], totals, here)
            for kind, slope in zip(kinds, slopes, strict=True) if frozen_head else ():
                dz = _slopes(chunk, head, targets[part], lse[part], totals, {kind: None}, vocabulary, log_q, fused)
                slope[part] = linear(dz.to(compute), local.weight.T)
                del dz
        # A single chunk is within the memory budget: keep it rather than compute it twice.
        kept = chunk if 0 < n <= rows and not frozen_head else None
        ctx.save_for_backward(
            hidden, local.weight, local.bias, targets, lse, kept, *(slopes or (sums[kind] for kind in kinds))
        )
        ctx.head, ctx.reference, ctx.kinds = replace(head, weight=lse, bias=None), reference, kinds
        ctx.columns = vocabulary if kept is not None else max(1, chunk_bytes // (max(n, 1) * itemsize))
        ctx.fused = fused
        ctx.frozen_head, ctx.dtypes = frozen_head, (weight.dtype, None if bias is None else bias.dtype)
        return tuple(out[kind] for kind in kinds)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, lse, kept, *found = ctx.saved_tensors
        if ctx.frozen_head:
            parts = [slope * grad[:, None] for slope, grad in zip(found, grads, strict=True)]
            return sum(parts[1:], parts[0]).to(hidden.dtype), *([None] * 9)
        head = replace(ctx.head, weight=weight, bias=bias)
        wide = lse.dtype
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        states = hidden.to(weight.dtype)
        grad_hidden = torch.zeros_like(hidden, dtype=wide) if needs_hidden else None
        grad_weight = torch.empty_like(weight) if needs_weight else None
        grad_bias = torch.empty_like(bias, dtype=wide) if bias is not None and needs_bias else None
        sums, of = (dict(zip(ctx.kinds, each, strict=True)) for each in (found, grads))
        # All positions and some of the vocabulary at a time: each part of the weight's gradient is written once.
        for start in range(0, weight.shape[0], ctx.columns):
            part = slice(start, start + ctx.columns)
            here, log_q = head.part(part), None
            if kept is not None:
                chunk = kept
            else:
                chunk = here.products(states) if ctx.fused else here.logits(states).sub_(lse[:, None])
            if ctx.reference is not None:
                theirs, head_of_theirs = ctx.reference
                log_q = head_of_theirs.part(part).logits(theirs).sub_(sums["kl"][:, None])
            dz = _slopes(chunk, head, targets - start, lse, sums, of, weight.shape[0], log_q, ctx.fused)
            del chunk, log_q
            if grad_bias is not None:
                grad_bias[part] = dz.sum(0, dtype=wide)
            dz = dz.to(weight.dtype)
            if grad_hidden is not None:
                grad_hidden += linear(dz, weight[part].T)
            if grad_weight is not None:
                grad_weight[part] = linear(dz.T, states.T)
        weight_dtype, bias_dtype = ctx.dtypes
        return (
            None if grad_hidden is None else grad_hidden.to(hidden.dtype),
            None if grad_weight is None else grad_weight.to(weight_dtype),
            None if grad_bias is None else grad_bias.to(bias_dtype),
            *([None] * 7),
        )


def _kernels() -> ModuleType:
    from unlearner.modeling import kernels  # needs Triton, which not every machine has

    return kernels


def _kernels_gain(device: torch.device, compute: torch.dtype, vocabulary: int, kinds: tuple[str, ...]) -> bool:
    return find_spec("triton") is not None and bool(_kernels().gain(device, compute, vocabulary, kinds))


def _log_softmax(logits: Tensor, lse: Tensor | None) -> Tensor:
    """(N, V) log-probabilities; fills their log-sum-exp `lse` (N,). torch.logsumexp goes over memory more often."""
    log_p = torch.log_softmax(logits, dim=-1)
    if lse is not None:
        torch.sub(logits.amax(-1), log_p.amax(-1), out=lse)
    return log_p


def _values(
    log_p: Tensor, log_q: Tensor | None, targets: Tensor, sums: Mapping[str, Tensor], out: Mapping[str, Tensor]
) -> None:
    """Fill the scores that `out` holds by kind, each (rows,), and the `sums` that their gradients contain."""
    for kind, values in out.items():
        if kind == "logp":
            values[:] = log_p.gather(1, targets[:, None]).squeeze(1)
        elif kind == "mean_logp":
            p = log_p.exp()
            sums[kind][:] = (p + EPSILON).reciprocal_().mul_(p).sum(-1)
            values[:] = p.add_(EPSILON).log_().mean(-1)
        elif kind == "entropy":
            values[:] = sums[kind][:] = -(log_p.exp() * log_p).sum(-1)
        else:
            assert log_q is not None
            values[:] = (log_q.exp() * (log_q - log_p)).sum(-1)


def _slopes(
    chunk: Tensor,
    head: Head,
    targets: Tensor,
    lse: Tensor,
    sums: Mapping[str, Tensor],
    grads: Mapping[str, Tensor | None],
    vocabulary: int,
    log_q: Tensor | None,
    fused: bool,
) -> Tensor:
    """(rows, columns): gradient of the scores in what the head's linear layer gives, or in a part of its columns.

    `chunk` (rows, columns) is `log_p`, or for the kernels the products; `log_q` is the reference's `log_p`. `targets`
    (rows,) are counted from the first column, and may lie outside; `sums` are over the whole `vocabulary`; `grads` are
    the gradients in each kind of score, each (rows,), None standing for 1.
    """
    if fused:
        dz: Tensor = _kernels().slopes(chunk, head, targets, lse, sums, grads, vocabulary)
        return dz
    total: Tensor | None = None
    for kind, grad in grads.items():
        factor = torch.ones_like(lse) if grad is None else grad.to(lse.dtype)
        slope = _slope(kind, chunk, targets, sums[kind], log_q, vocabulary, factor[:, None])
        total = slope if total is None else total.add_(slope)
    assert total is not None
    return _through_head(total, chunk, lse, head)


def _slope(
    kind: str,
    log_p: Tensor,
    targets: Tensor,
    total: Tensor,
    log_q: Tensor | None,
    vocabulary: int,
    factor: Tensor,
) -> Tensor:
    """Gradient of each position's score in its logits (`_TokenScores`), times its `factor` (rows, 1); see `_slopes`."""
    p = log_p.exp()
    if kind == "logp":
        columns = p.shape[1]
        here = ((targets >= 0) & (targets < columns))[:, None]
        return p.mul_(-factor).scatter_add_(1, targets.clamp(0, columns - 1)[:, None], factor * here)
    if kind == "mean_logp":
        r = (p + EPSILON).reciprocal_().mul_(p)
        return r.addcmul_(p, total[:, None], value=-1).mul_(factor / vocabulary)
    if kind == "entropy":
        return p.mul_(log_p + total[:, None]).mul_(-factor)
    assert log_q is not None
    return p.sub_(log_q.exp()).mul_(factor)


def _through_head(dz: Tensor, log_p: Tensor, lse: Tensor, head: Head) -> Tensor:
    """`dz`, in place, as gradient in what the head's linear layer gives."""
    if head.softcap is not None:
        dz.mul_(1 - ((log_p + lse[:, None]) / head.softcap) ** 2)
    return dz if head.scale == 1.0 else dz.mul_(head.scale)


# ------------------------------------------------------------------------------------------- which positions count, how


@dataclass(frozen=True)
class ViewIndex:
    """The positions of one view that count, as indices into the hidden states of its batch (`Batch.states`).

    Made on the CPU, so that the training loop never has to ask the device how many there are.
    """

    first_row: int
    rows: int
    index: Tensor
    """(N,) positions whose next token is labelled."""
    target: Tensor
    """(N,) the tokens to be predicted there."""
    row: Tensor
    """(N,) sequence within the view, 0 … B−1."""
    token_weight: Tensor
    """(N,) weights of a mean over labelled tokens."""
    sequence_weight: Tensor
    """(B,) weights of a mean over sequences."""
    kl_index: Tensor
    """(M,) positions whose whole distribution is compared with the reference's."""
    kl_weight: Tensor
    """(M,) weights of their mean."""
    reference_nll: Tensor | None = None
    """(B,) the sequences' NLL under the reference model, where a loss needs it."""

    def to(self, device: torch.device) -> Self:
        moved: dict[str, Any] = {
            k: v.to(device, non_blocking=True) for k, v in vars(self).items() if isinstance(v, Tensor)
        }
        return replace(self, **moved)


@dataclass(frozen=True)
class RowWeights:
    """What one labelled token, one sequence and one compared position of each row weigh, each (B,)."""

    token: Tensor
    sequence: Tensor
    kl: Tensor


@dataclass(frozen=True)
class Batch:
    """All views of some items as one batch: a single forward serves them, or one for each block of like lengths."""

    input_ids: Tensor
    """(R, T), the views' rows below one another; with several blocks, the longest first."""
    attention_mask: Tensor | None
    """(R, T), or None for right-padded rows: causal attention never looks at padding on the right."""
    views: dict[str, ViewIndex]
    blocks: tuple[tuple[slice, int], ...]
    """Consecutive rows of like length and the columns that they fill: each block is a forward without the others'
    padding. The views' indices count the positions of these blocks, one block after the other."""
    packed: Packed | None = None
    """With it `input_ids` is (1, P): all rows' tokens one after the other, which is what the indices count."""

    def to(self, device: torch.device) -> Self:
        return replace(
            self,
            input_ids=self.input_ids.to(device, non_blocking=True),
            attention_mask=None if self.attention_mask is None else self.attention_mask.to(device, non_blocking=True),
            views={name: view.to(device) for name, view in self.views.items()},
            packed=self.packed and self.packed.to(device),
        )

    @classmethod
    def build(
        cls,
        views: Mapping[str, Mapping[str, Tensor]],
        *,
        official: bool = False,
        weights: Mapping[str, RowWeights] | None = None,
        keep_mask: bool = True,
        forward_tokens: int | None = None,
        packed: bool = False,
    ) -> Self:
        """Join views of `input_ids`, `labels`, `attention_mask`, each (B, T), T and B as each view likes.

        Without `weights` every mean runs over this batch alone. `official` counts padded positions as the official
        code does (PAPER section 7); the default never does. With `forward_tokens`, what a further forward costs in
        tokens, right-padded rows are sorted by length and cut into blocks where that saves more than it costs;
        `packed` leaves out all their padding, for a model inside `packing`.
        """
        first = next(iter(views.values()))["input_ids"]
        width = max(view["input_ids"].shape[1] for view in views.values())
        height = sum(view["input_ids"].shape[0] for view in views.values())
        ids = first.new_zeros((height, width))
        mask = torch.zeros_like(ids)
        top = 0
        for view in views.values():
            rows, columns = view["input_ids"].shape
            ids[top : top + rows, :columns] = view["input_ids"]
            mask[top : top + rows, :columns] = view["attention_mask"]
            top += rows
        own = [view["input_ids"].shape[1] for view in views.values() for _ in view["input_ids"]]
        # Where padding counts, so does what it attends to: officially a view's forward has the view's own width.
        blocks = _of_one_width(own if official else [width] * height)
        order = np.arange(height)
        if packed:
            rows_lengths = mask.sum(1)
            starts = rows_lengths.cumsum(0) - rows_lengths
            indices = cls._indices(views, starts, official, weights)
            return cls(ids[mask.bool()][None], None, indices, (), Packed.of(rows_lengths))
        if forward_tokens is not None:
            lengths = mask.sum(1).numpy()
            order = np.argsort(-lengths, kind="stable")
            blocks = like_lengths(lengths[order], forward_tokens)
            ids, mask = ids[order], mask[order]
        widths = np.concatenate([np.full(rows.stop - rows.start, columns) for rows, columns in blocks])
        starts = torch.empty(height, dtype=torch.long)
        starts[torch.from_numpy(order)] = torch.from_numpy(np.cumsum(widths) - widths)
        indices = cls._indices(views, starts.to(first.device), official, weights)
        return cls(ids, mask if keep_mask else None, indices, blocks)

    @staticmethod
    def _indices(
        views: Mapping[str, Mapping[str, Tensor]],
        starts: Tensor,
        official: bool,
        weights: Mapping[str, RowWeights] | None,
    ) -> dict[str, ViewIndex]:
        indices: dict[str, ViewIndex] = {}
        top = 0
        for name, view in views.items():
            rows = len(view["input_ids"])
            chosen = None if weights is None else weights[name]
            indices[name] = _index_view(view, top, starts[top : top + rows], official, chosen)
            top += rows
        return indices

    def states(self, model: nn.Module) -> Tensor:
        """Last hidden states of all blocks, one after the other, (positions, H)."""
        body = backbone(model)
        if self.packed is not None:
            return self.packed.states(body, self.input_ids)
        parts = []
        for rows, width in self.blocks:
            mask = None if self.attention_mask is None else self.attention_mask[rows, :width]
            out = body(input_ids=self.input_ids[rows, :width], attention_mask=mask, use_cache=False)
            parts.append(out.last_hidden_state.flatten(0, 1))
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def _of_one_width(widths: Sequence[int]) -> tuple[tuple[slice, int], ...]:
    """Consecutive rows of the same width as blocks."""
    cuts = [0, *(i for i in range(1, len(widths)) if widths[i] != widths[i - 1]), len(widths)]
    return tuple((slice(begin, stop), widths[begin]) for begin, stop in pairwise(cuts))


def like_lengths(lengths: np.ndarray, forward_tokens: int) -> tuple[tuple[slice, int], ...]:
    """Rows, given the longest first, cut into blocks with the least padded tokens + `forward_tokens` for each block.

    Returns each block's rows and the length of its longest.
    """
    n = len(lengths)
    least, begins = np.zeros(n + 1, np.int64), np.zeros(n + 1, np.int64)
    for stop in range(1, n + 1):
        cost = least[:stop] + (stop - np.arange(stop)) * lengths[:stop] + forward_tokens
        begins[stop], least[stop] = cost.argmin(), cost.min()
    blocks = []
    stop = n
    while stop:
        begin = int(begins[stop])
        blocks.append((slice(begin, stop), int(lengths[begin])))
        stop = begin
    return tuple(reversed(blocks))


def _index_view(
    view: Mapping[str, Tensor], top: int, starts: Tensor, official: bool, weights: RowWeights | None
) -> ViewIndex:
    """`starts` (B,) is where each row's first token stands among the batch's positions."""
    labels, mask = view["labels"], view["attention_mask"]
    shifted = labels[:, 1:] != IGNORE
    if not official:
        shifted = shifted & (mask[:, :-1] != 0)
    row, column = shifted.nonzero(as_tuple=True)
    everywhere = torch.ones_like(mask) if official else mask
    kl_row, kl_column = everywhere.nonzero(as_tuple=True)
    if weights is None:
        device, rows = labels.device, labels.shape[0]
        token, sequence, kl = (
            torch.full((rows,), 1.0 / max(count, 1), device=device) for count in (len(row), rows, len(kl_row))
        )
        weights = RowWeights(token, sequence, kl)
    return ViewIndex(
        first_row=top,
        rows=labels.shape[0],
        index=starts[row] + column,
        target=labels[row, column + 1],
        row=row,
        token_weight=weights.token[row],
        sequence_weight=weights.sequence,
        kl_index=starts[kl_row] + kl_column,
        kl_weight=weights.kl[kl_row],
    )


@dataclass(frozen=True)
class ViewScores:
    """What a loss reads of one view: the scores it asked for, and how to average them."""

    view: ViewIndex
    vocabulary: int
    scores: Mapping[str, Tensor]

    @property
    def logp(self) -> Tensor:
        """(N,) log-probability of each labelled token."""
        return self.scores["logp"]

    @property
    def mean_logp(self) -> Tensor:
        """(N,) mean over the vocabulary of the log-probabilities at each labelled position."""
        return self.scores["mean_logp"]

    @property
    def entropy(self) -> Tensor:
        """(N,) entropy in nats of the distribution at each labelled position."""
        return self.scores["entropy"]

    @property
    def kl(self) -> Tensor:
        """(M,) KL(p_ref ‖ p_θ) at each compared position; average with `position_mean`."""
        return self.scores["kl"]

    @property
    def nll(self) -> Tensor:
        """(B,) negative log-likelihood of each sequence, summed over its labelled tokens."""
        return -torch.zeros(self.view.rows, dtype=self.logp.dtype, device=self.logp.device).index_add(
            0, self.view.row, self.logp
        )

    @property
    def reference_nll(self) -> Tensor:
        """(B,) the same under the reference model, no gradient."""
        assert self.view.reference_nll is not None
        return self.view.reference_nll

    def token_mean(self, values: Tensor) -> Tensor:
        """Mean over labelled tokens of (N,) values."""
        return (values * self.view.token_weight).sum()

    def sequence_mean(self, values: Tensor) -> Tensor:
        """Mean over sequences of (B,) values."""
        return (values * self.view.sequence_weight).sum()

    def position_mean(self, values: Tensor) -> Tensor:
        """Mean over compared positions of (M,) values."""
        return (values * self.view.kl_weight).sum()


def score_views(
    model: nn.Module,
    batch: Batch,
    needs: Mapping[str, Sequence[str]],
    *,
    reference: "tuple[Tensor, Head] | None" = None,
    chunk_bytes: int | None = None,
) -> dict[str, ViewScores]:
    """One forward over each block of `batch`, then the scores that `needs` names for each view.

    `reference` holds the reference's hidden states (M, H') at the `kl_index` of the view that needs `kl`, and its head.
    """
    states = batch.states(model)
    head = Head.of(model)
    out: dict[str, ViewScores] = {}
    for name, kinds in needs.items():
        view = batch.views[name]
        scores: dict[str, Tensor] = {}
        at_labels = [kind for kind in kinds if kind != "kl"]
        if at_labels:
            chosen = states.index_select(0, view.index)
            scores |= token_scores(chosen, head, view.target, at_labels, chunk_bytes=chunk_bytes)
        if "kl" in kinds:
            chosen = states.index_select(0, view.kl_index)
            nothing = torch.zeros_like(view.kl_index)
            scores |= token_scores(chosen, head, nothing, ["kl"], reference=reference, chunk_bytes=chunk_bytes)
        out[name] = ViewScores(view, head.vocabulary, scores)
    return out
