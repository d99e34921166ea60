"""The example notebook runs from top to bottom, writes nothing, and shows forgetting."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from global_state import STATE

NOTEBOOK = Path(__file__).parents[2] / "examples" / "notebook.ipynb"


@pytest.mark.slow
def test_the_notebook_runs_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("UNLEARNER_CACHE", str(cache))
    (tmp_path / "here").mkdir()
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    first, last = (
        f"{STATE}\nfirst = state()",
        "print({k: [v, state()[k]] for k, v in first.items() if v != state()[k]})",
    )
    notebook.cells = [nbformat.v4.new_code_cell(first), *notebook.cells, nbformat.v4.new_code_cell(last)]
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path / "here")}}).execute()
    assert not cache.exists() and not list((tmp_path / "here").iterdir())
    changed = eval(notebook.cells[-1].outputs[0]["text"])
    assert not changed.keys() - {"environment"}, "what is the whole process's is as it was"
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pages = [output["data"].get("text/html", "") for output in shown if "data" in output]
    tables = [page for page in pages if "<table" in page]
    assert len(tables) == 3 and all("forget efficacy" in table for table in tables[:2])
    texts = [output["data"]["text/plain"] for output in shown if "data" in output]
    ours, mine = (
        eval(next(text for text in texts if word in text)) for word in ("'forget_efficacy'", "'worst_of_four'")
    )
    before, after = ours["forget_efficacy"]
    assert after > before + 0.1
    for before, after in mine.values():  # by the loss and the metric that a cell defines
        assert after < before
