"""The field's losses: numbers worked by hand, plain formulas on full logits, labels left out or put in, aliases."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import test_methods
import test_state_losses
import torch
from test_methods import EOS, QUESTION, Plain, Views, gradient, make_views, models, scored  # noqa: F401 - a fixture
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from unlearner import Method
from unlearner.config import ForgetConfig
from unlearner.data.batches import padded
from unlearner.data.pairs import pair
from unlearner.data.prompts import TEMPLATES
from unlearner.data.views import build_views
from unlearner.errors import UserError
from unlearner.methods import COMBINED_METHODS, FORGET, RETAIN, SURGERY
from unlearner.methods.pdu import Dual
from unlearner.methods.registry import ALIASES, RETAIN_ALIASES, find
from unlearner.methods.seps import MixedME
from unlearner.models.anatomy import Head
from unlearner.scoring.batch import without_first
from unlearner.scoring.token_scores import token_scores
from unlearner.scoring.views import ViewScores
from unlearner.workflows.inputs import method_of
from unlearner.workflows.presets import PUBLISHED, published_by, with_preset, without_rate, without_retain

# ----------------------------------------------------------------------------------------------- numbers worked by hand

P, Q = (0.5, 0.1, 0.9), (0.6, 0.3, 0.95)
"""Three labelled tokens of one sequence, and the same under the reference."""


def one_sequence(leaf: Tensor) -> ViewScores:
    """The view of P and Q whose log-probabilities are `leaf`."""
    index = replace(scored([[0.0] * 3], [-sum(map(math.log, Q))]).view, tokens=torch.tensor([3]))
    log_q = ViewScores(index, 4, {"logp": torch.tensor(Q).log()})
    scores = {"logp": leaf, "unlikelihood": torch.log1p(-leaf.exp()), "others_ce": torch.zeros(3)}
    return ViewScores(index, 4, scores, reference=log_q)


@pytest.mark.parametrize(
    ("name", "options", "value", "slopes"),
    [
        ("NPO", {"beta": 0.1}, 12.572465, None),
        ("SIMNPO", {"beta": 4.5, "delta": 0.0}, 0.00422252, (0.00630379,) * 3),
        ("SIMNPO", {"beta": 2.5, "delta": 0.0}, 0.05819365, (0.04677291,) * 3),
        ("SIMNPO", {"beta": 4.5, "delta": 1.0}, 0.27564406, (0.30810845,) * 3),
        ("WGA", {"beta": 1.0}, -0.22388552, (0.16666667, 0.03333333, 0.3)),
        ("WGA", {"beta": 5.0}, -0.02796607, (0.01041667, 1e-5 / 3, 0.19683)),
        ("SATIMP", {"beta1": 5.0, "beta2": 1.0}, -0.00569086, (0.00520833, 3e-6, 0.019683)),
        ("TNPO", {"beta": 1.0}, -0.62796807, (0.90908264 / 3, 0.49998750 / 3, 0.97296771 / 3)),
        ("WTNPO", {"beta": 4.0, "alpha": 1.5}, -0.08049921, (0.23004619 / 3, 0.00077035 / 3, 0.76184117 / 3)),
        ("UL", {}, 1.03369760, (0.33333333, 0.03703704, 3.0)),
        ("JENSUN", {}, 0.25911088, (-0.09155102, -0.03996492, -0.11208216)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_values_and_slopes_by_hand(
    name: str, options: dict[str, float], value: float, slopes: tuple[float, ...] | None
) -> None:
    leaf = torch.tensor([math.log(p) for p in P], dtype=torch.float64, requires_grad=True)
    view = one_sequence(leaf)
    loss = Method.parse(name, **options).combine({"forget": view, "forget_phrase": view}).forget
    assert loss.item() == pytest.approx(value, rel=2e-6)
    loss.backward()
    if slopes is not None:
        assert leaf.grad is not None
        assert leaf.grad.tolist() == pytest.approx(slopes, rel=1e-4)


def test_tnpo_without_its_floor_is_npo_of_every_token() -> None:
    leaf = torch.tensor([math.log(p) for p in P], requires_grad=True)
    view = one_sequence(leaf)
    Method.parse("TNPO", beta=2.0, floor=0.0).combine({"forget": view}).forget.backward()
    weights = [2 * p**2 / (p**2 + q**2) / 3 for p, q in zip(P, Q, strict=True)]
    assert leaf.grad is not None and leaf.grad.tolist() == pytest.approx(weights)


@pytest.mark.parametrize(("divergence", "value"), [("TV", 0.11220941), ("KL", 0.34081822), ("Pearson", 0.42250000)])
def test_flat_by_hand(divergence: str, value: float) -> None:
    """P is 0.4 of the refusal and 0.7 of the answer: means over a sequence's tokens."""
    views = {}
    for name, probabilities in {"forget_refusal": (0.3, 0.5), "forget": (0.6, 0.7, 0.8)}.items():
        view = scored([[math.log(p) for p in probabilities]])
        views[name] = replace(view, view=replace(view.view, tokens=torch.tensor([len(probabilities)])))
    assert Method.parse("FLAT", divergence=divergence).combine(views).forget.item() == pytest.approx(value, rel=1e-5)


