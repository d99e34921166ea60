"""`unlearner report`: what the page says is what the runs hold; what is missing is named; nothing is overwritten."""

import json
import os
import re
import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest

import unlearner
from conftest import Ended, Files, contents, run, run_arguments, stamps
from unlearner.errors import install
from unlearner.evaluation.metrics import METRICS
from unlearner.files import read_json, read_jsonl, write_json
from unlearner.report import add_report, write_report
from unlearner.report.contents import Measurement, Part, Report, Run
from unlearner.report.read import read
from unlearner.report.verdict import verdict

Report_ = Callable[..., Ended]


@pytest.fixture
def report(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Report_:
    """`unlearner report`, by default into the test's own folder."""

    def command(*folders: Path, output: Path | None = None) -> Ended:
        typed = ["report", *map(str, folders), "--output", str(output or tmp_path / "page.html")]
        return run_arguments(capfd, typed)

    return command


def text(page: Path) -> str:
    """What the page shows, without the list of questions: tags off, white space folded."""
    shown = re.sub(r"<(style|script|svg).*?</\1>", " ", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", shown).split())


# ------------------------------------------------------------------------------------------------------------- one run


def test_the_figures_are_those_of_the_summaries(single: Path, report: Report_, tmp_path: Path) -> None:
    assert report(single).code == 0
    shown = text(tmp_path / "page.html")
    for place in (single / "before", single):
        summary = read_json(place / "summary.json")
        for key in ("forget_efficacy", "model_utility"):
            low, high = summary["intervals"][key]
            assert f"{summary[key]:.3f} {low:.3f}–{high:.3f}" in shown
        for values in summary["sets"].values():
            for metric in METRICS:
                assert f"{values[metric]:.3f}" in shown
    about = read_json(single / "run.json")
    for known in (*about["versions"].values(), *filter(None, about["hashes"].values())):
        assert known in shown
    assert "unlearner forget \\ --model" in shown


def test_every_question_is_in_the_page(single: Path, tmp_path: Path) -> None:
    page = write_report([single], tmp_path / "page.html")
    data = embedded(page)
    before, after = read_jsonl(single / "before" / "records.jsonl"), read_jsonl(single / "records.jsonl")
    assert [column["kind"] for column in data["columns"]] == ["before", "after"]
    assert len(data["rows"]) == len(after) == 12
    for number, (was, now) in enumerate(zip(before, after, strict=True)):
        _, question, answer, _ = data["rows"][number]
        assert (data["texts"][question], data["texts"][answer]) == (now["question"], now["answer"])
        for column, row in zip(data["columns"], (was, now), strict=True):
            assert data["texts"][column["texts"][number]] == row["generation"]
            values = column["values"][len(METRICS) * number : len(METRICS) * (number + 1)]
            assert values == [None if row[m] is None else round(1000 * row[m]) for m in METRICS]


def embedded(page: Path) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(encoding="utf-8"))
    assert found is not None
    return json.loads(found[1])


def test_the_same_runs_give_the_same_files(single: Path, tmp_path: Path) -> None:
    for place in ("a", "b"):
        write_report([shutil.copytree(single, tmp_path / place / "run")], tmp_path / place / "page.html")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    figures = {path.suffix for path in (tmp_path / "a" / "page-figures").iterdir()}
    assert figures == {".png", ".svg"}


def test_forget_writes_the_page_by_itself(
    files: Files, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"model": files.model, "forget": files.forget, "retain": files.retain, "epochs": 1, "judge": "offline"}
    options |= {"max_new_tokens": 8, "output": tmp_path / "out"}
    monkeypatch.setattr(import_module("unlearner.report"), "PACKAGES", ("a_package_that_is_not_here",))
    without = run(capfd, "forget", **options)
    assert without.code == 0
    assert f"For a page about it all: {install('report')}, then unlearner report" in without.err
    assert not (tmp_path / "out" / "report.html").exists()
    refused = run_arguments(capfd, ["report", str(tmp_path / "out")])
    assert refused.code == 2
    assert f"the report needs jinja2 and matplotlib: {install('report')}" in refused.err
    monkeypatch.undo()

    # A page that was made while the run was not finished is made again.
    finished = (tmp_path / "out" / "finished.json").read_text()
    (tmp_path / "out" / "finished.json").unlink()
    assert run_arguments(capfd, ["report", str(tmp_path / "out")]).code == 0
    assert "The run has not finished" in text(tmp_path / "out" / "report.html")
    assert json.loads(finished)
    again = run(capfd, "forget", **options)
    assert again.code == 0
    assert f"to be opened in a browser: {tmp_path / 'out' / 'report.html'}" in again.out
    assert "The run has not finished" not in text(tmp_path / "out" / "report.html")
    before = stamps(tmp_path)
    assert run(capfd, "forget", **options).out == again.out
    assert stamps(tmp_path) == before


def test_runs_side_by_side_share_what_they_started_from(single: Path, report: Report_, tmp_path: Path) -> None:
    other = shutil.copytree(single, tmp_path / "other")
    about = read_json(other / "run.json")
    about["config"]["method"] = "GA+GD"
    write_json(other / "run.json", about)
    assert report(single, other).code == 0
    labels = [column["label"] for column in embedded(tmp_path / "page.html")["columns"]]
    assert labels == ["before", "ME+GD", "GA+GD"]
    assert "Every method was run once." in text(tmp_path / "page.html")


# ------------------------------------------------------------------------------------------------------------- a bench


@pytest.mark.slow
def test_a_bench_is_shown_by_its_means_over_seeds(bench: Path, report: Report_, tmp_path: Path) -> None:
    assert report(bench, output=tmp_path / "report.html").code == 0
    assert (tmp_path / "report.html").read_text() == (bench / "report.html").read_text()  # the bench wrote it by itself
    shown = text(tmp_path / "report.html")
    for split in ("forget01", "forget05"):
        for method in ("ME+GD", "GA+GD"):
            cells = [read_json(c / "summary.json") for c in sorted((bench / "cells" / method / split).iterdir())]
            for key in ("forget_efficacy", "model_utility"):
                values = [cell[key] for cell in cells]
                spread = f" ± {stdev(values):.3f}" if stdev(values) >= 1e-6 else ""
                assert f"{fmean(values):.3f}{spread}" in shown
    assert "0.920 0.727" in shown  # the published figures, and whose they are
    assert "Llama-2-7B, arXiv 2504.15827, Table 4" in shown
    assert "another model" in shown
    assert "another model" not in told_of(bench, "models/Llama-2-7b-chat-tofu", tmp_path)
    assert "unlearner bench fictitious \\" in shown
    assert "Answers and values are those of seed 1" in shown


def told_of(bench: Path, model: str, tmp_path: Path) -> str:
    """What the page says if that was the bench's model."""
    folder = shutil.copytree(bench, tmp_path / "of", ignore=shutil.ignore_patterns("model", "epochs"))
    write_json(folder / "bench.json", {**read_json(folder / "bench.json"), "model": model})
    return text(write_report([folder], tmp_path / "of.html"))


def test_a_bench_followed_by_epochs_has_a_curve_for_each_method(bench: Path) -> None:
    part = read([bench]).parts[0]
    assert [run.label for run in part.runs] == ["ME+GD", "GA+GD"]
    for run_ in part.runs:
        cells = sorted((bench / "cells" / run_.label / part.title).iterdir())
        assert list(run_.steps) == [1, 2]
        for epoch, measured in run_.steps.items():
            values = [read_json(cell / "epochs" / str(epoch) / "summary.json")["forget_efficacy"] for cell in cells]
            assert measured.figure("forget_efficacy") == pytest.approx(fmean(values))


def test_cells_that_failed_or_have_not_run_are_named(bench: Path, report: Report_, tmp_path: Path) -> None:
    broken = shutil.copytree(bench, tmp_path / "bench")
    about = read_json(broken / "bench.json")
    write_json(broken / "bench.json", {**about, "seeds": [1, 2, 3]})
    failed = broken / "cells" / "ME+GD" / "forget01" / "seed-3"
    failed.mkdir()
    write_json(failed / "failed.json", {"error": "no space left on device"})
    (broken / "cells" / "GA+GD" / "forget05" / "seed-2" / "finished.json").unlink()
    assert report(broken).code == 0
    shown = text(tmp_path / "page.html")
    assert "ME+GD, forget01, seed 3: failed: no space left on device" in shown
    assert "GA+GD, forget05, seed 2: has not finished" in shown
    assert "GA+GD, forget05, seed 3: has not begun" in shown
    means = {(part.title, r.label): r for part in read([broken]).parts for r in part.runs}
    assert len(means) == 4
    only = means["forget05", "GA+GD"].after  # of one seed there is no deviation
    assert only is not None
    assert only.interval("forget_efficacy") is None


def test_a_bench_without_any_finished_cell_says_so(bench: Path, report: Report_, tmp_path: Path) -> None:
    (tmp_path / "bench").mkdir()
    shutil.copy(bench / "bench.json", tmp_path / "bench")
    assert report(tmp_path / "bench").code == 0
    shown = text(tmp_path / "page.html")
    assert "Nothing has been measured yet." in shown
    assert "ME+GD, forget01, seed 1: has not begun" in shown


def test_a_continual_bench_tells_what_stays_forgotten(continual: Path, report: Report_, tmp_path: Path) -> None:
    (part,) = read([continual]).parts
    for r in part.runs:
        told = [read_json(c / "retention.json") for c in sorted((continual / "cells" / r.label / "forget01").iterdir())]
        assert r.retention is not None
        assert r.retention.efficacy[1][0] == pytest.approx(fmean(each["forget_efficacy"][1][0] for each in told))
        assert r.after is not None
        last = [fmean(each["forget_efficacy"][-1]) for each in told]
        assert r.after.figure("forget_efficacy") == pytest.approx(fmean(last))
        assert r.after.figure("model_utility") == pytest.approx(fmean(each["model_utility"][-1] for each in told))
        assert list(r.steps) == [1, 2]
        assert r.after.count("forget") == 8
        at_last = [  # on the first task's set once more, and on the second's
            read_json(cell / "task-02" / place / "summary.json")["sets"]["forget"]["probability"]
            for cell in sorted((continual / "cells" / r.label / "forget01").iterdir())
            for place in ("earlier/1", ".")
        ]
        assert r.after.figure("forget.probability") == pytest.approx(fmean(at_last))
    assert report(continual).code == 0
    data = embedded(tmp_path / "page.html")
    assert [name for name in data["sets"] if name.startswith("Forget")] == ["Forget set, task 1", "Forget set, task 2"]
    assert [column["label"] for column in data["columns"]] == ["before", "ME+GD", "NPO+GD"]
    assert "What stays forgotten" in text(tmp_path / "page.html")
    assert (tmp_path / "page-figures" / "retention.svg").is_file()


def test_forget_quality_is_shown_where_it_was_measured(single: Path, report: Report_, tmp_path: Path) -> None:
    assert report(single).code == 0
    assert "Forget quality" not in text(tmp_path / "page.html")
    folder = shutil.copytree(single, tmp_path / "run")
    write_json(folder / "summary.json", {**read_json(folder / "summary.json"), "forget_quality": 0.4321})
    assert report(folder).code == 0
    assert re.search(r"Forget quality p-value .* 0\.432 ", text(tmp_path / "page.html"))


def test_general_ability_is_shown_where_it_was_measured(single: Path, report: Report_, tmp_path: Path) -> None:
    folder = shutil.copytree(single, tmp_path / "run")
    for place, value in ((folder / "before", 0.61), (folder, 0.573)):
        tasks = {"arc_challenge": {"acc_norm,none": value}, "triviaqa": {"exact_match,remove_whitespace": value / 2}}
        write_json(place / "ability.json", {"lm_eval": "0.4.9", "limit": None, "tasks": tasks})
    assert report(folder).code == 0
    shown = text(tmp_path / "page.html")
    assert "arc_challenge, acc_norm 0.610 0.573" in shown
    assert "triviaqa, exact_match,remove_whitespace 0.305 0.286" in shown


def test_a_page_shows_the_metrics_that_were_chosen_and_those_of_other_packages(
    files: Files, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "plugin"))
    options = {"model": files.model, "forget": files.forget, "retain": files.retain, "epochs": 1, "judge": "offline"}
    options |= {"max_new_tokens": 8, "output": tmp_path / "out"}
    ended = run(capfd, "forget", **options, metrics=["rouge", "unlearner_test_plugin.metrics:WorstOfEight"])
    assert ended.code == 0
    shown = text(tmp_path / "out" / "report.html")
    for place in (tmp_path / "out" / "before", tmp_path / "out"):
        summary = read_json(place / "summary.json")
        for values in summary["sets"].values():
            assert f"{values['worst_of_eight']:.3f}" in shown and f"{values['rouge']:.3f}" in shown
    assert "Worst of eight max_i R(g_i, a), i = 1 ... 8 test plug-in" in shown
    assert "Probability" not in shown and "Judged correct" not in shown
    data = embedded(tmp_path / "out" / "report.html")
    assert data["metrics"] == ["ROUGE", "Worst of eight"] and data["entailment"] is None
    assert len(data["columns"][0]["values"]) == 2 * len(data["rows"])
    assert "Not everything that makes up forget efficacy was measured (--metrics)" in ended.out


