"""Surgeries against hand-worked numbers and independent formulas; what cannot be is one sentence."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unlearner.errors import UserError
from unlearner.methods import SURGERY, Method
from unlearner.methods.projection import BLUR, GRU, Projection
from unlearner.methods.sam import SAM
from unlearner.methods.surgery import Surgery

EXACT: Any = {"rtol": 1e-12, "atol": 1e-12}


@dataclass
class Losses:
    """A step over two plain functions of one model, without any of the loop: SGD with learning rate 1."""

    model: nn.Module
    functions: dict[str, Callable[..., Tensor]]
    given: list[list[Tensor]] = field(default_factory=list)
    """The gradient of each update."""
    updates: list[tuple[int, float]] = field(default_factory=list)
    has_retain: bool = True

    @property
    def parameters(self) -> list[nn.Parameter]:
        return list(self.model.parameters())

    def backward(self, role: str, draw: int = 0) -> None:
        self.functions[role](self.model, draw).backward()

    def update(self, optimizer: int = 0, share: float = 1.0) -> None:
        self.updates.append((optimizer, share))
        self.given.append([p.grad.clone() if p.grad is not None else torch.zeros_like(p) for p in self.parameters])
        with torch.no_grad():
            for parameter in self.parameters:
                if parameter.grad is not None:
                    parameter -= share * parameter.grad
                parameter.grad = None

    def take(self, surgery: Surgery, state: dict[str, Tensor] | None = None) -> Any:
        return surgery(self, **(surgery.setup(dict(self.model.named_parameters())) if state is None else state))


class Point(nn.Module):
    """Two weights, (2,) and a matrix of one number, that losses may read."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.zeros(2, dtype=torch.float64))
        self.b = nn.Parameter(torch.zeros(1, 1, dtype=torch.float64))


def linear(a0: float, a1: float, b: float | None) -> Callable[[Any, int], Tensor]:
    """A loss with this gradient everywhere; None: it does not read b at all."""
    slope = torch.tensor([a0, a1], dtype=torch.float64)
    return lambda model, draw: (slope * model.a).sum() + (0 if b is None else b * model.b.sum())


def flat(tensors: list[Tensor]) -> list[float]:
    return torch.cat([tensor.flatten() for tensor in tensors]).tolist()


def step(forget: Any, retain: Any) -> Losses:
    return Losses(Point(), {"forget": linear(*forget), "retain": linear(*retain)})


# --------------------------------------------------------------------------------------------------------- projections


def test_gru_takes_out_what_goes_against_the_retain_gradient() -> None:
    """g_f = (1, 2, −3), g_r = (0, 0, 4), μ = 1/2, so m = (0, 0, 2): ⟨g_f, m⟩ = −6, ‖m‖² = 4, g = (1, 2, 0)."""
    taken = step((1, 2, -3), (0, 0, 4))
    told = taken.take(GRU(momentum=0.5))
    assert flat(taken.given[0]) == [1, 2, 0]
    assert bool(told["projected"])


def test_gru_leaves_alone_what_is_in_no_conflict() -> None:
    for forget in ((1, 2, 3), (1, 2, 0)):
        taken = step(forget, (0, 0, 4))
        told = taken.take(GRU())
        assert flat(taken.given[0]) == list(forget)
        assert not bool(told["projected"])


def test_grus_average_goes_on_from_step_to_step() -> None:
    """m = .8 (0, 0, 4) = (0, 0, 3.2), then .8 (5, 0, 0) + .2 (0, 0, 3.2) = (4, 0, .64): by hand."""
    taken, surgery = step((-1, 0, 0), (0, 0, 4)), GRU()
    state = surgery.setup(dict(taken.model.named_parameters()))
    taken.take(surgery, state)
    assert flat(list(state.values())) == pytest.approx([0, 0, 3.2])
    taken.functions["retain"] = linear(5, 0, 0)
    taken.take(surgery, state)
    assert flat(list(state.values())) == pytest.approx([4, 0, 0.64])
    share = -4 / (16 + 0.64**2)
    assert flat(taken.given[1]) == pytest.approx([-1 - share * 4, 0, -share * 0.64])


def test_gru_adds_the_retain_gradient_itself_where_asked() -> None:
    """The gradient of this step, not the average."""
    taken = step((1, 2, -3), (0, 1, 4))
    taken.take(GRU(momentum=0.5, add=2.0))
    plain = step((1, 2, -3), (0, 1, 4))
    plain.take(GRU(momentum=0.5))
    assert flat(taken.given[0]) == pytest.approx(
        [x + 2 * y for x, y in zip(flat(plain.given[0]), (0, 1, 4), strict=True)]
    )


def test_what_a_projection_holds_is_told() -> None:
    """With an average, the gradient that is added is not what is projected on."""
    held = [GRU(), BLUR(), GRU(momentum=1.0, add=1.0), GRU(add=1.0), BLUR(momentum=0.5)]
    assert [surgery.copies for surgery in held] == [1, 1, 1, 2, 2]
    assert [surgery.memory.startswith("two numbers") for surgery in held] == [False, False, False, True, True]