Z, Z_REF = (1.0, 0.5, -0.5, 2.0), (1.5, 0.0, -1.0, 2.5)


@pytest.mark.parametrize(
    ("kinds", "demote", "value", "slopes"),
    [
        (("distilled",), 3.0, 1.583647, (-0.474299, -0.021529, -0.007920, 0.503748)),
        (("distilled",), 10.0, 1.694375, None),
        (("js",), 0.0, 0.01295877, (-0.00819416, 0.02227405, 0.00819416, -0.02227405)),
        (("others_ce", "unlikelihood"), 0.0, 1.863352, (0.326670, 0.198135, 0.072890, -0.597695)),
        (("spread",), 0.0, 1.25, (-0.25, -0.25, -0.25, 0.75)),
    ],
)
def test_scores_of_four_words_by_hand(
    kinds: tuple[str, ...], demote: float, value: float, slopes: tuple[float, ...] | None
) -> None:
    """The last word is the label. CE-U's gradient is that of the unlikelihood, with the other sign."""
    bias = torch.tensor(Z, requires_grad=True)
    nothing, zero = torch.zeros(1, 2), torch.zeros(4, 2)
    teacher = (nothing, Head(zero, torch.tensor(Z_REF))) if kinds[0] in ("distilled", "js") else None
    found = token_scores(nothing, Head(zero, bias), torch.tensor([3]), kinds, reference=teacher, demote=demote)
    assert found[kinds[0]].item() == pytest.approx(value, rel=1e-5)
    found[kinds[-1]].sum().backward()
    if slopes is not None:
        assert bias.grad is not None and bias.grad.tolist() == pytest.approx(slopes, rel=1e-3)


@pytest.mark.parametrize(("beta", "divergence"), [(3.0, 0.655935), (10.0, 1.013446)])
def test_undials_divergence_by_hand(beta: float, divergence: float) -> None:
    """KL(q′ ‖ p): the cross entropy that is trained less the entropy of q′, which no weight changes."""
    nothing, zero = torch.zeros(1, 2), torch.zeros(4, 2)
    method = Method.parse("UNDIAL", beta=beta)
    found = token_scores(
        nothing, Head(zero, torch.tensor(Z)), torch.tensor([3]), ("distilled",),
        reference=(nothing, Head(zero, torch.tensor(Z_REF))), demote=method.demote,
    )  # fmt: skip
    lowered = torch.tensor(Z_REF) - torch.tensor([0, 0, 0, beta])
    loss = method.combine({"forget": ViewScores(one_token(), 4, found)}).forget
    assert loss.item() - torch.distributions.Categorical(logits=lowered).entropy().item() == pytest.approx(
        divergence, rel=1e-5
    )


