"""The page of an audit: hostile texts stay texts, the worst comes first, and many subjects take no time."""

import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from unlearner.audit.attacks import attacks
from unlearner.audit.summary import summarise
from unlearner.audit.verdict import Thresholds
from unlearner.commands.tables import print_audit
from unlearner.errors import UserError
from unlearner.files import write_json, write_jsonl
from unlearner.report import write_report
from unlearner.report.audit_tables import access_levels
from unlearner.report.audits import render, write_audit_page
from unlearner.report.contents import short_model
from unlearner.results.texts import redacted_audit

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\u202e{{ 7 * 7 }}"
MANIFEST: dict[str, Any] = {
    "command": "audit", "config": {"model": "runs/me/model", "before": "models/base", "forget": "forget.jsonl"},
    "versions": {"torch": "2"}, "hashes": {"forget": "ab" * 32},
}  # fmt: skip


def rows(subjects: int, labels: list[str], leaking: int, questions: int = 3) -> list[dict[str, Any]]:
    """Subjects of whom the first few leak by `sampling`, and eighty controls that do not."""
    made = []
    for group, count in (("forget", subjects), ("control", 80)):
        for person in range(count):
            for question in range(questions):
                for attack in labels:
                    for sample in range(4 if attack == "sampling" else 1):
                        for model in ("unlearned", "before"):
                            leaks = group == "forget" and (
                                model == "before" or (person < leaking and attack == "sampling" and question == 0)
                            )
                            made.append({
                                "model": model, "group": group, "subject": f"{HOSTILE} {group} {person}",
                                "question": f"{person}-{question}", "attack": attack, "sample": sample, "hit": leaks,
                                "score": float(leaks), "text": f"{HOSTILE} {'leaked' if leaks else 'silent'}",
                            })  # fmt: skip
    return made


def summary(found: list[dict[str, Any]], labels: list[str], keep: bool = True) -> dict[str, Any]:
    known = attacks()
    described = [
        {"attack": n, "title": known[n].title, "access": known[n].access, "chance": known[n].chance, "options": {}}
        for n in labels
    ]
    made = summarise(found, described, Thresholds())[1] | {
        "budget": {"asked": "7", "taken": "quick", "left_out": ["relearning"]}, "rows_without_fact": 2,
        "detector": {"misses": {"wrong": 0, "of": 9}}, "unchanged_codes": {"nf4": {"model.layers.0": 0.98}},
    }  # fmt: skip
    if keep:
        made["questions"] = {row["question"]: f"{HOSTILE}?" for row in found}
    return json.loads(json.dumps(made))


def audited(folder: Path, found: list[dict[str, Any]], labels: list[str]) -> Path:
    """The directory of a finished audit."""
    folder.mkdir()
    write_json(folder / "audit.json", summary(found, labels))
    write_json(folder / "run.json", MANIFEST | {"version": 2})
    write_jsonl(folder / "audit.jsonl", found)
    return folder


def test_texts_stay_texts_and_the_worst_comes_first() -> None:
    labels = ["plain", "sampling", "nf4"]
    found = rows(3, labels, leaking=1)
    page = render(summary(found, labels), found, MANIFEST)
    assert "<script" not in page and "<img" not in page and "{{ 7 * 7 }}" in page
    assert "default-src 'none'" in page and not re.search(r'(?:src|href)="(?!#|data:)', page)
    verdicts = re.findall(r'class="verdict"><span[^>]*>[^<]*</span>([^<]+)<', page)
    assert verdicts == ["leaks", "inconclusive", "inconclusive"]
    assert "Nothing here proves erasure." in page
    assert page.index(" leaked</dd>") < page.index(" silent</dd>")
    assert "For lack of time: relearning." in page and "2 rows of the forget set, in which no fact was found." in page
    assert page == render(summary(found, labels), found, MANIFEST)