@pytest.mark.slow
def test_every_page_says_that_nothing_proves_erasure(
    single: Path, bench: Path, continual: Path, report: Report_, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    shutil.copy(single / "run.json", tmp_path / "empty")
    for folder in (single, bench, continual, tmp_path / "empty"):
        assert report(folder).code == 0
        assert "Nothing here proves erasure." in text(tmp_path / "page.html")


def test_the_worst_answers_are_among_the_examples(single: Path, report: Report_, tmp_path: Path) -> None:
    folder = shutil.copytree(single, tmp_path / "run")
    rows = read_jsonl(folder / "records.jsonl")
    for number, row in enumerate(rows):
        row |= {"generation": f"It is {number}, or so I think.", "rouge": 0.1, "entailment": 0.0}
    rows[1]["generation"] = "born born born born in"
    rows[4] |= {"generation": "The first book is The Frozen Mountain.", "rouge": 0.9, "entailment": 1.0}
    (folder / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert report(folder).code == 0
    shown = text(tmp_path / "page.html")
    assert (
        f"Forget set: the most broken answer, by ME+GD: it repeats itself and is not a sentence {rows[1]['question']}"
        in shown
    )
    assert f"Forget set: the answer closest to the reference, by ME+GD {rows[4]['question']}" in shown


def test_rows_that_eval_limit_leaves_out_are_told(
    files: Files, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = {"model": files.model, "retain": files.retain, "judge": "offline", "max_new_tokens": 8, "eval_limit": 4}
    ended = run(capfd, "evaluate", **options, output=tmp_path / "out")
    told = "'retain' was measured on the first 4 of 6 rows (--eval-limit)."
    assert told in ended.out
    assert told in text(write_report([tmp_path / "out"], tmp_path / "page.html")).replace("&#39;", "'")


# ------------------------------------------------------------------------------------------------------------- verdict


def measurement(efficacy: float, utility: float, entailed: float, **forget: float) -> Measurement:
    values = {**dict.fromkeys(METRICS, 0.1), "entailment": entailed, **forget}
    return Measurement(
        {
            "forget_efficacy": efficacy, "model_utility": utility, "sets": {"forget": values},
            "counts": {"forget": 40}, "judge": "offline",
            "embedding_model": "sentence-transformers/all-MiniLM-L6-v2",
            "intervals": {"forget_efficacy": [efficacy - 0.1, efficacy + 0.1], "model_utility": [0.8, 0.9]},
        }
    )  # fmt: skip


BEFORE = measurement(0.1, 0.9, 1.0, token_entropy=0.9)


def forgetting(method: str, after: Measurement) -> Run:
    return Run(method, "forget", {"config": {"method": method}}, BEFORE, {}, after, label=method)


def said(*runs: Run) -> list[str]:
    return verdict(Report([Part("", list(runs))], [], [])).sentences


def test_the_verdict_on_one_run() -> None:
    assert said(forgetting("ME+GD", measurement(0.8, 0.855, 0.05))) == [
        "Nearly all of the forget set is no longer said: after ME+GD the model answers 2 of 40 forget-set questions "
        "correctly (40 before), and forget efficacy went from 0.100 to 0.800 (95% interval 0.700 to 0.900).",
        "It keeps 95% of its model utility (0.900 before, 0.855 (95% interval 0.800 to 0.900) after).",
    ]


def test_utility_on_what_was_trained_is_marked() -> None:
    def of(after: Measurement, *sets: str) -> Measurement:
        return Measurement({**after.summary, "sets": {**after.summary["sets"], **{name: {} for name in sets}}})

    trained = of(measurement(0.8, 0.855, 0.05), "retain")
    marked = "after), measured on the retain set alone, on which it was trained."
    itself = {"config": {"method": "ME+GD", "retain": "retain.jsonl", "retain_eval": "retain.jsonl"}}
    alike = Run("ME+GD", "forget", itself, BEFORE, {}, trained)
    for marks in (forgetting("ME+GD", trained), forgetting("LLMU", trained), forgetting("Mine+GD", trained), alike):
        assert said(marks)[1].endswith(marked)
    held = Run("ME+GD", "forget", {"config": {"method": "ME+GD", "retain_eval": "held"}}, BEFORE, {}, trained)
    further = of(measurement(0.8, 0.855, 0.05), "retain", "world_facts")
    for other in (held, forgetting("ME", trained), forgetting("ME+GD", further)):
        assert said(other)[1].endswith(" after).")
    two = said(forgetting("ME+GD", trained), forgetting("IDK+AP", trained))
    assert two[1].endswith(" Model utility is measured on the retain set alone, on which it was trained.")


def test_what_is_no_longer_said_and_still_likely_is_told() -> None:
    (first, _) = said(forgetting("IDK+AP", measurement(0.6, 0.9, 0.0, probability=0.8)))
    assert first.startswith("Nearly all of the forget set is no longer said, though the model still finds it likely")


def test_the_verdict_on_several_names_the_best_that_keeps_utility() -> None:
    runs = [
        forgetting("GA+GD", measurement(0.9, 0.09, 0.0)),
        forgetting("ME+GD", measurement(0.8, 0.9, 0.1)),
        forgetting("IDK+AP", measurement(0.7, 0.9, 0.1)),
    ]
    assert said(*runs) == [
        "Of the three runs, GA+GD has the highest forget efficacy, 0.900 (0 of 40 questions still answered correctly, "
        "40 before), but keeps only 10% of its model utility.",
        "Of the two that keep at least 90% of the model utility, ME+GD has the higher, 0.800 (4 of 40 questions still "
        "answered correctly, 40 before), and keeps all.",
    ]


def test_a_tie_is_called_one() -> None:
    runs = [forgetting(m, measurement(fe, 0.9, 0.0)) for m, fe in (("ME+GD", 0.8), ("NPO+GD", 0.7), ("GA+GD", 0.5))]
    cautions = " ".join(verdict(Report([Part("", runs)], [], [])).cautions)
    assert "ME+GD and NPO+GD cannot be told apart by forget efficacy: their intervals overlap." in cautions
    assert "told apart" not in " ".join(verdict(Report([Part("", runs[::2])], [], [])).cautions)


def test_cautions_name_broken_language_and_likely_answers() -> None:
    runs = [forgetting("GA+GD", measurement(0.9, 0.0, 0.0, token_entropy=0.1, probability=0.5))]
    cautions = " ".join(verdict(Report([Part("", runs)], [], [])).cautions)
    assert "largely repeated words" in cautions
    assert "After GA+GD (0.50) the model still finds" in cautions
    assert "are not comparable with published numbers" in cautions


# ----------------------------------------------------------------------------------------------------------- bad input


def test_a_run_cut_short_is_shown_as_far_as_it_is(single: Path, report: Report_, tmp_path: Path) -> None:
    folder = shutil.copytree(single, tmp_path / "run")
    for name in ("records.jsonl", "summary.json", "finished.json", "log.jsonl"):
        (folder / name).unlink()
    assert report(folder).code == 0
    shown = text(tmp_path / "page.html")
    assert "Nothing can be said yet about what was forgotten, because the evaluations are not complete." in shown
    assert "The evaluation after unlearning is missing: it was not done, or was cut short." in shown
    assert "log.jsonl is missing: there are no training curves." in shown
    assert "The run has not finished: repeat its command to continue it." in shown
    assert f"{read_json(folder / 'before' / 'summary.json')['forget_efficacy']:.3f}" in shown
    (folder / "before" / "records.jsonl").unlink()
    (folder / "run.json").write_text("{")
    assert report(folder).code == 0
    shown = text(tmp_path / "page.html")
    assert "The records of the evaluation before unlearning are missing: its answers cannot be shown." in shown
    assert "run.json is missing or cannot be read: options, versions and hashes are not known." in shown


def test_folders_without_a_run_are_refused(report: Report_, tmp_path: Path, files: Files) -> None:
    (tmp_path / "empty").mkdir()
    for folder, sentence in (
        (tmp_path / "nowhere", "nowhere is not a directory: give the --output of an earlier run"),
        (tmp_path / "empty", "empty holds no run of unlearner: give the --output of an earlier run."),
        (files.model.parent, "holds only fine-tuning, which has no report"),
    ):
        ended = report(folder)
        assert ended.code == 2
        assert sentence in ended.err
        assert not (tmp_path / "page.html").exists()


@pytest.mark.slow
def test_only_a_report_is_overwritten(single: Path, report: Report_, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<p>mine</p>")
    ended = report(single)
    assert ended.code == 2
    assert "page.html already exists and is not a report: choose another name." in ended.err
    assert page.read_text() == "<p>mine</p>"
    assert "is a directory: give the name of a file" in report(single, output=tmp_path).err

    page.unlink()
    (tmp_path / "page-figures").mkdir()
    (tmp_path / "page-figures" / "thesis.tex").write_text("mine")
    ended = report(single)
    assert ended.code == 2
    assert "thesis.tex is in the way of the report's figures" in ended.err
    assert (tmp_path / "page-figures" / "thesis.tex").read_text() == "mine"
    (tmp_path / "page-figures" / "thesis.tex").rename(tmp_path / "page-figures" / "holiday.png")
    assert "holiday.png is in the way" in report(single).err
    assert (tmp_path / "page-figures" / "holiday.png").read_text() == "mine"

    shutil.rmtree(tmp_path / "page-figures")
    assert report(single).code == 0
    assert report(single).code == 0


def test_a_report_needs_a_folder(capfd: pytest.CaptureFixture[str]) -> None:
    ended = run_arguments(capfd, ["report"])
    assert ended.code == 2
    assert "--runs must be given" in ended.err


def test_by_default_the_page_lies_with_its_run(
    single: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(single, tmp_path / "run")
    assert run_arguments(capfd, ["report", str(folder)]).code == 0
    assert (folder / "report.html").is_file()
    monkeypatch.chdir(tmp_path)
    assert run_arguments(capfd, ["report", str(folder), str(single)]).code == 0
    assert (tmp_path / "report.html").is_file()


def test_too_much_text_is_cut_and_said_so(
    single: Path, report: Report_, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(single, tmp_path / "run")
    rows = read_jsonl(folder / "records.jsonl")
    for row in rows:
        row["generation"] = f"{row['set']}-{row['index']} " * 250
    (folder / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(import_module("unlearner.report.questions"), "MOST_DATA", 20_000)
    assert report(folder).code == 0
    assert "Texts longer than 1000 characters are cut here; records.jsonl has them in full." in text(
        tmp_path / "page.html"
    )
    assert len(embedded(tmp_path / "page.html")["rows"]) == 12


def searched(single: Path, folder: Path) -> Path:
    """A run as `forget --subject` has it, beside what was held out and tried; its texts are hostile."""
    run = folder / "ME+GD,epochs=2"
    shutil.copytree(single, run)
    sets = [
        {"name": "unseen_wordings", "questions": 12, "counted": 4, "before": 0.5, "after": 0.1},
        {"name": "<i>own</i>", "questions": 6, "counted": 0, "before": None, "after": None},
    ]  # fmt: skip
    aim = {"leak": 0.25, "neighbours": 0.9, "general": 0.95}
    held = {"run": run.name, "after": {}, "found": {}, "aim": aim, "reached": False, "sets": sets}
    (folder / "held-out.json").write_text(json.dumps(held))

    def trial(method: str, *found: float) -> str:
        names = ("leak", "neighbours", "general")
        said = dict(zip(names, found, strict=True)) if found else None
        setting = {"method": method, "learning_rate": 2e-4, "lora": True}
        return json.dumps({"setting": setting, "epochs": 2.0, "rung": 0, "seconds": 90.0, "found": said}) + "\n"

    tried = [trial("NPO+GD", 0.4, 0.5, 0.6), trial("ME+GD", 0.2, 0.7, 0.81), trial("<b>GA</b>")]
    (folder / "trials.jsonl").write_text("".join(tried))
    return run


def test_a_run_from_a_name_shows_what_was_held_out_and_tried(single: Path, report: Report_, tmp_path: Path) -> None:
    run = searched(single, tmp_path / "darwin")

    def shown(folder: Path) -> str:
        assert report(folder).code == 0
        return text(tmp_path / "page.html")

    told = shown(run)
    assert (
        "The aim is not reached: relative to before, sampled leak on unseen wordings at most 25%, neighbours at"
        " least 90%" in told
    )
    for line in (
        "other wordings 4 of 12 50% 10% 20%",
        "Trials of the search: 3",
        "ME+GD,learning_rate=0.0002,lora,epochs=2 20% 70% 81% 1.5 yes",
        "NPO+GD,learning_rate=0.0002,lora,epochs=2 40% 50% 60% 1.5",
    ):
        assert line in told
    page = (tmp_path / "page.html").read_text()
    assert "&lt;b&gt;GA&lt;/b&gt;" in page and "&lt;i&gt;own&lt;/i&gt;" in page
    assert "<b>GA" not in page and "<i>own" not in page
    whole = shown(tmp_path / "darwin")  # by the folder of the search
    assert "other wordings 4 of 12 50% 10% 20%" in whole

    # With another aim the page is made anew; of another run it tells nothing; what is damaged is said.
    first = add_report([run])
    assert first is not None and add_report([run]) == first
    held = json.loads((tmp_path / "darwin" / "held-out.json").read_text())
    later = first.stat().st_mtime_ns + 1_000_000_000
    (tmp_path / "darwin" / "held-out.json").write_text(json.dumps({**held, "reached": True}))
    os.utime(tmp_path / "darwin" / "held-out.json", ns=(later, later))
    add_report([run])
    assert "The aim is reached" in text(first)
    (tmp_path / "darwin" / "held-out.json").write_text(json.dumps({**held, "run": "another"}))
    assert "Held-out questions" not in shown(run)
    (tmp_path / "darwin" / "held-out.json").write_text(json.dumps({**held, "aim": 7}))
    assert "are damaged and cannot be shown" in shown(run)


def test_the_function_stays_the_function(single: Path, tmp_path: Path) -> None:
    """Also once the package of the same name has been imported."""
    folder = shutil.copytree(single, tmp_path / "run")
    for name in ("one.html", "two.html"):
        assert unlearner.report(folder, output=tmp_path / name) == tmp_path / name
    assert (tmp_path / "one.html").read_text() == (tmp_path / "two.html").read_text().replace("two-", "one-")
