"""The gradient of each score in the logits, in closed form (the formulas: `token_scores._TokenScores`)."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from unlearner.scoring.constants import EPSILON

Sums = Mapping[str, Tensor]
"""What the gradient of each kind contains of the whole vocabulary, (rows,): a sum, or for `spread` the top's place."""


def logit_gradient(
    kind: str,
    log_p: Tensor,
    targets: Tensor,
    total: Tensor,
    log_q: Tensor | None,
    vocabulary: int,
    factor: Tensor,
) -> Tensor:
    """Gradient of each position's score in its logits or a part of their columns, times its `factor` (rows, 1).

    `targets` (rows,), and the place in `total`, are counted from the first column, and may lie outside.
    """
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
    if kind == "unlikelihood":
        others = total[:, None]  # log(1 − p_y)
        columns = p.shape[1]
        here = ((targets >= 0) & (targets < columns))[:, None]
        place = targets.clamp(0, columns - 1)[:, None]
        share = torch.sub(log_p, others, out=p).exp_()
        share.scatter_(1, place, torch.where(here, -1.0, share.gather(1, place)))
        return share.mul_(-torch.expm1(others) * factor)
    if kind == "spread":
        columns = p.shape[1]
        top = total.long()
        here = ((top >= 0) & (top < columns))[:, None]
        slope = p.fill_(-1 / vocabulary).mul_(factor)
        return slope.scatter_add_(1, top.clamp(0, columns - 1)[:, None], factor * here)
    assert log_q is not None
    if kind == "js":
        log_m = torch.logaddexp(log_p, log_q).sub_(math.log(2))
        return p.mul_(log_p - log_m - total[:, None]).mul_(factor / 2)
    if kind == "reverse_kl":
        return p.mul_(log_p - log_q - total[:, None]).mul_(factor)
    return p.sub_(log_q.exp()).mul_(factor)