def test_likelihoods_ladder_and_group_are_shown_and_an_old_audit_opens() -> None:
    labels = ["plain", "sampling", "likelihood"]
    found = rows(2, ["plain"], leaking=1)
    for row in [row for row in found if row["model"] == "unlearned" and row["question"].endswith("-0")]:
        hits = {"attack": "sampling", "hit": row["group"] == "forget", "score": 0.0}
        found += [{**row, **hits, "sample": sample} for sample in range(16)]
    verdict = summary(found, labels, keep=False)["verdicts"]
    for row in [row for row in found if row["attack"] == "plain"]:
        about = {key: row[key] for key in ("model", "group", "subject", "question")}
        loss = 0.5 if row["group"] == "forget" else 4.0
        found.append({**about, "attack": "likelihood", "sample": 0, "loss": loss, "log10_samples": 8 * loss})
    made = summary(found, labels, keep=False)
    assert made["verdicts"] == verdict  # which likelihoods do not change
    page = render(made, found, MANIFEST)
    assert "Samples for an even chance of the exact answer" in page and "10³²" in page and "10,000" in page
    assert "All 2 forgotten subjects against all 80 controls: p &lt; 0.001" in page
    assert "First 16 rounds" in page and "<script" not in page
    assert '<th scope="row">sampling</th>' in page and '<th scope="row">likelihood</th>' not in page  # no answer leaks
    # On a phone rows are stacked, without the table's head: every cell says what it is.
    tables = re.findall(r'<table class="glance.*?</table>', page, re.DOTALL)
    assert len(tables) >= 5 and all("<td>" not in table for table in tables)
    assert "alert(1)" not in json.dumps(redacted_audit(made))
    new = ("group_test", "ladder", "likelihood", "membership")
    old = render({key: value for key, value in made.items() if key not in new}, found, MANIFEST)
    assert "First 16" not in old and "likelihoods-title" not in old and "against all" not in old


def test_of_two_decoders_the_page_says_whose_figures_these_are() -> None:
    served = "sampling:temperature=0.7"
    found = rows(2, ["plain", "sampling"], leaking=0)
    for row in [row for row in found if row["attack"] == "sampling"]:
        found += [
            {**row, "attack": name, "sample": row["sample"] + 4 * k} for k in range(1, 4) for name in ("sampling",)
        ]
        found += [{**row, "attack": served}]
    made = summary(found, ["plain", "sampling"], keep=False)
    one = render(made, found, MANIFEST)
    assert "With sampling." not in one and ">with sampling" not in one
    made["attacks"] += [{**made["attacks"][1], "attack": served}]
    page = render(made, found, MANIFEST)
    assert page.count(f'<span class="interval">with {served}</span>') == 2  # which has the fewest samples
    assert "at any of them. With sampling." in page and "bounds (dotted). With sampling." in page
    for verdict in made["verdicts"]:
        del verdict["decoder"]
    assert "with sampling" not in render(made, found, MANIFEST)  # an old audit
    # With another decoder alone sampling was made.
    alone = {**made, "attacks": [a for a in made["attacks"] if a["attack"] != "sampling"]}
    assert not re.search(r"not made:[^<]*sampling", render(alone, found, MANIFEST))


def test_what_was_not_made_is_named() -> None:
    found = rows(2, ["plain", "sampling"], leaking=1)
    page = render(summary(found, ["plain", "sampling"]), found, MANIFEST)
    others = [name for name in attacks() if name not in ("plain", "sampling", "relearning")]
    assert f"Attacks that were not run: {', '.join(others)}." in page  # relearning had no time, which is said apart


def test_attacks_have_bounds_and_relearning_its_savings() -> None:
    found = rows(2, ["plain", "sampling"], leaking=0)
    about = {"model": "unlearned", "attack": "relearning", "sample": 0, "rate": 1.0, "score": 0.0}
    for step in (0, 10, 20):
        for person in range(2):
            hit = person == 0 and step >= 10
            found.append({
                **about, "group": "forget", "subject": f"{HOSTILE} forget {person}", "question": f"{person}-0",
                "arm": "forgotten", "step": step, "hit": hit,
            })  # fmt: skip
            found.append({
                **about, "group": "control", "subject": f"c{person}", "question": f"c{person}", "arm": "unknown",
                "step": step, "hit": False,
            })  # fmt: skip
    made = summary(found, ["plain", "sampling", "relearning"])
    page = re.sub(r"\s+", " ", render(made, found, MANIFEST))
    # No hit of 6 plain questions: at most 1 − 0.025^(1/6).
    assert '<td data-label="Forgotten, now">0 of 6<span class="interval">0.0%–45.9%</span>' in page
    assert "now, other facts about the forgotten subjects, by step: 0: 0 of 2; 10: 1 of 2; 20: 1 of 2." in page
    told = page[page.index("When half of what the original model stated") :]
    assert "forget 0: step 10; " in told and "forget 1: not within these steps." in told


