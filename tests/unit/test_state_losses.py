"""Losses on hidden states against plain formulas on all states of the full model; how far a forward pass goes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig
from test_methods import Views, make_views, models  # noqa: F401 - one is a fixture
from torch import Tensor
from torch.nn.functional import relu

from unlearner import Method
from unlearner.errors import UserError
from unlearner.options import TrainOptions
from unlearner.training.checks import check_adapter, check_parts
from unlearner.training.reference import Reference, train_only

U = torch.linspace(-1, 2, 32)
UNIT = U / U.norm()


class Plain:
    """States behind block `layer` of every real token, from transformers' own `output_hidden_states`."""

    def __init__(self, model: Any, reference: Any, views: Views) -> None:
        self.model, self.reference, self.views = model, reference, views

    def states(self, view: str, layer: int, model: Any = None) -> list[Tensor]:
        """One (tokens, H) for each row. transformers puts the last norm around the states of the last block."""
        kept: list[Tensor] = []
        body = (model or self.model).model
        hook = body.layers[layer].register_forward_hook(lambda _, __, out: kept.append(out))
        body(**{key: self.views[view][key] for key in ("input_ids", "attention_mask")})
        hook.remove()
        return [row[mask.bool()] for row, mask in zip(kept[0], self.views[view]["attention_mask"], strict=True)]

    def before(self, view: str, layer: int) -> list[Tensor]:
        return [states.detach() for states in self.states(view, layer, self.reference)]

    def rmu(self) -> Tensor:
        return torch.cat([((h - 3.0 * UNIT) ** 2).sum(-1) / 32 for h in self.states("forget", 1)]).mean()

    def adaptive(self) -> Tensor:
        far = [2.5 * torch.linalg.vector_norm(h, dim=-1).mean() for h in self.before("forget", 1)]
        states = self.states("forget", 1)
        return torch.cat([((h - c * UNIT) ** 2).mean(-1) for h, c in zip(states, far, strict=True)]).mean()

    def rep(self) -> Tensor:
        pairs = zip(self.states("retain", 1), self.before("retain", 1), strict=True)
        return torch.cat([((h - q) ** 2).mean(-1) for h, q in pairs]).mean()

    def reroute(self) -> Tensor:
        """At step 30 of 120: (1 − ¼) · 4."""
        each = []
        for layer in (0, 1):
            for h, q in zip(self.states("forget", layer), self.before("forget", layer), strict=True):
                each.append(relu((h * q).sum(-1) / (h.norm(dim=-1) * q.norm(dim=-1))))
        return 0.75 * 4 * torch.cat(each).mean()

    def hold(self) -> Tensor:
        each = []
        for layer in (0, 1):
            for h, q in zip(self.states("retain", layer), self.before("retain", layer), strict=True):
                each.append((h - q).norm(dim=-1))
        return 0.25 * 4 * torch.cat(each).mean()


RR = {"layers": "0,1", "alpha": 4, "schedule_steps": 120}
STEP = {name: {"step": torch.tensor(30.0)} for name in ("REROUTE", "HOLD")}
CASES: dict[str, tuple[str, dict[str, Any], Callable[[Plain], Tensor], Callable[[Plain], Tensor]]] = {
    "RMU": ("RMU+REP", {"layer": 1, "steering": 3, "control_vector": U}, Plain.rmu, Plain.rep),
    "adaptive": ("ARMU+REP", {"layer": 1, "scale": 2.5, "control_vector": U.tolist()}, Plain.adaptive, Plain.rep),
    "circuit breakers": ("RR", RR, Plain.reroute, Plain.hold),
}


@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients_are_those_of_the_plain_formulas(case: str, models: tuple[Any, Any]) -> None:  # noqa: F811
    model, reference = models
    views = make_views()
    name, options, *formulas = CASES[case]
    method = Method.parse(name, **options)
    states = STEP if name == "RR" else None
    losses = method.losses(model, views, reference=reference, states=states)
    plain = Plain(model, reference, views)
    for ours, formula in zip(losses, formulas, strict=True):
        expected = formula(plain)
        assert ours.item() == pytest.approx(expected.item(), rel=1e-5)
        theirs = torch.autograd.grad(expected, list(model.parameters()), allow_unused=True)
        mine = torch.autograd.grad(ours, list(model.parameters()), allow_unused=True, retain_graph=True)
        assert sum(grad is not None for grad in mine) > 10
        for a, b in zip(mine, theirs, strict=True):
            assert (a is None) == (b is None)
            assert a is None or torch.norm(a - b) <= 1e-4 * torch.norm(b)


