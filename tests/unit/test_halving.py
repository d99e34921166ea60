"""Successive halving: what is tried next, how long, and what is said of the outcome."""

import random
from collections.abc import Mapping
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from unlearner.errors import UserError
from unlearner.methods import Method, Step, Surgery
from unlearner.methods.grids import grid_of, rated, settings, usual_options
from unlearner.search.halving import Budget, Spread, Tried, best, next_trials, rungs, undominated


def played(
    candidates: int, lengths: tuple[float, ...], budget: Budget, merit: dict[int, float | None], cost: float = 1.0,
    stop: int | None = None,
) -> list[Tried]:  # fmt: skip
    """All trials of a search in which candidate i reaches `merit[i]`, at `cost` seconds an epoch; only the first
    `stop` of them where that is given."""
    tried: list[Tried] = []
    while new := next_trials(candidates, lengths, budget, tried):
        for candidate, rung in new:
            if stop is not None and len(tried) == stop:
                return tried
            found = merit[candidate]
            tried.append(Tried(candidate, rung, None if found is None else (found,), cost * lengths[rung]))
    return tried


def keys(tried: list[Tried]) -> list[tuple[int, int]]:
    return [(each.candidate, each.rung) for each in tried]


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [(5, (2, 5)), (10, (1, 3, 10)), (20, (2, 7, 20)), (3, (1, 3)), (2, (2,)), (0.5, (0.5,)), (27, (1, 3, 9, 27))],
)
def test_rungs_are_whole_epochs_each_about_a_third_of_the_next(epochs: float, expected: tuple[float, ...]) -> None:
    assert rungs(epochs) == expected


def test_a_third_goes_on_to_the_next_rung() -> None:
    merit: dict[int, float | None] = {i: float(i % 5) for i in range(20)}
    tried = played(20, (1, 3, 9), Budget(trials=9), merit)
    assert keys(tried) == [*((i, 0) for i in range(9)), *((i, 1) for i in (4, 3, 8)), (4, 2)]
    won = best(tried)
    assert won is not None and (won.candidate, won.rung) == (4, 2)


def test_every_method_gets_the_same_budget_whatever_its_grid() -> None:
    """Of nine settings or of ninety, twelve are begun: the same number of trials and epochs."""
    lengths = (1.0, 3.0, 9.0)
    costs = {
        sum(lengths[t.rung] for t in played(n, lengths, Budget(trials=9), {i: float(i) for i in range(n)}))
        for n in (9, 30, 90)
    }
    assert costs == {9 * 1 + 3 * 3 + 1 * 9}


def test_trials_that_failed_do_not_go_on_and_are_not_the_best() -> None:
    tried = played(4, (1, 3), Budget(trials=4), {0: None, 1: None, 2: 0.5, 3: None})
    assert keys(tried) == [(0, 0), (1, 0), (2, 0), (3, 0), (2, 1)]
    assert best([Tried(0, 0, None)]) is None


def test_the_best_is_of_the_highest_rung_and_the_first_of_equals() -> None:
    tried = [Tried(0, 0, (0.9,)), Tried(2, 1, (0.5,)), Tried(1, 1, (0.5,)), Tried(3, 1, None)]
    won = best(tried)
    assert won is not None and (won.candidate, won.rung) == (1, 1)


def test_a_search_that_was_cut_short_goes_on_with_the_same_trials() -> None:
    """At any moment, and in whatever order the trials of a rung ended; by trials and by time."""
    merit: dict[int, float | None] = {i: ((i * 7) % 11) / 11 for i in range(11)} | {3: None}
    for budget in (Budget(trials=11), Budget(seconds=60.0)):
        whole = played(11, (1, 3, 9), budget, merit)
        for stop in range(len(whole)):
            tried = played(11, (1, 3, 9), budget, merit, stop=stop)
            random.Random(stop).shuffle(tried)
            while new := next_trials(11, (1, 3, 9), budget, tried):
                tried += [Tried(c, r, None if (m := merit[c]) is None else (m,), (1.0, 3.0, 9.0)[r]) for c, r in new]
            assert sorted(keys(tried)) == sorted(keys(whole))


def test_seconds_are_shared_among_rungs_and_not_overspent() -> None:
    merit: dict[int, float | None] = {i: float(i) for i in range(100)}
    tried = played(100, (1, 3, 9), Budget(seconds=54.0), merit)
    spent = [sum(t.seconds for t in tried if t.rung == rung) for rung in range(3)]
    assert spent == [18.0, 18.0, 18.0]
    assert [t.candidate for t in tried if t.rung == 1] == [17, 16, 15, 14, 13, 12]
    assert [t.candidate for t in tried if t.rung == 2] == [17, 16]


def test_a_rung_that_needs_less_leaves_its_time_to_the_next() -> None:
    tried = played(3, (1, 3), Budget(seconds=30.0), {0: 0.1, 1: 0.3, 2: 0.2})
    assert keys(tried) == [(0, 0), (1, 0), (2, 0), (1, 1)]


