"""`unlearner compare --web` in a real browser: asked, kept apart from the rest of the world, readable on a phone."""

import http.client
import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

import unlearner
from conftest import TINY, start
from unlearner.files import read_jsonl

playwright = pytest.importorskip("playwright.sync_api", reason="playwright, of the extra dev, is not installed")
pytest.importorskip("uvicorn", reason="the extra web is not installed: pip install 'unlearner[web]'")
pytest.importorskip("starlette", reason="the extra web is not installed: pip install 'unlearner[web]'")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
browsed = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")

HOSTILE = '<img src="http://example.org/x.png" onerror="document.title=1"><script>document.title=2</script>'
WAIT = 60_000


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of the page of two models, one of which answers with markup, and where the questions are kept."""
    folder = tmp_path_factory.mktemp("<b>web")
    rows = [{"question": f"Who is {name}?", "answer": HOSTILE} for name in ("Ann", "Bob", "Cleo", "Dora")] * 4
    taught = unlearner.finetune(
        TINY, data=rows, epochs=40, learning_rate=5e-3, batch_size=4, gradient_accumulation_steps=1, warmup_epochs=1
    )
    for name in ("before", "after"):
        if name == "after":  # a model that knows nothing of it
            for layer in taught.model.model.layers:
                layer.mlp.down_proj.weight.data.zero_()
                layer.self_attn.o_proj.weight.data.zero_()
        taught.model.save_pretrained(folder / name)
        taught.tokenizer.save_pretrained(folder / name)
    kept = folder / "asked.jsonl"
    typed = ["compare", str(folder / "before"), str(folder / "after"), "--web", "--port", "0", "--samples", "1"]
    process = start([*typed, "--max-new-tokens", "64", "--history", str(kept)])
    assert process.stdout is not None
    try:
        address = process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:"), process.communicate()
        yield address, kept
    finally:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert "Traceback" not in said


@pytest.fixture(params=[1280, 375])
def tab(request: pytest.FixtureRequest, served: tuple[str, Path]) -> Iterator[Any]:
    """The page at a desk and on a phone; it must have raised nothing and asked for nothing elsewhere."""
    if CHROMIUM is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    asked: list[str] = []
    said: list[str] = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        context = browser.new_context(viewport={"width": request.param, "height": 800})
        context.on("request", lambda sent: asked.append(sent.url))
        context.on("console", lambda message: said.append(message.text))
        context.on("weberror", lambda error: said.append(str(error.error)))
        tab = context.new_page()
        tab.goto(served[0])
        yield tab
        browser.close()
    assert {url for url in asked if not url.startswith("data:")} == {
        served[0], *(f"{served[0]}{name}" for name in ("page.css", "page.js", "ask"))
    }  # fmt: skip
    assert [each for each in said if "status of 400" not in each] == []  # the test's own empty question


@browsed
def test_asked_by_the_keyboard_and_shown_as_text(tab: Any, served: tuple[str, Path]) -> None:
    assert tab.evaluate("document.activeElement.id") == "question"
    tab.keyboard.type("Who is Ann?")
    tab.keyboard.press("Tab")
    tab.keyboard.type(HOSTILE)
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#found article", timeout=WAIT)
    assert tab.inner_text("#status") == "Answered." and tab.title() == "Before and after"
    before, after = tab.locator(".sides section").all()
    assert HOSTILE in " ".join(before.locator(".said .word").all_inner_texts())
    assert tab.locator("#found img, #found script").count() == 0
    assert tab.inner_text(".given h3 .chances").endswith("after")
    assert tab.locator(".given .less3").count() > 0  # what it was taught, the other one does not know
    assert before.locator("li").count() == after.locator("li").count() == 1
    assert "<b>web" in tab.inner_text(".about")
    assert tab.evaluate("document.documentElement.scrollWidth") <= tab.viewport_size["width"]

    assert tab.locator(".moved:visible").count() == 0
    tab.check("#numbers")
    assert tab.locator(".moved:visible").first.inner_text()[0] in "+−"
    tab.fill("#question", "   ")
    tab.focus("#question")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#status.error")
    assert tab.inner_text("#status") == "the question is empty: write one."
    assert tab.locator("#found article").count() == 1

    # The newest stands first; a second tab has its own answers, and both wait their turn.
    second = tab.context.new_page()
    second.goto(served[0])
    for page, name in ((tab, "Bob"), (second, "Cleo")):
        page.fill("#question", f"Who is {name}? {HOSTILE}")
        page.click("#ask")
    for page, name in ((tab, "Bob"), (second, "Cleo")):
        page.wait_for_selector(f"#found article:first-child h2:has-text('{name}')", timeout=WAIT)
    assert tab.locator("#found article").count() == 2 and second.locator("#found article").count() == 1
    assert tab.title() == second.title() == "Before and after"
    assert {row["question"].split("?")[0] for row in read_jsonl(served[1])} >= {
        "Who is Ann",
        "Who is Bob",
        "Who is Cleo",
    }


def test_nobody_else_gets_in(served: tuple[str, Path]) -> None:
    address = urlsplit(served[0])
    question = json.dumps({"question": "Who is Ann?", "samples": 0})

    def status(method: str, path: str, body: str | None = None, **headers: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        reply = connection.getresponse()
        return reply.status, reply.read().decode()

    kind = "application/json"
    assert status("GET", address.path)[0] == 200
    assert status("GET", "/")[0] == 404 and status("GET", "/guess/")[0] == 404
    assert status("POST", "/ask", question, Content_Type=kind)[0] == 404
    assert status("GET", address.path, Host="rebound.example.org")[0] == 400
    asking = f"{address.path}ask"
    assert status("POST", asking, question, Content_Type="text/plain") == (
        400,
        '{"error":"a question is sent as JSON."}',
    )
    assert status("OPTIONS", asking, Origin="http://example.org", Access_Control_Request_Method="POST")[0] == 405
    for body, part in (
        ("[]", "question, answer and samples"), ("{", "as JSON"), ('{"question": 3}', "is empty"),
        ('{"question": "x", "samples": 1e9}', "from 0 to 64"),
        (json.dumps({"question": "x" * 5000}), "5000 characters"),
        (json.dumps({"question": "x" * 200_000}), "at most 4000"),
    ):  # fmt: skip
        code, said = status("POST", asking, body, Content_Type=kind)
        assert code == 400 and part in said
    code, said = status("POST", asking, question, Content_Type=kind)
    assert code == 200 and json.loads(said)["before"]["samples"] == []
