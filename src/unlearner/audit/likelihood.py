"""What a model's likelihoods betray: memorisation and membership scores from one teacher-forced pass.

T labelled tokens of a row, ℓ_t = log p(x_t | x_<t), L = −Σ ℓ_t in nats. docs/guide/audit.md lists, score by score,
where OpenUnlearning's code (`official=True`) differs from what is meant.
"""

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerBase

from unlearner.evaluation.membership import min_k
from unlearner.evaluation.memorization import exact_memorization, extraction_strength
from unlearner.evaluation.passes import BATCH_TOKENS
from unlearner.models.anatomy import bare, evaluating
from unlearner.models.generation import length_batches
from unlearner.scoring.batch import Batch
from unlearner.scoring.constants import IGNORE
from unlearner.scoring.views import score_views

MIN_K = (0.2, 0.4)
"""Shares of the least likely tokens: OpenUnlearning's class default, and what its TOFU and MUSE configurations set."""
OFFICIAL_CLAMP = 1e-6
"""The official min-k++ takes no variance below this."""

View = Mapping[str, Any]
"""`input_ids`, `labels` (−100 where nothing is asked) and `attention_mask`, each (B, T): tensors, arrays or lists."""


@dataclass(frozen=True)
class TokenRow:
    """The labelled tokens of one row, each (T,) float64."""

    logp: np.ndarray
    is_argmax: np.ndarray
    expected_logp: np.ndarray
    """E_p[log p], the mean that min-k++ compares with."""
    variance_logp: np.ndarray

    def without_last(self) -> "TokenRow":
        """The official code takes the last labelled token for the end token, also where a row was cut before it."""
        return TokenRow(*(getattr(self, field.name)[:-1] for field in fields(self)))


KINDS = tuple(field.name for field in fields(TokenRow))


def likelihood_metrics(
    model: nn.Module,
    view: View,
    tokenizer: PreTrainedTokenizerBase,
    *,
    reference: nn.Module | None = None,
    official: bool = False,
    gradients: bool = True,
) -> dict[str, list[float]]:
    """Scores of each row of `view`, by name; each a list of B numbers, NaN where a row has no labelled token.

    - `exact_memorization`: share of tokens that are the likeliest at their place
    - `extraction_strength`: 1 − k/T, after k tokens of the answer the model writes the rest by itself (Carlini et al.
      2021, arXiv 2012.07805)
    - `loss`: L/T
    - `zlib`: L per byte of the compressed text
    - `reference`: L/T less the same under `reference`; only with one
    - `min_k@0.2`, `min_k@0.4`: −mean of the least likely tokens' ℓ_t (Shi et al. 2024, arXiv 2310.16789)
    - `min_k_plus_plus@...`: the same of (ℓ_t − E ℓ)/σ(ℓ) (Zhang et al. 2024, arXiv 2404.02936)
    - `gradient_norm`: of L/T, over all weights; a backward pass for each row, left out without `gradients`

    The first two are large for what is remembered; the others are membership scores, small for it. `official` computes
    as OpenUnlearning does (open-unlearning d3d7cf9, `src/evals/metrics`), quirks included. The model is put into eval
    mode meanwhile; the official gradient norm leaves it in training mode, so with dropout that number is a random one.
    """
    rows = token_rows(model, view)
    found: dict[str, list[float]] = {}
    shown = [row.without_last() for row in rows] if official else rows
    found["exact_memorization"] = [exact_memorization(row.is_argmax) for row in shown]
    found["extraction_strength"] = [extraction_strength(row.is_argmax, official=official) for row in shown]
    found["loss"] = official_losses(model, view) if official else [_mean(-row.logp) for row in rows]
    sizes = [len(zlib.compress(text.encode())) for text in _texts(view, tokenizer)]
    amounts = found["loss"] if official else [float(-row.logp.sum()) if row.logp.size else math.nan for row in rows]
    found["zlib"] = [amount / size for amount, size in zip(amounts, sizes, strict=True)]
    if reference is not None:
        theirs = official_losses(reference, view) if official else _losses(reference, view)
        found["reference"] = [loss - their for loss, their in zip(found["loss"], theirs, strict=True)]
    for k in MIN_K:
        found[f"min_k@{k}"] = [min_k(row.logp, k, official=official) for row in shown]
        found[f"min_k_plus_plus@{k}"] = [
            min_k(standardised(row, official=official), k, official=official) for row in shown
        ]
    if gradients:
        found["gradient_norm"] = gradient_norms(model, view, official=official)
    return found