def test_pdu_by_hand() -> None:
    nothing, head = torch.zeros(1, 2), Head(torch.zeros(4, 2), torch.tensor(Z))
    view = ViewScores(one_token(), 4, token_scores(nothing, head, torch.tensor([3]), ("spread",)))
    assert Method.parse("PDU").combine({"forget": view}).forget.item() == pytest.approx(1.5625)


def one_token() -> Any:
    """Where one labelled token of one sequence stands."""
    return scored([[0.0]]).view


# ------------------------------------------------------------------------------------------------------- plain formulas


class Field(Plain):
    """The losses' formulas on the full logits of one view after another."""

    def p(self, name: str, model: Any = None) -> Tensor:
        """(B, T−1, V)"""
        return torch.softmax(self.logits(name, model)[:, :-1], dim=-1)

    def own(self, name: str, model: Any = None) -> tuple[Tensor, Tensor]:
        """(B, T−1) probabilities of what is predicted, and where it is labelled."""
        labels = self.labels(name)
        found = self.p(name, model).gather(2, labels.clamp(min=0)[..., None]).squeeze(2)
        return found, labels != -100

    def mean(self, values: Tensor, labelled: Tensor) -> Tensor:
        return values[labelled].sum() / labelled.sum()

    def simnpo(self) -> Tensor:
        n = (self.labels("forget") != -100).sum(1)
        return -2 / 0.5 * torch.log(torch.sigmoid(0.5 * (self.nll("forget") / n - 9.0))).mean()

    def wga(self) -> Tensor:
        p, labelled = self.own("forget")
        return self.mean(p.detach() ** 2 * torch.log(p), labelled)

    def satimp(self) -> Tensor:
        p, labelled = self.own("forget")
        return self.mean(p.detach() ** 0.5 * (1 - p.detach()) ** 2 * torch.log(p), labelled)

    def tnpo(self, alpha: float = 0.0) -> Tensor:
        p, labelled = self.own("forget")
        q = self.own("forget", self.reference)[0].detach()
        w = p.detach()
        return self.mean(2 * w ** (0.7 + alpha) / (w**0.7 + q**0.7 + 1e-5) * torch.log(p), labelled)

    def wtnpo(self) -> Tensor:
        return self.tnpo(0.3)

    def ul(self) -> Tensor:
        p, labelled = self.own("forget")
        return -self.mean(torch.log(1 - p), labelled)

    def ceu(self) -> Tensor:
        """Two labels of each row left out."""
        labels = self.labels("forget")
        for row in labels:
            row[(row != -100).nonzero()[:2]] = -100
        logits = self.logits("forget")[:, :-1]
        others = logits.detach().scatter(2, labels.clamp(min=0)[..., None], -torch.inf).softmax(-1)
        return self.mean(-(others * torch.log_softmax(logits, -1)).sum(-1), labels != -100)

    def unilogit(self) -> Tensor:
        """KL(p‖q′) with q′ from detached logits of which the label's is set to what makes its probability 1/V."""
        labels, p = self.labels("forget").clamp(min=0)[..., None], self.p("forget")
        rest = 1 - p.detach().gather(2, labels)
        v = p.shape[-1]
        target = (p.detach() / rest * (1 - 1 / v)).scatter(2, labels, 1 / v)
        return self.mean((p * (p / target).log()).sum(-1), self.labels("forget") != -100)

    def undial(self) -> Tensor:
        labels = self.labels("forget")
        teacher = self.logits("forget", self.reference)[:, :-1].detach()
        lower = torch.nn.functional.one_hot(labels.clamp(min=0), teacher.shape[-1]) * 6.0
        each = -(torch.softmax(teacher - lower, -1) * torch.log(self.p("forget"))).sum(-1)
        return self.mean(each, labels != -100)

    def altpo(self) -> Tensor:
        ours = self.nll("forget") - self.nll("forget_alternate")
        theirs = self.reference_nll("forget") - self.reference_nll("forget_alternate")
        return -2 / 0.3 * torch.log(torch.sigmoid(0.3 * (ours - theirs))).mean()

    def jensun(self) -> Tensor:
        labels, p = self.labels("forget_phrase"), self.p("forget_phrase")
        target = torch.nn.functional.one_hot(labels.clamp(min=0), p.shape[-1]).to(p)
        return self.mean(jensen_shannon(p, target), labels != -100)

    def js(self) -> Tensor:
        q = self.p("retain", self.reference).detach()
        return self.mean(jensen_shannon(self.p("retain"), q), self.labels("retain") != -100)

    def pdu(self) -> Tensor:
        z = self.logits("forget")[:, :-1]
        return self.mean((z.amax(-1) - z.mean(-1)) ** 2, self.labels("forget") != -100)

    def flat(self) -> Tensor:
        both = []
        for name in ("forget", "forget_refusal"):
            p, labelled = self.own(name)
            both.append((p * labelled).sum(1) / labelled.sum(1))
        return (torch.tanh(both[0]) / 2 - torch.tanh(both[1]) / 2).mean()