def test_what_the_last_rung_leaves_goes_to_further_settings() -> None:
    """Six short trials, the best two go on; then a further short one, which is the best of all and goes on, too."""
    merit: dict[int, float | None] = dict(enumerate([0.1, 0.5, 0.2, 0.4, 0.3, 0.0, 0.9, *[0.0] * 13]))
    tried = played(20, (1, 2), Budget(seconds=13.0), merit)
    assert keys(tried) == [*((i, 0) for i in range(6)), (1, 1), (3, 1), (6, 0), (6, 1)]
    assert sum(each.seconds for each in tried) == 13.0


def test_the_first_trial_is_run_however_short_the_time() -> None:
    assert keys(played(5, (1, 3), Budget(seconds=0.5), dict.fromkeys(range(5), 0.0))) == [(0, 0)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("12", Budget(trials=12)), ("12 trials", Budget(trials=12)), ("1trial", Budget(trials=1)),
        ("90s", Budget(seconds=90)), ("20m", Budget(seconds=1200)), ("1.5h", Budget(seconds=5400)),
    ],
)  # fmt: skip
def test_a_budget_is_a_number_or_a_time(text: str, expected: Budget) -> None:
    assert Budget.read("--tune-budget", text) == expected


@pytest.mark.parametrize("text", ["", "0", "0m", "-3", "1.5", "2.5 trials", "20 min", "many", "1e3", "nan", "inf"])
def test_what_is_no_budget(text: str) -> None:
    with pytest.raises(UserError, match="--search must be a number of trials, such as 12, or a time, such as 20m, not"):
        Budget.read("--search", text)


def test_how_much_depends_on_the_setting() -> None:
    assert Spread.of([0.8, 0.1, 0.73, 0.0]) == Spread(0.8, pytest.approx(0.415), 0.0, 2, 4)
    assert Spread.of([0.0, 0.0]).near == 0  # nothing is near a best that is nothing


def test_the_frontier_is_what_no_other_trial_beats() -> None:
    points = [(0.5, 0.5), (0.9, 0.1), (0.4, 0.5), (0.9, 0.1), (0.1, 0.9), (0.1, 0.2)]
    assert undominated(points) == [0, 1, 4]


# -------------------------------------------------------------------------------------------------------------- grids


def test_the_grids_are_those_published_for_openunlearning() -> None:
    """arXiv 2506.12618: β and the weight of the retain loss of NPO and DPO; β, δ, γ of SimNPO; β of UNDIAL."""
    for name in ("NPO+GD", "DPO+GD"):
        assert grid_of(name) == {
            "learning_rate": (0.5, 1.0, 2.0, 5.0), "retain_coeff": (1.0, 2.0, 5.0), "beta": (0.05, 0.1, 0.5)
        }  # fmt: skip
    simnpo = grid_of("SIMNPO+GD")
    assert (simnpo["beta"], simnpo["delta"], simnpo["forget_coeff"]) == ((3.5, 4.5), (0.0, 1.0), (0.125, 0.25))
    assert "retain_coeff" not in simnpo
    assert grid_of("UNDIAL+GD")["learning_rate"] == (1.0, 10.0, 30.0)


def test_a_loss_without_a_grid_is_tried_with_what_its_presets_name() -> None:
    assert grid_of("SATIMP+GD")["retain_coeff"] == (0.1, 1.0, 2.0, 5.0)  # 0.1 is its preset's
    assert grid_of("GA") == {"learning_rate": (0.5, 1.0, 2.0, 5.0)}


def test_grids_beside_the_published_ones_hold_the_defaults() -> None:
    for name, axes in {
        "ALTPO": {"beta": (0.05, 0.1, 0.5)}, "RMU": {"steering": (1.0, 10.0, 20.0, 100.0)}, "WGA": {"beta": (1.0, 5.0)},
        "TNPO": {"beta": (0.1, 1.0, 4.0)}, "WTNPO": {"beta": (0.1, 4.0), "alpha": (1.0, 1.5)},
        "NPO+GD+SAM": {"rho": (0.01, 0.1)}, "NPO+GD+GRU": {"momentum": (0.6, 0.8, 0.99)},
        "NPO+GD+BLUR": {"keep": ("forget", "retain"), "when": ("always", "conflict")},
        "NPO+GD+DUALOPTIM": {"retain_steps": (1, 5), "retain_share": (0.2, 0.5, 1.0)},
        "PDU+DUAL": {"weight": (50.0, 100.0), "rate": (1.0, 5.0), "epsilon": (None, 0.3)},
        "SATIMP+GD": {"beta1": (1.0, 5.0), "beta2": (0.5, 1.0)}, "ARMU+REP": {"scale": (2.0, 5.0, 10.0)},
        "RR": {"schedule_steps": (50, 150, 300)}, "FLAT": {"divergence": ("TV", "KL", "Pearson")},
    }.items():  # fmt: skip
        found, usual = grid_of(name), usual_options(name)
        assert {option: found[option] for option in axes} == axes
        assert all(usual[option] in values for option, values in axes.items())