def token_rows(model: nn.Module, view: View, *, kinds: Sequence[str] = KINDS) -> list[TokenRow]:
    """The labelled tokens' scores of each row of `view`; kinds that are not asked for are empty.

    Rows of like length share a forward. Raises KeyError for a view without one of its three parts.
    """
    tensors = _tensors(view)
    device = bare(model).device
    # Where the end token also pads, it may be labelled and masked: nothing follows that would have to see it.
    real = (tensors["attention_mask"] != 0) | (tensors["labels"] != IGNORE)
    lengths = [int(row.nonzero().max()) + 1 if row.any() else 1 for row in real]
    found: list[TokenRow | None] = [None] * len(lengths)
    budget = BATCH_TOKENS.get(device.type, BATCH_TOKENS["cuda"])
    with torch.inference_mode(), evaluating(model):
        for chosen in length_batches(lengths, budget):
            width = max(lengths[i] for i in chosen)
            part = {name: tensor[chosen, :width] for name, tensor in tensors.items()}
            for i, row in zip(chosen, _scores(model, part, kinds), strict=True):
                found[i] = row
    assert all(row is not None for row in found)
    return found  # type: ignore[return-value]


def _scores(model: nn.Module, view: Mapping[str, Tensor], kinds: Sequence[str]) -> Iterator[TokenRow]:
    device = bare(model).device
    batch = Batch.build({"view": view}).to(device)
    scores = score_views(model, batch, {"view": kinds})["view"]
    row = scores.view.row.cpu().numpy()
    values = {kind: scores.scores[kind].double().cpu().numpy() for kind in kinds}
    nothing = np.zeros(0)
    for i in range(scores.view.rows):
        yield TokenRow(**{kind: values[kind][row == i] if kind in values else nothing for kind in KINDS})


def _losses(model: nn.Module, view: View) -> list[float]:
    return [_mean(-row.logp) for row in token_rows(model, view, kinds=("logp",))]


def official_losses(model: nn.Module, view: View) -> list[float]:
    """L/T of each row in float32, added up in OpenUnlearning's order; NaN for a row without a labelled token.

    A difference of two such losses can be as small as their float noise, so the noise has to be theirs, too. Row by
    row, for all logits of a row are there at once.
    """
    tensors = _tensors(view)
    device, found = bare(model).device, []
    with torch.inference_mode(), evaluating(model):
        for i in range(len(tensors["labels"])):
            row = {name: tensor[i : i + 1].to(device) for name, tensor in tensors.items()}
            logits = model(input_ids=row["input_ids"], attention_mask=row["attention_mask"]).logits
            logits, labels = logits[:, :-1].contiguous(), row["labels"][:, 1:].to(logits.device)
            losses = cross_entropy(logits.transpose(-1, -2), labels, ignore_index=IGNORE, reduction="none").sum(-1)
            found.append(float(losses / (labels != IGNORE).sum(-1)))
    return found


def gradient_norms(model: nn.Module, view: View, *, official: bool = False) -> list[float]:
    """‖∂(L/T)/∂W‖₂ of each row over all weights together; NaN for a row without a labelled token.

    `official`: without the last labelled token, and the mean of the norms of the weight tensors, each by itself.
    A forward and a backward pass for each row; the weights' own gradients are left alone.
    """
    tensors = _tensors(view)
    weights = [weight for weight in model.parameters() if weight.is_floating_point()]
    trained = [weight.requires_grad for weight in weights]
    found = []
    try:
        for weight in weights:
            weight.requires_grad_(True)
        with torch.enable_grad(), evaluating(model):
            for i in range(len(tensors["labels"])):
                row = {name: tensor[i : i + 1].clone() for name, tensor in tensors.items()}
                if official:
                    row["labels"][0, row["labels"][0].ne(IGNORE).nonzero()[-1:, 0]] = IGNORE
                found.append(_gradient_norm(model, row, weights, official))
    finally:
        for weight, before in zip(weights, trained, strict=True):
            weight.requires_grad_(before)
    return found


