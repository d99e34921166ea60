"""Per-token scores without the full logits: the only place that touches the vocabulary.

N scored positions, H hidden size, V vocabulary size.
"""

import math
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from unlearner.models import execution
from unlearner.models.anatomy import Head
from unlearner.models.gradient_sums import sum_of
from unlearner.models.onednn_linear import add_product, linear
from unlearner.scoring.constants import COMPARED, EPSILON, FUSED, KINDS, STATISTICS
from unlearner.scoring.gradients import Sums, logit_gradient

CHUNK_BYTES = {"cpu": 64 * 2**20, "cuda": 512 * 2**20}
"""Memory of one chunk of logits; two or three such buffers live at a time."""
CACHE_BYTES = 2 * 2**20
"""What a processor core keeps near itself: scores go over the logits several times, so many rows at a time."""


def token_scores(
    hidden: Tensor,
    head: Head,
    targets: Tensor,
    kinds: Sequence[str] = ("logp",),
    *,
    reference: tuple[Tensor, Head] | None = None,
    demote: float = 0.0,
    chunk_bytes: int | None = None,
    fused: bool | None = None,
) -> dict[str, Tensor]:
    """Scores of N positions, each (N,) in float32 (float64 for a float64 model), differentiable in hidden and head.

    - `logp`: log p(target)
    - `mean_logp`: (1/V) Σ_k log(p_k + 1e-12), of which ME is made
    - `entropy`: −Σ_k p_k log p_k, in nats
    - `unlikelihood`: log(1 − p(target)), exact also where p(target) is nearly 1
    - `spread`: max_k log p_k − (1/V) Σ_k log p_k, which is that of the logits
    - `kl`: KL(q ‖ p), with q from `reference` = (its hidden states (N, H'), its head)
    - `reverse_kl`: KL(p ‖ q)
    - `js`: ½ KL(p ‖ m) + ½ KL(q ‖ m), m = (p + q)/2, the Jensen-Shannon divergence
    - `distilled`: −Σ_k q_k log p_k, q with the reference's logit of the target lowered by `demote`

    and without gradient:

    - `is_argmax`: 1 where no token is more likely than the target (of equals, the first), else 0
    - `rank`: how many tokens are more likely than the target
    - `expected_logp`: E_p[log p] = Σ_k p_k log p_k, what `logp` would be on average were the target drawn from p
    - `variance_logp`: Var_p[log p], its variance
    - `others_ce`: −Σ_{k≠y} p_k log p_k / (1 − p_y), y the target: cross-entropy to p without the target

    Logits exist for one chunk at a time, of about `chunk_bytes`: of positions in the forward pass, of the vocabulary in
    the backward pass. Their gradient has a closed form: where the head is trained they are computed again for it, else
    it is found on the way. `fused` has `logp` and `mean_logp` computed by Triton kernels (scoring/kernels.py); by
    default as the plan of the run says (models/execution.py), without one on CUDA where a trial finds them faster.
    """
    unknown = set(kinds) - {*KINDS, *STATISTICS}
    assert not unknown, unknown
    assert any(kind in COMPARED for kind in kinds) == (reference is not None)
    if chunk_bytes is None:
        chunk_bytes = CHUNK_BYTES.get(hidden.device.type, CHUNK_BYTES["cpu"])
    kind = hidden.device.type
    compute = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else head.weight.dtype
    if fused is None:
        fused = kind == "cuda" and _fused(hidden.device, compute, head.vocabulary, tuple(kinds))
    # Those with a gradient first: of these alone autograd asks for one.
    ordered = tuple(sorted(kinds, key=lambda kind: kind in STATISTICS))
    values = _TokenScores.apply(
        hidden, head.weight, head.bias, targets, head, reference, demote, ordered, chunk_bytes, compute, fused
    )
    found = dict(zip(ordered, values, strict=True))
    return {kind: found[kind] for kind in kinds}


