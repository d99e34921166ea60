"""The demo shows what it promises: a tiny model that knows, forgets, keeps, and refuses when taught to."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from conftest import run_arguments
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


def test_a_demo_that_was_copied_shows_its_audit_again_and_another_budget_is_refused_at_once(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UNLEARNER_CACHE", str(demo.parent / "cache"))
    copied = tmp_path / "my demo"
    shutil.copytree(demo, copied)
    before = (copied / "ME+GD" / "audit" / "audit.jsonl").stat()
    monkeypatch.chdir(tmp_path)
    main(["demo", "--output", "./my demo"])
    told = capfd.readouterr().out
    assert "What still leaks after ME+GD:" in told and "Next: unlearner forget" in told
    assert "unlearner audit 'my demo/IDK+AP' --output 'my demo/IDK+AP/audit'" in told
    assert (copied / "ME+GD" / "audit" / "audit.jsonl").stat().st_mtime_ns == before.st_mtime_ns
    main(["demo", "--output", "my demo", "--audit", "none"])
    told = capfd.readouterr().out
    assert (
        "What still leaks after ME+GD is reported in my demo/ME+GD/audit" in told and "Repeat the command" not in told
    )
    refused = run_arguments(capfd, ["demo", "--output", "my demo", "--audit", "standard"])
    assert (refused.code, refused.out) == (2, "")
    assert "my demo/ME+GD/audit holds an audit begun with --audit quick: give the same" in refused.err


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (["--audit", "fast"], "--audit must be none, quick, standard, deep or a number of minutes above 0, not fast."),
        (["--audit", ""], "a number of minutes above 0, not ''."),
        (["--real", "--audit", "standard"], "--audit is for the built-in model, not for --real: leave it out."),
    ],
)
def test_an_audit_that_cannot_be_made_is_refused_by_the_name_of_its_option(
    typed: list[str], told: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ended = run_arguments(capfd, ["demo", "--output", str(tmp_path / "out"), *typed])
    assert (ended.code, ended.out) == (2, "") and told in ended.err
    assert not (tmp_path / "out").exists()