def jensen_shannon(p: Tensor, q: Tensor) -> Tensor:
    m = (p + q) / 2  # not p / m, whose gradient is 0/0 where neither has any mass
    return (torch.xlogy(p, p) + torch.xlogy(q, q) - 2 * torch.xlogy(m, m)).sum(-1) / 2


CASES: dict[str, tuple[dict[str, Any], Callable[[Field], Tensor]]] = {
    "SIMNPO": ({"beta": 0.5, "delta": 9.0}, Field.simnpo),  # at the defaults float32 rounds σ to 1
    "WGA": ({"beta": 2.0}, Field.wga),
    "SATIMP": ({"beta1": 0.5, "beta2": 2.0}, Field.satimp),
    "TNPO": ({"beta": 0.7}, Field.tnpo),
    "WTNPO": ({"beta": 0.7, "alpha": 0.3}, Field.wtnpo),
    "UL": ({}, Field.ul),
    "CEU": ({"ignore_first": 2}, Field.ceu),
    "UNILOGIT": ({}, Field.unilogit),
    "UNDIAL": ({"beta": 6.0}, Field.undial),
    "JENSUN": ({}, Field.jensun),
    "ALTPO": ({"beta": 0.3}, Field.altpo),
    "GA+JS": ({}, Field.js),
    "PDU": ({}, Field.pdu),
    "FLAT": ({}, Field.flat),
}


def with_phrase(views: Views) -> Views:
    """And the forget view with other targets at its labelled tokens."""
    forget = views["forget"]
    labels = forget["labels"].clone()
    labels[labels != -100] = 7 + labels[labels != -100] % 3
    return {**views, "forget_phrase": {**forget, "labels": labels}}


@pytest.mark.parametrize("name", CASES)
def test_losses_and_gradients_are_those_of_the_plain_formulas(name: str, models: tuple[Any, Any]) -> None:  # noqa: F811
    model, reference = models
    views = with_phrase(make_views())
    options, formula = CASES[name]
    losses = Method.parse(name, **options).losses(model, views, reference=reference)
    loss = losses.retain if name.startswith("GA+") else losses.forget
    ours = gradient(model, loss)
    expected = formula(Field(model, reference, views, beta=1.0))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    theirs = gradient(model, expected)
    assert torch.norm(ours - theirs) < 1e-4 * torch.norm(theirs)


ELSEWHERE = ("GA+DUAL", "MP-ME", "MP-IDK")
"""Methods whose plain formulas have tests of their own, below and in test_mixed_prompts."""


def test_every_registered_loss_has_a_plain_formula() -> None:
    names = [*test_methods.CASES, *CASES, *(case[0] for case in test_state_losses.CASES.values()), *ELSEWHERE]
    tested = {part for name in names for part in Method.parse(name).parts}
    registered = {*FORGET.values(), *RETAIN.values(), *(loss for two in COMBINED_METHODS.values() for loss in two)}
    assert sorted(loss.name for loss in registered - {type(part) for part in tested}) == []
    assert {*COMBINED_METHODS} <= {*names}


