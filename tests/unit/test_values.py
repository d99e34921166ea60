"""Options given as text: of metrics and attacks by name, as the types of their fields."""

from dataclasses import dataclass
from typing import Literal

import pytest

from unlearner.audit.plan import chosen_attacks
from unlearner.config import AuditConfig, EvaluateConfig
from unlearner.errors import UserError
from unlearner.evaluation.metrics import find_metrics
from unlearner.settings import resolved
from unlearner.values import convert, defaults


@dataclass(frozen=True)
class Asking:
    times: tuple[int, ...] = (0, 5)
    heat: float = 1.0
    kind: Literal["long", "short"] = "long"
    words: str | None = None


@pytest.mark.parametrize(
    ("value", "kind", "found"),
    [
        ("1e-3", float, 0.001),
        (2, float, 2.0),
        ("TRUE", bool, True),
        ("none", str | None, None),
        ("short", Literal["long", "short"], "short"),
    ],
)
def test_a_text_becomes_what_its_field_is(value: object, kind: object, found: object) -> None:
    assert convert("it", value, kind) == found


@pytest.mark.parametrize(
    ("value", "kind", "words"),
    [
        ("0.5", int, "it must be a whole number, not '0.5'."),
        (True, int, "it must be a whole number, not True."),
        ("shart", Literal["long", "short"], "it cannot be 'shart': did you mean 'short'"),
    ],
)
def test_any_other_is_refused(value: object, kind: object, words: str) -> None:
    with pytest.raises(UserError) as error:
        convert("it", value, kind)
    assert str(error.value).startswith(words)


def test_the_options_in_one_line() -> None:
    assert defaults(Asking) == "times=0,5 heat=1.0 kind=long words=None"
    assert defaults(Asking(heat=0.5)).split()[1] == "heat=0.5"
    assert defaults(object()) == ""


def attacks(*options: str, budget: str = "quick", named: tuple[str, ...] = ()) -> dict[str, object]:
    config = AuditConfig(model="", output="", budget=budget, attack_options=list(options), attacks=list(named))
    return {attack.label: attack for attack in chosen_attacks(config)}


def test_options_of_attacks() -> None:
    found = attacks("sampling.n=64", "relearning.steps=0, 3", "sampling.top-p=0.9", "plain.n=2")
    drawn = found["sampling:top_p=0.9"]  # its label tells how it draws
    assert (drawn.n, drawn.top_p, found["plain"].n) == (64, 0.9, 2)
    assert found["relearning"].steps == (0, 3) and found["relearning"].controls == attacks()["relearning"].controls
    assert {label: attack for label, attack in found.items() if label not in (drawn.label, "relearning", "plain")} == {
        label: attack for label, attack in attacks().items() if label not in ("sampling", "relearning", "plain")
    }
    assert attacks("soft-prompt.steps=3", budget="standard")["soft-prompt"].steps == 3
    assert attacks("soft-prompt.steps=3", budget="0.1")["soft-prompt"].steps == 3  # the deepest, if there were time
    # In so few minutes there may be no time for an attack: not a mistake of the user's.
    minutes = AuditConfig(model="", output="", budget="0.1", attack_options=["soft-prompt.steps=3"])
    assert "soft-prompt" not in {attack.label for attack in chosen_attacks(minutes, "quick")}


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("n=64", "--attack-options needs NAME.OPTION=VALUE, such as sampling.n=64, not 'n=64'."),
        ("sampling.n", "--attack-options needs NAME.OPTION=VALUE"),
        ("samplin.n=64", "'samplin' is not among what was chosen: did you mean 'sampling'"),
        ("soft-prompt.steps=3", "'soft-prompt' is not among what was chosen"),
        ("sampling.m=64", "--attack-options: sampling has no option 'm': "),
        ("relearning.steps=0,x", "relearning's option steps must be a whole number, not 'x'."),
        ("sampling.n=few", "sampling's option n must be a whole number, not 'few'."),
        ("lens.n=1", "'lens' is not among what was chosen"),
        (
            "sampling.temperature=0",
            "--attack-options sampling.temperature=0: temperature=0.0: sampling needs one above 0",
        ),
        ("sampling:top_k=5.n=4", "a decoder's options belong in its name, as in --attacks sampling:"),
        ("nf4.scheme=int8", "--attack-options: nf4 is named after its scheme, which cannot be changed."),
    ],
)
def test_wrong_options_of_attacks_are_one_sentence(option: str, words: str) -> None:
    with pytest.raises(UserError) as error:
        attacks(option)
    assert words in str(error.value)


def test_options_of_metrics() -> None:
    with pytest.raises(UserError, match="--metric-options: rouge has no option 'n': it has none"):
        find_metrics(["rouge"], ["rouge.n=2"])
    with pytest.raises(UserError, match="'rouge' is not among what was chosen: did you mean"):
        find_metrics(["rouge1"], ["rouge.n=2"])


def test_given_options_are_written_down_and_others_leave_no_trace() -> None:
    plain = EvaluateConfig(model="m", output="o")
    given = EvaluateConfig(model="m", output="o", metric_options=["a.n=2"])
    assert "metric_options" not in resolved(plain) and resolved(given)["metric_options"] == ["a.n=2"]
    assert "attack_options" not in resolved(AuditConfig(model="m", output="o"))
