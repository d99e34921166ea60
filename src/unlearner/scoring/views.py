"""What a loss reads of a view: the scores it asked for, and how to average them.

B sequences of the view, N labelled positions, M compared positions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unlearner.models.anatomy import Head
from unlearner.scoring.batch import Batch, ViewIndex
from unlearner.scoring.token_scores import token_scores


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