def test_dual_is_cross_entropy_with_a_weight_of_its_own(models: tuple[Any, Any]) -> None:  # noqa: F811
    """Value CE, gradient λ times that of CE; λ rises by η (CE − ε) a step, not below 0, and not in the warm-up."""
    model, _ = models
    views, method = make_views(), Method.parse("GA+DUAL", weight=3.0, epsilon=1.0)
    plain = Field(model, None, views, beta=1.0)
    loss = method.losses(model, views).retain
    assert loss.item() == pytest.approx(plain.gd().item(), rel=1e-6)
    torch.testing.assert_close(gradient(model, loss), 3 * gradient(model, plain.gd()), rtol=1e-4, atol=1e-5)

    dual = Dual(weight=3.0, rate=0.5, slack=0.5, warmup_steps=1)
    state = dual.setup(None, 0)
    for step_loss, weight in [(2.0, 3.0), (4.0, 3.5), (1.0, 2.5), (-9.0, 0.0), (5.0, 1.0)]:  # ε = 1.5 · 2
        dual.after_step(torch.tensor(step_loss), **state)
        assert state["dual"].item() == pytest.approx(weight)
    assert state["bound"].item() == pytest.approx(3.0)


# --------------------------------------------------------------------------------------------------------------- labels


def test_first_labels_are_left_out_but_never_all() -> None:
    labels = torch.tensor([[-100, 5, 6, 7], [-100, -100, 5, -100], [4, 5, 6, 7]])
    left = without_first(labels, 2)
    assert left.tolist() == [[-100, -100, -100, 7], [-100, -100, 5, -100], [4, -100, -100, 7]]
    official = without_first(labels, 2, official=True)
    assert official.tolist() == [[-100, -100, -100, 7], [-100, -100, -100, -100], [-100, -100, 6, 7]]


def test_views_of_the_data_leave_out_and_put_in_the_same_labels(
    tiny_tokenizer: Any, forget_records: list[Any], retain_records: list[Any]
) -> None:
    def views(**options: Any) -> dict[str, Any]:
        pairings = [pair(len(forget_records), len(retain_records), 1, seed=0, epoch=0)]
        return build_views(
            ["forget", "forget_phrase"], forget_records, retain_records, ["No."], pairings, tiny_tokenizer,
            TEMPLATES["plain"], max_length=200, **{"phrase": "No idea", **options},
        )  # fmt: skip

    every, rows = views(), np.arange(len(forget_records))
    plain = padded(every["forget"], rows, EOS)["labels"]
    for skip in (1, 3, 100):
        assert torch.equal(padded(views(skip=skip)["forget"], rows, EOS)["labels"], without_first(plain, skip))
    phrase = tiny_tokenizer("No idea", add_special_tokens=False)["input_ids"]
    labels = padded(every["forget_phrase"], rows, EOS)["labels"]
    assert torch.equal(labels != -100, plain != -100)
    for row in labels:
        found = row[row != -100].tolist()
        assert found == (phrase * len(found))[: len(found)]
    with pytest.raises(UserError, match="phrase has no token"):
        views(phrase="")


def test_official_undial_counts_every_position(models: tuple[Any, Any]) -> None:  # noqa: F811
    """Where nothing is labelled token V − 100 is lowered."""
    model, reference = models
    views = make_views()
    loss = Method.parse("UNDIAL", beta=3.0, official=True).losses(model, views, reference=reference).forget
    labels = views["forget"]["labels"][:, 1:]
    plain = Field(model, reference, views, beta=1.0)
    teacher = plain.logits("forget", reference)[:, :-1].detach()
    lower = torch.zeros_like(teacher)
    for row, column in np.ndindex(*labels.shape):
        lower[row, column, labels[row, column]] = 3.0
    expected = -(torch.softmax(teacher - lower, -1) * torch.log(plain.p("forget"))).sum(-1).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert QUESTION > 1 and (labels == -100).any()


