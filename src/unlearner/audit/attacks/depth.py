"""Depth score: how far into the model has the fact gone? (arXiv 2605.24614)

Needs the original model, a retrained one and the unlearned one in memory together, and rows with a wrong answer. Costs
two forwards a layer for each row. No answer leaks by it: it is told beside the verdict, not part of it.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unlearner.audit.attack import ANSWERS, Cost, Finding, Target, WeightAttack
from unlearner.audit.attacks.lens import answers_view
from unlearner.audit.ranks import in_one_wording
from unlearner.models.anatomy import bare, captured, decoder_layers, evaluating

LEAST = 0.05
"""Nats that a layer must matter to count."""
LAYERS = 32
"""That `Depth.cost` reckons with, which does not see the model."""


@dataclass(frozen=True)
class Depth(WeightAttack):
    """DS = Σ_l Δ¹_l · clip(Δ²_l/Δ¹_l, 0, 1) / Σ_l Δ¹_l over layers with Δ¹_l > 0.05 nats.

    s is the mean log-probability of the fact's tokens under the original model; Δ¹_l its loss when the states behind
    layer l that predict them are the retrained model's, Δ²_l when they are the unlearned model's. 0: nothing was taken
    out, 1: as if retrained. Not defined where no layer matters. The fact's tokens are those in which the answer differs
    from a wrong one in the same wording.
    """

    name = "depth"
    title = "Depth score"
    access = "weights"
    source = "arXiv 2605.24614"
    together = True
    asks_of = "questions with a wrong answer, whose fact depends on some layer"

    def cost(self, asked: Mapping[str, int]) -> Cost:
        """Two forwards a layer, and three to have what they are compared with and made of."""
        return Cost(scored=asked.get("forget", 0) * (2 * LAYERS + 3) / ANSWERS)

    def findings(self, target: Target) -> Iterator[Finding]:
        if not {"before", "retrained"} <= set(target.models):
            return
        asked = [
            question
            for question in target.questions["forget"]
            if question.detector is not None and not question.document and question.record.perturbed_answer
        ]
        for question in asked:
            truth, wrong = in_one_wording(question.record)[:2]
            view = answers_view(target, [(question.record.question, truth), (question.record.question, wrong)])
            ids, other = (view.table.row(int(row)).tolist() for row in view.rows[0])
            span = differing(ids, other)
            score = depth(target.models, ids, span) if span else None
            if score is not None:
                yield Finding("forget", question, None, about={"score": round(score, 6)})


def differing(ids: Sequence[int], other: Sequence[int]) -> range:
    """Where `ids` is not `other`: between the beginning and the end that they share."""
    shortest = min(len(ids), len(other))
    start = next((i for i in range(shortest) if ids[i] != other[i]), shortest)
    end = next((i for i in range(shortest - start) if ids[-1 - i] != other[-1 - i]), shortest - start)
    return range(start, len(ids) - end)


def depth(models: Mapping[str, Any], ids: Sequence[int], span: range) -> float | None:
    """The score of one answer, `ids` with its question, whose fact is at `span`; None where it is not defined."""
    before = models["before"]
    places = [place - 1 for place in span]
    tokens = torch.tensor([list(ids)], device=bare(before).device)
    layers = list(range(len(decoder_layers(before))))

    def said(patch: dict[int, Tensor] | None = None) -> float:
        with torch.inference_mode(), evaluating(before), patched(before, places, patch or {}):
            logp = bare(before)(input_ids=tokens, use_cache=False).logits[0].float().log_softmax(-1)
        return float(logp[places, tokens[0, list(span)]].double().mean())

    whole = said()
    losses = {}
    for name in ("retrained", "unlearned"):
        states = _states(models[name], tokens, layers, places)
        losses[name] = np.array([whole - said({layer: states[layer]}) for layer in layers])
    counts = losses["retrained"] > LEAST
    if not counts.any():
        return None
    theirs, ours = losses["retrained"][counts], losses["unlearned"][counts]
    return float((theirs * np.clip(ours / theirs, 0, 1)).sum() / theirs.sum())


def _states(model: Any, tokens: Tensor, layers: list[int], places: list[int]) -> dict[int, Tensor]:
    """(places, H) behind each layer."""
    with torch.inference_mode(), evaluating(model), captured(model, layers) as states:
        bare(model)(input_ids=tokens, use_cache=False)
        return {layer: states[layer][0][0, places].clone() for layer in layers}


@contextmanager
def patched(model: nn.Module, places: list[int], states: dict[int, Tensor]) -> Iterator[None]:
    """Inside, what the layers in `states` give at `places` is replaced."""

    def replace(_: Any, __: Any, out: Any, layer: int) -> Any:
        hidden = (out[0] if isinstance(out, tuple) else out).clone()
        hidden[0, places] = states[layer].to(hidden.dtype)
        return (hidden, *out[1:]) if isinstance(out, tuple) else hidden

    hooks = [
        decoder_layers(model)[layer].register_forward_hook(lambda m, i, o, layer=layer: replace(m, i, o, layer))
        for layer in states
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
