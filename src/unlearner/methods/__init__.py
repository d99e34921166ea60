"""Unlearning methods: FORGET+RETAIN, any forget loss with any retain loss. A new loss is one file and one line here."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from unlearner.errors import UserError, did_you_mean
from unlearner.methods.ap import AP
from unlearner.methods.base import Loss, Views
from unlearner.methods.dpo import DPO
from unlearner.methods.ga import GA
from unlearner.methods.gd import GD
from unlearner.methods.idk import IDK
from unlearner.methods.kl import KL
from unlearner.methods.llmu import Mismatch
from unlearner.methods.me import ME
from unlearner.methods.npo import NPO
from unlearner.models.anatomy import Head
from unlearner.scoring.batch import Batch
from unlearner.scoring.views import score_views

FORGET: dict[str, type[Loss]] = {loss.name: loss for loss in (GA, NPO, ME, DPO, IDK)}
RETAIN: dict[str, type[Loss]] = {loss.name: loss for loss in (GD, KL, AP)}
WHOLE: dict[str, tuple[type[Loss], type[Loss]]] = {"LLMU": (GA, Mismatch)}
"""Methods that are named as one."""


class Losses(NamedTuple):
    """Scalars with gradient, before their coefficients; `retain` is a constant 0 without a retain loss."""

    forget: Tensor
    retain: Tensor


@dataclass(frozen=True)
class Method:
    """A forget loss and a retain loss; trained on `forget_coeff · forget + retain_coeff · retain`."""

    name: str
    forget: Loss
    retain: Loss | None
    forget_coeff: float = 1.0
    retain_coeff: float = 1.0
    official: bool = False
    """Average as the official code does, padding included (PAPER section 7)."""

    @classmethod
    def parse(
        cls,
        name: str,
        *,
        beta: float = 0.1,
        forget_coeff: float = 1.0,
        retain_coeff: float = 1.0,
        me_direction: str = "uniform-to-model",
        official: bool = False,
    ) -> Self:
        """Make a method from its name: `NPO+KL`, `ME` (no retain loss; also `ME+none`), `LLMU`.

        Raises UserError, with the nearest name, for a name that is not known, and for β ≤ 0 or a negative coefficient.
        """
        if not 0 < beta < math.inf:
            raise UserError(f"beta must be positive, not {beta}.")
        if forget_coeff < 0 or retain_coeff < 0:
            raise UserError(
                f"coefficients must not be negative: forget_coeff {forget_coeff}, retain_coeff {retain_coeff}."
            )
        options = {"beta": beta, "direction": me_direction}
        canonical = name.upper().removesuffix("+NONE")
        if canonical in WHOLE:
            forget, retain = WHOLE[canonical]
            chosen: tuple[type[Loss], type[Loss] | None] = forget, retain
        else:
            first, plus, second = canonical.partition("+")
            if first not in FORGET or (plus and second not in RETAIN):
                raise UserError(f"unknown method {name!r}: {did_you_mean(name, method_names())}")
            chosen = FORGET[first], RETAIN[second] if plus else None
        made = [None if loss is None else _make(loss, options) for loss in chosen]
        assert made[0] is not None
        return cls(canonical, made[0], made[1], forget_coeff, retain_coeff, official)

    @property
    def parts(self) -> list[Loss]:
        return [self.forget] if self.retain is None else [self.forget, self.retain]

    @property
    def needs(self) -> dict[str, tuple[str, ...]]:
        """The scores to compute for each view, both losses together."""
        needs: dict[str, tuple[str, ...]] = {}
        for part in self.parts:
            for view, kinds in part.needs.items():
                needs[view] = tuple(dict.fromkeys((*needs.get(view, ()), *kinds)))
        return needs

    @property
    def reference_nll(self) -> tuple[str, ...]:
        """The views whose NLL under the reference model is needed: once per sequence, before training."""
        return tuple(dict.fromkeys(view for part in self.parts for view in part.reference_nll))

    @property
    def kl_view(self) -> str | None:
        """The view on which the reference model's whole distribution is needed, in every step."""
        return next((view for view, kinds in self.needs.items() if "kl" in kinds), None)

    @property
    def targeted(self) -> bool:
        """Whether refusals are trained, which takes questions; untargeted methods forget plain documents too."""
        return any(part.targeted for part in self.parts)

    @property
    def needs_retain(self) -> bool:
        return any(view.startswith("retain") or view == "forget_mismatch" for view in self.needs)

    @property
    def mask_question(self) -> bool:
        return self.forget.mask_question

    def combine(self, views: Views) -> Losses:
        """Both losses from scores: the one place where formulas are applied, in training and in tests alike."""
        forget = self.forget(views)
        return Losses(forget, torch.zeros_like(forget) if self.retain is None else self.retain(views))

    def total(self, losses: Losses) -> Tensor:
        """forget_coeff · forget + retain_coeff · retain."""
        return self.forget_coeff * losses.forget + self.retain_coeff * losses.retain

    def losses(
        self, model: nn.Module, views: Mapping[str, Mapping[str, Tensor]], *, reference: nn.Module | None = None
    ) -> Losses:
        """The losses of one batch with a plain model as reference (the training loop feeds the same formulas).

        `views[name]` holds `input_ids`, `labels`, `attention_mask`, each (B, T); the views that the method needs are in
        `method.needs`, further ones are ignored. Raises UserError where a view or the reference model is missing.
        """
        missing = sorted(set(self.needs) - set(views))
        if missing:
            raise UserError(
                f"{self.name} needs the view {missing[0]!r}; given were {', '.join(sorted(views)) or 'none'}."
            )
        if reference is None and (self.reference_nll or self.kl_view):
            raise UserError(f"{self.name} needs a reference model: pass reference=.")
        batch = Batch.build({name: views[name] for name in self.needs}, official=self.official)
        kl_reference = None
        if reference is not None:
            with torch.no_grad():
                batch = self._with_reference_nll(reference, batch)
                if self.kl_view is not None:
                    states = batch.states(reference)[batch.views[self.kl_view].kl_index]
                    kl_reference = states, Head.of(reference)
        return self.combine(score_views(model, batch, self.needs, reference=kl_reference))

    def _with_reference_nll(self, reference: nn.Module, batch: Batch) -> Batch:
        scored = score_views(reference, batch, {view: ["logp"] for view in self.reference_nll})
        known = {name: replace(batch.views[name], reference_nll=scores.nll) for name, scores in scored.items()}
        return replace(batch, views={**batch.views, **known})


def _make(loss: type[Loss], options: Mapping[str, Any]) -> Loss:
    return loss(**{f.name: options[f.name] for f in fields(loss) if f.name in options})  # type: ignore[arg-type]


def method_names() -> list[str]:
    """Every name that `Method.parse` takes."""
    return [*FORGET, *(f"{f}+{r}" for f in FORGET for r in RETAIN), *WHOLE]