def _gradient_norm(model: nn.Module, row: Mapping[str, Tensor], weights: list[nn.Parameter], official: bool) -> float:
    batch = Batch.build({"view": row}).to(bare(model).device)
    scores = score_views(model, batch, {"view": ["logp"]})["view"]
    if not len(scores.logp):
        return math.nan
    gradients = torch.autograd.grad(scores.token_mean(-scores.logp), weights, allow_unused=True)
    norms = torch.stack([gradient.norm(dtype=torch.float32) for gradient in gradients if gradient is not None])
    return float(norms.mean() if official else norms.norm())


def standardised(row: TokenRow, *, official: bool = False) -> np.ndarray:
    """(ℓ_t − E_p[log p]) / σ_p[log p] of each token, (T,). Where the model allows one token alone, both are 0: so is z.

    `official` takes no variance below 1e-6.
    """
    distance = row.logp - row.expected_logp
    if official:
        return distance / np.sqrt(np.maximum(row.variance_logp, OFFICIAL_CLAMP))
    spread = np.sqrt(np.maximum(row.variance_logp, 0))
    return np.divide(distance, spread, out=np.zeros_like(distance), where=spread > 0)


def samples_to_extract(nll: float, p: float = 0.5) -> float:
    """n, the samples at temperature 1 that hold the answer, word for word, with probability `p` at least.

    (n, p)-discoverable extraction (Hayes et al. 2024, arXiv 2410.19482): n ≥ ln(1−p)/ln(1−p_z), p_z = exp(−nll).
    Verbatim only, so it bounds from below what sampling tells. Not rounded up; infinite where p_z is 0.
    """
    p_z = math.exp(-nll)
    return 1.0 if p_z >= 1 else math.inf if p_z == 0 else max(1.0, math.log1p(-p) / math.log1p(-p_z))


def log10_samples(nll: float, p: float = 0.5) -> float:
    """log₁₀ of `samples_to_extract`, also where the number itself is too large."""
    if nll > 30:  # ln(1 − p_z) is −p_z to the last bit
        return (math.log(-math.log1p(-p)) + nll) / math.log(10)
    return math.log10(samples_to_extract(nll, p))


def extraction_probability(nll: float, n: int) -> float:
    """1 − (1 − p_z)^n, p_z = exp(−nll): of `n` samples at temperature 1 one at least is the answer, word for word."""
    p_z = math.exp(-nll)
    return 1.0 if p_z >= 1 else -math.expm1(n * math.log1p(-p_z))


def prior_corrected(nll: float, nll_of_others: Sequence[float]) -> float:
    """log p(x | question) − log mean_j p(x | question about name_j), in nats, the names never trained on.

    Above 0 where the model knows it of this person, about 0 where it is the typical answer.
    """
    others = -np.asarray(nll_of_others, dtype=float)
    return float(-nll - (np.logaddexp.reduce(others) - math.log(len(others))))


def truth_share(right_loss: float, wrong_losses: Sequence[float]) -> float:
    """p/(p + p̄): p = exp(−L/T) of the true answer, p̄ the same of the wrong ones' mean loss, as in OpenUnlearning's
    meta-evaluation (arXiv 2506.12618). Above ½ where the truth is the likelier."""
    return float(1 / (1 + np.exp(right_loss - np.mean(wrong_losses))))


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else math.nan


def _tensors(view: View) -> dict[str, Tensor]:
    return {name: torch.as_tensor(view[name]).cpu() for name in ("input_ids", "labels", "attention_mask")}


def _texts(view: View, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The labelled text of each row, without special tokens."""
    return [str(tokenizer.decode(row[row != IGNORE], skip_special_tokens=True)) for row in _tensors(view)["labels"]]