def test_a_clipped_cosine_takes_out_half_the_norm_at_most() -> None:
    """g_f = (0, 3, −4), m = (0, 0, 1): cosine −.8, clipped to −.5, so 2.5 of the 4 are taken out."""
    taken = step((0, 3, -4), (0, 0, 1))
    taken.take(GRU(momentum=1.0, clip=-0.5))
    assert flat(taken.given[0]) == pytest.approx([0, 3, -1.5])
    taken = step((0, 4, -3), (0, 0, 7))  # cosine −.6
    taken.take(GRU(momentum=1.0, clip=-0.7))
    assert flat(taken.given[0]) == pytest.approx([0, 4, 0])


def test_blur_keeps_the_forget_gradient_whole() -> None:
    """g_f = (0, 0, 2), g_r = (1, 2, 3) → g_f + (1, 2, 0), and with g_r's third number negative the same."""
    for third in (3, -3):
        taken = step((0, 0, 2), (1, 2, third))
        taken.take(BLUR())
        assert flat(taken.given[0]) == pytest.approx([1, 2, 2])


def test_blur_as_the_official_code_writes_it() -> None:
    """g = g_r + (γ − ⟨g_r, g_f⟩/‖g_f‖²) g_f, where γ is the coefficient that is in our g_f."""
    forget, retain = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gamma = 0.7
    taken = step((gamma * forget).tolist(), retain.tolist())
    taken.take(BLUR())
    theirs = retain + (gamma - retain @ forget / (forget @ forget)) * forget
    torch.testing.assert_close(torch.tensor(flat(taken.given[0])).double(), theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("surgery", [GRU(), GRU(momentum=1.0), Projection(keep="forget"), BLUR(add=0.0)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_afterwards_the_two_are_no_longer_in_conflict(surgery: Projection, dtype: torch.dtype) -> None:
    """Weights of more numbers than one sum takes, against the formula on plain float64 vectors."""
    torch.manual_seed(0)
    model = nn.ParameterList([nn.Parameter(torch.zeros(1100, 1000, dtype=dtype)), nn.Parameter(torch.zeros(7))]).to(
        dtype
    )
    slopes = {role: [torch.randn_like(p) for p in model] for role in ("forget", "retain")}
    slopes["retain"] = [r - 0.5 * f for r, f in zip(slopes["retain"], slopes["forget"], strict=True)]

    def function(role: str) -> Callable[..., Tensor]:
        return lambda model, draw: sum((s * p).sum() for s, p in zip(slopes[role], model, strict=True))

    taken = Losses(model, {role: function(role) for role in slopes})
    taken.take(surgery)
    kept = slopes[surgery.keep]
    k = torch.cat([each.flatten() for each in kept]).double()
    p = torch.cat([each.flatten() for each in slopes["forget" if surgery.keep == "retain" else "retain"]]).double()
    assert p @ k < 0, "or nothing is tested"
    ours = torch.cat([each.flatten() for each in taken.given[0]]).double()
    assert ours @ k >= -1e-6 * ours.norm() * k.norm()
    torch.testing.assert_close(ours, p - (p @ k) / (k @ k) * k, rtol=0, atol=1e-12 if dtype == torch.float64 else 2e-6)


def test_weights_that_one_loss_does_not_reach() -> None:
    """b has no gradient from the forget loss, and none from the retain loss in the second case."""
    taken = step((1, -2, None), (0, 1, 1))
    taken.take(GRU(momentum=1.0))
    assert flat(taken.given[0]) == pytest.approx([1, -1, 1])
    taken = step((1, -2, 5), (0, 1, None))
    taken.take(GRU(momentum=1.0))
    assert flat(taken.given[0]) == pytest.approx([1, 0, 5])


def test_a_retain_loss_without_gradient_changes_nothing_and_a_broken_one_is_seen() -> None:
    taken = step((1, -2, 3), (0, 0, 0))
    taken.take(GRU())
    assert flat(taken.given[0]) == [1, -2, 3]
    for surgery in (GRU(), BLUR()):
        taken = step((1, -2, 3), (0, math.nan, 0))
        taken.take(surgery)
        assert any(math.isnan(each) for each in flat(taken.given[0])), "or the loop would not notice"


# ------------------------------------------------------------------------------------------------------ SAM, DualOptim


def bowl(centre: float, curve: float) -> Callable[..., Tensor]:
    """L = curve · ‖θ − centre‖⁴, over all weights."""
    return lambda model, draw: curve * sum((p - centre).square().sum() for p in model.parameters()).square()


def test_sam_takes_the_gradient_where_the_loss_is_higher() -> None:
    """Against autograd at θ + ρ g/‖g‖, worked out on one plain vector."""
    model = Point()
    with torch.no_grad():
        model.a.copy_(torch.tensor([0.3, -0.2]))
        model.b.fill_(0.7)
    before = copy.deepcopy(model)
    taken = Losses(model, {"forget": bowl(1.0, 0.5), "retain": bowl(-1.0, 0.25)})
    taken.take(SAM(rho=0.1))

    start = torch.cat([p.detach().flatten() for p in before.parameters()])

    def slope(at: Tensor, centre: float, curve: float) -> Tensor:
        away = at - centre
        return curve * 4 * away.square().sum() * away

    g = slope(start, 1.0, 0.5)
    wanted = slope(start + 0.1 * g / g.norm(), 1.0, 0.5) + slope(start, -1.0, 0.25)
    torch.testing.assert_close(torch.tensor(flat(taken.given[0]), dtype=torch.float64), wanted, **EXACT)
    for parameter, old, given in zip(model.parameters(), before.parameters(), taken.given[0], strict=True):
        assert torch.equal(parameter, old - given), "the weights are put back to the bit before the update"


def test_sam_needs_no_retain_loss() -> None:
    taken = Losses(Point(), {"forget": bowl(1.0, 0.5)}, has_retain=False)
    taken.take(SAM())
    assert len(taken.given) == 1
    assert Method.parse("GA+SAM").surgery == SAM()


def test_dual_optim_takes_a_forget_step_and_then_its_retain_steps() -> None:
    """Each at the weights that the one before has left, each retain step with rows of its own."""
    drawn = []

    def retain(model: Any, draw: int) -> Tensor:
        drawn.append((draw, model.a.tolist()))
        return (model.a * torch.tensor([draw + 1.0, 0.0])).sum()

    taken = Losses(Point(), {"forget": linear(0, 1, None), "retain": retain})
    taken.take(Method.parse("ME+GD+DUALOPTIM", retain_steps=3, retain_share=0.5).surgery or SAM())
    assert taken.updates == [(0, 1.0), (1, 0.5), (1, 0.5), (1, 0.5)]
    assert drawn == [(0, [0, -1]), (1, [-0.5, -1]), (2, [-1.5, -1])]


# -------------------------------------------------------------------------------------------------------- names, errors


def test_every_pair_takes_every_surgery() -> None:
    for name, surgery in SURGERY.items():
        for pair in ("NPO+GD", "IDK+AP", "LLMU", "RMU+REP", "MP-ME", "PDU+DUAL"):
            method = Method.parse(f"{pair}+{name}")
            assert (method.name, type(method.surgery)) == (f"{pair}+{name}", surgery)
            needed = {**method.half("forget").needs, **method.half("retain").needs}
            assert needed.keys() == method.needs.keys()
            assert method.half("retain").forget_coeff == method.retain_coeff


def test_options_of_losses_and_surgery_stand_side_by_side() -> None:
    method = Method.parse("npo+gd+gru", beta=0.3, momentum="0.6", clip=-0.5)
    assert (method.forget.beta, method.surgery) == (0.3, GRU(momentum=0.6, clip=-0.5))  # type: ignore[attr-defined]
    assert Method.parse("GradDiff+BLUR").name == "GA+GD+BLUR"
    assert Method.parse("NPO+GD+unlearner.methods.sam:SAM", rho=0.2).surgery == SAM(rho=0.2)


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("NPO+GD+GRU+SAM", {}, "GRU and SAM are two surgeries, and a method has one: leave one out"),
        ("NPO+GRU", {}, "GRU works on the gradients of two losses, and NPO is one: name a retain loss, such as NPO"),
        ("NPO+none+blur", {}, "BLUR works on the gradients of two losses"),
        ("NPO+GD+GRUU", {}, r"unknown method 'NPO\+GD\+GRUU': did you mean 'NPO\+GD\+GRU'"),
        ("GRU", {}, "unknown method 'GRU'"),
        ("NPO+GD+KL", {}, "unknown method"),
        ("NPO+GD+SAM", {"momentum": 0.5}, r"NPO\+GD\+SAM has no option 'momentum'"),
        ("NPO+GD+GRU", {"momentum": 0}, "momentum must be above 0 and at most 1"),
        ("NPO+GD+GRU", {"clip": 0.5}, "clip must be at least -1 and below 0"),
        ("NPO+GD+GRU", {"add": -1}, "add must not be negative"),
        ("NPO+GD+GRU", {"keep": "all"}, "GRU's option keep cannot be 'all'"),
        ("NPO+GD+SAM", {"rho": 0}, "rho must be positive"),
        ("NPO+GD+SAM", {"rho": "wide"}, "SAM's option rho must be a number"),
        ("NPO+GD+DUALOPTIM", {"retain_steps": 0}, "retain_steps must be a whole number from 1 to 100"),
        ("NPO+GD+DUALOPTIM", {"retain_steps": 1.5}, "DUALOPTIM's option retain_steps must be a whole number"),
        ("NPO+GD+unlearner.errors:UserError", {}, "unknown method"),
    ],
)
def test_what_cannot_be_is_one_sentence(name: str, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as raised:
        Method.parse(name, **options)
    assert "\n" not in str(raised.value)
