"""A training step as OpenUnlearning takes it, in plain lines of our own: what the field's methods are measured against.

Rows padded to the longest of their view's batch, a forward pass for each view, full logits in float32, a copy of the
model as reference that is run in every step, plain AdamW. Nothing of `unlearner` is used, and the losses are the same
(tests/unit/test_benchmarks.py): both sides do the same work.

B sequences, T tokens, V vocabulary size, H hidden size.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Row = tuple[list[int], int]
"""A row's tokens, and how many of them are its question."""
View = Mapping[str, Tensor]
"""`input_ids`, `labels`, `attention_mask`, each (B, T)."""

VIEWS = {
    "NPO+GD": ("forget", "retain"),
    "SIMNPO+GD": ("forget", "retain"),
    "WGA+GD": ("forget", "retain"),
    "ALTPO+GD": ("forget", "forget_alternate", "retain"),
    "UNDIAL+GD": ("forget", "retain"),
    "RMU+REP": ("forget", "retain"),
}
"""The views that a method's losses read."""
WITH_REFERENCE = ("NPO+GD", "ALTPO+GD", "UNDIAL+GD", "RMU+REP")
BETA = {"NPO+GD": 0.1, "SIMNPO+GD": 4.5, "WGA+GD": 1.0, "ALTPO+GD": 0.1, "UNDIAL+GD": 10.0}
STEERING = 20.0


def collate(rows: Sequence[Row], pad_id: int) -> dict[str, Tensor]:
    """One view's batch, padded to its longest row."""
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.full((len(rows), longest), pad_id)
    labels, mask = torch.full_like(ids, -100), torch.zeros_like(ids)
    for i, (tokens, start) in enumerate(rows):
        ids[i, : len(tokens)] = torch.tensor(tokens)
        labels[i, start : len(tokens)] = torch.tensor(tokens[start:])
        mask[i, : len(tokens)] = 1
    return {"input_ids": ids, "labels": labels, "attention_mask": mask}


def forward(model: Any, view: View) -> Tensor:
    """Logits (B, T, V) in float32."""
    return model(input_ids=view["input_ids"], attention_mask=view["attention_mask"]).logits.float()


def token_nll(logits: Tensor, labels: Tensor) -> Tensor:
    """(B, T − 1), 0 where there is no label."""
    return F.cross_entropy(logits[:, :-1].transpose(1, 2), labels[:, 1:], reduction="none")


def labelled_mean(values: Tensor, labels: Tensor) -> Tensor:
    """Mean of (B, T − 1) values over the labelled tokens of the batch."""
    labelled = labels[:, 1:] != -100
    return (values * labelled).sum() / labelled.sum()


def states_behind(model: Any, view: View, layer: int) -> Tensor:
    """(B, T, H) what a layer gives, by a hook in a whole forward pass."""
    kept: list[Tensor] = []
    hook = model.model.layers[layer].register_forward_hook(
        lambda _, __, out: kept.append(out[0] if isinstance(out, tuple) else out)
    )
    forward(model, view)
    hook.remove()
    return kept[0]


def real_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of (B, T) values over the real tokens of the batch."""
    return (values * mask).sum() / mask.sum()


class Plain:
    """A model that is trained by one method, step by step."""

    def __init__(
        self, name: str, model: Any, *, weight_decay: float, max_grad_norm: float, layer: int = 0,
        direction: Tensor | None = None,
    ) -> None:  # fmt: skip
        """RMU drives the states of `layer` towards `direction` (H,), a unit vector, and trains the down projections of
        that block and the two before it. `model` is copied."""
        self.name, self.layer, self.direction, self.max_grad_norm = name, layer, direction, max_grad_norm
        self.model = copy.deepcopy(model).train()
        self.reference = copy.deepcopy(model).eval() if name in WITH_REFERENCE else None
        if name == "RMU+REP":
            self.model.requires_grad_(False)
            for block in self.model.model.layers[max(0, layer - 2) : layer + 1]:
                block.mlp.down_proj.weight.requires_grad_(True)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, weight_decay=weight_decay)

    def losses(self, views: Mapping[str, View]) -> tuple[Tensor, Tensor]:
        """Forget and retain loss of one batch."""
        if self.name == "RMU+REP":
            return self._misdirected(views["forget"]), self._embeddings_kept(views["retain"])
        forget, _ = self.name.split("+")
        view, beta = views["forget"], BETA[self.name]
        labels = view["labels"]
        logits = forward(self.model, view)
        if forget == "UNDIAL":
            loss = self._distilled(logits, view, beta)
        elif forget == "WGA":
            nll = token_nll(logits, labels)
            loss = labelled_mean((-nll.detach()).exp() ** beta * -nll, labels)
        else:
            nll = token_nll(logits, labels).sum(-1)
            if forget == "SIMNPO":
                margin = nll / (labels[:, 1:] != -100).sum(-1)
            else:
                margin = nll - self._reference_nll(view)
                if forget == "ALTPO":
                    other = views["forget_alternate"]
                    theirs = token_nll(forward(self.model, other), other["labels"]).sum(-1)
                    margin = margin - (theirs - self._reference_nll(other))
            loss = -2 / beta * F.logsigmoid(beta * margin).mean()
        retain = views["retain"]
        kept = token_nll(forward(self.model, retain), retain["labels"])
        return loss, labelled_mean(kept, retain["labels"])

    @torch.no_grad()
    def _reference_nll(self, view: View) -> Tensor:
        """(B,)"""
        return token_nll(forward(self.reference, view), view["labels"]).sum(-1)

    def _distilled(self, logits: Tensor, view: View, beta: float) -> Tensor:
        """Cross-entropy to the reference's distribution, the label's logit lowered by `beta`."""
        with torch.no_grad():
            lowered = forward(self.reference, view)[:, :-1]
            label = view["labels"][:, 1:, None].clamp(min=0)
            target = lowered.scatter_add(-1, label, torch.full(label.shape, -beta)).softmax(-1)
        apart = F.cross_entropy(logits[:, :-1].transpose(1, 2), target.transpose(1, 2), reduction="none")
        return labelled_mean(apart, view["labels"])

    def _misdirected(self, view: View) -> Tensor:
        assert self.direction is not None
        states = states_behind(self.model, view, self.layer)
        away = (states - STEERING * self.direction).square().mean(-1)
        return real_mean(away, view["attention_mask"])

    def _embeddings_kept(self, view: View) -> Tensor:
        with torch.no_grad():
            before = states_behind(self.reference, view, self.layer)
        apart = (states_behind(self.model, view, self.layer) - before).square().mean(-1)
        return real_mean(apart, view["attention_mask"])

    def step(self, views: Mapping[str, View], lr: float) -> tuple[float, float]:
        """Forget and retain loss before the step, both weighing 1."""
        forget, retain = self.losses(views)
        (forget + retain).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.max_grad_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad()
        return forget.item(), retain.item()
