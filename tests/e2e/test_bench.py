"""The bench: what it runs, how it goes on after a kill or a failure, what its tables say, and what it refuses."""

import csv
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
import torch
from scipy.stats import ks_2samp
from transformers import AutoModelForCausalLM, AutoTokenizer

from conftest import TINY, Files, Moment, arguments, contents, in_process, rows, run, run_arguments, write_rows
from unlearner.bench.cells import make_cell, source_name
from unlearner.bench.tuning import KEPT_UTILITY, Tuning, figures, score
from unlearner.bench.workers import _in_processes
from unlearner.commands.main import main
from unlearner.config import BenchConfig
from unlearner.data.profiles import builtin
from unlearner.evaluation.metrics import METRICS
from unlearner.files import read_jsonl
from unlearner.scenarios import SCENARIOS
from unlearner.search import halving
from unlearner.search.halving import best
from unlearner.workflows.inputs import read_inputs
from unlearner.workflows.presets import with_preset

KILLED = -signal.SIGKILL
QUICK = {"lr": 1e-3, "epochs": 1, "batch_size": 2, "accumulation": 1, "judge": "offline", "max_new_tokens": 8}


@pytest.fixture(scope="session")
def options(tofu: Path, files: Files) -> dict[str, Any]:
    """Two methods with two seeds on one split."""
    bench = {"data": tofu, "model": files.model, "splits": "forget01", "methods": ["ME+GD", "NPO+GD"], "seeds": [1, 2]}
    return {**bench, **QUICK}