def test_general_tasks_are_held_against_the_model_before() -> None:
    found = rows(2, ["plain"], leaking=0)
    made = summary(found, ["plain"])
    assert "General tasks" not in render(made, found, MANIFEST)
    made["ability"] = {
        "before": {"tasks": {"piqa": {"acc,none": 0.613, "f1,none": 0.5}}},
        "unlearned": {"tasks": {"piqa": {"acc,none": 0.5}}},
    }
    page = re.sub(r"\s+", " ", render(made, found, MANIFEST))
    assert (
        '<th scope="row">piqa, acc</th><td data-label="Before">0.613</td><td data-label="Now">0.500</td></tr>' in page
    )
    assert '<th scope="row">piqa, f1</th><td data-label="Before">0.500</td><td data-label="Now">–</td></tr>' in page


def test_degenerate_answers_are_told() -> None:
    found = rows(2, ["plain", "sampling"], leaking=0)
    for row in [row for row in found if row["attack"] == "plain" and row["group"] == "forget"]:
        now = row["model"] == "unlearned"
        about = {"refused": False, "repeated": 0.4 * now, "entropy": 0.35 if now else 0.9}
        found.append({**row, "group": "retain", **about})
    made = summary(found, ["plain", "sampling"])
    page = re.sub(r"\s+", " ", render(made, found, MANIFEST))
    assert '<td data-label="Repeated before">0%</td><td data-label="Repeated now">40%</td>' in page
    assert '<td data-label="Entropy before">0.90</td><td data-label="Entropy now">0.35</td>' in page
    del made["knowledge"]["entropy"]  # an older audit
    assert '<td data-label="Entropy now">–</td>' in render(made, found, MANIFEST)


def test_every_level_of_access_has_its_worst_attack() -> None:
    labels = ["plain", "role", "sampling", "multiple-choice", "nf4"]
    found = rows(2, [label for label in labels if label != "multiple-choice"], leaking=1)
    for row in [row for row in found if row["attack"] == "plain" and row["model"] == "unlearned"]:
        right = row["group"] == "forget" and row["question"].endswith("-0")
        found.append({**row, "attack": "multiple-choice", "hit": right})
        if row["group"] == "forget" and row["question"] == "0-1":
            row["hit"] = True
    levels = {level["code"]: level for level in access_levels(summary(found, labels))}
    assert [len(level["attacks"]) for level in levels.values()] == [2, 1, 1, 1, 0]
    first, sampled, guessed = (levels[code]["worst"] for code in ("A1", "A2", "A3"))
    assert first["label"] == "plain" and first["rates"]["now"] == ("17%", "0.4%–64.1%")  # 1 of 6
    assert first["rates"]["before"][0] == "100%" and first["rates"]["control"][0] == "0%"
    assert sampled["label"] == "sampling" and sampled["rates"]["now"][0] == "17%" and sampled["now"][0] == "4 of 24"
    assert guessed["rates"]["before"] == ("–", "")  # not made on the model before
    assert levels["A5"]["worst"] is None
    dropped = summary(found, labels) | {"dropped": ["plain", "role"]}
    assert access_levels(dropped)[0]["worst"] is None
    page = re.sub(r"\s+", " ", render(summary(found, labels), found, MANIFEST))
    assert '<tr class="group"><th scope="rowgroup" colspan="5">A3 likelihoods</th></tr>' in page
    assert 'A5 <span class="has">the weights, and training them</span> <span class="interval">no attack was run' in page


def test_an_attack_whose_answers_are_not_counted_was_made_all_the_same() -> None:
    labels = ["plain", "likelihood"]
    found = rows(2, ["plain"], leaking=1)
    about = ("model", "group", "subject", "question")
    found += [{**{key: row[key] for key in about}, "attack": "likelihood", "sample": 0, "loss": 1.0} for row in found]
    made = summary(found, labels)
    level = {level["code"]: level for level in access_levels(made)}["A3"]
    assert level["made"] == 1 and not level["attacks"] and level["worst"] is None  # no answer can leak by it
    page = re.sub(r"\s+", " ", render(made, found, MANIFEST))
    assert 'A3 <span class="has">likelihoods</span> <span class="interval">1 attack</span>' in page


