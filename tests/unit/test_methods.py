"""Every loss against a plain implementation on full logits and against numbers worked by hand; names, errors."""

import copy
import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from unlearner import Method
from unlearner.errors import UserError
from unlearner.methods import COMBINED_METHODS, Losses, method_names
from unlearner.methods.base import Loss, Needs
from unlearner.methods.learn import Learn
from unlearner.methods.me import ME
from unlearner.scoring.batch import Batch, RowWeights, ViewIndex, like_lengths
from unlearner.scoring.views import ViewScores, score_views

Views = dict[str, dict[str, Tensor]]
MIXED = ("forget_retain", "retain_forget", "refusal_retain", "retain_then_refusal")
VIEWS = (
    *("forget", "retain", "forget_refusal", "retain_refusal", "forget_mismatch", "forget_phrase", *MIXED),
    "forget_alternate",
)
QUESTION = 4
EOS = 1


def make_view(
    seed: int, lengths: tuple[int, ...], *, width: int | None = None, whole: bool = False
) -> dict[str, Tensor]:
    """Random rows of the given lengths as the official code makes them: right-padded with EOS, whose first copy is
    labelled and lies outside the mask; `whole` labels every position, padding included."""
    width = width or max(lengths) + 3
    ids = torch.randint(3, 400, (len(lengths), width), generator=torch.Generator().manual_seed(seed))
    labels, mask = ids.clone(), torch.ones_like(ids)
    for row, length in enumerate(lengths):
        ids[row, length:], mask[row, length:] = EOS, 0
        labels[row] = ids[row]
        labels[row, length + 1 :] = -100
        labels[row, :QUESTION] = -100
    return {"input_ids": ids, "labels": ids.clone() if whole else labels, "attention_mask": mask}


def make_views(*, whole: bool = False) -> Views:
    lengths = {
        "forget": (9, 12, 7), "retain": (14, 8, 10), "forget_refusal": (6, 8, 8), "retain_refusal": (7, 9, 7),
        "forget_mismatch": (11, 9, 13), "train": (9, 12, 7), "forget_phrase": (9, 12, 7),
        **dict.fromkeys(MIXED, (13, 9, 11)), "forget_alternate": (8, 10, 7),
    }  # fmt: skip
    return with_marks(
        {
            name: make_view(seed, size, whole=whole and name == "forget")
            for seed, (name, size) in enumerate(lengths.items())
        }
    )


def with_marks(views: Views) -> Views:
    """With every third token of what mixes two items marked as to be forgotten."""
    return {
        name: {**view, "marked": view["input_ids"] % 3 == 0} if name in MIXED[:2] else view
        for name, view in views.items()
    }


@pytest.fixture(scope="module")
def models(tiny_llama: Callable[[], Any]) -> tuple[Any, Any]:
    """A model and a reference some way from it, neither of them near uniform."""
    made = []
    for seed in (1, 2):
        model = tiny_llama().eval()
        torch.manual_seed(seed)
        for parameter in model.parameters():
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=0.25)
        made.append(model)
    return made[0], made[1]


# ------------------------------------------------------------------------------------------------- plain implementation


