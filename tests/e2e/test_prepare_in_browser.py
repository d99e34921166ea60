"""The page of prepared rows in a real browser: safe, quiet, searched, ticked, readable on a phone."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from unlearner.prepare.page import rows_page

playwright = pytest.importorskip("playwright.sync_api", reason="playwright, of the extra dev, is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")

HOSTILE = '<img src="http://example.org/x.png" onerror="document.title=1"><script>document.title=2</script>'


@pytest.fixture
def page(tmp_path: Path) -> Path:
    row = {"question": f"Who is Ann? {HOSTILE}", "answer": HOSTILE, "fact": HOSTILE, "question_from": HOSTILE}
    row |= {"known": True, "paraphrased_answer": HOSTILE, "perturbed_answer": [HOSTILE], "answer_from": "model"}
    text = {"id": "r3", "text": f"Ann paints. {'word' * 60}", "text_from": "a.txt"}
    rows = {"forget": [row | {"id": "r1"}, row | {"id": "r2", "question": "Where is Ann?"}], "passages": [text]}
    options = {"subject": HOSTILE, "alias": [HOSTILE], "model": HOSTILE, "documents": [HOSTILE], "llm": HOSTILE}
    made = {"options": options, "knows": {"evidence": HOSTILE}, "left_out": {HOSTILE: 1}, "warnings": [HOSTILE]}
    path = tmp_path / "rows.html"
    path.write_text(rows_page(rows, {"r2"}, made | {"keep": []}))
    return path


@pytest.fixture(params=[1280, 375])
def tab(request: pytest.FixtureRequest, page: Path) -> Iterator[Any]:
    """The page at a desk and on a phone; it must have said nothing, raised nothing and asked for nothing else."""
    said: list[str] = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page(viewport={"width": request.param, "height": 800})
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("request", lambda asked: said.append(asked.url))
        tab.goto(page.as_uri(), wait_until="load")
        yield tab
        browser.close()
    assert [each for each in said if not each.startswith("data:")] == [page.as_uri()]


def test_rows_are_searched_and_ticked(tab: Any) -> None:
    assert tab.title() == f"Rows about {HOSTILE}" and tab.locator("main img").count() == 0
    assert tab.locator(".dropped").count() == 1 and tab.input_value("#options") == "--drop r2"
    tab.check('input[value="r1"]')
    assert tab.input_value("#options") == "--drop r1 r2"
    assert tab.inner_text("#status") == "3 of 3 rows shown, 2 ticked to leave out"
    tab.fill("#search", "where ANN")
    assert tab.locator(".rows tbody tr:visible").count() == 1
    assert tab.evaluate("document.documentElement.scrollWidth") <= tab.viewport_size["width"]
    tab.uncheck('input[value="r2"]')
    assert tab.input_value("#options") == "--drop r1"
