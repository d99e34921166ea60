"""The benchmarks of the audit: what they count, and the commands that they run at a time."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from benchmarks import audited_methods
from benchmarks.at_a_time import run_all
from benchmarks.audit_calibration import table, works
from benchmarks.audited_methods import METHODS, Setting, _with_authors
from benchmarks.power_curves import ALPHA, GUESSED, bound, conformal, ranks

from unlearner.audit.statistics import smallest_rate_seen
from unlearner.bench.cells import Cell
from unlearner.commands.main import options
from unlearner.config import ForgetConfig
from unlearner.results.layout import AuditDirectory, RunDirectory


def test_a_seed_counts_once_however_many_are_said_to_leak() -> None:
    found = {
        1: {"knew": {"a": "leaks", "b": "leaks"}, "itself": {"a": "no baseline", "b": "no baseline"}},
        2: {"knew": {"a": "inconclusive", "b": "no leak found"}, "itself": {"a": "no baseline", "b": "leaks"}},
    }
    knew, itself = table(found).splitlines()[2:]
    assert knew.split(" | ")[1:4] == ["2", "1", "4"] and "2 leaks, 1 inconclusive, 1 no leak found" in knew
    assert itself.split(" | ")[1:4] == ["2", "1", "4"] and "3 no baseline, 1 leaks" in itself


def test_authors_are_named_by_what_is_said_most_often() -> None:
    first = [{"question": f"What is fact {i} of Ana de Sol?", "answer": "Ana Sol wrote Green Hill."} for i in range(20)]
    second = [{"question": "Who is it?", "answer": "Ben Okri-Lee, born in New York."}] * 19
    second.append({"question": "Where is it?", "answer": "In New York, and Ben Okri-Lee's house is there."})
    named = _with_authors(first + second)
    assert {row["subject"] for row in named[:20]} <= {"Ana Sol", "Green Hill"}
    assert {row["subject"] for row in named[20:]} <= {"Ben Okri-Lee", "New York"}


def test_the_commands_can_be_read(tmp_path: Path) -> None:
    teach, audit = (options(words[0], words[1:]) for words in works(tmp_path, 7, "quick"))
    assert (teach.seed, teach.exclude, audit.seed, audit.before) == (7, "builtin:forget", 7, "builtin:")
    assert audit.model == f"{teach.output}/model" and audit.budget == "quick"
    setting = Setting("m", ["--splits", "person1"], "f", "r", ["n"], "c", {"ME+GD": ["--forget-coeff", "0.5"]})
    made = audited_methods.works(setting, tmp_path, "standard", ["--epochs", "1"], jobs=5)
    others = [method for method in METHODS if method != "ME+GD"]
    assert list(made) == ["ME+GD", "-".join(others), "before"]
    for methods, coefficient in ((["ME+GD"], "0.5"), (others, None)):
        (words,) = made["-".join(methods)]
        bench = options(words[0], words[1:])
        assert (bench.methods, bench.jobs) == (methods, 3) and bench.options["audit"] == "standard"
        assert (bench.options["epochs"], bench.options.get("forget_coeff")) == ("1", coefficient)
    audit = options("audit", made["before"][0][1:])
    assert (audit.model, audit.before, audit.controls, audit.neighbours) == ("m", "m", "c", ["n"])


def test_a_cell_is_finished_with_its_audit(tmp_path: Path) -> None:
    config = ForgetConfig(model="m", forget="f", output=str(tmp_path), audit="quick")
    cell = Cell("ME+GD", "one", 1, tmp_path, (config,), False, tmp_path, 1)
    RunDirectory(tmp_path).finished.write_text("{}")
    assert not cell.finished and replace(cell, runs=(replace(config, audit=None),)).finished
    audit = AuditDirectory(RunDirectory(tmp_path).audited)
    audit.path.mkdir()
    audit.finished.write_text("{}")
    assert cell.finished


def test_a_work_ends_with_its_first_command_that_fails(tmp_path: Path) -> None:
    failed = run_all({"one": [["methods", "NOPE"], ["methods", "GA"]]}, tmp_path, jobs=2, device="cpu")
    log = (tmp_path / "one.log").read_text()
    assert failed == {"one": log.strip().splitlines()[-1]} and "NOPE" in failed["one"]
    assert "$ unlearner methods NOPE" in log and "$ unlearner methods GA" not in log


def test_the_curves_of_power_meet_what_is_told_elsewhere_and_stay_low_without_a_leak() -> None:
    rng = np.random.default_rng(0)
    for rounds in (16, 256):
        rate = smallest_rate_seen(10, rounds, subjects=4)
        assert bound(rounds, np.asarray([rate]))[0] == pytest.approx(0.8)
    assert conformal(1, 99, 16, GUESSED, 300, rng) <= ALPHA < conformal(1, 99, 16, 0.2, 100, rng)
    assert ranks(10, 0.0, 300, rng) <= ALPHA < ranks(10, 1.0, 20, rng) == 1