class Plain:
    """The formulas of arXiv 2410.08109 as they stand there, on the full logits of one view after another."""

    def __init__(self, model: Any, reference: Any, views: Views, *, beta: float, official: bool = False) -> None:
        self.model, self.reference, self.views, self.beta, self.official = model, reference, views, beta, official

    def logits(self, name: str, model: Any = None) -> Tensor:
        view = self.views[name]
        return (model or self.model)(input_ids=view["input_ids"], attention_mask=view["attention_mask"]).logits

    def labels(self, name: str) -> Tensor:
        """(B, T−1) what position t predicts; by default nothing is asked of a padded position."""
        view = self.views[name]
        labels = view["labels"][:, 1:].clone()
        if not self.official:
            labels[view["attention_mask"][:, :-1] == 0] = -100
        return labels

    def ce(self, name: str) -> Tensor:
        return cross_entropy(self.logits(name)[:, :-1].flatten(0, 1), self.labels(name).flatten(), ignore_index=-100)

    def nll(self, name: str, model: Any = None) -> Tensor:
        logits = self.logits(name, model)[:, :-1].transpose(1, 2)
        return cross_entropy(logits, self.labels(name), ignore_index=-100, reduction="none").sum(-1)

    def reference_nll(self, name: str) -> Tensor:
        return self.nll(name, self.reference).detach()

    def log_sigmoid(self, margin: Tensor) -> Tensor:
        return torch.log(1 / (1 + torch.exp(-self.beta * margin)))

    def ga(self) -> Tensor:
        return -self.ce("forget")

    def npo(self) -> Tensor:
        return -2 / self.beta * self.log_sigmoid(self.nll("forget") - self.reference_nll("forget")).mean()

    def me(self) -> Tensor:
        p = torch.softmax(self.logits("forget")[:, :-1], dim=-1)[self.labels("forget") != -100]
        uniform = 1 / p.shape[-1]
        return (uniform * (math.log(uniform) - torch.log(p + 1e-12))).sum(-1).mean()

    def me_paper(self) -> Tensor:
        p = torch.softmax(self.logits("forget")[:, :-1], dim=-1)[self.labels("forget") != -100]
        return (p * (torch.log(p) - math.log(1 / p.shape[-1]))).sum(-1).mean()

    def dpo(self) -> Tensor:
        ours = self.nll("forget") - self.nll("forget_refusal")
        theirs = self.reference_nll("forget") - self.reference_nll("forget_refusal")
        return -2 / self.beta * self.log_sigmoid(ours - theirs).mean()

    def idk(self) -> Tensor:
        return self.ce("forget_refusal")

    def gd(self) -> Tensor:
        return self.ce("retain")

    def kl(self) -> Tensor:
        q = torch.softmax(self.logits("retain", self.reference), dim=-1).detach()
        p = torch.softmax(self.logits("retain"), dim=-1)
        each = (q * (torch.log(q) - torch.log(p))).sum(-1)
        return each.mean() if self.official else each[self.views["retain"]["attention_mask"] == 1].mean()

    def ap(self) -> Tensor:
        return -1 / self.beta * self.log_sigmoid(self.nll("retain_refusal") - self.nll("retain")).mean()

    def llmu(self) -> Tensor:
        return self.ce("forget_mismatch") + self.kl()


def weighted(losses: Losses | tuple[Tensor, Tensor]) -> Tensor:
    return 0.7 * losses[0] + 1.3 * losses[1]


def gradient(model: Any, loss: Tensor) -> Tensor:
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


CASES: dict[str, tuple[Callable[[Plain], Tensor], Callable[[Plain], Tensor]]] = {
    "GA+GD": (Plain.ga, Plain.gd),
    "NPO+KL": (Plain.npo, Plain.kl),
    "ME+KL": (Plain.me, Plain.kl),
    "DPO+GD": (Plain.dpo, Plain.gd),
    "IDK+AP": (Plain.idk, Plain.ap),
    "LLMU": (Plain.ga, Plain.llmu),
}


@pytest.mark.parametrize("official", [False, True], ids=["default", "official"])
@pytest.mark.parametrize("whole", [False, True], ids=["answers", "whole"])
@pytest.mark.parametrize("beta", [0.1, 0.6])
@pytest.mark.parametrize("name", CASES)
def test_losses_and_gradients_are_those_of_the_plain_formulas(
    name: str, beta: float, whole: bool, official: bool, models: tuple[Any, Any]
) -> None:
    model, reference = models
    views = make_views(whole=whole)
    method = Method.parse(name, beta=beta, official=official)
    losses = method.losses(model, views, reference=reference)
    ours = gradient(model, weighted(losses))
    plain = Plain(model, reference, views, beta=beta, official=official)
    expected = tuple(formula(plain) for formula in CASES[name])
    assert losses.forget.item() == pytest.approx(expected[0].item(), rel=1e-5)
    assert losses.retain.item() == pytest.approx(expected[1].item(), rel=1e-5)
    theirs = gradient(model, weighted(expected))
    assert torch.norm(ours - theirs) < 1e-4 * torch.norm(theirs)