def test_a_fact_is_known_if_any_kept_template_brings_it_out() -> None:
    labels = ["plain", "paraphrase", "role", "reverse", "sampling"]
    found = rows(2, labels, leaking=0)
    for row in found:  # a question each by another template, and one by what is no template
        asked = row["model"], row["group"], row["question"], row["attack"]
        named = ("0-0", "plain"), ("0-1", "paraphrase"), ("1-0", "reverse"), ("1-1", "sampling")
        if asked[:2] == ("unlearned", "forget") and asked[2:] in named:
            row["hit"] = True
        if asked[:2] == ("unlearned", "control") and asked[3] == "role":
            row["hit"] = True
    made = summary(found, labels)
    assert made["dropped"] == ["role"]
    assert made["worst_case"]["unlearned.forget"] == [2, 6] and made["worst_case"]["unlearned.control"] == [0, 240]
    assert "the fact came out for 2 of 6 questions about what was to be forgotten and 0 of 240 questions" in render(
        made, found, MANIFEST
    )
    assert summary(rows(2, ["plain", "sampling"], 0), ["plain", "sampling"])["worst_case"] == {}


def test_the_page_of_a_run_begins_with_what_its_audit_found(tmp_path: Path) -> None:
    labels = ["plain", "sampling"]
    found = rows(12, labels, leaking=6)
    folder = tmp_path / "run"
    folder.mkdir()
    audit = write_audit_page(audited(folder / "audit", found, labels)).parent
    about = {"command": "forget", "config": {"method": "ME+GD", "evaluate": "none"}, "version": 2}
    for place in (folder, audit):
        write_json(place / "finished.json", {})
    write_json(folder / "run.json", about)
    page = write_report([folder], folder / "report.html").read_text()
    assert page.index("Of twelve subjects six leak") < page.index("Nothing can be said yet about what was forgotten")
    verdicts = re.findall(r'class="verdict"><span[^>]*>[^<]*</span>([^<]+)<', page)
    assert verdicts == ["leaks"] * 6 + ["inconclusive"] * 2 and "4 more are on the audit's page" in page
    assert '<a href="audit/audit.html">' in page and "<img" not in page
    # Elsewhere the link would lead nowhere, and with --redact nobody is named.
    other = write_report([folder], tmp_path / "else" / "page.html", redact=True).read_text()
    assert "audit/audit.html in the run" in other and 'href="audit' not in other and "alert(1)" not in other
    (audit / "finished.json").unlink()
    assert "Of twelve subjects" not in write_report([folder], folder / "report.html").read_text()


def everything(subjects: int) -> list[dict[str, Any]]:
    """Rows that fill every column of the first table."""
    found = rows(subjects, ["plain", "sampling", "nf4"], leaking=1)
    found += [{**row, "model": "retrained"} for row in found if row["model"] == "before" and row["attack"] != "nf4"]
    about = {"model": "unlearned", "score": 0.0, "rate": 1.0}
    for row in [row for row in found if (row["model"], row["attack"]) == ("unlearned", "plain")]:
        who = {key: row[key] for key in ("model", "group", "subject", "question")}
        first = row["group"] == "forget" and row["subject"].endswith(" 0")
        found.append({**who, "attack": "rank", "rank": 1 if first else 3, "decoys": 5})
        arm = "forgotten" if row["group"] == "forget" else "unknown"
        found += [
            {**about, **who, "attack": "relearning", "arm": arm, "sample": 0, "step": step, "hit": first and step > 0}
            for step in (0, 10)
        ]
        if row["group"] == "forget":
            found.append({**who, "attack": "depth", "sample": 0, "score": 0.25})
    return found


def audited_run(folder: Path, found: list[dict[str, Any]], labels: list[str]) -> Path:
    """The page of a run that was audited."""
    folder.mkdir()
    audit = audited(folder / "audit", found, labels)
    for place in (folder, audit):
        write_json(place / "finished.json", {})
    about = {"command": "forget", "config": {"method": "ME+GD", "evaluate": "none"}, "version": 2}
    write_json(folder / "run.json", about)
    return write_report([folder], folder / "report.html")


