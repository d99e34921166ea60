"""What a loss reads of a view: what it asked for of the model and of the reference, and how to average it.

B sequences of the view, N labelled positions, M positions of real tokens, H hidden size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Self

import torch
from torch import Tensor, nn

from unlearner.models.anatomy import Head
from unlearner.scoring.batch import Batch, States, ViewIndex
from unlearner.scoring.constants import COMPARED
from unlearner.scoring.token_scores import token_scores

Needs = Mapping[str, Sequence[str | int]]
"""What is asked of each view: a name is a score of tokens, a number the hidden states that this layer gives."""


@dataclass(frozen=True)
class ViewScores:
    """What a loss reads of one view."""

    view: ViewIndex
    vocabulary: int
    scores: Mapping[str, Tensor]
    layers: Mapping[int, Tensor] = field(default_factory=dict)
    """(positions of the batch, H) for each layer that was asked for."""
    reference: "ViewScores | None" = None
    """The same of the reference model, what was asked for in `Loss.reference` but `nll`; no gradient."""

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
    def unlikelihood(self) -> Tensor:
        """(N,) log(1 − p) of each labelled token."""
        return self.scores["unlikelihood"]

    @property
    def spread(self) -> Tensor:
        """(N,) the largest logit less the mean one at each labelled position."""
        return self.scores["spread"]

    @property
    def js(self) -> Tensor:
        """(N,) Jensen-Shannon divergence from the reference's distribution at each labelled position."""
        return self.scores["js"]

    @property
    def distilled(self) -> Tensor:
        """(N,) cross-entropy to the reference's distribution, the labelled token demoted (`Loss.demote`)."""
        return self.scores["distilled"]

    @property
    def tokens(self) -> Tensor:
        """(B,) labelled tokens of each sequence, at least 1."""
        assert self.view.tokens is not None
        return self.view.tokens

    @property
    def kl(self) -> Tensor:
        """(M,) KL(p_ref ‖ p_θ) at each compared position; average with `position_mean`."""
        return self.scores["kl"]

    @property
    def reverse_kl(self) -> Tensor:
        """(N,) KL(p_θ ‖ p_ref) at each labelled position."""
        return self.scores["reverse_kl"]

    @property
    def marked(self) -> Tensor:
        """(N,) whether the token predicted there belongs to what is to be forgotten, in views that mix two items."""
        assert self.view.marked is not None
        return self.view.marked

    @property
    def nll(self) -> Tensor:
        """(B,) negative log-likelihood of each sequence, summed over its labelled tokens."""
        return self.sequence_sum(-self.logp)

    @property
    def reference_nll(self) -> Tensor:
        """(B,) the same under the reference model, no gradient."""
        assert self.view.reference_nll is not None
        return self.view.reference_nll

    def states(self, layer: int, at: Literal["labels", "tokens"] = "tokens") -> Tensor:
        """Hidden states that `layer` gives: (M, H) at every real token, (N, H) where a labelled one is predicted."""
        return self.layers[layer].index_select(0, self.view.kl_index if at == "tokens" else self.view.index)

    def averaged_states(self, layer: int) -> Tensor:
        """(S, H) the states that `layer` gives at the positions over which `state_mean` averages, float32 at least."""
        chosen = self.layers[layer].index_select(0, self._averaged[0])
        return chosen.to(torch.promote_types(chosen.dtype, torch.float32))

    @property
    def state_row(self) -> Tensor:
        """(S,) the sequence, 0 … B−1, of each of these positions."""
        return self._averaged[2]

    @property
    def _averaged(self) -> tuple[Tensor, Tensor, Tensor]:
        """Index, weight and sequence of the positions over which `state_mean` averages."""
        view = self.view
        assert view.kl_row is not None
        return view.states or (view.kl_index, view.kl_weight, view.kl_row)

    def state_mean(self, values: Tensor) -> Tensor:
        """Mean over real tokens of (S,) values; in official mode over labelled tokens, as OpenUnlearning takes it: the
        mean of the sequences' sums, times the mean of the inverses of their lengths."""
        return (values * self._averaged[1]).sum()

    def sequence_sum(self, values: Tensor) -> Tensor:
        """(B,) sums over the labelled tokens of each sequence of (N,) values."""
        return torch.zeros(self.view.rows, dtype=values.dtype, device=values.device).index_add(0, self.view.row, values)

    def token_mean(self, values: Tensor) -> Tensor:
        """Mean over labelled tokens of (N,) values."""
        return (values * self.view.token_weight).sum()

    def sequence_mean(self, values: Tensor) -> Tensor:
        """Mean over sequences of (B,) values."""
        return (values * self.view.sequence_weight).sum()

    def position_mean(self, values: Tensor) -> Tensor:
        """Mean over real tokens (in official mode, over every padded position) of (M,) values."""
        return (values * self.view.kl_weight).sum()