def test_me_in_the_papers_direction(models: tuple[Any, Any]) -> None:
    model, reference = models
    views = make_views(whole=True)
    loss = Method.parse("ME", me_direction="model-to-uniform").losses(model, views).forget
    ours = gradient(model, loss)
    expected = Plain(model, reference, views, beta=1.0).me_paper()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    theirs = gradient(model, expected)
    assert torch.norm(ours - theirs) < 1e-4 * torch.norm(theirs)


def test_learn_is_cross_entropy(models: tuple[Any, Any]) -> None:
    views = make_views()
    loss = Method("finetune", Learn(), None).losses(models[0], views).forget
    assert loss.item() == pytest.approx(Plain(models[0], None, views, beta=1.0).ce("train").item(), rel=1e-6)


def test_the_reference_gets_no_gradient(models: tuple[Any, Any]) -> None:
    model, reference = models
    reference.zero_grad()
    sum(Method.parse("DPO+KL").losses(model, make_views(), reference=reference)).backward()
    assert all(p.grad is None for p in reference.parameters())


# ----------------------------------------------------------------------------------------------- numbers worked by hand


def scored(
    logp: list[list[float]], reference_nll: list[float] | None = None, *, kind: str = "logp", vocabulary: int = 4
) -> ViewScores:
    """A view whose sequences have these scores, with the weights of plain means over tokens and over sequences."""
    flat = [value for sequence in logp for value in sequence]
    row = torch.tensor([i for i, sequence in enumerate(logp) for _ in sequence])
    n, b = len(flat), len(logp)
    nothing = torch.zeros(n, dtype=torch.int64)
    index = ViewIndex(
        rows=b, index=nothing, target=nothing, row=row, token_weight=torch.full((n,), 1 / n),
        sequence_weight=torch.full((b,), 1 / b), kl_index=nothing, kl_weight=torch.full((n,), 1 / n),
        reference_nll=None if reference_nll is None else torch.tensor(reference_nll),
    )  # fmt: skip
    return ViewScores(index, vocabulary, {kind: torch.tensor(flat)})


# Two sequences with NLL 3 (two tokens) and 1 (one token); under the reference 1 and 2.
FORGET_VIEW = scored([[-1.0, -2.0], [-1.0]], [1.0, 2.0])
# NLL 1 and 4, under the reference 2 and 2.
REFUSAL_VIEW = scored([[-0.5, -0.5], [-4.0]], [2.0, 2.0])
UNIFORM = math.log(4)


