"""Names and options of methods: parsed, refused, described."""

import math
from typing import Any

import pytest

from unlearner import Method
from unlearner.errors import UserError
from unlearner.methods import COMBINED_METHODS, FORGET, RETAIN, SURGERY, method_names
from unlearner.methods.options import read_pairs

# ----------------------------------------------------------------------------------------------------- names and errors


def test_every_listed_name_parses_to_itself() -> None:
    names = method_names()
    assert len(names) == len(set(names)) == len(FORGET) * (1 + len(RETAIN)) + len(COMBINED_METHODS) == 172
    for name in names:
        method = Method.parse(name)
        assert method.name == name
        assert Method.parse(name.lower()) == method
        first, plus, second = name.partition("+")
        if name not in COMBINED_METHODS:
            assert method.forget.name == first
            assert (method.retain.name if plus else method.retain) == (second or None)


def test_none_is_no_retain_loss() -> None:
    assert Method.parse("ME+none") == Method.parse("ME")


@pytest.mark.parametrize(
    ("typo", "nearest"),
    [("NPO+GDD", "NPO+GD"), ("ME+KK", "ME+KL"), ("IKD+AP", "IDK+AP"), ("ME + GD", "ME+GD"), ("LLM", "LLMU"),
     ("GA+", "GA"), ("npo+lk", "NPO+KL")],
)  # fmt: skip
def test_a_typo_is_answered_with_the_nearest_name(typo: str, nearest: str) -> None:
    with pytest.raises(UserError) as error:
        Method.parse(typo)
    assert str(error.value) == f"unknown method {typo!r}: did you mean {nearest!r}?"


def test_a_name_like_no_other_is_answered_with_a_handful_of_single_names() -> None:
    for name in ("forgetting", "cyberphysics+xyz"):
        with pytest.raises(UserError, match="unknown method") as error:
            Method.parse(name)
        near = str(error.value).partition("the nearest are ")[2].partition(";")[0].split(", ")
        assert len(near) == 5 and {*near} <= {*FORGET, *RETAIN, *COMBINED_METHODS, *SURGERY}
        assert "`unlearner methods` lists all" in str(error.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("GRUU", "did you mean 'GRU'?"),
        ("GRU", "a surgery, which comes after the losses: NPO+GD+GRU."),
        ("kl", "a retain loss, which comes after a forget loss: NPO+KL."),
        ("tv", "it is a command: unlearner negate BASE FINETUNED."),
        ("RepSelect", "it is a command: unlearner repselect --model MODEL --forget SOURCE."),
    ],
)
def test_what_is_no_method_is_answered_with_what_it_is(name: str, words: str) -> None:
    with pytest.raises(UserError) as error:
        Method.parse(name)
    assert str(error.value).startswith(f"unknown method {name!r}: ") and str(error.value).endswith(words)


@pytest.mark.parametrize(
    ("name", "option", "words"),
    [
        ("SIMNPO+GD", "gamma", "gamma of the official code is delta, gamma of OpenUnlearning --forget-coeff."),
        ("SIMNPO", "npo_coeff", "npo_coeff of the official code is --forget-coeff."),
        ("NPO+GD", "gamma", "OpenUnlearning's gamma is --forget-coeff."),
        ("NPO+GD+GRU", "alpha", "OpenUnlearning's alpha is --retain-coeff."),
        ("MP-ME", "bogus", "MP-ME has no option 'bogus': "),
    ],
)
def test_options_of_other_code_are_answered_with_what_they_are_here(name: str, option: str, words: str) -> None:
    with pytest.raises(UserError) as error:
        Method.parse(name, **{option: 1.0})
    assert f"{name} has no option {option!r}: " in str(error.value) and words in str(error.value)


@pytest.mark.parametrize("name", ["LLMU+GD", "GD", "GD+ME", ""])
def test_parts_in_the_wrong_place_are_unknown(name: str) -> None:
    with pytest.raises(UserError, match="unknown method"):
        Method.parse(name)


@pytest.mark.parametrize("beta", [0, -0.1, math.nan, math.inf])
def test_beta_must_be_positive(beta: float) -> None:
    with pytest.raises(UserError, match="beta must be positive"):
        Method.parse("NPO", beta=beta)


