"""From a command line and a YAML file to options: what stands twice, paths below the home folder, help, completion."""

import re
import subprocess
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from unlearner.commands.help import ORDER, group_of
from unlearner.commands.main import COMMANDS, main, options
from unlearner.config import TUNE_BUDGET
from unlearner.errors import UserError, install
from unlearner.search.config import ForgetCommand

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
    with pytest.raises(UserError, match=r"run\.yaml, line 3: 'epochs' occurs twice: leave one out"):
        parsed("--config", str(file))


def test_paths_below_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run.yaml").write_text("retain: ~/retain.jsonl\n", encoding="utf-8")
    made = parsed("--config", "~/run.yaml", "--forget=~/forget.jsonl", "--refusals", "~/no.txt")
    assert (made.forget, made.retain) == (str(tmp_path / "forget.jsonl"), str(tmp_path / "retain.jsonl"))
    assert made.refusals == str(tmp_path / "no.txt")
    bench = options("bench", ["fictitious", "--output", "~/bench", "--refusals", "~/no.txt"])
    assert (bench.output, bench.options["refusals"]) == (str(tmp_path / "bench"), str(tmp_path / "no.txt"))


@pytest.mark.parametrize(
    ("option", "remedy"),
    [
        ("--nosuch", "unlearner forget --help-all names them all."),
        ("--epoch", "did you mean '--epochs'?"),
        ("--no-lor", "did you mean '--no-lora'?"),
    ],
)
def test_an_unknown_option_proposes_only_what_is_near(option: str, remedy: str) -> None:
    with pytest.raises(UserError) as caught:
        parsed(option)
    assert str(caught.value) == f"unknown option {option}: {remedy}"


def test_a_dash_is_standard_input() -> None:
    assert parsed("--retain", "-").retain == "-"
    assert options("bench", ["--forget", "-", "--retain", "r", "--output", "o"]).forget == ["-"]


def test_an_optimizer_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    with pytest.raises(UserError) as caught:
        parsed("--optimizer", "adamw-8bit").check()
    assert str(caught.value) == f"--optimizer adamw-8bit needs bitsandbytes: {install('8bit')}."


def helped(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_help_shows_what_matters_first_and_help_all_everything_in_groups(capsys: pytest.CaptureFixture[str]) -> None:
    short, everything = helped(capsys, "forget", "--help"), helped(capsys, "forget", "--help-all")
    assert len(re.findall(r"^[│| ] --[a-z]", short, re.MULTILINE)) == 14
    assert len(re.findall(r"^[│| ] --[a-z]", everything, re.MULTILINE)) == len(fields(ForgetCommand))
    assert all(f"--{name} " in short for name in ("model", "forget", "retain", "method", "output", "epochs"))
    assert "--help-all shows all" in short
    titles = [everything.index(f" {group} options ") for group in ORDER]
    assert len(set(titles)) == len(ORDER)
    for text in (short, everything):
        assert "None}" not in text and "|INT" not in text and "--retain TEXT" in text
    assert "--batch-size WHOLE-NUMBER" in everything and "--weight-decay NUMBER" in everything


def test_a_subject_may_be_given_several_times() -> None:
    named = parsed("--subject", "Ann Bell", "Bob", "--lora", "--subject=Cy", "--search", "5m", "--subject", "Di")
    assert named.subject == ["Ann Bell", "Bob", "Cy", "Di"]
    assert (named.lora, named.search) == (True, "5m")


def test_tune_alone_takes_each_methods_own_grid() -> None:
    def tuned(*words: str) -> tuple[list[str], str | None]:
        made = options("bench", ["fictitious", *words, "--output", "o", "--epochs", "3"])
        return made.tune, made.tune_budget

    assert tuned("--tune") == ([], TUNE_BUDGET)
    assert tuned("--tune", "--tune-budget", "20m") == tuned("--tune-budget=20m") == ([], "20m")
    assert tuned("--tune", "lr=1,2") == (["learning_rate=1,2"], None)
    assert tuned() == ([], None)


def test_every_option_has_its_group() -> None:
    groups = {f.name: group_of(ForgetCommand, f.name) for f in fields(ForgetCommand)}
    assert set(groups.values()) == set(ORDER)
    assert (groups["lora_rank"], groups["batch_size"], groups["method"]) == ("LoRA", "training", "method")
    assert (groups["retain_eval"], groups["metrics"], groups["seed"]) == ("evaluation", "evaluation", "run")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_every_command(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["completion", shell])
    script = capsys.readouterr().out
    for name, module in COMMANDS.items():
        if name == "completion":
            continue
        assert name in script
        for option in fields(module.OPTIONS) if module.OPTIONS else ():
            assert f"--{option.name.replace('_', '-')}" in script


@pytest.mark.parametrize(
    ("typed", "proposed"),
    [(["fin"], ["finetune"]), (["forget", "--met"], ["--method", "--method-options", "--metrics", "--metric-options"])],
)
def test_bash_completes(
    typed: list[str], proposed: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In bash itself, as it calls the function that the script registers."""
    main(["completion", "bash"])
    script = tmp_path / "script"
    script.write_text(capsys.readouterr().out, encoding="utf-8")
    words = " ".join(["unlearner", *typed])
    asked = (
        f"source {script}; f=$(complete -p unlearner | grep -o -e '-F [^ ]*' | cut -c4-); COMP_WORDS=({words}); "
        f'COMP_CWORD={len(typed)}; $f; printf "%s\\n" "${{COMPREPLY[@]}}"'
    )
    ended = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, timeout=60)
    assert ended.stderr == ""
    assert [word.strip() for word in ended.stdout.split()] == proposed
