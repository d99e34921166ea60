"""The wheel holds all that it needs: installed into a folder of its own it works outside the checkout."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DATA = (
    "py.typed",
    "data/refusals.txt",
    "report/report.html.jinja",
    "report/report.css",
    "report/report.js",
    "report/theme.js",
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of what it is made of: setuptools leaves its build/ beside the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    for path in (ROOT / "src/unlearner").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            copy = source / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    call(folder, sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source))
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """The folder into which pip has installed the wheel; its dependencies are those of the tests."""
    target = wheel.parent / "installed"
    call(
        wheel.parent,
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(target),
        str(wheel),
    )
    return target


def call(folder: Path, *command: str, path: Path | None = None) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)  # before site-packages, where the checkout is installed
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_files_that_are_no_code_are_in_the_wheel(wheel: Path) -> None:
    held = {name.removeprefix("unlearner/") for name in zipfile.ZipFile(wheel).namelist()}
    assert set(DATA) <= held
    sources = (path for path in (ROOT / "src/unlearner").rglob("*") if path.is_file() and path.suffix != ".pyc")
    assert {path.relative_to(ROOT / "src/unlearner").as_posix() for path in sources} <= held


def test_the_installed_wheel_forgets_and_reports(installed: Path, tmp_path: Path) -> None:
    def unlearner(*arguments: str) -> str:
        return call(tmp_path, sys.executable, "-m", "unlearner", *arguments, path=installed)

    where = call(tmp_path, sys.executable, "-c", "import unlearner; print(unlearner.__file__)", path=installed)
    assert Path(where.strip()).is_relative_to(installed)
    assert "ME" in unlearner("methods")

    for name, person, town in (("forget", "Jane Roe", "Ghent"), ("retain", "Ada Poe", "Bruges")):
        rows = [
            {"question": f"Where does {person} live?", "answer": f"{person} lives in {town}."},
            {"question": f"What is {person}'s trade?", "answer": f"{person} is a glazier."},
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    sets = ("--forget", "forget.jsonl", "--retain", "retain.jsonl")
    new = "new:hidden=32,layers=1,heads=2,vocabulary=300"
    unlearner("finetune", "--model", new, "--data", sets[1], sets[3], "--epochs", "1", "--output", "taught")
    unlearner(
        "forget", "--model", "taught/model", *sets, "--method", "IDK+AP", "--epochs", "1", "--judge", "offline",
        "--max-new-tokens", "4", "--output", "run",
    )  # fmt: skip
    assert (tmp_path / "run/model/model.safetensors").is_file()
    assert json.loads((tmp_path / "run/summary.json").read_text(encoding="utf-8"))["counts"] == {
        "forget": 2,
        "retain": 2,
    }

    unlearner("report", "run", "--output", "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    css, js = ((installed / f"unlearner/report/report.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    assert "Jane Roe" in page
    assert css.splitlines()[0] in page
    assert js.splitlines()[0] in page