@dataclass(frozen=True)
class Known:
    """What the reference model has computed for the rows of `batch`, without gradient."""

    batch: Batch
    states: States
    head: Head

    @classmethod
    def of(cls, model: nn.Module, batch: Batch, asked: Needs) -> Self:
        """One forward of the reference model over the rows of `batch` that it is `asked` about."""
        rows = batch.reference or batch
        with torch.no_grad():
            states = rows.states(model, layers_of(asked), output=reads_output(asked))
            return cls(rows, states, Head.of(model))


def layers_of(needs: Needs) -> list[int]:
    """The layers whose states are asked for, of whatever view."""
    return sorted({each for kinds in needs.values() for each in kinds if isinstance(each, int)})


def reads_output(needs: Needs) -> bool:
    """Whether more is asked for than hidden states of layers: a score, or nothing in particular (a distribution)."""
    return not needs or any(not kinds or any(isinstance(kind, str) for kind in kinds) for kinds in needs.values())


def reads_labels_only(*needs: Needs) -> bool:
    """Whether nothing is asked for but scores of labelled tokens: no states, no distributions at other tokens."""
    kinds = [kind for each in needs for of_view in each.values() for kind in of_view]
    return bool(kinds) and all(isinstance(kind, str) and kind != "kl" for kind in kinds)


def score_views(
    model: nn.Module,
    batch: Batch,
    needs: Needs,
    *,
    known: Known | None = None,
    asked: Needs | None = None,
    demote: float = 0.0,
    chunk_bytes: int | None = None,
) -> dict[str, ViewScores]:
    """One forward over each block of `batch`, then what `needs` names for each view.

    `known` is what the reference model computed, for views that compare with it and for what is `asked` of it;
    `demote` lowers its logit of the label in `distilled`.
    """
    states = batch.states(model, layers_of(needs), output=reads_output(needs))
    out = _scored(batch, states, Head.of(model), needs, known, demote, chunk_bytes)
    if known is not None and asked:
        with torch.no_grad():
            theirs = _scored(known.batch, known.states, known.head, asked, None, 0.0, chunk_bytes)
        out |= {name: replace(out[name], reference=scores) for name, scores in theirs.items()}
    for name, scores in out.items():
        if scores.view.reference_logp is not None:
            before = scores.reference or ViewScores(scores.view, scores.vocabulary, {})
            known_too = replace(before, scores={**before.scores, "logp": scores.view.reference_logp})
            out[name] = replace(scores, reference=known_too)
    return out


def _scored(
    batch: Batch,
    states: States,
    head: Head,
    needs: Needs,
    known: Known | None,
    demote: float,
    chunk_bytes: int | None,
) -> dict[str, ViewScores]:
    out: dict[str, ViewScores] = {}
    for name, kinds in needs.items():
        view = batch.views[name]
        scores: dict[str, Tensor] = {}
        at_labels = [kind for kind in kinds if isinstance(kind, str) and kind != "kl"]
        if at_labels:
            teacher = None
            if {*COMPARED} & {*at_labels}:
                assert known is not None
                teacher = known.states.at(known.batch.views[name].index), known.head
            scores |= token_scores(
                states.at(view.index), head, view.target, at_labels, reference=teacher, chunk_bytes=chunk_bytes,
                demote=demote if "distilled" in at_labels else 0.0,
            )  # fmt: skip
        if "kl" in kinds:
            assert known is not None
            teacher = known.states.at(known.batch.views[name].kl_index), known.head
            nothing = torch.zeros_like(view.kl_index)
            scores |= token_scores(
                states.at(view.kl_index), head, nothing, ["kl"], reference=teacher, chunk_bytes=chunk_bytes
            )
        out[name] = ViewScores(view, head.vocabulary, scores, states.layers)
    return out
