"""From a command line and a YAML file to options: what stands twice, and paths below the home folder."""

from pathlib import Path
from typing import Any

import pytest

from unlearner.commands.main import options
from unlearner.errors import UserError

GIVEN = ["--model", "m", "--forget", "f.jsonl", "--output", "out"]


def parsed(*more: str) -> Any:
    return options("forget", [*GIVEN, *more])


def test_the_last_of_a_repeated_option_counts_and_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    assert parsed("--epochs", "2", "--epochs=3").epochs == 3
    assert capsys.readouterr().err == "warning: --epochs is given 2 times: the last one counts.\n"


def test_the_command_line_wins_over_the_file_without_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("epochs: 2\n", encoding="utf-8")
    assert parsed("--config", str(file), "--epochs", "3").epochs == 3
    assert capsys.readouterr().err == ""


def test_a_key_that_stands_twice_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("epochs: 2\nmethod: ME+GD\nepochs: 3\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"run\.yaml, line 3: 'epochs' stands there twice: leave one out"):
        parsed("--config", str(file))


def test_paths_below_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run.yaml").write_text("retain: ~/retain.jsonl\n", encoding="utf-8")
    made = parsed("--config", "~/run.yaml", "--forget=~/forget.jsonl", "--refusals", "~/no.txt")
    assert (made.forget, made.retain) == (str(tmp_path / "forget.jsonl"), str(tmp_path / "retain.jsonl"))
    assert made.refusals == str(tmp_path / "no.txt")
    bench = options("bench", ["fictitious", "--output", "~/bench", "--refusals", "~/no.txt"])
    assert (bench.output, bench.options["refusals"]) == (str(tmp_path / "bench"), str(tmp_path / "no.txt"))
