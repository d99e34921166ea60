"""What the README and docs/ tell a user to type works as it stands there."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from unlearner.bench.cells import make_cell, typed
from unlearner.commands import main as cli
from unlearner.config import BenchConfig
from unlearner.data.profiles import builtin

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = ["README.md", *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").rglob("*.md")))]


def blocks(language: str, page: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def commands(page: str = README) -> list[list[str]]:
    """Every `unlearner` command of a page, continuation lines joined and comments left out."""
    lines = "\n".join(blocks("sh", page)).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("unlearner ")]


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: Any) -> Path:
    """A folder as the README presumes it: two files and a model."""
    monkeypatch.chdir(tmp_path)
    for name in ("forget", "retain"):
        rows = [{"question": r.question, "answer": r.answer} for r in builtin(name, people=3, forget=1)[:4]]
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    Path("path/to").mkdir(parents=True)
    Path("path/to/model").symlink_to(files.model)
    return tmp_path


def test_the_two_commands_are_make_targets() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", blocks("sh")[0], re.MULTILINE):
        assert re.search(rf"^{target}: setup", makefile, re.MULTILINE), target


def test_the_first_forget_command(user: Path) -> None:
    (first, *_) = [command for command in commands() if command[0] == "forget"]
    cli.main([*first, "--judge", "offline", "--max-new-tokens", "8"])
    assert (user / "runs/me/model/model.safetensors").is_file()
    for summary in ("before/summary.json", "summary.json"):
        assert json.loads((user / "runs/me" / summary).read_text())["forget_efficacy"] is not None


def test_the_python_example(user: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (example,) = blocks("python")
    exec(compile(example, "README.md", "exec"), {})
    assert str(Path("runs/me/model")) in capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES)
def test_every_option_told_of_exists(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / page).read_text(encoding="utf-8")
    for file, name in zip(blocks("yaml", text), re.findall(r"--config (\w+\.yaml)", text), strict=False):
        Path(name).write_text(file, encoding="utf-8")
    for name, *rest in commands(text):
        config_type = cli.COMMANDS[name].OPTIONS
        if config_type is not None:
            config = cli.options(name, rest)
            if isinstance(config, BenchConfig):
                for option, value in config.options.items():
                    typed(option, value)


def test_commands_from_a_name_can_be_typed_one_after_another() -> None:
    """No folder is made twice, which would be refused, and none is read that was not made before."""
    made: list[str] = []
    for name, *rest in commands((ROOT / "docs/guide/from-a-name.md").read_text(encoding="utf-8")):
        read = [word.partition(":")[0] for word in rest if word.startswith("data/") and word != rest[-1]]
        assert rest[-1] not in made and set(read) <= set(made), (name, rest)
        made += rest[-1:] if rest[-2] == "--output" else []
    assert len(made) > 5


def test_tofu_as_in_the_paper_is_what_the_bench_does() -> None:
    page = (ROOT / "docs/lab/reproduce.md").read_text(encoding="utf-8")
    (command,) = [each for each in commands(page) if each[0] == "forget" and "--official" in each]
    told = cli.options("forget", command[1:])
    options = {"official": "true", "judge": "paper", "template": "llama2"}
    bench = BenchConfig(scenario="fictitious", data="tofu", model=told.model, output="runs", options=options)
    assert make_cell(bench, told.method, "forget01", told.seed, Path(told.output), {}).runs == (told.plain,)


def test_every_method_and_metric_is_listed() -> None:
    from unlearner.evaluation.metrics import METRICS
    from unlearner.methods import COMBINED_METHODS, FORGET, RETAIN

    guide = ROOT / "docs/guide"
    for name in (*FORGET, *RETAIN, *COMBINED_METHODS):
        assert f"| {name} |" in (guide / "methods.md").read_text(encoding="utf-8")
    for name in METRICS:
        assert f"| `{name}` |" in (guide / "metrics.md").read_text(encoding="utf-8")
