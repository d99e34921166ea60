"""What the end-to-end tests share: a tiny model that the command line made itself, and ways to run commands."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from forked import Moment as Moment
from forked import begin as begin
from forked import in_process as in_process
from unlearner.bench.bench import bench as run_bench
from unlearner.commands.main import main
from unlearner.config import BenchConfig, ForgetConfig
from unlearner.data.profiles import builtin
from unlearner.data.records import Record
from unlearner.workflows.forget import forget

TINY = "new:hidden=32,layers=2,heads=2,vocabulary=400"


@dataclass(frozen=True)
class Ended:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Files:
    """The data and the model that a run starts from."""

    forget: Path
    retain: Path
    all: Path
    model: Path


def write_rows(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Records as a user would write them: no field without a value."""
    return [{name: value for name, value in asdict(r).items() if value not in (None, ())} for r in records]


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every path below `folder` with its bytes, None for a directory."""
    return {
        str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
    }  # fmt: skip


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """Every path below `folder` with its time of change and its size."""
    return {
        str(path.relative_to(folder)): (path.lstat().st_mtime_ns, path.lstat().st_size)
        for path in sorted(folder.rglob("*"))
    }  # fmt: skip


def arguments(options: Mapping[str, Any]) -> list[str]:
    """`{"lr": 1, "lora": True, "retain": None}` as it is typed: `--learning-rate 1 --lora`."""
    typed: list[str] = []
    for name, value in options.items():
        if value is None:
            continue
        typed.append("--" + name.replace("_", "-"))
        if value is not True:
            typed += map(str, value) if isinstance(value, list | tuple) else [str(value)]
    return typed


def run(capfd: pytest.CaptureFixture[str], command: str, **options: Any) -> Ended:
    """`unlearner COMMAND --option value ...` in this process."""
    return run_arguments(capfd, [command, *arguments(options)])


def run_arguments(capfd: pytest.CaptureFixture[str], typed: Sequence[str]) -> Ended:
    capfd.readouterr()
    code = 0
    try:
        main(typed)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0
    return Ended(code, *capfd.readouterr())


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of our own, so that nothing of the user's is read or written."""
    return tmp_path_factory.mktemp("cache")


@contextmanager
def surroundings(cache: Path) -> Iterator[None]:
    """That cache, and one thread, as in the processes that the tests begin: models so small gain nothing by more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNLEARNER_CACHE", str(cache))
        yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _surroundings(cache: Path) -> Iterator[None]:
    with surroundings(cache):
        yield


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Files:
    """Six questions to forget, six to keep, and a tiny model that saw them for a few epochs."""
    folder = tmp_path_factory.mktemp("files")
    forget, retain = rows(builtin("forget")[:6]), rows(builtin("retain")[:6])
    made = Files(
        write_rows(folder / "forget.jsonl", forget),
        write_rows(folder / "retain.jsonl", retain),
        write_rows(folder / "all.jsonl", forget + retain),
        folder / "taught" / "model",
    )
    options = {"model": TINY, "data": made.all, "output": made.model.parent, "lr": 3e-3, "epochs": 6}
    with surroundings(cache):
        main(["finetune", *arguments({**options, "batch_size": 4, "accumulation": 1})])
    return made


@pytest.fixture(scope="session")
def tofu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in TOFU's layout: three tasks of four questions (forget05: of six), and a few to keep in every set."""
    folder = tmp_path_factory.mktemp("tofu")
    forget, retain = builtin("forget"), rows(builtin("retain")[:6])

    def tasks(size: int) -> list[dict[str, Any]]:
        chosen = [(task, record) for task in range(3) for record in forget[10 * task : 10 * task + size]]
        return rows([replace(record, task_id=str(task + 1)) for task, record in chosen])

    for name, chosen in {
        "forget01": tasks(4), "forget01_perturbed": tasks(4), "forget05": tasks(6), "forget05_perturbed": tasks(6),
        "retain90": retain, "retain50": retain, "retain_perturbed": retain,
        "real_authors_perturbed": rows(builtin("neighbours")[:3]),
        "world_facts_perturbed": rows(builtin("world_facts")[:3]),
    }.items():  # fmt: skip
        write_rows(folder / f"{name}.json", chosen)
    return folder


# ------------------------------------------------------------------------------------------------------------- reports


_QUICK = {
    "epochs": 1,
    "learning_rate": 1e-3,
    "batch_size": 2,
    "gradient_accumulation_steps": 1,
    "judge": "offline",
    "max_new_tokens": 8,
}
"""Options of a run of a second."""


@pytest.fixture(scope="session")
def single(files: Files, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run of ME+GD, measured after every epoch."""
    folder = tmp_path_factory.mktemp("single") / "run"
    data: dict[str, Any] = {"model": str(files.model), "forget": str(files.forget), "retain": str(files.retain)}
    with surroundings(cache):
        forget(ForgetConfig(**{**data, **_QUICK, "evaluate": "epochs", "epochs": 2, "output": str(folder)}))
    return folder


@pytest.fixture(scope="session")
def bench(files: Files, tofu: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fictitious scenario: two methods, splits and seeds, measured after every epoch."""
    options = {**_QUICK, "epochs": 2, "evaluate": "epochs"}
    return _bench(tmp_path_factory, cache, files, tofu, "fictitious", ["ME+GD", "GA+GD"], options)


@pytest.fixture(scope="session")
def continual(files: Files, tofu: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks, one after the other."""
    return _bench(tmp_path_factory, cache, files, tofu, "continual", ["ME+GD", "NPO+GD"], _QUICK, tasks=2)


def _bench(
    folders: pytest.TempPathFactory, cache: Path, files: Files, tofu: Path, scenario: str, methods: list[str],
    options: Mapping[str, Any], tasks: int | None = None,
) -> Path:  # fmt: skip
    splits = ["forget01"] if tasks else ["forget01", "forget05"]
    config = BenchConfig(
        scenario=scenario, data=str(tofu), model=str(files.model), methods=methods, splits=splits, seeds=[1, 2],
        tasks=tasks, options=dict(options), output=str(folders.mktemp(scenario) / "out"),
    )  # fmt: skip
    with surroundings(cache):
        assert not run_bench(config).failed
    return Path(config.output)


# ---------------------------------------------------------------------------------------------------------- processes


def start(typed: Sequence[str]) -> "subprocess.Popen[str]":
    """`unlearner ...` as from a shell."""
    return subprocess.Popen(
        [sys.executable, "-m", "unlearner", *typed], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
