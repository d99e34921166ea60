"""Logit lens: do layers below the last put the truth above wrong answers? (nostalgebraist 2020; Lucki et al. 2024,
arXiv 2409.18025)

Needs rows with three wrong answers and a model that names its layers and its last norm. Costs a forward for each
answer.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from unlearner.audit.attack import ANSWERS, Cost, Finding, Outcome, Target, WeightAttack
from unlearner.audit.ranks import decoys, in_one_wording
from unlearner.audit.room import with_room
from unlearner.data.batches import padded
from unlearner.data.pairs import pair
from unlearner.data.records import Record
from unlearner.data.views import View, build_views
from unlearner.errors import UserError
from unlearner.models.anatomy import Head, bare, decoder_layers, evaluating
from unlearner.models.anatomy import backbone as body_of
from unlearner.scoring.batch import Batch
from unlearner.scoring.token_scores import token_scores
from unlearner.scoring.views import score_views

WRONG = 3
ROWS = 32
"""Answers in a forward."""


@dataclass(frozen=True)
class Lens(WeightAttack):
    """The output embedding applied behind every layer, after the last norm. Hit: by its mean over the layers the truth
    is the likeliest of four; the row also has its rank at every layer. Chance: ¼."""

    name = "lens"
    title = "Logit lens"
    access = "weights"
    source = "Lucki et al. 2024, arXiv 2409.18025"
    chance = 0.25
    asks_of = "questions with three wrong answers"

    def cost(self, asked: Mapping[str, int]) -> Cost:
        """Had every question wrong answers enough."""
        return Cost(scored=(asked.get("forget", 0) + asked.get("control", 0)) * (1 + WRONG) / ANSWERS)

    def findings(self, target: Target) -> Iterator[Finding]:
        asked = [
            (group, question)
            for group in ("forget", "control")
            for question in target.questions[group]
            if question.detector is not None
            and not question.document
            and len(question.record.perturbed_answer) >= WRONG
        ]
        asked = with_room(self.label, decoys, asked, target, target.options.max_length)
        if not asked:
            return
        texts = [
            (question.record.question, text)
            for _, question in asked
            for text in in_one_wording(question.record)[: WRONG + 1]
        ]
        scores = by_layer(target, texts).reshape(len(asked), WRONG + 1, -1)
        for (group, question), mine in zip(asked, scores, strict=True):
            means = mine.mean(axis=1)
            hit = bool(means[0] > means[1:].max())
            ranks = [1 + int((layer[1:] >= layer[0]).sum()) for layer in mine.T]
            yield Finding(group, question, Outcome(hit, float(hit)), about={"layers": ranks})


def by_layer(target: Target, texts: Sequence[tuple[str | None, str]]) -> np.ndarray:
    """(texts, layers): mean log-probability in nats of each answer's tokens, read behind every layer."""
    model, norm = target.model, last_norm(target.model)
    head, layers = Head.of(model), list(range(len(decoder_layers(model))))
    view = answers_view(target, texts)
    found = np.zeros((len(texts), len(layers)))
    with torch.inference_mode(), evaluating(model):
        for start in range(0, len(texts), ROWS):
            rows = view.rows[0, start : start + ROWS]
            tensors = padded(view, rows, int(target.tokenizer.eos_token_id or 0))
            batch = Batch.build({"view": tensors}).to(bare(model).device)
            scored = score_views(model, batch, {"view": layers})["view"]
            for layer in layers:
                states = norm(scored.states(layer, at="labels"))
                logp = token_scores(states, head, scored.view.target, ["logp"])["logp"]
                count = torch.bincount(scored.view.row, minlength=scored.view.rows)
                found[start : start + len(rows), layer] = (scored.sequence_sum(logp) / count).double().cpu().numpy()
    return found


def answers_view(target: Target, texts: Sequence[tuple[str | None, str]]) -> View:
    """Questions with answers, tokenised as they are trained."""
    records = [Record(question, answer) for question, answer in texts]
    pairing = pair(len(records), 0, 0)
    length = target.options.max_length
    return build_views(["train"], records, [], [], [pairing], target.tokenizer, target.template, max_length=length)[
        "train"
    ]


def last_norm(model: nn.Module) -> nn.Module:
    """The norm between the last layer and the output embedding. Raises UserError where there is none to be found."""
    layers = decoder_layers(model)
    for module in body_of(model).modules():
        children = list(module.children())
        if any(child is layers for child in children):
            norms = [child for child in children if "norm" in type(child).__name__.lower()]
            if norms:
                return norms[-1]
    raise UserError(f"{type(bare(model)).__name__} has no known norm after its layers: leave out the lens.")