@pytest.mark.parametrize(
    ("name", "views", "by_hand"),
    [
        # −CE = −(1 + 2 + 1)/3
        ("GA", {"forget": FORGET_VIEW}, -1.333333),
        # margins 3 − 1 = 2, 1 − 2 = −1; log σ(0.2) = −0.598139, log σ(−0.1) = −0.744397; −20 · their mean
        ("NPO", {"forget": FORGET_VIEW}, 13.425357),
        # margins (3 − 1) − (1 − 2) = 3, (1 − 4) − (2 − 2) = −3; log σ(0.3) = −0.554355, log σ(−0.3) = −0.854355
        ("DPO", {"forget": FORGET_VIEW, "forget_refusal": REFUSAL_VIEW}, 14.087104),
        # (0.5 + 0.5 + 4)/3
        ("IDK", {"forget_refusal": REFUSAL_VIEW}, 1.666667),
        # (1/4) Σ log p of (1/2, 1/4, 1/8, 1/8) is −9/4 log 2, of the uniform −2 log 2; less log 4: log 2 · (1/4 + 0)/2
        ("ME", {"forget": scored([[-2.25 * math.log(2), -UNIFORM]], kind="mean_logp")}, 0.0866434),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_forget_losses_by_hand(name: str, views: Mapping[str, ViewScores], by_hand: float) -> None:
    losses = Method.parse(name, beta=0.1).combine(views)
    assert losses.forget.item() == pytest.approx(by_hand, rel=1e-5)
    assert losses.retain.item() == 0


def test_me_in_the_papers_direction_by_hand() -> None:
    """H(1/2, 1/4, 1/8, 1/8) = 1.75 bits, H(U) = 2 bits: KL(p‖U) is 0.25 and 0 bits."""
    views = {"forget": scored([[1.75 * math.log(2), UNIFORM]], kind="entropy")}
    assert ME("model-to-uniform")(views).item() == pytest.approx(0.0866434, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "views", "by_hand"),
    [
        # (1 + 2 + 1)/3
        ("GD", {"retain": FORGET_VIEW}, 1.333333),
        # KL of (1/2, 1/4) at the one position and of nothing at the other
        ("KL", {"retain": scored([[0.3, 0.0]], kind="kl")}, 0.15),
        # margins 1 − 3 = −2, 4 − 1 = 3; log σ(−0.2) = −0.798139, log σ(0.3) = −0.554355; −10 · their mean
        ("AP", {"retain": FORGET_VIEW, "retain_refusal": REFUSAL_VIEW}, 6.762471),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_retain_losses_by_hand(name: str, views: Mapping[str, ViewScores], by_hand: float) -> None:
    losses = Method.parse(f"IDK+{name}", beta=0.1).combine({**views, "forget_refusal": REFUSAL_VIEW})
    assert losses.forget.item() == pytest.approx(1.666667, rel=1e-5)
    assert losses.retain.item() == pytest.approx(by_hand, rel=1e-5)


def test_llmu_and_learn_by_hand() -> None:
    """CE of the mismatch 5/3 plus KL 0.15; the forget side −4/3. Learning: CE 4/3."""
    views = {"forget": FORGET_VIEW, "forget_mismatch": REFUSAL_VIEW, "retain": scored([[0.3, 0.0]], kind="kl")}
    losses = Method.parse("LLMU").combine(views)
    assert losses.forget.item() == pytest.approx(-1.333333, rel=1e-5)
    assert losses.retain.item() == pytest.approx(1.816667, rel=1e-5)
    assert Learn()({"train": FORGET_VIEW}).item() == pytest.approx(1.333333, rel=1e-5)


def test_the_total_weighs_both_losses() -> None:
    method = Method.parse("GA+GD", forget_coeff=0.5, retain_coeff=3.0)
    assert method.total(method.combine({"forget": FORGET_VIEW, "retain": REFUSAL_VIEW})).item() == pytest.approx(
        0.5 * -1.333333 + 3 * 1.666667, rel=1e-5
    )


def test_a_model_that_is_uniform_has_nothing_left_to_forget(tiny_llama: Callable[[], Any]) -> None:
    """With zero output weights p = 1/400 everywhere: ME is 0, CE is log 400, DPO's and NPO's margin is 0."""
    model = tiny_llama()
    torch.nn.init.zeros_(model.lm_head.weight)
    views = make_views(whole=True)
    for direction in ("uniform-to-model", "model-to-uniform"):
        loss = Method.parse("ME", me_direction=direction).losses(model, views).forget
        assert loss.item() == pytest.approx(0, abs=1e-5)
    assert Method.parse("GA").losses(model, views).forget.item() == pytest.approx(-5.991465, rel=1e-5)
    for name in ("NPO", "DPO"):
        loss = Method.parse(name, beta=0.1).losses(model, views, reference=model).forget
        assert loss.item() == pytest.approx(13.862944, rel=1e-5)  # (2/0.1) log 2


# -------------------------------------------------------------------------------------------- padding, order, splitting

EVERY = [name for name in method_names() if "+" in name or name in COMBINED_METHODS]


SMALL = {"layer": 1, "layers": "0,1", "beta1": 0.1}


def mild(name: str, **options: Any) -> Method:
    """With layers that the models here have, and small exponents: at their defaults some losses of these models, where
    p ≈ 1e-3, are smaller than 1e-9."""
    parts = Method.parse(name).parts
    own = {key: value for key, value in SMALL.items() if any(hasattr(part, key) for part in parts)}
    return Method.parse(name, beta=0.1, **own, **options)


def mid_run(method: Method, model: Any) -> dict[str, dict[str, Tensor]]:
    """The losses' own tensors at step 30, where no weight that moves with the steps is 0."""
    states = method.setup(model.config, seed=0)
    return {
        name: {key: torch.full_like(each, 30) if key == "step" else each for key, each in own.items()}
        for name, own in states.items()
    }


def more_padding(view: dict[str, Tensor], extra: int, *, label: int) -> dict[str, Tensor]:
    fill = {"input_ids": EOS, "labels": label, "attention_mask": 0, "marked": False}
    return {key: torch.nn.functional.pad(value, (0, extra), value=fill[key]) for key, value in view.items()}


def same_losses(a: Losses, b: Losses) -> None:
    assert a.forget.item() == pytest.approx(b.forget.item(), rel=1e-5, abs=0)
    assert a.retain.item() == pytest.approx(b.retain.item(), rel=1e-5, abs=0)
    assert a.forget.item() and a.retain.item()


@pytest.mark.parametrize("whole", [False, True], ids=["answers", "whole"])
@pytest.mark.parametrize("name", EVERY)
def test_by_default_padding_never_counts(name: str, whole: bool, models: tuple[Any, Any]) -> None:
    """Labels on padding, as ME's official batches have them, are no reason either."""
    model, reference = models
    method = mild(name)
    views = make_views(whole=whole)
    wider = {
        view: more_padding(value, 3 + 2 * i, label=EOS if whole and view == "forget" else -100)
        for i, (view, value) in enumerate(views.items())
    }
    with torch.no_grad():
        same_losses(*(
            method.losses(model, each, reference=reference, states=mid_run(method, model)) for each in (views, wider)
        ))  # fmt: skip


@pytest.mark.parametrize(("name", "moves"), [("ME+KL", (True, True)), ("NPO+GD", (False, False))])
def test_officially_padding_counts_for_me_and_kl(name: str, moves: tuple[bool, bool], models: tuple[Any, Any]) -> None:
    model, reference = models
    method = Method.parse(name, official=True)
    views = make_views(whole=method.forget.name == "ME")
    wider = {
        view: more_padding(value, 6, label=EOS if method.forget.name == "ME" and view == "forget" else -100)
        for view, value in views.items()
    }
    with torch.no_grad():
        before = method.losses(model, views, reference=reference)
        after = method.losses(model, wider, reference=reference)
    for a, b, moved in zip(before, after, moves, strict=True):
        assert (a.item() != pytest.approx(b.item(), rel=1e-4)) == moved


def test_officially_every_view_has_a_width_of_its_own(models: tuple[Any, Any]) -> None:
    """Padding on the left that may look at nothing looks, in some models, at everything: at all columns there are."""
    model, reference = (copy.deepcopy(each) for each in models)
    for each in (model, reference):
        each.set_attn_implementation("eager")
    views = {
        name: {key: value.flip(1) for key, value in make_view(seed, (6, 9, 7), width=20 - 2 * seed).items()}
        for seed, name in enumerate(VIEWS)
    }
    loss = Method.parse("GA+KL", official=True).losses(model, views, reference=reference).retain
    expected = Plain(model, reference, views, beta=1.0, official=True).kl()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


OFFICIALLY_OTHER = {
    "SIMNPO": "a row's length counts its first token, which nothing predicts, where that is labelled",
    "CEU": "the labels left out are counted from a row's first token, which nothing predicts, where that is labelled",
    "PDU": "the positions of the labelled tokens are read, not those that predict them",
    "REP": "the mean is over the labelled tokens' states, not over those of the question too",
    "HOLD": "as REP",
}
"""Losses that the official code defines otherwise even where no row is padded, and how."""


@pytest.mark.parametrize("name", EVERY)
def test_default_is_official_where_nothing_is_padded(name: str, models: tuple[Any, Any]) -> None:
    model, reference = models
    views = {view: make_view(seed, (10, 10, 10), width=10, whole=view == "forget") for seed, view in enumerate(VIEWS)}
    views = with_marks(views)
    method = mild(name)
    states = mid_run(method, model)
    with torch.no_grad():
        default = method.losses(model, views, reference=reference, states=states)
        official = mild(name, official=True).losses(model, views, reference=reference, states=states)
    for ours, theirs, part in zip(default, official, method.parts, strict=True):
        other = part.name in OFFICIALLY_OTHER
        assert (ours.item() == pytest.approx(theirs.item(), rel=1e-6, abs=0)) != other


@pytest.mark.parametrize("name", ["SIMNPO", "CEU"])
def test_default_is_official_where_no_first_token_is_labelled(name: str, models: tuple[Any, Any]) -> None:
    views = {"forget": make_view(0, (10, 10, 10), width=10)}
    with torch.no_grad():
        default, official = (mild(name, official=each).losses(models[0], views).forget for each in (False, True))
    assert default.item() == pytest.approx(official.item(), rel=1e-6, abs=0)


@pytest.mark.parametrize("name", EVERY)
def test_the_order_of_views_changes_nothing(name: str, models: tuple[Any, Any]) -> None:
    model, reference = models
    method = mild(name)
    views = make_views()
    turned = dict(reversed(views.items()))
    with torch.no_grad():
        same_losses(*(
            method.losses(model, each, reference=reference, states=mid_run(method, model)) for each in (views, turned)
        ))  # fmt: skip


@pytest.mark.parametrize("name", ["GA+GD", "ME+GD", "IDK+AP"])
def test_the_order_of_views_in_the_joined_batch_changes_nothing(name: str, models: tuple[Any, Any]) -> None:
    method, views = Method.parse(name), make_views()
    orders = list(method.needs), list(reversed(method.needs))
    with torch.no_grad():
        batches = [Batch.build({view: views[view] for view in order}) for order in orders]
        a, b = (method.combine(score_views(models[0], batch, method.needs)) for batch in batches)
    places = [batch.views[orders[0][0]].index for batch in batches]
    assert not torch.equal(*places)
    same_losses(a, b)


@pytest.mark.parametrize("name", ["ME+GD", "DPO+GD", "IDK+AP"])
def test_blocks_of_like_lengths_change_nothing(name: str, models: tuple[Any, Any]) -> None:
    """One forward for each length instead of padding to the longest row: same losses, same gradient, fewer tokens."""
    model, reference = models
    method = Method.parse(name)
    views = {view: make_views()[view] for view in method.needs}
    found = []
    for forward_tokens in (None, 1):
        batch = Batch.build(views, forward_tokens=forward_tokens, keep_mask=False)
        known = score_views(reference, batch, {view: ["logp"] for view in method.reference_nll})
        batch = batch.with_reference_nll({view: scores.nll.detach() for view, scores in known.items()})
        losses = method.combine(score_views(model, batch, method.needs))
        found.append((losses, gradient(model, weighted(losses)), batch))
    (padded, padded_gradient, one), (cut, cut_gradient, many) = found
    same_losses(padded, cut)
    torch.testing.assert_close(cut_gradient, padded_gradient, rtol=1e-4, atol=1e-5)
    assert len(one.blocks) == 1 < len(many.blocks)
    assert sum((rows.stop - rows.start) * width for rows, width in many.blocks) < 0.8 * one.input_ids.numel()


@pytest.mark.parametrize("forward_tokens", [0, 5, 40, 10_000])
def test_blocks_are_the_cheapest(forward_tokens: int) -> None:
    lengths = np.sort(np.random.default_rng(0).integers(5, 60, 9))[::-1]
    costs = {}
    for cuts in itertools.chain.from_iterable(itertools.combinations(range(1, 9), k) for k in range(9)):
        edges = [0, *cuts, 9]
        costs[cuts] = sum((b - a) * lengths[a] + forward_tokens for a, b in itertools.pairwise(edges))
    blocks = like_lengths(lengths, forward_tokens)
    assert [rows.start for rows, _ in blocks][1:] == [rows.stop for rows, _ in blocks][:-1]
    assert all(width == lengths[rows.start] for rows, width in blocks)
    cost = sum((rows.stop - rows.start) * width + forward_tokens for rows, width in blocks)
    assert cost == min(costs.values())


@pytest.mark.parametrize("name", ["GA+GD", "ME+GD", "IDK+AP"])
def test_splitting_a_batch_changes_nothing(name: str, models: tuple[Any, Any]) -> None:
    """Rows carry their weights in the whole batch's means: the sum over any parts is the whole, gradient included."""
    model, _ = models
    method = Method.parse(name)
    views = {view: make_views(whole=method.forget.name == "ME")[view] for view in method.needs}
    whole = method.losses(model, views)
    expected = gradient(model, weighted(whole))
    tokens = {view: int(Plain(model, None, views, beta=1.0).labels(view).ne(-100).sum()) for view in views}
    total = [0.0, 0.0]
    model.zero_grad()
    for rows in (slice(0, 1), slice(1, 3)):
        part = {view: {key: value[rows] for key, value in tensors.items()} for view, tensors in views.items()}
        count = len(part[next(iter(part))]["labels"])
        weights = {
            view: RowWeights(torch.full((count,), 1 / tokens[view]), torch.full((count,), 1 / 3), torch.zeros(count))
            for view in views
        }
        losses = method.combine(score_views(model, Batch.build(part, weights=weights), method.needs))
        weighted(losses).backward()
        total = [a + b.item() for a, b in zip(total, losses, strict=True)]
    assert total == pytest.approx([whole.forget.item(), whole.retain.item()], rel=1e-5)
    got = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert torch.norm(got - expected) < 1e-5 * torch.norm(expected)


@dataclass(frozen=True)
class Ratio(Loss):
    """E_t (log p_θ − log p_ref)² + mean_t ‖h_θ − h_ref‖²: the reference is asked once and in every step."""

    name = "RATIO"
    needs: ClassVar[Needs] = {"forget": ["logp", 0]}
    reference: ClassVar[Needs] = {"forget": ["logp", 0, "nll"]}
    times: int | None = None

    def __call__(self, views: Any) -> Tensor:
        forget = views["forget"]
        states = forget.states(0, at="labels") - forget.reference.states(0, at="labels")
        assert torch.allclose(forget.reference.nll, forget.reference_nll)
        return forget.token_mean((forget.logp - forget.reference.logp) ** 2 + states.square().sum(-1))


def test_token_scores_and_states_of_the_reference(models: tuple[Any, Any]) -> None:
    model, reference = models
    views = {"forget": make_views()["forget"]}
    method = Method("RATIO", Ratio(), None)
    assert method.asked == {"forget": (0,)} and method.reference_nll == method.reference_logp == ("forget",)
    labels = Plain(model, reference, views, beta=0.1).labels("forget")
    found = []
    for each in models:
        out = each(**{k: views["forget"][k] for k in ("input_ids", "attention_mask")}, output_hidden_states=True)
        logp = -cross_entropy(out.logits[:, :-1][labels != -100], labels[labels != -100], reduction="none")
        found.append((logp, out.hidden_states[1][:, :-1][labels != -100]))
    (logp, states), (logp_before, states_before) = found
    expected = ((logp - logp_before) ** 2 + (states - states_before).square().sum(-1)).mean()
    torch.testing.assert_close(method.losses(model, views, reference=reference).forget, expected, rtol=1e-4, atol=1e-5)


def test_a_missing_view_is_named(models: tuple[Any, Any]) -> None:
    views = make_views()
    del views["retain_refusal"]
    with pytest.raises(
        UserError, match="IDK\\+AP needs the view 'retain_refusal'; given were forget, forget_alternate"
    ):
        Method.parse("IDK+AP").losses(models[0], views)


@pytest.mark.parametrize("name", ["NPO", "DPO", "GA+KL", "LLMU"])
def test_a_missing_reference_is_asked_for(name: str, models: tuple[Any, Any]) -> None:
    with pytest.raises(UserError, match=f"{name}.* needs a reference model".replace("+", r"\+")):
        Method.parse(name).losses(models[0], make_views())