def test_the_official_mean_is_over_labelled_tokens_as_openunlearning_takes_it(models: tuple[Any, Any]) -> None:  # noqa: F811
    """The mean of the rows' sums times the mean of the rows' 1/n; the labels' own states, that of a closing EOS too."""
    model = models[0]
    view = make_views()["forget"]
    method = Method.parse("RMU", layer=1, steering=3.0, control_vector=UNIT, official=True)
    found = method.losses(model, {"forget": view}).forget.item()
    kept: list[Tensor] = []
    hook = model.model.layers[1].register_forward_hook(lambda _, __, out: kept.append(out))
    model.model(**{key: view[key] for key in ("input_ids", "attention_mask")})
    hook.remove()
    rows = [((h[labels != -100] - 3.0 * UNIT) ** 2).mean(-1) for h, labels in zip(kept[0], view["labels"], strict=True)]
    expected = torch.stack([row.sum() for row in rows]).mean() * torch.tensor([1 / len(row) for row in rows]).mean()
    assert found == pytest.approx(expected.item(), rel=1e-5)


def test_a_control_vector_is_drawn_by_the_seed_and_is_a_unit_vector(models: tuple[Any, Any]) -> None:  # noqa: F811
    rmu = Method.parse("RMU").forget
    first, again, other = (rmu.setup(models[0].config, seed)["direction"] for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first.norm().item() == pytest.approx(1.0) and (first >= 0).all()


def test_the_schedule_moves_the_weight_and_ends(models: tuple[Any, Any]) -> None:  # noqa: F811
    method = Method.parse("RR", **RR)
    state = method.setup(models[0].config, 0)
    for _ in range(30):
        for part in method.parts:
            part.after_step(torch.zeros(()), **state[part.name])
    assert {name: each["step"].item() for name, each in state.items()} == {"REROUTE": 30, "HOLD": 30}
    late = {name: {"step": torch.tensor(500.0)} for name in state}
    assert method.losses(models[0], make_views(), reference=models[1], states=late).forget.item() == 0


# ---------------------------------------------------------------------------------------------- what is run and trained


def run_layers(model: Any, work: Callable[[], Any]) -> list[str]:
    """Which blocks of the model, and whether its last norm, `work` runs."""
    seen: list[str] = []
    parts = {str(n): layer for n, layer in enumerate(model.model.layers)} | {"norm": model.model.norm}
    hooks = [part.register_forward_hook(lambda *_, name=name: seen.append(name)) for name, part in parts.items()]
    work()
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize(
    ("name", "ran"), [("RMU+REP", ["0"]), ("RMU", ["0"]), ("ARMU+REP", ["0"]), ("RMU+GD", ["0", "1", "norm"])]
)
def test_the_forward_ends_behind_the_deepest_layer_needed(
    name: str, ran: list[str], models: tuple[Any, Any]  # noqa: F811
) -> None:  # fmt: skip
    model, reference = models
    method = Method.parse(name, layer=0)
    views = {view: make_views()[view] for view in method.needs}
    assert run_layers(model, lambda: method.losses(model, views, reference=reference)) == ran
    if method.asked:
        assert run_layers(reference, lambda: method.losses(model, views, reference=reference)) == ["0"]
    assert not any(layer._forward_hooks for each in models for layer in each.model.layers)


def test_only_three_matrices_train_and_no_gradient_goes_below_them(tiny_llama: Callable[[], Any]) -> None:
    model = tiny_llama()
    method = Method.parse("RMU+REP", layer=1, trained=r"\.1\.mlp\.down_proj\.")
    train_only(model, method)
    below: list[bool] = []
    hook = model.model.layers[0].register_forward_hook(lambda _, __, out: below.append(out.requires_grad))
    reference = Reference.of(model, partly=True)
    assert not reference.holds_copy
    matrix = model.model.layers[1].mlp.down_proj.weight
    assert list(reference._before) == [matrix], "copies of what is trained, and of nothing else"
    loss = method.losses(model, make_views(), reference=tiny_llama()).forget
    hook.remove()
    loss.backward()
    assert below == [False]
    assert [p for p in model.parameters() if p.grad is not None] == [matrix]


def test_by_default_the_matrices_of_three_blocks_train() -> None:
    names = [f"model.layers.{n}.mlp.{part}_proj.weight" for n in range(12) for part in ("gate", "down")]
    model = torch.nn.Module()
    for name in names:
        *path, last = name.split(".")
        place = model
        for each in path:
            if not hasattr(place, each):
                place.add_module(each, torch.nn.Module())
            place = getattr(place, each)
        place.register_parameter(last, torch.nn.Parameter(torch.zeros(1)))
    for layer, blocks in ((7, (5, 6, 7)), (1, (0, 1)), (10, (8, 9, 10))):
        model.requires_grad_(True)
        train_only(model, Method.parse("RMU+REP", layer=layer))
        trained = {name for name, p in model.named_parameters() if p.requires_grad}
        assert trained == {f"model.layers.{n}.mlp.down_proj.weight" for n in blocks}


# ------------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("RMU", {"layer": -1}, "RMU's layer must be 0 or more, not -1"),
        ("RMU", {"steering": 0.0}, "steering must be positive"),
        ("RMU", {"trained": "("}, r"RMU's trained is not a regular expression \(missing"),
        ("RMU", {"control_vector": "a,b"}, "control_vector must be a list of numbers"),
        ("RMU", {"control_vector": [0.0, 0.0]}, "control_vector must be a list of numbers, not all of them 0"),
        ("ARMU", {"scale": -1.0}, "scale must be positive"),
        ("RR", {"layers": "1,x"}, "layers must be whole numbers with commas between, not '1,x'"),
        ("GA+REP", {"layer": -3}, "REP's layer must be 0 or more"),
    ],
)
def test_options_that_cannot_be_are_refused(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Method.parse(name, **options)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("RMU+REP", {"layer": 7}, "layer 7 does not exist: the model has layers 0 to 1"),
        ("RR", {"layers": "0,2"}, "layer 2 does not exist: the model has layers 0 to 1"),
        ("GA+REP", {"layer": 2}, "layer 2 does not exist"),
        ("RMU", {"layer": 1, "trained": "no_such_matrix"}, "RMU trains only parameters named no_such_matrix, and the"),
        ("RMU", {"layer": 1, "control_vector": [1, 2]}, "control_vector has 2 numbers, the model's states 32"),
    ],
)
def test_what_the_model_has_not_is_named(
    name: str, options: dict[str, Any], said: str, tiny_llama: Callable[[], Any]
) -> None:
    with pytest.raises(UserError, match=said):
        check_parts(tiny_llama(), Method.parse(name, **options), lora=False)


def test_an_adapter_that_has_nothing_to_train_is_refused_and_the_model_left_as_it_is(
    tiny_llama: Callable[[], Any],
) -> None:
    model, options = tiny_llama(), TrainOptions(model="m", lora=True)
    names, drawn = [name for name, _ in model.named_parameters()], torch.get_rng_state()
    found = Method.parse("RMU", layer=1)
    check_adapter(model, found, options)
    with pytest.raises(UserError, match="RMU trains only parameters named lm_head"):  # LoRA leaves it out
        check_adapter(model, Method.parse("RMU", layer=1, trained="lm_head"), options)
    with pytest.raises(UserError, match="RMU trains only parameters named"):
        check_adapter(model, found, options, LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    assert [name for name, parameter in model.named_parameters() if parameter.requires_grad] == names
    assert not any("lora" in name for name, _ in model.named_modules()) and not hasattr(model, "peft_config")
    assert torch.equal(torch.get_rng_state(), drawn)
