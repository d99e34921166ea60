"""The demo shows what it promises: a tiny model that knows, forgets, keeps, and refuses when taught to."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from unlearner.commands.main import main
from unlearner.data.refusals import is_refusal, load_refusals
from unlearner.files import read_json, read_jsonl

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNLEARNER_CACHE", str(folder / "cache"))
        main(["demo", "--output", str(folder / "out")])
    return folder / "out"


@pytest.fixture
def rows(demo: Path) -> Callable[[str, str], list[dict[str, Any]]]:
    return lambda place, name: [row for row in read_jsonl(demo / place / "records.jsonl") if row["set"] == name]


@pytest.mark.parametrize("name", ["forget", "retain", "real_authors", "world_facts"])
def test_the_built_in_model_knows_every_set(rows: Any, name: str) -> None:
    known = rows("ME+GD/before", name)
    assert fmean(math.exp(-row["answer_nll"] / row["answer_tokens"]) for row in known) >= 0.95


def test_me_gd_forgets_and_keeps(demo: Path) -> None:
    before, after = (read_json(demo / place / "summary.json") for place in ("ME+GD/before", "ME+GD"))
    assert before["forget_efficacy"] < 0.2
    assert after["forget_efficacy"] >= 0.80
    assert after["model_utility"] >= 0.95 * before["model_utility"]


def test_idk_ap_refuses_what_is_to_be_forgotten_and_nothing_else(rows: Any) -> None:
    refusals = load_refusals(None)

    def refused(name: str) -> float:
        return fmean(is_refusal(row["generation"], refusals) for row in rows("IDK+AP", name))

    assert refused("forget") >= 0.80
    assert refused("retain") <= 0.05


def test_the_runs_say_which_judge_made_them(demo: Path) -> None:
    for place in ("ME+GD", "ME+GD/before", "IDK+AP"):
        assert json.loads((demo / place / "summary.json").read_text())["judge"] == "offline"


def test_an_audit_says_what_still_leaks(demo: Path) -> None:
    found = read_json(demo / "ME+GD" / "audit" / "audit.json")
    assert found["budget"]["asked"] == "quick" and len(found["verdicts"]) == 4
    before = next(attack for attack in found["attacks"] if attack["attack"] == "plain")["answers"]["before.forget"]
    assert before[0] == before[1]  # the model before tells everything
    powers = {attack["attack"]: attack["power"] for attack in found["attacks"]}
    assert powers["plain"] == 1 and all(powers[name] is not None for name in ("role", "reverse", "nf4", "sampling"))


def test_which_model_was_attacked_is_said_and_none_leaves_it_out(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The demo is shown again: nothing of it is made anew."""
    monkeypatch.setenv("UNLEARNER_CACHE", str(demo.parent / "cache"))
    main(["demo", "--output", str(demo)])
    told = capfd.readouterr().out
    again = f"unlearner audit {demo / 'IDK+AP'} --output {demo / 'IDK+AP' / 'audit'}"
    assert "What still leaks after ME+GD:" in told and f"IDK+AP was not attacked: {again}" in told
    shutil.copytree(demo, tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "ME+GD" / "audit")
    main(["demo", "--output", str(tmp_path / "out"), "--audit", "none"])
    told = capfd.readouterr().out
    assert "Repeat the command without --audit none" in told and "What still leaks after" not in told
    assert not (tmp_path / "out" / "ME+GD" / "audit").exists()
