"""Progress where there is no terminal: a line now and then, with what is done and how long it will still take."""

import ast
import io
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from unlearner import console
from unlearner.commands.tables import out
from unlearner.console import progress_bar
from unlearner.distributed import watch
from unlearner.terminal import Plain


def test_a_log_file_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
    file = io.StringIO()
    with progress_bar("ME+GD", 100, 20, console=Console(file=file)) as update:
        for seconds, step in ((10, 25), (40, 40), (50, 45), (80, 60)):
            clock[0] = float(seconds)
            update(step, **({"forget": 0.12345, "retain": 1.5} if step == 25 else {}))
    # 20 of 80 steps in 40 s: 60 steps take 120 s more; 40 in 80 s: 40 steps take 80 s more.
    assert file.getvalue().splitlines() == [
        "ME+GD: 40 of 100, forget 0.1235 retain 1.5, 0:02:00 left",
        "ME+GD: 60 of 100, forget 0.1235 retain 1.5, 0:01:20 left",
    ]


def test_short_work_says_nothing() -> None:
    file = io.StringIO()
    with progress_bar("ME+GD", 3, console=Console(file=file)) as update:
        for step in range(1, 4):
            update(step)
    assert file.getvalue() == ""


def test_one_process_of_several_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    file = io.StringIO()
    with progress_bar("ME+GD", 3, console=Console(file=file, force_terminal=True)) as update:
        update(3)
    assert file.getvalue() == ""


def test_a_terminal_has_a_bar() -> None:
    file = io.StringIO()
    with progress_bar("ME+GD", 3, console=Console(file=file, force_terminal=True, width=100)) as update:
        update(3, forget=0.5)
    assert "3/3" in file.getvalue() and "forget 0.5" in file.getvalue()


def test_no_word_between_colons_becomes_an_emoji(capsys: pytest.CaptureFixture[str]) -> None:
    console.note("pistol:pistol:sample_data_1 has no edge 'A_:key:'")
    watch._say("rank 1 of :bomb: ended", "red")
    out().print("pistol:pistol:sample_data_1", markup=False)
    table = Table("source :gun:")
    table.add_row(":pistol:")
    out().print(table)
    shown = capsys.readouterr()
    assert shown.err.splitlines() == ["pistol:pistol:sample_data_1 has no edge 'A_:key:'", "rank 1 of :bomb: ended"]
    assert all(text in shown.out for text in ("pistol:pistol:sample_data_1", "source :gun:", ":pistol:"))
    file = io.StringIO()
    with progress_bar(":gun: [bold]", 3, console=Plain(file=file, force_terminal=True, width=100)) as update:
        update(3)
    assert ":gun: [bold]" in file.getvalue()


def test_every_console_is_made_in_one_place() -> None:
    root = Path(console.__file__).parent
    made = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Console"))
        or (isinstance(node, ast.ClassDef) and any(ast.unparse(base).endswith("Console") for base in node.bases))
        or (
            isinstance(node, ast.ImportFrom)
            and node.module == "rich"
            and node.names[0].name in ("print", "get_console")
        )
    }
    assert made == {"terminal.py"}