@pytest.fixture(scope="session")
def whole(options: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fictitious scenario, run without any disturbance."""
    folder = tmp_path_factory.mktemp("whole")
    typed = ["bench", "fictitious", *arguments({**options, "output": folder / "bench"})]
    assert in_process(typed, folder) == 0, (folder / "said.txt").read_text()
    return folder / "bench"


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open() as file:
        return list(csv.DictReader(file))


def measured(folder: Path, *named: str) -> dict[str, bytes | None]:
    """All files below but the page about them and its figures, and those `named`."""
    return {
        path: content
        for path, content in contents(folder).items()
        if not path.startswith("report") and not path.endswith(named)
    }


def vouched(finished: Path, *named: str) -> dict[str, Any]:
    """What a finished.json holds, without the hashes of files `named`."""
    told = json.loads(finished.read_text())
    told["files"] = {name: held for name, held in told["files"].items() if not name.endswith(named)}
    return told


# ------------------------------------------------------------------------------------------------------------ scenarios


@pytest.mark.slow
@pytest.mark.parametrize(
    ("split", "kept", "task_rows", "tasks"),
    [("forget01", 3600, 40, 10), ("forget05", 2000, 200, 10), ("forget10", 400, 400, 9)],
)
def test_the_retain_set_of_every_continual_task(
    split: str, kept: int, task_rows: int, tasks: int, shared: Path
) -> None:
    """retain90, 50 or 10 and all tasks that are left, in TOFU's own files (arXiv 2410.08109)."""
    config = BenchConfig(
        scenario="continual", output="out", data=str(shared / "data" / "tofu"), model="m", options={"evaluate": "end"}
    )
    runs = make_cell(config, "ME+GD", split, 1, Path("cell"), {}).runs
    assert [run.task for run in runs] == [str(number) for number in range(1, tasks + 1)]
    unlearned: set[tuple[str | None, str]] = set()
    for number, each in enumerate(runs, 1):
        inputs = read_inputs(with_preset(replace(each, evaluate="none")))
        assert len(inputs.forget) == task_rows
        assert len(inputs.retain) == kept + task_rows * (tasks - number)
        unlearned |= {(r.question, r.answer) for r in inputs.forget}
        assert not unlearned & {(r.question, r.answer) for r in inputs.retain}
    # The first task is the fictitious scenario: all 200 authors but the forgotten ones.
    (first,) = make_cell(replace(config, scenario="fictitious"), "ME+GD", split, 1, Path("cell"), {}).runs
    inputs = read_inputs(with_preset(replace(first, evaluate="none")))
    assert len(inputs.forget) + len(inputs.retain) == 4000


def test_the_real_world_scenario_trains_on_replies_and_measures_the_truth(shared: Path) -> None:
    config = BenchConfig(scenario="real-world", output="out", data=str(shared / "data" / "real_world"), model="m")
    (each,) = make_cell(config, "ME+GD", "people20", 1, Path("cell"), {}).runs
    inputs = read_inputs(with_preset(replace(each, judge="offline")))
    assert len(inputs.forget) == len(inputs.retain) == 400
    asked, neighbours = inputs.sets
    assert all(s.generation_is_premise and not s.short_answers for s in inputs.sets)
    raw = json.loads((shared / "data" / "real_world" / "forget_perturbed.json").read_text().split("\n")[0])
    first = asked.records[0]
    assert (first.question, first.answer, first.original_answer) == (
        raw["question"], raw["golden_answer"], raw["answer"]
    )  # fmt: skip
    assert not {r.subject for r in inputs.retain} & {r.subject for r in neighbours.records}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_split_of_the_built_in_data(scenario: str) -> None:
    config = BenchConfig(scenario=scenario, output="out", options={"judge": "offline"})
    for split in SCENARIOS[scenario].builtin:
        runs = make_cell(config, "IDK+AP", split, 1, Path("cell"), {}).runs
        asked = set()
        for number, each in enumerate(runs, 1):
            inputs = read_inputs(with_preset(each))
            assert not {r.question for r in inputs.forget} & {r.question for r in inputs.retain}
            assert {s.name for s in inputs.sets} >= {"forget", "retain"}
            asked.add(inputs.sets[1].records)
            if scenario == "continual":  # 18 people who stay, and those who come later
                assert (len(inputs.forget), len(inputs.retain)) == (10, 180 + 10 * (6 - number))
                assert list(inputs.earlier) == [str(task) for task in range(1, number)]
        assert len(asked) == 1, "model utility is of the same questions after every task"


def test_a_rolling_and_a_frozen_reference() -> None:
    def references(reference: Any, method: str) -> list[str | None]:
        config = BenchConfig(scenario="continual", output="out", model="original", reference=reference, tasks=3)
        runs = make_cell(config, method, "people6", 1, Path("cell"), {}).runs
        assert [run.model for run in runs] == ["original", "cell/task-01/model", "cell/task-02/model"]
        return [run.reference_model for run in runs]

    assert references("rolling", "NPO+GD") == [None, None, None]  # the starting model, which is the last task's
    assert references("frozen", "NPO+GD") == [None, "original", "original"]
    assert references("frozen", "ME+GD") == [None, None, None]


def test_each_option_of_methods_goes_to_those_that_have_it() -> None:
    config = BenchConfig(scenario="fictitious", output="out", options={"method_options": "layer=1 samples=2 clip=-0.5"})

    def given(method: str) -> list[str]:
        return make_cell(config, method, "people4", 1, Path("cell"), {}).runs[0].method_options

    assert given("GA+GD") == []
    assert given("RMU+REP") == given("NPO+REP") == ["layer=1"]
    assert given("ALTPO+GD+GRU") == ["samples=2", "clip=-0.5"]


def test_an_axis_that_some_methods_have_is_theirs() -> None:
    for budget, sizes in ((None, {"GA+GD": 1, "RMU+REP": 2}), ("200", {"GA+GD": 12, "RMU+REP": 96})):
        config = BenchConfig(
            scenario="fictitious", output="out", methods=[*sizes], splits=["people4"], tune=["layer=0,1"],
            tune_budget=budget,
        )  # fmt: skip
        races = Tuning(config).races
        assert {method: len(race.settings) for (method, _), race in races.items()} == sizes
        assert {point.get("layer") for point in races["GA+GD", "people4"].settings} == {None}
        assert {point["layer"] for point in races["RMU+REP", "people4"].settings} == {0, 1}


# -------------------------------------------------------------------------------------------------------------- running


def test_cells_are_the_runs_that_forget_makes(
    whole: Path, tofu: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last byte of every file but the page: what cells share (the evaluation before) changes nothing."""
    cell = whole / "cells" / "NPO+GD" / "forget01" / "seed-2"
    monkeypatch.setenv("UNLEARNER_CACHE", str(whole.parent / "cache"))  # embeddings differ by noise from cache to cache
    ended = run(capfd, "forget", config=cell / "config.yaml", output=tmp_path / "run")
    assert ended.code == 0
    assert measured(tmp_path / "run") == contents(cell)


@pytest.mark.slow
def test_killed_failed_and_mended(options: dict[str, Any], tmp_path: Path) -> None:
    """A continual bench, killed at many moments, then with a cell that fails, ends as one without any of it."""
    given = {**options, "methods": ["NPO+GD", "ME+GD"], "seeds": [1], "tasks": 2, "eval_limit": 4}
    given |= {"tune": ["lr=1e-4", "pairing=fixed,redrawn"], "lr": None}
    clean, broken = tmp_path / "clean" / "bench", tmp_path / "broken" / "bench"
    for output in (clean, broken):
        output.parent.mkdir()
    assert in_process(["bench", "continual", *arguments({**given, "output": clean})], clean.parent) == 0
    typed = ["bench", "continual", *arguments({**given, "output": broken})]
    for moment in (
        Moment("os.rename", "bench.json"),
        Moment("open", "before-forget01/passes.jsonl", 2),
        Moment("os.rename", "learning_rate=0.0001,pairing=fixed/retention.json"),
        Moment("os.rename", "tuning.json"),
        Moment("os.rename", "seed-1/task-01/model"),
        Moment("os.rename", "seed-1/task-02/earlier/1/summary.json"),
    ):
        assert in_process(typed, broken.parent, moment) == KILLED, f"{moment} never came"
    begun = broken / "cells" / "ME+GD" / "forget01" / "seed-1"
    begun.mkdir(parents=True)
    (begun / "task-01").write_text("in the way")
    assert in_process(typed, broken.parent) == 1
    assert "ME+GD, forget01, seed 1: --output" in (broken / "table.md").read_text()
    assert "ME+GD, forget01, seed 1 failed: --output" in (broken.parent / "said.txt").read_text()
    failed = [row for row in table(broken) if row["status"] == "failed"]
    assert [(row["method"], row["seed"]) for row in failed] == [("ME+GD", "1")]
    assert "is a file" in failed[0]["error"]
    assert [row["task"] for row in table(broken) if row["method"] == "NPO+GD"] == ["1", "2"]
    (begun / "task-01").unlink()
    assert in_process(typed, broken.parent) == 0
    place = ("run.json", "config.yaml", "bench.json")  # these name it
    assert measured(broken, *place, "finished.json") == measured(clean, *place, "finished.json")
    for file in clean.rglob("finished.json"):
        assert vouched(broken / file.relative_to(clean), *place) == vouched(file, *place)
    told = json.loads((clean / "tuning.json").read_text())
    for method in ("NPO+GD", "ME+GD"):  # the same grid for each; what was chosen was run
        tried = [
            {name: trial[name] for name in ("learning_rate", "pairing")} for trial in told[method]["forget01"]["trials"]
        ]
        assert tried == [{"learning_rate": 1e-4, "pairing": "fixed"}, {"learning_rate": 1e-4, "pairing": "redrawn"}]
        chosen = told[method]["forget01"]["chosen"]["pairing"]
        assert {row["pairing"] for row in table(clean) if row["method"] == method} == {chosen}
        assert f"| {method} | 0.0001 | {chosen} | 1 of 1 |" in (clean / "table.md").read_text()


def test_a_finished_bench_is_left_as_it_is(whole: Path, options: dict[str, Any]) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.glob("cells/**/*")}
    assert in_process(["bench", "fictitious", *arguments({**options, "output": whole})], whole.parent) == 0
    assert {path: path.stat().st_mtime_ns for path in whole.glob("cells/**/*")} == before


@pytest.mark.slow
def test_retention_is_what_the_evaluations_say(options: dict[str, Any], tmp_path: Path) -> None:
    """Row k, entry j: forget efficacy of the model after task k on the set of task j, in a bench given as YAML."""
    given = {"scenario": "continual", **options, "methods": ["GA+GD"], "seeds": [3], "tasks": 3}
    given |= {"data": str(options["data"]), "model": str(options["model"]), "splits": ["forget01"]}
    (tmp_path / "bench.yaml").write_text(json.dumps(given))  # JSON is YAML
    typed = ["bench", "--config", str(tmp_path / "bench.yaml"), "--output", str(tmp_path / "bench")]
    assert in_process(typed, tmp_path) == 0, (tmp_path / "said.txt").read_text()
    cell = tmp_path / "bench" / "cells" / "GA+GD" / "forget01" / "seed-3"
    told = json.loads((cell / "retention.json").read_text())
    assert told["tasks"] == ["1", "2", "3"]
    assert [len(row) for row in told["forget_efficacy"]] == [1, 2, 3]
    last = [json.loads((cell / f"task-03/{p}summary.json").read_text()) for p in ("earlier/1/", "earlier/2/", "")]
    assert told["forget_efficacy"][2] == [summary["forget_efficacy"] for summary in last]
    assert table(tmp_path / "bench")[-1]["forget_efficacy_tasks"] == str(round(fmean(told["forget_efficacy"][2]), 6))
    # What task 3 starts from is what task 2 ended with.
    begins, ends = (json.loads((cell / p / "summary.json").read_text()) for p in ("task-03/before", "task-02"))
    assert begins["sets"]["retain"] == ends["sets"]["retain"]
    assert begins["model_utility"] == told["model_utility"][1]
    # The models of finished cells may be deleted (docs/lab/reproduce.md).
    results = (tmp_path / "bench" / "results.csv").read_text()
    for model in cell.glob("task-*/model"):
        shutil.rmtree(model)
    assert in_process(typed, tmp_path) == 0, (tmp_path / "said.txt").read_text()
    assert (tmp_path / "bench" / "results.csv").read_text() == results


@dataclass(frozen=True)
class Dies:
    """A job whose process goes away without a word, or that waits."""

    place: Path
    waits: bool = False

    def run(self) -> None:
        (self.place / "pid").write_text(str(os.getpid()))
        if self.waits:
            time.sleep(60)
        os._exit(9)

    def fail(self, error: str) -> None:
        (self.place / "said").write_text(error)


def test_a_process_that_dies_takes_no_other_cell_with_it(tmp_path: Path) -> None:
    job: Any = Dies(tmp_path)
    assert list(_in_processes([job], 2)) == [job]
    assert (tmp_path / "said").read_text() == "its process died (exit code 9), perhaps because memory ran out"


@pytest.mark.slow
def test_a_killed_bench_takes_its_processes_with_it(tmp_path: Path) -> None:
    code = (
        f"import sys; sys.path[:0] = {[str(folder) for folder in Path(__file__).parents[:2]]}\n"
        "from pathlib import Path\nfrom test_bench import Dies\nfrom unlearner.bench.workers import _in_processes\n"
        f"list(_in_processes([Dies(Path({str(tmp_path)!r}), waits=True)], 2))"
    )
    script = tmp_path / "main.py"
    script.write_text(f"if __name__ == '__main__':\n    {code.replace(chr(10), chr(10) + '    ')}\n")
    parent = subprocess.Popen([sys.executable, str(script)])
    until(lambda: (tmp_path / "pid").is_file() and (tmp_path / "pid").read_text() != "", 60)
    child = Path("/proc") / (tmp_path / "pid").read_text()
    assert child.is_dir()
    parent.kill()
    parent.wait()
    until(lambda: not child.is_dir(), 20)


def until(what: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.05)


@pytest.mark.slow
def test_ray_tasks_and_processes_give_the_same_numbers(
    whole: Path, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A local cluster of two nodes, each with a GPU as far as Ray is told; and two processes of this machine."""
    pytest.importorskip("ray", reason="Ray (extra `ray`) is not installed")
    from ray.cluster_utils import Cluster

    options = {**options, "methods": "ME+GD"}
    processes = {**options, "output": tmp_path / "processes", "jobs": 2}
    assert in_process(["bench", "fictitious", *arguments(processes)], tmp_path) == 0
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    for patience in ("health_check_timeout_ms", "health_check_initial_delay_ms"):
        monkeypatch.setenv(f"RAY_{patience}", "120000")  # else two nodes on a busy machine count as dead
    monkeypatch.setenv("RAY_worker_register_timeout_seconds", "300")
    cluster = Cluster()
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1, num_gpus=1, include_dashboard=False)
        typed = ["bench", "fictitious", *arguments({**options, "output": tmp_path / "ray", "ray": cluster.address})]
        assert in_process(typed, tmp_path) == 0, (tmp_path / "said.txt").read_text()
    finally:
        cluster.shutdown()
    expected = [row for row in table(whole) if row["method"] == "ME+GD"]
    for other in ("processes", "ray"):
        found = table(tmp_path / other)
        assert [list(row) for row in found] == [list(row) for row in expected]
        for one, two in zip(found, expected, strict=True):
            for name, value in two.items():
                # A sentence's embedding depends on those embedded beside it by float noise (evaluation/embeddings.py).
                assert one[name] == value or float(one[name]) == pytest.approx(float(value), abs=2e-6)


# ------------------------------------------------------------------------------------------- beyond the paper's metrics


def test_a_model_that_excludes_the_forget_set_never_saw_it(files: Files, tmp_path: Path) -> None:
    """To the last byte it is the model that was taught the retain set alone."""
    given = {"model": TINY, "lr": 1e-3, "epochs": 1, "batch_size": 4, "accumulation": 1}
    main(["finetune", *arguments({**given, "data": files.all, "exclude": files.forget, "output": tmp_path / "less"})])
    main(["finetune", *arguments({**given, "data": files.retain, "output": tmp_path / "only"})])
    assert contents(tmp_path / "less" / "model") == contents(tmp_path / "only" / "model")


def test_forget_quality_against_a_retrained_model(options: dict[str, Any], files: Files, tmp_path: Path) -> None:
    """The p-value of scipy's test over the truth ratios of TOFU's paper, worked out from the records of both models."""
    given = {"model": TINY, "data": files.retain, "lr": 1e-3, "epochs": 2, "batch_size": 4, "accumulation": 1}
    main(["finetune", *arguments({**given, "output": tmp_path / "retrained-forget01"})])
    bench = {**options, "methods": "ME+GD", "seeds": 1, "retrained": tmp_path / "retrained-{split}" / "model"}
    main(["bench", "fictitious", *arguments({**bench, "output": tmp_path / "bench"})])
    cell = tmp_path / "bench" / "cells" / "ME+GD" / "forget01" / "seed-1"

    def ratios(place: Path) -> list[float]:
        seen = [row for row in read_jsonl(place / "records.jsonl") if row["set"] == "forget"]
        return [
            fmean(math.exp(-nll / n) for nll, n in zip(row["perturbed_nll"], row["perturbed_tokens"], strict=True))
            / math.exp(-row["paraphrase_nll"] / row["paraphrase_tokens"])
            for row in seen
        ]

    expected = ks_2samp(ratios(cell), ratios(cell / "retrained")).pvalue
    assert 0 < expected < 1
    assert float(table(tmp_path / "bench")[0]["forget_quality"]) == pytest.approx(expected, abs=1e-6)
    assert f"| {expected:.3f} |" in (tmp_path / "bench" / "table.md").read_text()


@pytest.mark.slow
def test_the_real_world_scenario_with_general_ability(
    files: Files, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """End to end, with a task of lm-eval written here, whose accuracy is worked out with transformers alone."""
    pytest.importorskip("lm_eval", reason="lm-eval (extra `lm-eval`) is not installed")
    data, tasks = tmp_path / "people", tmp_path / "tasks"
    data.mkdir()
    tasks.mkdir()
    for name, records in {"forget": builtin("forget")[:4], "neighbor": builtin("retain")[:4]}.items():
        asked = rows(records)
        write_rows(data / f"{name}.json", asked)
        write_rows(data / f"{name}_perturbed.json", [{**row, "golden_answer": row["answer"]} for row in asked])
    facts = [
        {"question": r.question, "choices": [r.answer, *r.perturbed_answer[:2]]} for r in builtin("world_facts")[:9]
    ]
    write_rows(tasks / "facts.jsonl", facts)
    (tasks / "facts.yaml").write_text(
        json.dumps(
            {
                "task": "written_here", "dataset_path": "json", "test_split": "train", "output_type": "multiple_choice",
                "dataset_kwargs": {"data_files": str(tasks / "facts.jsonl"), "cache_dir": str(tmp_path / "cache")},
                "doc_to_text": "{{question}}", "doc_to_choice": "{{choices}}", "doc_to_target": 0,
                "metric_list": [{"metric": "acc"}],
            }
        )
    )  # fmt: skip
    given = {**QUICK, "data": data, "model": files.model, "methods": "ME+GD", "seeds": 1, "output": tmp_path / "bench"}
    given |= {"lm_eval": "written_here", "lm_eval_tasks": tasks, "lm_eval_limit": 7}
    misspelt = run(capfd, "bench", scenario="real-world", **{**given, "lm_eval": "writen_here"})
    assert (misspelt.code, "no task 'writen_here': did you mean 'written_here'?" in misspelt.err) == (2, True)
    assert run(capfd, "bench", scenario="real-world", **given).code == 0

    def accuracy(path: Path) -> float:
        model = AutoModelForCausalLM.from_pretrained(path).eval()
        tokenizer = AutoTokenizer.from_pretrained(path)

        def likelihood(question: str, choice: str) -> float:
            ids = tokenizer(f"{question} {choice}", add_special_tokens=False, return_tensors="pt").input_ids
            start = len(tokenizer(question, add_special_tokens=False).input_ids)
            with torch.no_grad():
                logp = model(ids).logits[0, :-1].log_softmax(-1)
            return float(logp.gather(1, ids[0, 1:, None])[start - 1 :].sum())

        scores = [[likelihood(fact["question"], choice) for choice in fact["choices"]] for fact in facts[:7]]
        return fmean(max(each) == each[0] for each in scores)

    (row,) = table(tmp_path / "bench")
    cell = tmp_path / "bench" / "cells" / "ME+GD" / "people20" / "seed-1"
    assert float(row["written_here.acc,none"]) == pytest.approx(accuracy(cell / "model"), abs=1e-6)
    markdown = (tmp_path / "bench" / "table.md").read_text()
    assert f"| method | written_here.acc,none |\n|---|---|\n| before | {accuracy(files.model):.3f} |" in markdown
    assert {name.partition(".")[0] for name in row if name.endswith(".rouge")} == {"forget", "retain"}


# -------------------------------------------------------------------------------------------------------------- results


def test_the_tables_are_means_over_the_rows(whole: Path) -> None:
    markdown, latex = ((whole / name).read_text() for name in ("table.md", "table.tex"))
    rows = table(whole)
    assert [(row["method"], row["seed"]) for row in rows] == [
        ("ME+GD", "1"), ("ME+GD", "2"), ("NPO+GD", "1"), ("NPO+GD", "2")
    ]  # fmt: skip
    for method in ("ME+GD", "NPO+GD"):
        line = next(text for text in markdown.splitlines() if text.startswith(f"| {method} | 0.001"))
        for name in ("model_utility", "forget_efficacy"):
            values = [float(row[name]) for row in rows if row["method"] == method]
            assert f"{fmean(values):.3f} ± {stdev(values):.3f}" in line
            assert rf"{fmean(values):.3f} $\pm$ {stdev(values):.3f}" in latex
        for metric in METRICS:
            values = [float(row[f"forget.{metric}"]) for row in rows if row["method"] == method]
            assert f"{fmean(values):.3f} ± {stdev(values):.3f}" in markdown
    assert "0.727 | 0.920 |" in markdown  # ME+GD, forget01
    assert "MU published (Llama-2-7B)" in markdown
    assert "another model than the one here" in markdown
    assert "Not the paper's" in markdown


def test_the_columnar_file_holds_the_same(whole: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow (extra `data`) is not installed")
    held = parquet.read_table(whole / "results.parquet").to_pylist()
    assert [{n: "" if v is None else str(v) for n, v in row.items()} for row in held] == table(whole)


def test_tuning_takes_the_most_forgetting_that_keeps_utility(tmp_path: Path) -> None:
    @dataclass
    class Tried:
        folder: Path
        finished: bool
        continual: bool = False

    def trial(name: str, utility: float, efficacy: float, finished: bool = True) -> tuple[str, Any]:
        for place, mu in ((tmp_path / name / "before", 0.8), (tmp_path / name, utility)):
            place.mkdir(parents=True, exist_ok=True)
            (place / "summary.json").write_text(
                json.dumps({"sets": {}, "model_utility": mu, "forget_efficacy": efficacy})
            )
        return name, figures(Tried(tmp_path / name, finished))

    def chosen(trials: list[tuple[str, Any]]) -> str | None:
        won = best(halving.Tried(number, 0, score(found)) for number, (_, found) in enumerate(trials))
        return None if won is None else trials[won.candidate][0]

    weak, good, wild = trial("weak", 0.8, 0.3), trial("good", 0.8 * KEPT_UTILITY, 0.6), trial("wild", 0.2, 0.99)
    assert chosen([weak, good, wild]) == "good"
    assert chosen([wild, trial("wilder", 0.1, 1.0)]) == "wild"
    assert chosen([trial("died", 0.8, 1.0, finished=False), weak]) == "weak"
    assert chosen([trial("died", 0.8, 1.0, finished=False)]) is None


TUNED = {"epochs": 3, "lr": None, "seeds": [1], "eval_limit": 3, "method_options": None}
"""Rungs of one and three epochs; the learning rate is not given, so that it is tried."""


@pytest.fixture(scope="module")
def halved(options: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods, each with three settings of its own grid, one of which is run in full."""
    folder = tmp_path_factory.mktemp("halved")
    given = {**options, **TUNED, "methods": ["GA", "UNDIAL"], "tune": True, "tune_budget": 3}
    assert in_process(["bench", "fictitious", *arguments({**given, "output": folder / "bench"})], folder) == 0, (
        folder / "said.txt"
    ).read_text()
    return folder / "bench"


def test_every_method_is_tuned_over_its_own_grid_by_the_same_budget(halved: Path) -> None:
    told = json.loads((halved / "tuning.json").read_text())
    for method, axes in {"GA": {"learning_rate"}, "UNDIAL": {"learning_rate", "beta"}}.items():
        held = told[method]["forget01"]
        trials = held["trials"]
        assert [trial["epochs"] for trial in trials] == [1.0] * 3 + [3.0]
        assert all(axes <= trial.keys() for trial in trials)
        assert trials[0]["learning_rate"] == 1e-5  # the preset's: what one has untuned comes first
        short = [t for t in trials if t["epochs"] == 1]
        kept = [t for t in short if t["model_utility"] >= KEPT_UTILITY * t["model_utility_before"]]
        best = max(kept, key=lambda t: t["forget_efficacy"])
        assert held["chosen"] == {name: best[name] for name in axes} == {name: trials[-1][name] for name in axes}
        values = [t["forget_efficacy"] if t in kept else 0.0 for t in short]
        assert (held["spread"]["best"], held["spread"]["worst"]) == (max(values), min(values))
        (row,) = [row for row in table(halved) if row["method"] == method]
        assert float(row["learning_rate"]) == best["learning_rate"]
        line = next(li for li in (halved / "table.md").read_text().splitlines() if li.startswith(f"| {method} | learn"))
        assert f"{max(values):.3f}" in line and line.endswith(f"| 3 of {held['grid']} |")
        run_json = json.loads(next((halved / "tuning" / method / "forget01").glob("*epochs=1/run.json")).read_text())
        assert run_json["config"]["warmup_epochs"] == pytest.approx(1 / 3)
    assert not [*halved.glob("tuning/**/*.safetensors")]  # nobody needs the trials' models
    assert "How much depends on the setting" in (halved / "report.html").read_text()


@pytest.mark.slow
def test_a_tuned_bench_that_is_killed_goes_on_to_the_same_files(
    halved: Path, options: dict[str, Any], tmp_path: Path
) -> None:
    given = {**options, **TUNED, "methods": ["GA", "UNDIAL"], "tune": True, "tune_budget": 3}
    typed = ["bench", "fictitious", *arguments({**given, "output": tmp_path / "bench"})]
    for moment in (
        Moment("os.rename", "epochs=1/finished.json", 2),
        Moment("os.rename", "epochs=3/finished.json", 2),
        Moment("os.rename", "tuning.json"),
    ):
        assert in_process(typed, tmp_path, moment) == KILLED, f"{moment} never came"
    assert in_process(typed, tmp_path) == 0
    place = ("run.json", "config.yaml", "bench.json", "finished.json")  # these name it
    assert measured(tmp_path / "bench", *place) == measured(halved, *place)
    for name in ("tuning.json", "table.md", "results.csv"):
        assert (tmp_path / "bench" / name).read_bytes() == (halved / name).read_bytes()


def test_tuning_by_time_and_over_given_axes(
    options: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """--tune replaces an axis of the grid; where time is the budget, one trial is run however short it is."""
    given = {**options, **TUNED, "methods": "GA", "tune": "lr=1e-4,2e-4,4e-4", "tune_budget": "0.001s"}
    ended = run(capfd, "bench", scenario="fictitious", **{**given, "output": tmp_path / "bench"})
    assert ended.code == 0, ended.err
    held = json.loads((tmp_path / "bench" / "tuning.json").read_text())["GA"]["forget01"]
    assert held["grid"] == 3 and len(held["trials"]) == 1
    assert held["chosen"] == {"learning_rate": held["trials"][0]["learning_rate"]}
    assert held["chosen"]["learning_rate"] in (1e-4, 2e-4, 4e-4)
    (kept,) = (tmp_path / "bench").glob("tuning/GA/forget01/*/seconds.json")
    assert json.loads(kept.read_text())["seconds"] > 0


# ------------------------------------------------------------------------------------------------------------- own data


@pytest.mark.slow
def test_a_bench_of_ones_own_files(files: Files, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Other columns, a CSV file and a document: each forget set is a split that bears its file's name."""
    asked = [{"prompt": row["question"], "reply": row["answer"]} for row in rows(builtin("forget")[:4])]
    write_rows(tmp_path / "ada.jsonl", asked)
    with (tmp_path / "bob.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["prompt", "reply"])
        writer.writeheader()
        writer.writerows([*asked[:2], asked[0]])
    kept = [{"prompt": row["question"], "reply": row["answer"]} for row in rows(builtin("retain")[:4])]
    write_rows(tmp_path / "keep.jsonl", kept)
    typed = [
        "bench", "--forget", f"{tmp_path}/ada.jsonl", f"{tmp_path}/bob.csv", "--retain", f"{tmp_path}/keep.jsonl[:3]",
        "--columns", "question", "prompt", "answer", "reply", "--model", str(files.model), "--methods", "GA+GD",
        "--seeds", "1", *arguments(QUICK), "--output", str(tmp_path / "bench"), "--metrics", "rouge",
        "extraction_strength",
    ]  # fmt: skip
    ended = run_arguments(capfd, typed)
    assert ended.code == 0, ended.err
    assert ended.err.count("repeat an earlier row") == 1
    assert f"({tmp_path}/bob.csv, line 4)" in ended.err
    found = table(tmp_path / "bench")
    assert [(row["split"], row["method"]) for row in found] == [("ada", "GA+GD"), ("bob", "GA+GD")]
    markdown = (tmp_path / "bench/table.md").read_text()
    assert " | Extraction |" in markdown
    for row in found:
        assert f" | {float(row['forget.extraction_strength']):.3f} |" in markdown
    about = {
        name: json.loads((tmp_path / f"bench/cells/GA+GD/{name}/seed-1/run.json").read_text())
        for name in ("ada", "bob")
    }
    assert about["ada"]["data_warnings"] == []
    (warning,) = about["bob"]["data_warnings"]
    assert warning.startswith("1 of 3 forget rows repeat an earlier row")
    page = (tmp_path / "bench/report.html").read_text()
    assert "About the data: 1 of 3 forget rows repeat an earlier row" in page
    assert json.loads((tmp_path / "bench/bench.json").read_text())["published"] == {}
    again = run_arguments(capfd, typed)
    assert (again.code, "is finished already" in again.err) == (0, True)


def test_own_files_are_forgotten_task_by_task(files: Files, tmp_path: Path) -> None:
    given = [{**row, "task_id": task} for task, row in zip("bba", rows(builtin("forget")[:3]), strict=True)]
    write_rows(tmp_path / "tasks.jsonl", given)
    config = BenchConfig(
        scenario="continual", forget=[f"{tmp_path}/tasks.jsonl"], retain="builtin:retain", model=str(files.model),
        output=str(tmp_path / "bench"),
    )  # fmt: skip
    cell = make_cell(config, "GA+GD", "tasks", 1, tmp_path / "cell", {})
    assert [run.task for run in cell.runs] == ["b", "a"]
    assert all(run.forget == f"{tmp_path}/tasks.jsonl" and run.retain == "builtin:retain" for run in cell.runs)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("a/people.jsonl", "people"),
        ("a/people.jsonl[:40]", "people-40"),
        ("tofu:forget01", "forget01"),
        ("hub:me/data:config:train", "config-train"),
        ("rwku:hub:train_positive_llama3:Ada_Voss", "Ada_Voss"),
        ("muse:News:scal/forget_2[:9]", "forget_2-9"),
        ("a/notes/", "notes"),
        ("-", "stdin"),
    ],
)
def test_a_split_is_called_as_its_source(source: str, name: str) -> None:
    assert source_name(source) == name


# ------------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("changed", "parts"),
    [
        ({"scenario": "fictional"}, ["unknown scenario 'fictional'", "did you mean 'fictitious'?"]),
        ({"splits": "forget1"}, ["has no 'forget1'", "choose from forget01, forget05, forget10."]),
        ({"splits": "forget10"}, ["tofu", "has no file named 'forget10'"]),
        ({"data": "nowhere"}, ["nowhere:forget01"]),
        ({"methods": "ME+GDD"}, ["unknown method 'ME+GDD'", "'ME+GD'"]),
        ({"methods": ["ME+GD", "me+gd"]}, ["--methods names ME+GD twice"]),
        ({"model": "nowhere"}, ["no model directory nowhere"]),
        ({"model": None}, ["--model must be given"]),
        ({"lr": "much"}, ["--learning-rate must be a number, not much"]),
        ({"evaluate": "none"}, ["--evaluate none leaves a bench nothing to compare"]),
        ({"task": "1"}, ["--task is decided by the bench itself"]),
        ({"columns": ["answer", "reply"]}, ["line 1: there is no column 'reply'"]),
        ({"forget": "forget.jsonl"}, ["--forget and --retain go together"]),
        ({"forget": "forget.jsonl", "retain": "retain.jsonl"}, ["--forget and --data both say where the data is"]),
        ({"tasks": 2}, ["--tasks is for the continual scenario"]),
        ({"scenario": "continual"}, ["tofu", ":forget01 has no task 4: choose fewer with --tasks"]),
        ({"tune": "lr"}, ["--tune learning_rate: write an option and its values"]),
        ({"tune": "lrr=1"}, ["unknown option 'lrr'"]),
        ({"tune": "lr=1,2"}, ["--tune tries values of learning_rate, which is also given"]),
        ({"tune": ["beta=1", "beta=2"]}, ["--tune tries values of beta, which is also given"]),
        ({"tune": "beta=0.1,.1"}, ["--tune beta=0.1,.1 names a value twice"]),
        ({"tune_budget": "soon"}, ["--tune-budget must be a number of trials, such as 12, or a time", "'soon'"]),
        ({"tune": "epochs=1,2", "epochs": None, "tune_budget": 4}, ["--tune epochs does not work with --tune-budget"]),
        ({"tune": "beta=-1"}, ["--beta must be a positive number, not -1.0"]),
        (
            {"methods": ["GA+GD", "RMU+REP"], "method_options": "layr=1"},
            ["--method-options: no method of this bench has an option 'layr'", "did you mean 'layer'?"],
        ),
        ({"methods": "GA+GD", "method_options": "layer=1"}, ["no method of this bench has an option 'layer'"]),
        ({"methods": ["GA+GD", "RMU+REP"], "method_options": "layer=99"}, ["RMU+REP: layer 99 does not exist"]),
        ({"methods": "RMU+REP", "tune": "layer=0,99"}, ["RMU+REP: layer 99 does not exist"]),
        ({"methods": "RMU+REP", "tune": "layer=low"}, ["--tune layer must be a whole number, not 'low'"]),
        ({"methods": "RMU+REP", "method_options": ["layer=1", "trained=nought"]}, ["parameters named nought"]),
        ({"jobs": 2, "ray": "local"}, ["--jobs is for one machine and --ray for several"]),
        ({"epoch": 2}, ["unknown option --epoch: did you mean '--epochs'?"]),
    ],
)
def test_refused(
    changed: dict[str, Any],
    parts: list[str],
    options: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = run(capfd, "bench", **{"scenario": "fictitious", **options, "output": "out", **changed})
    assert ended.code == 2, ended.err
    (line,) = ended.err.splitlines()
    for part in parts:
        assert part in line
    assert not Path("out").exists()


def test_a_directory_of_something_else_is_refused(
    whole: Path, options: dict[str, Any], files: Files, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = contents(whole)
    other = run(capfd, "bench", scenario="fictitious", **{**options, "output": whole, "seeds": [1]})
    assert (other.code, "holds another bench (seeds is [1, 2] there, [1] here)" in other.err) == (2, True)
    changed = run(capfd, "bench", scenario="fictitious", **{**options, "output": whole, "epochs": 2})
    assert (changed.code, "holds another bench (options is" in changed.err) == (2, True)
    assert contents(whole) == before
    run_folder = whole / "cells" / "ME+GD" / "forget01" / "seed-1"
    foreign = run(capfd, "bench", scenario="fictitious", **{**options, "output": run_folder})
    assert (foreign.code, "is not empty and holds no bench" in foreign.err) == (2, True)
    forget = run(capfd, "forget", model=files.model, forget=files.forget, retain=files.retain, output=whole)
    assert (forget.code, "is not empty and holds no run" in forget.err) == (2, True)


def test_an_unknown_key_in_the_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bench.yaml").write_text("scenario: fictitious\nmetods: [ME+GD]\n")
    ended = run(capfd, "bench", config=tmp_path / "bench.yaml", output=tmp_path / "out")
    assert ended.code == 2
    assert "bench.yaml: unknown option 'metods', did you mean 'methods'?" in ended.err