def test_official_pdu_needs_one_position_more_only_for_a_full_row() -> None:
    """Its labels stand one later; a model with learned positions has none behind its last."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=32, n_embd=8, n_layer=1, n_head=1, n_positions=8, bos_token_id=0, eos_token_id=1)
    model = GPT2LMHeadModel(config).eval()
    method = Method.parse("PDU", official=True)
    ids = torch.randint(32, (2, 8))
    labels = ids.clone()
    labels[:, :3], labels[:, 7:] = -100, -100
    view = {"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids)}
    logits = model(ids).logits[:, 3:7]
    spread = (logits.amax(-1) - logits.mean(-1)).square().mean()
    assert method.losses(model, {"forget": view}).forget.item() == pytest.approx(spread.item(), rel=1e-5)
    view["labels"] = ids.clone()
    moved = method.forget.official_view(view, 32)
    assert moved["labels"].shape == moved["input_ids"].shape == (2, 9)
    assert torch.equal(moved["labels"][:, 1:], ids)


# ----------------------------------------------------------------------------------------------------- names, bad input


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("GradDiff", "GA+GD"),
        ("idknll", "IDK+GD"),
        ("IdkDPO", "DPO+GD"),
        ("SimNPO", "SIMNPO"),
        ("GradDiff+KL", "GA+KL"),
        ("GradDiff+none", "GA"),
        ("GradDiff+GRU", "GA+GD+GRU"),
        ("IdkDPO+KL+SAM", "DPO+KL+SAM"),
        ("RMU+embed_diff", "RMU+REP"),
        ("NPO+NLL", "NPO+GD"),
    ],
)
def test_openunlearnings_names_are_known_in_any_case(alias: str, name: str) -> None:
    assert Method.parse(alias) == Method.parse(name)
    assert all(key == key.upper() for key in ALIASES | RETAIN_ALIASES)
    with pytest.raises(UserError, match=r"did you mean 'GA\+KL'"):
        Method.parse("GRADDIFF+KLL")


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("SIMNPO", {"beta": 0.0}, "beta must be positive"),
        ("WGA", {"beta": -1.0}, "beta must not be negative"),
        ("SATIMP", {"beta2": -1.0}, "beta2 must not be negative"),
        ("CEU", {"ignore_first": -1}, "ignore_first must not be negative"),
        ("CEU", {"ignore_frist": 1}, "did you mean 'ignore_first'"),
        ("FLAT", {"divergence": "pearson"}, "divergence cannot be 'pearson': did you mean 'Pearson'"),
        ("GA+DUAL", {"weight": 0.0}, "weight must be positive"),
        ("GA+DUAL", {"epsilon": -0.1}, "epsilon must not be negative"),
        ("GA+DUAL", {"epsilon": math.nan}, "epsilon must not be negative, not nan"),
        ("SIMNPO", {"delta": math.nan}, "delta must be a finite number, not nan"),
        ("SIMNPO", {"delta": math.inf}, "delta must be a finite number, not inf"),
    ],
)
def test_options_that_cannot_be(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Method.parse(name, **options)


def settled(**given: Any) -> ForgetConfig:
    config = ForgetConfig(model="m", forget="f", retain="r", output="o", **given)
    return with_preset(config)


def test_a_losses_preset_gives_what_is_not_given() -> None:
    config = settled(method="SIMNPO+GD", preset="paper")
    assert (config.learning_rate, config.forget_coeff, config.retain_coeff) == (1e-5, 0.125, 1.0)
    method = method_of(config)
    assert (method.forget.beta, method.forget.delta, method.forget_coeff) == (4.5, 0.0, 0.125)
    given = settled(
        method="SIMNPO+GD", preset="paper", beta=2.0, method_options=["delta=1"], learning_rate=1.0, forget_coeff=0.5
    )
    method = method_of(given)
    assert (method.forget.beta, method.forget.delta, method.forget_coeff, given.learning_rate) == (2.0, 1.0, 0.5, 1.0)


def test_a_preset_reaches_the_losses_that_have_its_options() -> None:
    dual = method_of(settled(method="PDU+DUAL", preset="openunlearning")).retain
    assert (dual.weight, dual.rate, dual.epsilon) == (100.0, 5.0, 0.3)
    assert dual.epsilon == 0.3
    muse = method_of(settled(method="PDU+DUAL", preset="paper")).retain
    assert (muse.weight, muse.rate, muse.epsilon) == (50.0, 1.0, None)
    assert settled(method="SatImp+GD", preset="openunlearning").retain_coeff == 0.1
    assert settled(method="GA+GD").retain_coeff == 1.0


@pytest.mark.parametrize(
    ("method", "takes"), [("PDU+GD", "PDU+DUAL"), ("PDU", "PDU+DUAL"), ("PDU+KL+SAM", "PDU+DUAL+SAM")]
)
def test_a_preset_whose_options_the_method_lacks_is_refused(method: str, takes: str) -> None:
    with pytest.raises(UserError) as error:
        settled(method=method, preset="openunlearning")
    words = f"the preset openunlearning sets epsilon, rate, weight, which {method} does not have: use {takes}."
    assert str(error.value) == words


@pytest.mark.parametrize(
    ("method", "preset", "epochs", "options"),
    [
        ("SIMNPO+GD", "paper", 10.0, {"beta": 4.5, "delta": 0.0}),
        ("CEU", "openunlearning", 10.0, {"ignore_first": 1}),
        ("FLAT", "paper", 5.0, {}),
        ("WGA+GD", "paper", 5.0, {"beta": 5.0}),
        ("WGA+GD", "openunlearning", 5.0, {"beta": 1.0}),
        ("TNPO+KL", "paper", 5.0, {"beta": 4.0}),
        ("SATIMP+GD", "paper", 5.0, {"beta1": 5.0, "beta2": 1.0}),
        ("NPO+GD", "paper", 3.0, {"beta": 0.2}),
        ("NPO+GD+GRU", "paper", 5.0, {"beta": 0.1}),
        ("RR", "paper", 5.0, {"alpha": 10.0, "layers": "9,19"}),
        ("RMU+REP", "paper", 5.0, {"steering": 20.0}),
    ],
)
def test_published_epochs_and_options(method: str, preset: str, epochs: float, options: dict[str, Any]) -> None:
    """5 epochs are the scenario's where the preset has none."""
    config = settled(method=method, preset=preset)
    assert config.epochs == epochs
    assert settled(method=method, preset=preset, epochs=2.0).epochs == 2.0
    assert {name: getattr(method_of(config).forget, name) for name in options} == options


