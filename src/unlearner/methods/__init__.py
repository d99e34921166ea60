"""Unlearning methods: FORGET+RETAIN, any forget loss with any retain loss, and +SURGERY around both. A new one is one
file and one line in `registry`, or an entry point of another package."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from unlearner.errors import UserError
from unlearner.methods.base import Alternates, Loss, State, Views
from unlearner.methods.options import make, refuse_unknown
from unlearner.methods.registry import COMBINED_METHODS, FORGET, RETAIN, SURGERY, find, losses, method_names, surgeries
from unlearner.methods.surgery import Role, Step, Surgery
from unlearner.models.anatomy import Head, bare
from unlearner.scoring.batch import Batch, without_first
from unlearner.scoring.constants import COMPARED, DIVERGENCES
from unlearner.scoring.views import Known, Needs, score_views

__all__ = [
    "COMBINED_METHODS", "FORGET", "RETAIN", "SURGERY", "Loss", "Losses", "Method", "Step", "Surgery", "losses",
    "method_names", "surgeries",
]  # fmt: skip


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
    """Average as the official code does, padding included (docs/faithfulness.md)."""
    surgery: Surgery | None = None
    """What is done with the two losses' gradients, if more than adding them."""

    @classmethod
    def parse(
        cls,
        name: str,
        *,
        forget_coeff: float = 1.0,
        retain_coeff: float = 1.0,
        official: bool = False,
        beta: float | None = None,
        me_direction: str | None = None,
        **options: Any,
    ) -> Self:
        """Make a method from its name: `NPO+KL`, `ME` (no retain loss; also `ME+none`), `LLMU`, `module:Name+GD`,
        `NPO+GD+GRU` (with a surgery).

        `options` are fields of its losses and surgery; `beta` and `me_direction` are ignored where there is no such
        field.
        Raises UserError, with the closest name, for an unknown name or option, and for an invalid value such as β ≤ 0
        or a negative coefficient.
        """
        if forget_coeff < 0 or retain_coeff < 0:
            raise UserError(
                f"coefficients must not be negative: forget_coeff {forget_coeff}, retain_coeff {retain_coeff}."
            )
        found = find(name)
        refuse_unknown(found, options)
        shared = {"beta": beta, "me_direction": me_direction}
        given = options | {name: value for name, value in shared.items() if value is not None}
        forget, retain = [*(make(loss, given) for loss in found.losses), None][:2]
        assert forget is not None
        surgery = None if found.surgery is None else make(found.surgery, given)
        if surgery is not None and surgery.both and retain is None:
            raise UserError(
                f"{surgery.name} works on the gradients of two losses, and {found.base} is one: name a retain loss, "
                f"such as {found.base}+GD+{surgery.name}."
            )
        return cls(found.name, forget, retain, forget_coeff, retain_coeff, official, surgery)

    def half(self, role: Role | None) -> "Method":
        """One of its losses by itself, as a forget loss with that loss's coefficient; without a role all of it."""
        if role is None:
            return self
        if role == "forget":
            return replace(self, retain=None)
        assert self.retain is not None
        return replace(self, forget=self.retain, retain=None, forget_coeff=self.retain_coeff)

    @property
    def draws(self) -> int:
        """How many retain rows each item is given in an epoch."""
        return 1 if self.surgery is None else self.surgery.draws

    @property
    def parts(self) -> list[Loss]:
        return [self.forget] if self.retain is None else [self.forget, self.retain]

    @property
    def needs(self) -> dict[str, tuple[str | int, ...]]:
        """What to compute for each view, both losses together: scores by name, hidden states by their layer."""
        return _joined([part.needs for part in self.parts])

    @property
    def reference_nll(self) -> tuple[str, ...]:
        """The views whose NLL under the reference model is needed: once per sequence, before training."""
        return tuple(view for view, kinds in self._of_reference.items() if "nll" in kinds)

    @property
    def reference_logp(self) -> tuple[str, ...]:
        """The views whose tokens' log-probabilities under the reference model are needed: once, before training."""
        return tuple(view for view, kinds in self._of_reference.items() if "logp" in kinds)

    @property
    def _of_reference(self) -> dict[str, tuple[str | int, ...]]:
        return _joined([part.reference for part in self.parts])

    @property
    def asked(self) -> dict[str, tuple[str | int, ...]]:
        """What the reference model is asked in every step, by view: the distribution where the view is compared."""
        compared = [view for view, kinds in self.needs.items() if {*COMPARED} & {*kinds}]
        joined = _joined([dict.fromkeys(compared, ()), *(part.reference for part in self.parts)])
        asked = {view: tuple(kind for kind in kinds if kind not in ("nll", "logp")) for view, kinds in joined.items()}
        return {view: kinds for view, kinds in asked.items() if kinds or view in compared}

    @property
    def needs_reference(self) -> bool:
        return bool(self.reference_nll or self.reference_logp or self.asked)

    @property
    def demote(self) -> float:
        """What `distilled` subtracts from the reference's logit of each labelled token."""
        return max(part.demote for part in self.parts)

    @property
    def trains(self) -> list[str]:
        """Regular expressions for the names of the parameters that are trained; none stands for all parameters."""
        return list(dict.fromkeys(part.trains for part in self.parts if part.trains))

    @property
    def targeted(self) -> bool:
        """Whether refusals are trained, which needs questions; untargeted methods forget plain documents too."""
        return any(part.targeted for part in self.parts)

    @property
    def compares(self) -> bool:
        """Whether a loss is a divergence from the reference's distribution."""
        return any({*DIVERGENCES} & {*kinds} for kinds in self.needs.values())

    @property
    def needs_questions(self) -> bool:
        return any(part.targeted or part.needs_questions for part in self.parts)

    @property
    def needs_retain(self) -> bool:
        return any("retain" in view or view == "forget_mismatch" for view in self.needs)

    @property
    def alternates(self) -> Alternates | None:
        """Where other answers to the forget questions come from, if a loss reads any."""
        return self.forget.alternates

    @property
    def mask_question(self) -> bool:
        return self.forget.mask_question

    @property
    def labelling(self) -> dict[str, Any]:
        """How the forget view is labelled: keyword arguments of `data.views.build_views`."""
        return {
            "mask_question": self.forget.mask_question,
            "skip": self.forget.skip,
            "phrase": self.forget.phrase,
            "everywhere": self.forget.official_everywhere,
        }

    def setup(self, config: Any, seed: int) -> dict[str, State]:
        """The losses' own tensors before the first step, by the losses' names (`Loss.setup`)."""
        return {part.name: state for part in self.parts if (state := part.setup(config, seed))}

    def combine(self, views: Views, states: Mapping[str, State] | None = None) -> Losses:
        """Both losses from scores: the one place where formulas are applied, in training and in tests alike."""
        values = [part(views, **(states or {}).get(part.name, {})) for part in self.parts]
        return Losses(values[0], torch.zeros_like(values[0]) if self.retain is None else values[1])

    def total(self, losses: Losses) -> Tensor:
        """forget_coeff · forget + retain_coeff · retain."""
        return self.forget_coeff * losses.forget + self.retain_coeff * losses.retain

    def losses(
        self,
        model: nn.Module,
        views: Mapping[str, Mapping[str, Tensor]],
        *,
        reference: nn.Module | None = None,
        states: Mapping[str, State] | None = None,
    ) -> Losses:
        """The losses of one batch with a plain model as reference (the training loop feeds the same formulas).

        `views[name]` holds `input_ids`, `labels`, `attention_mask`, each (B, T); the views that the method needs are in
        `method.needs`, further ones are ignored. Views of MP-ME that mix two items also hold `marked`, which tokens are
        to be forgotten. `states` are the losses' own tensors, by default those of seed 0.
        Raises UserError where a view or the reference model is missing.
        """
        missing = sorted(set(self.needs) - set(views))
        if missing:
            raise UserError(
                f"{self.name} needs the view {missing[0]!r}; given were {', '.join(sorted(views)) or 'none'}."
            )
        if reference is None and self.needs_reference:
            raise UserError(f"{self.name} needs a reference model: pass reference=.")
        used = {name: self._view(name, views[name], model) for name in self.needs}
        batch = Batch.build(used, official=self.official, reference=self.asked)
        known = None
        if reference is not None:
            once: Needs = {view: ["logp"] for view in {*self.reference_nll, *self.reference_logp}}
            with torch.no_grad():
                scored = score_views(reference, batch, once) if once else {}
            batch = batch.with_reference_nll({view: scored[view].nll for view in self.reference_nll})
            batch = batch.with_reference_logp({view: scored[view].logp for view in self.reference_logp})
            known = Known.of(reference, batch, self.asked) if self.asked else None
        if states is None:
            made = self.setup(bare(model).config.get_text_config(), seed=0)
            device = batch.input_ids.device
            states = {name: {key: each.to(device) for key, each in own.items()} for name, own in made.items()}
        scores = score_views(model, batch, self.needs, known=known, asked=self.asked, demote=self.demote)
        return self.combine(scores, states)

    def _view(self, name: str, view: Mapping[str, Tensor], model: nn.Module) -> Mapping[str, Tensor]:
        """A given view with the labels that the forget loss has of it."""
        if name != "forget":
            return view
        if self.forget.skip:
            view = {**view, "labels": without_first(view["labels"], self.forget.skip, official=self.official)}
        return self.forget.official_view(view, Head.of(model).vocabulary) if self.official else view


def _joined(all_needs: list[Needs]) -> dict[str, tuple[str | int, ...]]:
    joined: dict[str, tuple[str | int, ...]] = {}
    for needs in all_needs:
        for view, kinds in needs.items():
            joined[view] = tuple(dict.fromkeys((*joined.get(view, ()), *kinds)))
    return joined