def test_the_weight_of_rmus_retain_loss_is_searched_as_far_as_it_was_published() -> None:
    for name in ("RMU+REP", "ARMU+REP", "NPO+REP"):
        assert grid_of(name)["retain_coeff"] == (1.0, 100.0, 1200.0)


@pytest.mark.parametrize(
    ("name", "given", "varied"),
    [
        ("NPO+GD", {}, {"retain_coeff"}), ("ME+GD", {}, {"forget_coeff", "retain_coeff"}),
        ("ME", {}, set()), ("SATIMP", {}, set()),  # a factor of the whole loss
        ("SIMNPO+GD+GRU", {}, set()), ("ME+GD+GRU", {"add": "0.5"}, {"forget_coeff", "retain_coeff"}),
        ("ME+GD+DUALOPTIM", {}, set()), ("PDU+DUAL", {}, set()),
        ("ME+GD+BLUR", {}, {"forget_coeff", "retain_coeff"}), ("NPO+GD+SAM", {}, {"retain_coeff"}),
        (f"NPO+GD+{__name__}:Plugged", {}, {"retain_coeff"}), (f"NPO+GD+{__name__}:Deaf", {}, set()),
    ],
)  # fmt: skip
def test_coefficients_that_change_nothing_are_no_axes(name: str, given: dict[str, str], varied: set[str]) -> None:
    assert {axis for axis in grid_of(name, given) if axis.endswith("coeff")} == varied


@dataclass(frozen=True)
class Plugged(Surgery):
    """A surgery as a plug-in may have it."""

    name = "PLUGGED"
    formula = source = memory = "none"

    def __call__(self, step: Step, **state: Tensor) -> Mapping[str, Tensor]:
        return {}


@dataclass(frozen=True)
class Deaf(Plugged):
    inert = ("retain_coeff",)


@pytest.mark.parametrize("name", ["NPO+GD+GRU", "NPO+GD+DUALOPTIM", "NPO+GD+BLUR"])
def test_what_a_surgery_calls_inert_changes_no_weight(name: str) -> None:
    """Of a step of AdamW, by hand: two coefficients of the same two gradients."""

    class Two:
        has_retain = True

        def __init__(self, forget: float, retain: float) -> None:
            self.weight = torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))
            self.parameters, self.coefficient = [self.weight], {"forget": forget, "retain": retain}
            self.optimizers = [torch.optim.AdamW([self.weight], lr=0.1, eps=1e-12) for _ in range(2)]

        def backward(self, role: str, draw: int = 0) -> None:
            at = {"forget": torch.tensor([3.0, -1.0, 0.2]), "retain": torch.tensor([-1.0, 2.0, 0.1 + draw])}[role]
            (self.coefficient[role] * (self.weight * at + self.weight.square() * at.flip(0)).sum()).backward()

        def update(self, optimizer: int = 0, share: float = 1.0) -> None:
            self.optimizers[optimizer].step()
            self.weight.grad = None

    def after(forget: float, retain: float) -> Tensor:
        step, surgery = Two(forget, retain), Method.parse(name).surgery
        assert surgery is not None
        state = surgery.setup({"weight": step.weight.detach()})
        for _ in range(3):
            surgery(step, **state)
        return step.weight.detach()

    surgery = Method.parse(name).surgery
    assert surgery is not None
    same = torch.allclose(after(1.0, 1.0), after(0.25, 5.0), atol=1e-5)
    assert same == ({"forget_coeff", "retain_coeff"} == {*surgery.inert})


def test_the_usual_setting_is_tried_first_then_others_in_an_order_of_the_seed() -> None:
    axes = rated(grid_of("NPO+GD"), 3e-4)
    usual = {"learning_rate": 3e-4, "retain_coeff": 1.0, **usual_options("NPO+GD")}
    first, second = (settings(axes, usual, seed) for seed in ("a", "b"))
    assert first[0] == {"learning_rate": 3e-4, "retain_coeff": 1.0, "beta": 0.1} == second[0]
    assert len(first) == 36 and first != second and sorted(map(str, first)) == sorted(map(str, second))
    assert {point["learning_rate"] for point in first} == {1.5e-4, 3e-4, 6e-4, 1.5e-3}
    assert first == settings(axes, usual, "a")


def test_learning_rates_take_turns_in_the_draw() -> None:
    axes = rated(grid_of("SIMNPO+GD"), 1e-4)
    for seed in ("SIMNPO+GD 1", "SIMNPO+GD 2"):
        drawn = [point["learning_rate"] for point in settings(axes, {}, seed)]
        assert all(len(set(drawn[at : at + 4])) == 4 for at in range(0, len(drawn), 4))
    uneven = settings({"learning_rate": (1e-4,), "beta": (0.1, 0.5)}, {}, "1")
    assert len(uneven) == 2  # one rate alone loses nothing