def test_presets_of_methods_in_one_and_of_surgeries() -> None:
    assert [each.alpha for each in method_of(settled(method="RR", preset="paper")).parts] == [10.0, 10.0]
    for name in ("MP-ME", "MP-IDK"):
        config = settled(method=name, preset="paper")
        assert (config.forget_coeff, config.retain_coeff) == (1.0, 1.0)
    rmu = settled(method="RMU+REP+BLUR", preset="paper")
    assert (rmu.retain_coeff, rmu.learning_rate, method_of(rmu).forget.steering) == (1200.0, 5e-5, 6.5)
    assert settled(method="MP-ME+DUALOPTIM", preset="paper").learning_rate == 1e-5  # the scenario's
    assert published_by(find("MP-ME+DUALOPTIM"), "paper") == [MixedME]


@pytest.mark.parametrize(
    ("method", "remedy"), [("SimNPO", "SIMNPO+GD"), ("NPO+SAM", "NPO+GD+SAM"), ("NPO+GD", None), ("LLMU", None)]
)
def test_a_retain_set_that_is_not_trained_is_told(method: str, remedy: str | None) -> None:
    config = settled(method=method)
    told = without_retain(config, method_of(config))
    if remedy is None:
        assert told is None
    else:
        assert told is not None and "no row of --retain is trained" in told and told.endswith(f"use {remedy}")
    assert without_retain(replace(config, retain=None), method_of(config)) is None


