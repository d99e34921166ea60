"""The report's page in a real browser: drawn, sorted, filtered, safe, quiet, and readable on a phone and on paper."""

import json
import random
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from unlearner.evaluation.metrics import METRICS
from unlearner.files import read_json, read_jsonl, write_json
from unlearner.report import write_report

playwright = pytest.importorskip("playwright.sync_api", reason="playwright, of the extra dev, is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")

PHONE = {"width": 375, "height": 800}
DESK = {"width": 1280, "height": 900}
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def show(browser: Any) -> Iterator[Open]:
    """Opens a page. At the end of the test it must have said nothing, raised nothing and asked for nothing else."""
    contexts, said, asked = [], [], []

    def show(page: Path, viewport: dict[str, int] = DESK, **options: Any) -> Any:
        contexts.append(context := browser.new_context(viewport=viewport, **options))
        tab = context.new_page()
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(page.as_uri(), wait_until="load")
        return tab

    yield show
    for context in contexts:
        context.close()
    assert said == []
    assert {unquote(urlsplit(url).path).rpartition(".")[2] for url in asked if not url.startswith("data:")} <= {"html"}
    assert len(asked) == len(contexts)


@pytest.fixture(scope="module")
def pages(single: Path, bench: Path, continual: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Reports of one run, of a bench and of a continual one; benches write theirs by themselves."""
    page = write_report([single], tmp_path_factory.mktemp("pages") / "single.html")
    return {"single": page, "bench": bench / "report.html", "continual": continual / "report.html"}


KINDS = ("single", "bench", "continual")


# ------------------------------------------------------------------------------------------------------------- figures


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
def test_charts_are_drawn_inside_their_frames_and_no_label_covers_another(
    kind: str, viewport: dict[str, int], pages: dict[str, Path], show: Open
) -> None:
    tab = show(pages[kind], viewport)
    figures = tab.evaluate("""() => [...document.querySelectorAll("figure")].map((figure) => ({
        title: figure.querySelector("h3").textContent,
        charts: [...figure.querySelectorAll(".tiles .chart")].filter((c) => c.checkVisibility()).map((chart) => {
            const {left, top, right, bottom} = chart.getBoundingClientRect();
            const marks = chart.querySelectorAll("path, use, rect").length;
            const texts = [...chart.querySelectorAll("text")].map((each) => {
                const r = each.getBoundingClientRect();
                return [each.textContent, r.left, r.top, r.right, r.bottom];
            });
            return {box: [left, top, right, bottom], marks, texts, name: chart.getAttribute("aria-label")};
        }),
    }))""")
    assert "Forgetting against utility" in figures[0]["title"]
    for figure in figures:
        assert figure["charts"], figure["title"]
        for chart in figure["charts"]:
            left, top, right, bottom = chart["box"]
            assert right - left > 150 and bottom - top > 90 and chart["marks"] > 3
            assert len(chart["name"]) > 20
            for number, (text, *box) in enumerate(chart["texts"]):
                assert box[0] >= left - 2 and box[1] >= top - 2 and box[2] <= right + 8 and box[3] <= bottom + 2, text
                for other, *theirs in chart["texts"][:number]:
                    across = min(box[2], theirs[2]) - max(box[0], theirs[0])
                    down = min(box[3], theirs[3]) - max(box[1], theirs[1])
                    assert across < 2 or down < 4, f"{text!r} covers {other!r} in {chart['name'][:80]}"


def test_the_page_and_its_charts_follow_the_theme(pages: dict[str, Path], show: Open) -> None:
    def seen(tab: Any) -> tuple[int, int, int]:
        """Lightness of the paper, of the text and of a chart's labels, from 0 to 255."""
        colours = tab.evaluate("""() => [
            getComputedStyle(document.body).backgroundColor,
            getComputedStyle(document.querySelector("h1")).color,
            getComputedStyle(document.querySelector("figure .chart text")).fill,
        ]""")
        return tuple(max(map(int, re.findall(r"\d+", colour)[:3])) for colour in colours)  # type: ignore[return-value]

    light, dark = (show(pages["single"], color_scheme=scheme) for scheme in ("light", "dark"))
    for tab, is_dark in ((light, False), (dark, True)):
        paper, text, label = seen(tab)
        assert (paper < 40, text > 200, label > 130) == (is_dark, is_dark, is_dark)
    button = light.locator("#theme")
    assert button.inner_text() == "Dark theme"
    button.press("Enter")
    assert button.inner_text() == "Light theme"
    assert seen(light) == seen(dark)


# ----------------------------------------------------------------------------------------------------------- questions


def listed(tab: Any) -> list[dict[str, Any]]:
    """The questions that the list shows, with all their text, their answers, and values by answer and metric."""
    return tab.evaluate("""() => [...document.querySelectorAll("#list tbody")].map((body) => ({
        question: body.querySelector(".question").textContent,
        set: body.querySelector(".set")?.textContent,
        answers: [...body.rows].map((row) => row.querySelector(".text").textContent),
        text: body.textContent,
        values: [...body.rows].map((row) => [...row.querySelectorAll(".number")].map((cell) => cell.textContent)),
    }))""")


def test_every_question_is_listed_with_its_answers(single: Path, pages: dict[str, Path], show: Open) -> None:
    tab = show(pages["single"])
    before, after = read_jsonl(single / "before" / "records.jsonl"), read_jsonl(single / "records.jsonl")
    shown = listed(tab)
    assert [each["question"] for each in shown] == [row["question"] for row in after]
    for each, *rows in zip(shown, before, after, strict=True):
        assert each["answers"] == [row["generation"] or "(nothing)" for row in rows]
        for values, row in zip(each["values"], rows, strict=True):
            assert values == ["–" if row[m] is None else f"{round(1000 * row[m]) / 1000:.3f}" for m in METRICS]


def test_the_list_is_sorted_by_its_headings_also_from_the_keyboard(
    single: Path, pages: dict[str, Path], show: Open
) -> None:
    tab = show(pages["single"])
    place = list(METRICS).index("probability")
    wanted = sorted(round(1000 * row["probability"]) / 1000 for row in read_jsonl(single / "records.jsonl"))
    heading = tab.locator("#list thead th").filter(has=tab.get_by_role("button", name="Prob."))
    for key, values, order in (("Enter", wanted, "ascending"), ("Space", wanted[::-1], "descending")):
        heading.locator("button").press(key)
        assert [float(each["values"][1][place]) for each in listed(tab)] == values
        assert heading.get_attribute("aria-sort") == order
    tab.select_option("#sort", "question")
    tab.select_option("#direction", "up")
    questions = [each["question"] for each in listed(tab)]
    assert questions == sorted(questions, key=str.lower)
    assert tab.locator("#list [aria-sort]").count() == 1


def test_the_list_is_filtered_by_words_set_method_and_outcome(bench: Path, pages: dict[str, Path], show: Open) -> None:
    tab = show(pages["bench"])
    whole = tab.locator("#status").inner_text()
    everything = listed(tab)
    assert re.match(r"Questions: .*\d+", whole)

    word = everything[0]["question"].split()[-1].rstrip("?")
    tab.locator("#search").press_sequentially(f"  {word.upper()} ")
    playwright.expect(tab.locator("#status")).to_contain_text("found, of")
    found = listed(tab)
    assert found and all(word.lower() in each["text"].lower() for each in found)
    assert tab.locator("#list mark").first.inner_text().lower() == word.lower()
    tab.locator("#search").fill("no such words anywhere")
    playwright.expect(tab.locator("#status")).to_contain_text(": 0 found")
    assert listed(tab) == []
    tab.locator("#search").fill("")
    playwright.expect(tab.locator("#status")).to_have_text(whole)

    options = tab.locator("#set option").all_inner_texts()
    names = ("forget set", "retain set", "real authors", "world facts")
    assert options == ["all", *(f"{split}, {name}" for split in ("forget01", "forget05") for name in names)]
    tab.select_option("#set", label="forget05, forget set")
    assert {each["set"] for each in listed(tab)} == {"forget05, forget set"}
    cell = bench / "cells" / "GA+GD" / "forget05" / "seed-1"
    before, after = (
        [row["entailment"] == 1 for row in read_jsonl(place / "records.jsonl") if row["set"] == "forget"]
        for place in (cell / "before", cell)
    )
    assert len(listed(tab)) == len(before) == 6
    tab.select_option("#run", label="GA+GD")
    assert {len(each["answers"]) for each in listed(tab)} == {2}
    for value, was, now in (("10", True, False), ("11", True, True), ("01", False, True), ("00", False, False)):
        tab.select_option("#outcome", value)
        count = sum((b, a) == (was, now) for b, a in zip(before, after, strict=True))
        assert len(listed(tab)) == count
        playwright.expect(tab.locator("#status")).to_contain_text(f": {count} found")


# -------------------------------------------------------------------------------------------------------- hostile texts


@pytest.mark.parametrize("guarded", [True, False], ids=["policy", "escape alone"])
def test_what_a_model_writes_stays_text(single: Path, tmp_path: Path, show: Open, guarded: bool) -> None:
    """Also where the content security policy, the second guard, is switched off."""
    evil = [
        "<script>window.broken = 1</script>", '<img src="x" onerror="window.broken = 2">',
        '</script><script>window.broken = 3</script><!--<script>', '"><svg onload="window.broken = 4">{{ 7 * 7 }}',
        "<style>* { display: none }</style><iframe src='https://example.org'></iframe>", "\u202e&lt;b&gt; \x00\x1b[31m",
    ]  # fmt: skip
    folder = shutil.copytree(single, tmp_path / "<img src=x onerror=broken=5>")
    about = read_json(folder / "run.json")
    about["config"] |= {"method": "<B>ME</B>+GD", "model": "a/<script>window.broken=6<"}
    about["versions"]["torch"] = evil[0]
    write_json(folder / "run.json", about)
    for place in (folder / "before", folder):
        rows = read_jsonl(place / "records.jsonl")
        for number, row in enumerate(rows):
            row["generation"] = evil[number % len(evil)]
            row["question"] += evil[-1 - number % len(evil)]
        (place / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tab = show(write_report([folder], tmp_path / "page.html"), bypass_csp=not guarded)
    tab.locator("#search").fill("onerror")
    playwright.expect(tab.locator("#status")).to_contain_text("found")
    assert tab.locator("#list .text", has_text=evil[1]).count() >= 2
    assert tab.locator(".example dd", has_text=evil[0]).count() >= 1
    assert tab.evaluate("window.broken") is None
    assert tab.locator("img, iframe, main style, b").count() == tab.locator(".prose > ul > li > b").count()
    assert tab.locator("script").count() == 1  # the page's own; its data's element removes itself
    assert tab.locator("h1").inner_text() == "Unlearning by <B>ME</B>+GD"


# ------------------------------------------------------------------------------------------------------ phone and paper


def wider_than_the_window(tab: Any) -> list[str]:
    """Everything that reaches beyond the right edge and does not lie in a box that scrolls."""
    return tab.evaluate("""() => {
        const scrolls = (each) => each && (getComputedStyle(each).overflowX === "auto" || scrolls(each.parentElement));
        return [...document.body.querySelectorAll("*")]
            .filter((each) => each.checkVisibility() && !each.closest(".unseen, svg") && !scrolls(each))
            .filter((each) => each.getBoundingClientRect().right > innerWidth + 0.5)
            .map((each) => `${each.tagName}.${each.className} ${each.textContent.trim().slice(0, 40)}`);
    }""")


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_wider_than_a_phone(kind: str, pages: dict[str, Path], show: Open) -> None:
    tab = show(pages[kind], PHONE)
    tab.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true })")
    assert wider_than_the_window(tab) == []
    assert tab.evaluate("document.documentElement.scrollWidth") == PHONE["width"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_that_is_cut_off_says_that_it_can_be_scrolled(kind: str, pages: dict[str, Path], show: Open) -> None:
    for viewport in (PHONE, {"width": 1400, "height": 900}):
        tab = show(pages[kind], viewport)
        cut = tab.evaluate("""() => [...document.querySelectorAll("table")].filter((table) => table.checkVisibility())
            .filter((table) => table.offsetWidth > (table.closest(".scroll") ?? document.body).clientWidth + 1)
            .map((table) => table.closest(".scroll").previousElementSibling.matches(".hint:not([hidden])"))""")
        assert all(cut)
        assert (tab.locator(".hint:visible").count() > 0) == bool(cut)
        assert not (cut and viewport["width"] == 1400)
        # The first table has all its columns on a phone, one below the other.
        right = tab.evaluate("Math.max(...[...document.querySelectorAll('.glance td')].map((each) =>"
                             " each.getBoundingClientRect().right))")  # fmt: skip
        assert right <= viewport["width"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_wide_window_is_used(kind: str, pages: dict[str, Path], show: Open) -> None:
    tab = show(pages[kind], {"width": 1400, "height": 900})
    for section in ("#verdict", "#examples", "#figures", "#metrics", "#questions"):
        rights = tab.evaluate(
            "(section) => [...document.querySelectorAll(`${section} :is(p, li, h3, dd, td, svg)`)]"
            ".filter((each) => each.checkVisibility()).map((each) => each.getBoundingClientRect().right)", section
        )  # fmt: skip
        assert max(rights) > 0.85 * 1400, section


def test_it_can_be_printed(pages: dict[str, Path], show: Open) -> None:
    tab = show(pages["single"], color_scheme="dark")
    tab.emulate_media(media="print")
    for hidden in ("#controls", "header nav", "#theme"):
        assert not tab.locator(hidden).is_visible()
    for visible in ("#verdict", "figure", "#list", "#provenance"):
        assert tab.locator(visible).first.is_visible()
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    for kind in KINDS:  # as wide as A4 between its margins
        tab = show(pages[kind], {"width": 673, "height": 980})
        tab.emulate_media(media="print")
        assert wider_than_the_window(tab) == []
    assert tab.pdf(format="A4").startswith(b"%PDF")


def test_everything_is_reached_by_the_keyboard_in_the_order_of_the_page(pages: dict[str, Path], show: Open) -> None:
    tab = show(pages["single"])
    wanted = tab.evaluate("""() => [...document.querySelectorAll("a, button, input, select, summary, [tabindex]")]
        .filter((each) => each.checkVisibility() && !each.disabled).map((each) => each.outerHTML.slice(0, 80))""")
    reached = []
    for _ in wanted:
        tab.keyboard.press("Tab")
        reached.append(tab.evaluate("document.activeElement.outerHTML.slice(0, 80)"))
    assert reached == wanted
    assert "Skip to the verdict" in wanted[0]


# ---------------------------------------------------------------------------------------------------------------- size


@pytest.mark.slow
def test_four_thousand_questions_by_six_methods_open_at_once(single: Path, tmp_path: Path, show: Open) -> None:
    draw = random.Random(0)
    words = sorted({word for row in read_jsonl(single / "records.jsonl") for word in row["question"].split()})

    def text(length: int) -> str:
        return " ".join(draw.choices(words, k=length))

    template = {key: value for key, value in read_jsonl(single / "records.jsonl")[0].items() if key != "id"}
    questions = [{"question": f"{number}: {text(12)}", "answer": text(30)} for number in range(4000)]

    def records() -> str:
        rows = (
            {
                **template, **question, "index": number, "set": "forget" if number < 400 else "retain",
                "generation": text(60), **{metric: draw.random() for metric in METRICS},
            }
            for number, question in enumerate(questions)
        )  # fmt: skip
        return "".join(json.dumps(row) + "\n" for row in rows)

    before, runs = records(), []
    for method in ("GA+GD", "NPO+GD", "ME+GD", "DPO+GD", "IDK+GD", "IDK+AP"):
        runs.append(folder := shutil.copytree(single, tmp_path / method, ignore=shutil.ignore_patterns("model")))
        about = read_json(folder / "run.json")
        write_json(folder / "run.json", {**about, "config": {**about["config"], "method": method}})
        (folder / "before" / "records.jsonl").write_text(before)
        (folder / "records.jsonl").write_text(records())
    page = write_report(runs, tmp_path / "page.html")
    assert 5e6 < page.stat().st_size < 20e6
    assert "are cut here" not in page.read_text()
    start = time.perf_counter()
    tab = show(page)
    tab.locator("#list tbody").first.wait_for()
    opened = time.perf_counter() - start
    print(measured := f"{opened:.2f} s to open {page.stat().st_size / 1e6:.1f} MB")
    assert opened < 3, measured
    assert "of 4000" in tab.locator("#status").inner_text()
    tab.select_option("#sort", "0")
    playwright.expect(tab.locator("#status")).to_contain_text("by ROUGE")
    tab.locator("#search").fill("3999:")
    playwright.expect(tab.locator("#status")).to_contain_text(": 1 found, of 4000", timeout=3000)
