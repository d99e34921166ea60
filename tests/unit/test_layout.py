"""The shape of the source: who imports whom, and how long files and functions are (docs/architecture.md, "Floors")."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import unlearner

ROOT = Path(unlearner.__file__).parent
FLOORS = [
    {"errors", "terminal", "version"},
    {"files", "pages", "random_state"},
    {"distributed"},
    {"console"},
    {"plugins"},
    {"scenarios"},
    {"option_names", "values"},
    {"options", "stopping"},
    {"config"},
    {"settings"},
    {"data", "models"},
    {"results", "scoring"},
    {"evaluation", "methods"},
    {"training"},
    {"workflows"},
    {"audit"},
    {"prepare"},
    {"search"},
    {"comparing", "report"},
    {"bench"},
    {"keywords"},
    {"api"},
    {"commands"},
    {"__main__"},
]
"""Packages and modules from the lowest floor to the highest: each imports only from floors below its own, or itself.
Those on one floor do not know each other. `unlearner` itself, which gives the public names, is above them all."""
LONGEST = 400
LOOP_LONGEST = 300
FUNCTION_LONGEST = 60


@cache
def modules() -> dict[str, Path]:
    """Every module of the package with its file."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = [ROOT.name, *path.relative_to(ROOT).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(name: str) -> Iterator[str]:
    """The modules of the package that a module imports, at its top or inside functions."""
    known = modules()
    package = name if known[name].name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(known[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            wanted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            wanted = [f"{base}.{a.name}" if f"{base}.{a.name}" in known else base for a in node.names]
        else:
            continue
        yield from (each for each in wanted if each in known and each != name)


@cache
def graph() -> dict[str, frozenset[str]]:
    return {name: frozenset(imported(name)) for name in modules()}


def reachable(start: str) -> set[str]:
    seen: set[str] = set()
    left = [start]
    while left:
        new = graph()[left.pop()] - seen
        seen |= new
        left += new
    return seen


def test_no_module_imports_itself_by_way_of_others() -> None:
    assert {name for name in modules() if name in reachable(name)} == set()


def test_every_package_stands_on_a_floor() -> None:
    there = {name.split(".")[1] for name in modules() if "." in name}
    assert there <= set().union(*FLOORS)


def test_imports_go_down() -> None:
    floor = {package: number for number, packages in enumerate(FLOORS) for package in packages}
    up = set()
    for name, targets in graph().items():
        for target in targets:
            if "." not in name or "." not in target:
                continue
            here, there = name.split(".")[1], target.split(".")[1]
            if here != there and floor[there] >= floor[here]:
                up.add((here, there))
    assert up == set()


NAMES = {
    "run.json", "config.yaml", "log.jsonl", "checkpoints", "finished.json", "records.jsonl", "summary.json",
    "ability.json", "retention.json", "failed.json", "bench.json", "tuning.json", "report.html", "passes.jsonl",
    "passes*.jsonl", ".known", "*/summary.json", "audit.jsonl", "audit.json", "parts", "prepare.json",
    "seconds.json",
}  # fmt: skip


def test_names_of_files_stand_where_results_are_laid_out() -> None:
    found = {
        (name, node.value)
        for name, path in modules().items()
        if name not in ("unlearner.results.layout", "unlearner.results.prepared")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in NAMES
    }
    assert found == set()


@pytest.mark.parametrize("name", sorted(modules()))
def test_no_file_is_too_long(name: str) -> None:
    lines = len(modules()[name].read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST, f"{modules()[name]} has {lines} lines: cut it where it does two jobs"
    if name == "unlearner.training.loop":
        assert lines < LOOP_LONGEST


def test_no_function_is_too_long() -> None:
    long = {
        (name, node.name)
        for name, path in modules().items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno >= FUNCTION_LONGEST
    }
    assert long == set(), "split them into parts whose names say what they do"