def test_every_preset_names_options_that_there_are() -> None:
    for name in (*FORGET, *(f"GA+{retain}" for retain in RETAIN)):
        loss = Method.parse(name).parts[-1]
        assert {*loss.presets} <= {*PUBLISHED}
        for preset in loss.presets:
            assert settled(method="PDU+DUAL" if name == "PDU" else name, preset=preset).learning_rate is not None


@pytest.mark.parametrize("name", ["NPO+GD", "GradDiff", "IdkDPO", "IdkNLL", "ALTPO+GD"])
def test_openunlearnings_defaults_are_the_same_for_these(name: str) -> None:
    config = settled(method=name, preset="openunlearning")
    assert (config.learning_rate, config.forget_coeff, config.retain_coeff) == (1e-5, 1.0, 1.0)
    assert getattr(method_of(config).forget, "beta", 0.1) == 0.1


def test_a_combined_method_has_no_preset_of_its_forget_loss_alone() -> None:
    with pytest.raises(UserError, match="LLMU has no settings for preset 'openunlearning': give"):
        settled(method="LLMU", preset="openunlearning")
    with pytest.raises(UserError, match=r"'paper': give --learning-rate.*, or use --preset openunlearning"):
        settled(method="IDK+AP", preset="paper")


def test_openunlearnings_rmu_trains_all_weights() -> None:
    assert method_of(settled(method="RMU+REP", preset="openunlearning")).trains == ["."]
    assert method_of(settled(method="RMU+REP", preset="paper")).trains != ["."]


def test_a_surgerys_preset_holds_of_what_it_was_published_with() -> None:
    config = settled(method="NPO+GD+SAM", preset="paper")
    method = method_of(config)
    assert (config.retain_coeff, method.forget.beta, method.surgery.rho) == (1.0, 0.1, 0.01)
    assert (config.learning_rate, config.epochs) == (1e-5, 5.0)  # the scenario's, not those of NPO's own preset
    assert "names no learning rate" in str(
        without_rate(ForgetConfig(model="m", forget="f", output="o", method="NPO+SAM", preset="paper"))
    )
    for name in ("ME+GD+DUALOPTIM", "IDK+AP+DUALOPTIM"):
        config = settled(method=name, preset="paper")
        assert (config.learning_rate, config.forget_coeff, config.retain_coeff) == (1e-5, 1.0, 1.0)
    assert settled(method="SIMNPO+GD+SAM", preset="paper").retain_coeff == 1.0
    with pytest.raises(UserError, match=r"DPO\+GD has no settings for preset 'paper'"):
        settled(method="DPO+GD+SAM", preset="paper")


def test_a_preset_without_a_learning_rate_is_told() -> None:
    given = {"model": "m", "forget": "f", "retain": "r", "output": "o"}
    told = without_rate(ForgetConfig(**given, method="UNDIAL+GD", preset="paper"))
    assert told is not None and "names no learning rate" in told and "give --learning-rate" in told
    for other in (
        {"preset": "openunlearning"},
        {"preset": "paper", "learning_rate": 1e-4},
        {},
        {"preset": "fictitious"},
    ):
        assert without_rate(ForgetConfig(**given, method="UNDIAL+GD", **other)) is None


def test_every_loss_and_surgery_says_where_its_defaults_are_from() -> None:
    parts = [
        *FORGET.values(),
        *RETAIN.values(),
        *SURGERY.values(),
        *(p for two in COMBINED_METHODS.values() for p in two),
    ]
    assert [part.name for part in parts if not part.defaults_from] == []


def test_a_method_without_the_preset_is_refused() -> None:
    with pytest.raises(UserError, match=r"GA\+GD has no settings for preset 'paper': give --learning-rate"):
        settled(method="GA+GD", preset="paper")
    with pytest.raises(UserError, match=r"DPO.* 'paper': use --preset openunlearning"):
        settled(method="DPO", preset="paper")