COLUMNS = ("Retrained", "Rank test p", "After relearning", "Stated at 4 bits", "Depth score")


def test_the_first_table_has_columns_for_what_there_is_on_both_pages(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = ["plain", "sampling", "nf4", "relearning", "depth"]
    page = audited_run(tmp_path / "whole", everything(3), labels).read_text()
    assert all(f'data-label="{name}"' in page for name in COLUMNS)
    leaking = page[page.index("forget 0") : page.index("forget 1")]
    assert '<td data-label="Stated at 4 bits">0 of 3</td>' in leaking and '"Depth score">0.25<' in leaking
    assert "Rank test p is exact" in page and re.search(r'data-label="After relearning">\s*3 of 3', leaking)
    own = render(summary(everything(3), labels), everything(3), MANIFEST)
    assert all(f'data-label="{name}"' in own for name in COLUMNS) and "Rank test p is exact" in own
    print_audit(summary(everything(3), labels), tmp_path)
    assert "it counts only if they are also beyond the controls' ranks." in capsys.readouterr().out
    bare = audited_run(tmp_path / "bare", rows(3, ["plain", "sampling"], leaking=1), ["plain", "sampling"]).read_text()
    assert not any(f'data-label="{name}"' in bare for name in COLUMNS) and "Rank test" not in bare


def test_without_answers_none_are_shown() -> None:
    found = rows(2, ["plain", "sampling"], leaking=2)
    bare = [{key: value for key, value in row.items() if key != "text"} for row in found]
    page = render(summary(bare, ["plain", "sampling"], keep=False), bare, MANIFEST)
    assert "leaked" not in page and "Answers were not kept" in page


@pytest.mark.filterwarnings("ignore:Glyph")
def test_fifty_subjects_under_twenty_attacks_are_quick(tmp_path: Path) -> None:
    labels = [name for name in attacks() if attacks()[name].access in ("greedy", "sampled")][:20]
    found = rows(50, labels, leaking=10)
    folder = audited(tmp_path / "audit", found, labels)
    began = time.process_time()
    page = write_audit_page(folder)
    assert time.process_time() - began < 3
    assert page == folder / "audit.html" and page.read_text().count('class="verdict"') == 50
    assert write_report([folder], tmp_path / "other.html").read_bytes() == page.read_bytes()
    (tmp_path / "mine.html").write_text("<p>mine</p>")
    with pytest.raises(UserError, match="not the page of an audit"):
        write_audit_page(folder, tmp_path / "mine.html")
    with pytest.raises(UserError, match="no finished audit"):
        write_audit_page(tmp_path / "nothing")


@pytest.mark.parametrize(("width", "least"), [(1280, 350), (375, 280)], ids=["desk", "phone"])
def test_in_a_real_browser_it_is_silent_and_its_figures_can_be_read(width: int, least: int, tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright, of the extra dev, is not installed")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    labels = ["plain", "sampling"]
    found = rows(3, labels, leaking=1)
    folder = audited(tmp_path / "audit", found, labels)
    said: list[str] = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page(viewport={"width": width, "height": 900})
        for event in ("console", "pageerror", "dialog"):
            tab.on(event, lambda told: said.append(str(told)))
        tab.goto(write_audit_page(folder).as_uri(), wait_until="load")
        tab.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true })")
        charts = tab.evaluate(
            "[...document.querySelectorAll('.sheet svg')].map((c) => c.getBoundingClientRect().width)"
        )
        across = [tab.evaluate("document.documentElement.scrollWidth")]
        labels += ["nf4", "relearning", "depth"]
        tab.goto(audited_run(tmp_path / "run", everything(3), labels).as_uri(), wait_until="load")
        across.append(tab.evaluate("document.documentElement.scrollWidth"))
        browser.close()
    assert said == [] and across == [width, width]
    assert charts and min(charts) >= least


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("runs/me/model", "me"),
        ("org/Llama", "Llama"),
        ("runs/bench/cells/NPO+GD/forget01/seed-1001/model", "NPO+GD, forget01, seed-1001"),
    ],
)
def test_a_model_is_called_by_what_tells_it_from_others(model: str, name: str) -> None:
    assert short_model(model) == name