@pytest.mark.parametrize("coefficient", ["forget_coeff", "retain_coeff"])
def test_coefficients_must_not_be_negative(coefficient: str) -> None:
    with pytest.raises(UserError, match=f"must not be negative.*{coefficient} -1"):
        Method.parse("ME+GD", **{coefficient: -1})
    assert getattr(Method.parse("ME+GD", **{coefficient: 0}), coefficient) == 0


def test_an_unknown_direction_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="me_direction cannot be 'uniform': did you mean 'uniform-to-model'"):
        Method.parse("ME", me_direction="uniform")


AP_NEEDS = {"retain": ("logp",), "retain_refusal": ("logp",)}


@pytest.mark.parametrize(
    ("name", "needs", "reference", "targeted", "needs_retain", "mask_question"),
    [
        ("GA", {"forget": ("logp",)}, (), False, False, True),
        ("ME+GD", {"forget": ("mean_logp",), "retain": ("logp",)}, (), False, True, False),
        ("NPO+KL", {"forget": ("logp",), "retain": ("kl",)}, ("forget",), False, True, True),
        ("DPO", {"forget": ("logp",), "forget_refusal": ("logp",)}, ("forget", "forget_refusal"), True, False, True),
        ("IDK+AP", {"forget_refusal": ("logp",), **AP_NEEDS}, (), True, True, True),
        ("GA+AP", {"forget": ("logp",), **AP_NEEDS}, (), True, True, True),
        ("LLMU", {"forget": ("logp",), "forget_mismatch": ("logp",), "retain": ("kl",)}, (), False, True, True),
    ],
)  # fmt: skip
def test_what_a_method_says_of_itself(
    name: str, needs: dict[str, tuple[str, ...]], reference: tuple[str, ...], targeted: bool, needs_retain: bool,
    mask_question: bool,
) -> None:  # fmt: skip
    method = Method.parse(name)
    assert method.needs == needs
    assert method.reference_nll == reference
    assert method.asked == {view: () for view, kinds in needs.items() if "kl" in kinds}
    assert (method.targeted, method.needs_retain, method.mask_question) == (targeted, needs_retain, mask_question)


def test_options_reach_their_losses() -> None:
    method = Method.parse("NPO+AP", beta=0.7, forget_coeff=0.2, retain_coeff=3, official=True)
    assert (method.forget.beta, method.retain.beta) == (0.7, 0.7)
    assert (method.forget_coeff, method.retain_coeff, method.official) == (0.2, 3, True)
    assert Method.parse("ME", me_direction="model-to-uniform").needs == {"forget": ("entropy",)}


def test_an_option_goes_to_the_losses_that_have_it_and_others_keep_their_defaults() -> None:
    assert Method.parse("ME+AP", beta=0.3).retain.beta == 0.3  # ME has no β
    assert Method.parse("NPO+GD").forget.beta == 0.1 == Method.parse("NPO+GD", beta=None).forget.beta
    assert Method.parse("ME", direction="model-to-uniform") == Method.parse("ME", me_direction="model-to-uniform")
    assert read_pairs("NPO+GD", ["beta=4.5"]) == {"beta": "4.5"}
    assert Method.parse("NPO+GD", **read_pairs("NPO+GD", ["beta=4.5"])).forget.beta == 4.5


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("NPO+AP", {"betta": 1.0}, "NPO\\+AP has no option 'betta': did you mean 'beta'?"),
        ("GA+GD", {"delta": 1.0}, "GA\\+GD has no option 'delta': it has none"),
        ("ME", {"directoin": "x"}, "did you mean 'direction'?"),
        ("NPO", {"beta": "much"}, "NPO's option beta must be a number, not 'much'"),
        ("NPO", {"beta": True}, "NPO's option beta must be a number, not True"),
    ],
)
def test_options_that_cannot_be_are_refused(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Method.parse(name, **options)


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        (["beta"], "NAME=VALUE"), (["beta=2", "gama=1"], "no option 'gama'"), (["=2"], "NAME=VALUE"),
    ],
)  # fmt: skip
def test_options_typed_wrongly_are_refused(pairs: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_pairs("NPO+GD", pairs)
    with pytest.raises(UserError, match="GA\\+GD has no option 'beta'"):
        read_pairs("GA+GD", ["beta=2"])