class _TokenScores(torch.autograd.Function):
    """With z the logits, p = softmax(z) and e_y the one-hot target, the gradients in z are

    logp:         e_y − p
    mean_logp:    (1/V)(r − p Σ_k r_k),  r = p / (p + ε)
    entropy:      −p (log p + H)
    unlikelihood: −p_y at y, p_y p_k / (1 − p_y) elsewhere
    spread:       e_top − 1/V
    kl:           p − q, and so of distilled
    reverse_kl:   p (log(p/q) − KL(p ‖ q))
    js:           ½ p (log(p/m) − KL(p ‖ m))
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
        demote: float,
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
        kinds = tuple(kind for kind in kinds if kind in KINDS)
        lse = hidden.new_empty(n, dtype=wide)
        lse_q = None if reference is None else torch.empty_like(lse)
        sums = {kind: hidden.new_empty(n, dtype=wide) for kind in kinds}
        asked = ctx.needs_input_grad[:3]  # of hidden, weight, bias
        # Of a head that is not trained no more is asked than the gradient in hidden: found here, up to a factor a row.
        frozen_head = asked == (True, False, False)
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
                    assert lse_q is not None
                    log_q = _log_softmax(_teacher(reference, part, targets[part], demote), lse_q[part])
                chunk = _log_softmax(local.logits(hidden[part].to(compute)), lse[part] if any(asked) else None)
                _values(chunk, log_q, targets[part], totals, here)
            for kind, slope in zip(kinds, slopes, strict=True) if frozen_head else ():
                of = {kind: None}
                dz = _logit_gradients(chunk, head, targets[part], lse[part], totals, of, vocabulary, log_q, fused)
                slope[part] = linear(dz.to(compute), local.weight.T)
                del dz
        # A single chunk is within the memory budget: keep it rather than compute it twice.
        kept = chunk if 0 < n <= rows and not frozen_head else None
        ctx.save_for_backward(
            hidden, local.weight, local.bias, targets, lse, lse_q, kept, *(slopes or (sums[kind] for kind in kinds))
        )
        ctx.scale, ctx.softcap, ctx.kinds, ctx.fused = head.scale, head.softcap, kinds, fused
        ctx.reference, ctx.demote, ctx.sum = reference, demote, sum_of(weight) if local.weight is weight else None
        ctx.columns = vocabulary if kept is not None else max(1, chunk_bytes // (max(n, 1) * itemsize))
        ctx.frozen_head, ctx.dtypes = frozen_head, (weight.dtype, None if bias is None else bias.dtype)
        ctx.mark_non_differentiable(*(values for kind, values in out.items() if kind in STATISTICS))
        return tuple(out.values())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, lse, lse_q, kept, *found = ctx.saved_tensors
        grads = grads[: len(ctx.kinds)]
        if ctx.frozen_head:
            parts = [slope * grad[:, None] for slope, grad in zip(found, grads, strict=True)]
            return sum(parts[1:], parts[0]).to(hidden.dtype), *([None] * 10)
        head = Head(weight, bias, ctx.scale, ctx.softcap)
        wide = lse.dtype
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        states = hidden.to(weight.dtype)
        grad_hidden = torch.zeros_like(hidden, dtype=wide) if needs_hidden else None
        grad_weight, keep = None, False
        if needs_weight:
            grad_weight, keep = (torch.empty_like(weight), False) if ctx.sum is None else ctx.sum.begin()
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
                states_q, theirs = ctx.reference
                q = states_q, theirs.part(part)
                log_q = _teacher(q, slice(None), targets - start, ctx.demote).sub_(lse_q[:, None])
            placed = {kind: total - start if kind == "spread" else total for kind, total in sums.items()}
            dz = _logit_gradients(chunk, head, targets - start, lse, placed, of, weight.shape[0], log_q, ctx.fused)
            del chunk, log_q
            if grad_bias is not None:
                grad_bias[part] = dz.sum(0, dtype=wide)
            dz = dz.to(weight.dtype)
            if grad_hidden is not None:
                grad_hidden += linear(dz, weight[part].T)
            if grad_weight is not None:
                add_product(grad_weight[part], dz, states, keep=keep)
        weight_dtype, bias_dtype = ctx.dtypes
        return (
            None if grad_hidden is None else grad_hidden.to(hidden.dtype),
            None if grad_weight is None or ctx.sum is not None else grad_weight.to(weight_dtype),
            None if grad_bias is None else grad_bias.to(bias_dtype),
            *([None] * 8),
        )


def _kernels() -> ModuleType:
    from unlearner.scoring import kernels  # needs Triton, which not every machine has

    return kernels


def _fused(device: torch.device, compute: torch.dtype, vocabulary: int, kinds: tuple[str, ...]) -> bool:
    plan = execution.now()
    if plan is None:
        return kernels_gain(device, compute, vocabulary, kinds)
    return plan.scores == "triton" and set(kinds) <= set(FUSED) and compute != torch.float64


def kernels_gain(device: torch.device, compute: torch.dtype, vocabulary: int, kinds: tuple[str, ...]) -> bool:
    """Whether Triton is there and a trial finds its kernels right, and faster (`kernels.gain`)."""
    return find_spec("triton") is not None and bool(_kernels().gain(device, compute, vocabulary, kinds, token_scores))


def _log_softmax(logits: Tensor, lse: Tensor | None) -> Tensor:
    """(N, V) log-probabilities; fills their log-sum-exp `lse` (N,). torch.logsumexp goes over memory more often."""
    log_p = torch.log_softmax(logits, dim=-1)
    if lse is not None:
        torch.sub(logits.amax(-1), log_p.amax(-1), out=lse)
    return log_p


def _teacher(reference: tuple[Tensor, Head], rows: slice, targets: Tensor, demote: float) -> Tensor:
    """Logits of the reference at these rows, the target's lowered; targets outside the head's columns are none."""
    states, theirs = reference
    logits = theirs.logits(states[rows])
    if demote:
        here = (targets >= 0) & (targets < logits.shape[1])
        place = targets.clamp(0, logits.shape[1] - 1)[:, None]
        logits.scatter_add_(1, place, here[:, None] * logits.new_full((1, 1), -demote))
    return logits


def _values(log_p: Tensor, log_q: Tensor | None, targets: Tensor, sums: Sums, out: Mapping[str, Tensor]) -> None:
    """Fill the scores that `out` holds by kind, each (rows,), and the `sums` that their gradients contain."""
    on_cpu = log_p.device.type == "cpu"
    rows = max(1, CACHE_BYTES // (log_p.shape[1] * log_p.itemsize)) if on_cpu else max(1, log_p.shape[0])
    for start in range(0, log_p.shape[0], rows):
        part = slice(start, start + rows)
        here, totals = ({kind: tensor[part] for kind, tensor in each.items()} for each in (out, sums))
        _fill(log_p[part], None if log_q is None else log_q[part], targets[part], totals, here)


def _fill(log_p: Tensor, log_q: Tensor | None, targets: Tensor, sums: Sums, out: Mapping[str, Tensor]) -> None:
    moments: tuple[Tensor, Tensor] | None = None
    for kind, values in out.items():
        if kind == "logp":
            values[:] = log_p.gather(1, targets[:, None]).squeeze(1)
        elif kind == "mean_logp":
            p = log_p.exp()
            sums[kind][:] = (p + EPSILON).reciprocal_().mul_(p).sum(-1)
            values[:] = p.add_(EPSILON).log_().mean(-1)
        elif kind == "entropy":
            values[:] = sums[kind][:] = -(log_p.exp() * log_p).sum(-1)
        elif kind == "unlikelihood":
            values[:] = sums[kind][:] = _log_of_others(log_p, targets)
        elif kind == "spread":
            top, sums[kind][:] = log_p.max(-1)
            values[:] = top - log_p.mean(-1)
        elif kind in COMPARED:
            assert log_q is not None
            values[:] = _compared(kind, log_p, log_q, sums)
        elif kind == "is_argmax":
            values[:] = log_p.max(-1).indices == targets  # argmax takes longer
        elif kind == "rank":
            values[:] = (log_p > log_p.gather(1, targets[:, None])).sum(-1)
        elif kind == "others_ce":
            others = log_p.scatter(1, targets[:, None], -torch.inf).softmax(-1)
            values[:] = -(others * log_p).sum(-1)
        else:
            if moments is None:
                p = log_p.exp()
                moments = p, (p * log_p).sum(-1, keepdim=True)
            p, expected = moments
            values[:] = expected[:, 0] if kind == "expected_logp" else (p * (log_p - expected).square_()).sum(-1)


def _log_of_others(log_p: Tensor, targets: Tensor) -> Tensor:
    """(rows,) log(1 − p(target)): summed over the others where that is small, exact to the last digits either way."""
    own = log_p.gather(1, targets[:, None]).squeeze(1)
    others = log_p.scatter(1, targets[:, None], -torch.inf).logsumexp(-1)
    return torch.where(own < -1, torch.log1p(-own.exp()), others)


def _compared(kind: str, log_p: Tensor, log_q: Tensor, sums: Sums) -> Tensor:
    q = log_q.exp()
    if kind == "kl":
        return (q * (log_q - log_p)).sum(-1)
    if kind == "distilled":
        return -(q * log_p).sum(-1)
    if kind == "reverse_kl":
        sums[kind][:] = (log_p.exp() * (log_p - log_q)).sum(-1)
        return sums[kind]
    log_m = torch.logaddexp(log_p, log_q).sub_(math.log(2))
    sums[kind][:] = (log_p.exp() * (log_p - log_m)).sum(-1)
    return 0.5 * (sums[kind] + (q * (log_q - log_m)).sum(-1))


def _logit_gradients(
    chunk: Tensor,
    head: Head,
    targets: Tensor,
    lse: Tensor,
    sums: Sums,
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
        slope = logit_gradient(kind, chunk, targets, sums[kind], log_q, vocabulary, factor[:, None])
        total = slope if total is None else total.add_(slope)
    assert total is not None
    return _through_head(total, chunk, lse, head)


def _through_head(dz: Tensor, log_p: Tensor, lse: Tensor, head: Head) -> Tensor:
    """`dz`, in place, as gradient in what the head's linear layer gives."""
    if head.softcap is not None:
        dz.mul_(1 - ((log_p + lse[:, None]) / head.softcap) ** 2)
    return dz if head.scale == 1.0 else dz.mul_(head.scale)
