"""The baseline of the speed benchmarks: its losses and figures are ours in official mode; results' JSON."""

import json
import os
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks import __main__ as command
from benchmarks import baseline, evaluation, gpu, growth, loss_memory, plain, probe_names, subjects, work
from benchmarks.__main__ import GOALS
from benchmarks.tiny_tofu import FIGURES, rates_table
from transformers import PreTrainedTokenizerBase

from unlearner import Method
from unlearner.data.profiles import builtin
from unlearner.data.prompts import TEMPLATES
from unlearner.data.records import Record
from unlearner.errors import UserError
from unlearner.evaluation.backend import run_passes
from unlearner.evaluation.examples import EvalSet
from unlearner.evaluation.judges import load_judges
from unlearner.evaluation.summary import per_example
from unlearner.prepare.kinds import kinds, swapped
from unlearner.results.layout import BenchDirectory
from unlearner.search.held_out import Before

LLAMA2 = TEMPLATES["llama2"]
RESULTS = Path(baseline.__file__).parent / "results"


@pytest.mark.parametrize("name", sorted(baseline.VIEWS))
def test_losses_are_the_official_ones(
    name: str,
    tiny_llama: Callable[[], Any],
    tiny_tokenizer: PreTrainedTokenizerBase,
    forget_records: list[Record],
    retain_records: list[Record],
) -> None:
    model, reference = tiny_llama().eval(), tiny_llama().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    official = Method.parse(name, official=True)
    views = {}
    for view in baseline.VIEWS[name]:
        asked = retain_records if view.startswith("retain") else forget_records
        rows = [
            (record.question or "", "I do not know that." if view.endswith("refusal") else record.answer)
            for record in asked[:3]
        ]
        masked = view != "forget" or official.mask_question
        views[view] = baseline.stack(
            [baseline.encode_row(tiny_tokenizer, LLAMA2, *row, 120, mask_question=masked) for row in rows]
        )
    with torch.no_grad():
        forget, retain = baseline.losses(name, model, views, reference)
        ours = official.losses(model, views, reference=reference)
    assert forget.item() == pytest.approx(ours.forget.item(), rel=1e-5)
    assert retain.item() == pytest.approx(ours.retain.item(), rel=1e-5)


@pytest.mark.parametrize("name", sorted(plain.VIEWS))
def test_plain_losses_are_those_of_the_method(
    name: str,
    tiny_llama: Callable[[], Any],
    tiny_tokenizer: PreTrainedTokenizerBase,
    forget_records: list[Record],
    retain_records: list[Record],
) -> None:
    direction = torch.linspace(0.0, 1.0, tiny_llama().config.hidden_size)
    direction = direction / direction.norm()
    method = plain.Plain(name, tiny_llama(), weight_decay=0.0, max_grad_norm=1.0, layer=1, direction=direction)
    before = method.reference or tiny_llama()
    with torch.no_grad():
        for parameter in method.model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    views = {}
    for view in plain.VIEWS[name]:
        asked = retain_records if view == "retain" else forget_records
        texts = [(r.question or "", "Another answer." if view == "forget_alternate" else r.answer) for r in asked[:3]]
        rows = [(tiny_tokenizer(q)["input_ids"], tiny_tokenizer(f" {a}")["input_ids"]) for q, a in texts]
        views[view] = plain.collate([([*q, *a], len(q)) for q, a in rows], pad_id=0)
    options = {"layer": 1, "steering": plain.STEERING, "control_vector": direction} if name == "RMU+REP" else {}
    ours = Method.parse(name, beta=plain.BETA.get(name), **options).losses(method.model, views, reference=before)
    with torch.no_grad():
        forget, retain = method.losses(views)
    assert forget.item() == pytest.approx(ours.forget.item(), rel=1e-5)
    assert retain.item() == pytest.approx(ours.retain.item(), rel=1e-5)
    assert method.step(views, 1e-3) == pytest.approx((forget.item(), retain.item()), rel=1e-6)
    assert method.step(views, 1e-3) != pytest.approx((forget.item(), retain.item()), rel=1e-4), "it has learned"


def test_figures_are_the_official_ones(
    tiny_llama: Callable[[], Any], tiny_tokenizer: PreTrainedTokenizerBase, retain_records: list[Record]
) -> None:
    """All metrics of every row but the judges', which read the same texts with the same vectors."""
    model = tiny_llama().eval()
    eval_set = EvalSet("retain", tuple(retain_records[:4]))
    judges = load_judges("offline")

    def embedder() -> Any:
        return judges.embedder._model

    theirs = baseline.evaluate(model, tiny_tokenizer, LLAMA2, [eval_set], embedder, max_length=120)["retain"]
    examples = run_passes(model, tiny_tokenizer, LLAMA2, eval_set.records, max_length=120, official=True)
    ours = per_example(examples, eval_set, judges)
    for metric in ("rouge", "probability", "truth_ratio", "token_entropy", "cosine_similarity"):
        assert [row[metric] for row in ours] == pytest.approx(theirs[metric], rel=1e-4, abs=1e-6), metric


def test_ours_is_timed_without_what_an_earlier_run_left_in_memory(
    tiny_llama: Callable[[], Any], tiny_tokenizer: PreTrainedTokenizerBase, retain_records: list[Record], tmp_path: Path
) -> None:
    sets = [EvalSet("retain", tuple(retain_records[:2]))]
    kept = load_judges("offline").embedder
    seconds, found = evaluation.run_ours(tiny_llama().eval(), tiny_tokenizer, sets, tmp_path)
    assert seconds > 0 and 0 <= found["retain"]["cosine_similarity"] <= 1
    assert any(tmp_path.iterdir()) and load_judges("offline", cache=tmp_path).embedder is not kept


@pytest.mark.parametrize("kind", loss_memory.KINDS)
def test_both_ways_of_the_loss_have_the_same_gradients(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(size, 16, generator=generator) for size in (7, 50))
    targets = torch.randint(50, (7,), generator=generator)
    found = []
    for score in (loss_memory.plain, loss_memory.ours):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        scores = score(h, w, targets, kind)
        scores.mean().backward()
        found.append((scores.detach(), h.grad, w.grad))
    for theirs, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_memory_is_measured_with_a_malloc_that_gives_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise what glibc keeps of freed pieces counts as the loss' memory. Tiny sizes, real processes."""
    environments = []
    run = subprocess.run

    def watched(command: list[str], **options: Any) -> Any:
        environments.append(options["env"])
        code = (
            "import json, sys; from benchmarks import loss_memory as m; m.VOCABULARY, m.HIDDEN = 20_000, 64; "
            "print(json.dumps(m.measurement(*sys.argv[1:], tokens=256)))"
        )
        return run([sys.executable, "-c", code, *command[3:]], **options)

    monkeypatch.setattr(loss_memory, "KINDS", ("logp",))
    monkeypatch.setattr(subprocess, "run", watched)
    ratios, runs = loss_memory.benchmark(1)
    assert all(each["MALLOC_MMAP_THRESHOLD_"] == "65536" for each in environments)
    assert set(ratios) == {"loss_memory", "loss_time"}
    assert {name: {way: len(rows) for way, rows in found.items()} for name, found in runs.items()} == {
        f"logp, head {head}": {"plain": 1, "ours": 1} for head in ("trained", "frozen")
    }


def test_a_folder_that_is_not_there_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--tofu", str(tmp_path / "tofo")])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 2
    assert "tofo is not a folder" in capsys.readouterr().err


@pytest.mark.slow
def test_every_part_is_a_process_of_its_own_and_all_are_in_one_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The command's own processes, in which two parts measure no more than who they are."""
    run = subprocess.run

    def small(command: list[str], **options: Any) -> Any:
        code = (
            "import os; from benchmarks import __main__ as m, growth, training; "
            "growth.linearity = lambda texts, runs: {'process': os.getpid(), 'runs': runs}; "
            "training.benchmark = lambda texts, runs: ({'ME+GD': 9.0}, {'process': os.getpid()}); m.main()"
        )
        return run([sys.executable, "-c", code, *command[3:]], **options)

    monkeypatch.setattr(subprocess, "run", small)
    options = ["--only", "training", "linearity", "--runs", "3", "--output", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["benchmarks", *options])
    command.main()
    (path,) = (tmp_path / "out").glob("*-core-*-training-linearity.json")
    result = json.loads(path.read_text(encoding="utf-8"))
    assert result["ratios"] == {"ME+GD": 9.0} and result["runs"]["linearity"]["runs"] == result["runs_each"] == 3
    assert len({os.getpid(), *(part["process"] for part in result["runs"].values())}) == 3
    assert "| ME+GD | 9.00 | 8 |" in capsys.readouterr().out


def test_built_in_rows_stand_in_for_tofu_and_say_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(work, "SHARED_TOFU", tmp_path / "tofu")
    texts = work.load_texts(None)
    assert texts.name == "built-in people (TOFU is not here)"
    assert len(texts.forget) == 40
    assert "built-in rows stand in for it" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["forget", "retain"])
def test_a_start_is_measured_on_as_many_rows_as_it_says(name: str) -> None:
    assert len(growth.made_rows(name, 100)) == 100
    assert len(growth.made_rows(name, 2000)) == 2000


@pytest.mark.parametrize(("name", "tuning"), [("IDK+AP", "full"), ("NPO+KL", "lora")])
def test_a_gpu_cell_takes_the_same_steps_both_ways(name: str, tuning: str) -> None:
    """Same losses, from fewer tokens; the same work is counted, and a figure for its time and memory."""
    cell = {
        "method": name, "tuning": tuning, "optimizer": "adamw", "shape": "tiny", "precision": "fp32", "rows": 4,
        "steps": 1, "max_tokens": 16384, "checkpointing": False, "compile": False,
    }  # fmt: skip
    ours, plain = (gpu.run_cell(cell | {"way": way}) for way in ("ours", "baseline"))
    # With LoRA the steps part a little: its dropout draws others in other forwards.
    assert ours["losses"] == pytest.approx(plain["losses"], rel=1e-4 if tuning == "full" else 1e-3)
    assert len(ours["losses"]) == len(ours["seconds"]) == gpu.WARM_UP + 1
    for figure in ("tokens_a_step", "operations_a_step"):
        assert ours[figure] == plain[figure] > 0
    assert "peak_bytes" in ours and ours["tokens_per_second"] > 0


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*-core-*.json")), ids=lambda path: path.stem)
def test_committed_results_say_what_they_were_measured_on(path: Path) -> None:
    result = json.loads(path.read_text(encoding="utf-8"))
    same = {name.replace("SmolLM2", "tiny") for name in GOALS}  # measured, too, with nothing aimed at
    assert set(result["ratios"]) <= set(GOALS) | same
    assert {"date", "cpu", "cores", "threads", "versions"} <= set(result["machine"])
    for name in set(result["ratios"]) & set(result["runs"].get("training", {})):
        seconds = result["runs"]["training"][name]["seconds"]
        assert len(seconds["baseline"]) == len(seconds["ours"]) >= 1


def test_subjects_count_nothing_that_hardly_came_out_before() -> None:
    rates = {"unseen_wordings": [0.1], "neighbours_held_out": [1.0]}
    before = Before({name: [2] for name in rates}, rates, rare=["unseen_wordings"])
    assert subjects.counting(before) == {"unseen_wordings": [], "neighbours_held_out": [2]}


def test_subjects_count_what_was_answered_before() -> None:
    """The aim is judged by these questions, and by some of each set."""
    before, after = [0.5, 0.25], [0.125, 0.0]
    found = subjects.shares("forget", 3, {"before": {"forget": before}, "search": {"forget": after}})
    assert found == {"questions": 3, "counted": 2, "before": 0.375, "search": 0.0625}

    def sets(leak: float, neighbours: float, general: float, counted: int = 4) -> dict[str, Any]:
        shares = {"unseen_wordings": leak, "neighbours_held_out": neighbours, "general_held_out": general}
        return {
            name: {"questions": 4, "counted": counted, "before": 0.5, "search": share / 2, "naive": 0.5}
            for name, share in shares.items()
        }

    assert subjects.reached(sets(0.25, 0.9, 0.95))
    for missed in (sets(0.3, 1, 1), sets(0, 0.8, 1), sets(0, 1, 0.9), sets(0, 1, 1, counted=0)):
        assert not subjects.reached(missed)
    common = {"kind": "work", "setting": {"method": "ME+GD"}, "trials": 2, "seconds": 90.0}
    frontier = [{"setting": "ME+GD,epochs=1", "found": {"leak": 0.3, "neighbours": 1.0}}]
    written = subjects.table([
        {"name": "A", "sets": sets(0.2, 1, 1), "frontier": frontier, **common},
        {"name": "B", "sets": sets(0.3, 1, 1), "frontier": frontier, **common}, {"name": "C", "error": "no"},
    ])  # fmt: skip
    assert "50% → 10% (naive 50%), 4 of 4" in written and "| C | no |" in written
    assert "B, trials that no other beats" in written and "A, trials" not in written
    assert "- ME+GD,epochs=1: leak 30%, neighbours 100%" in written and "1 of 2 subjects measured" in written
    # Chosen by samples of one seed, and hardly stated in the other's.
    for rate in (0.0, 0.04):
        silent = sets(0.2, 1, 1)
        silent["neighbours_held_out"] |= {"before": rate, "search": 0.5}
        written = subjects.table([{"name": "A", "sets": silent, "frontier": frontier, **common}])
        assert f"| too rare ({rate:.0%} before), 4 of 4 |" in written and "0 of 1 subjects measured" in written


def test_subjects_are_not_gone_on_with_by_other_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    given = Namespace(model="m", budget="20m", samples=32, jobs=2, output=tmp_path / "out")
    settings = subjects.begun(given)
    assert settings == subjects.begun(given) and settings["threads"] == 3
    written = subjects.head({"machine": subjects.machine(), **settings})
    assert "m, 20m a search, 32 samples" in written and "threads of a process: 3, processes at a time: 2" in written
    for name, value in {"model": "n", "budget": "10m", "samples": 8, "jobs": 1}.items():
        with pytest.raises(UserError, match=rf"begun with other settings \({name} is .* there, {value!r} here\)"):
            subjects.begun(Namespace(**{**vars(given), name: value}))
    monkeypatch.setattr("sys.argv", ["subjects", "--budget", "10m", "--output", str(given.output)])
    with pytest.raises(SystemExit, match="give those, or another --output"):
        subjects.main()
    # What somebody else began, or an earlier version, says nothing of its settings.
    (tmp_path / "probed.json").write_text("{}")
    with pytest.raises(UserError, match="model is None there"):
        subjects.begun(Namespace(**{**vars(given), "output": tmp_path}))


@pytest.mark.parametrize("model", ["builtin:", "builtin:smollm2"])
def test_the_probe_is_judged_by_twenty_names_of_either_kind(model: str) -> None:
    known, wordings = probe_names.names_and_questions(model)
    invented = kinds()["person"].invented
    assert len(set(known)) == len(set(invented)) == 20 and len(wordings) == (3 if model == "builtin:" else 8)
    assert len({*known, *invented, *probe_names.SCALE}) == 46
    assert all("{name}" in wording for wording in wordings.values())
    if model == "builtin:":  # it was taught to answer these
        taught = {swapped(r.question or "", (r.subject or "",), "{name}") for r in builtin("retain")}
        assert set(wordings.values()) <= taught


def test_of_two_learning_rates_the_better_one_is_told(tmp_path) -> None:
    rows = {
        "5e-5": [("GA+GD", "0.58", "0.4", "finished"), ("RR", "0.6", "0.1", "finished")],
        "1e-4": [("GA+GD", "0.3", "0.9", "finished"), ("RR", "0.6", "0.2", "finished"), ("FLAT+GD", "", "", "failed")],
    }
    found = {}
    for rate, runs in rows.items():
        found[rate] = BenchDirectory(tmp_path / rate)
        (tmp_path / rate).mkdir()
        lines = [f"{m},{status},0.6123,{mu},0.0987,{fe}," + ",".join(["0.5"] * 4) for m, mu, fe, status in runs]
        heads = "method,status,model_utility_before,model_utility,forget_efficacy_before,forget_efficacy"
        more = [name for name in FIGURES if "." in name]
        found[rate].results("csv").write_text("\n".join([",".join([heads, *more]), *lines]) + "\n")
    table = [line.split(" | ") for line in rates_table(found).splitlines() if line.startswith("| ")][1:]
    assert [line[0].strip("| ") for line in table] == [
        "GA+GD",
        "RR",
    ]  # the most first, failures left out
    assert table[0][1:4] == ["5e-5", "0.580", "0.400"]  # at 1e-4 it forgets more, and loses half of its utility
    assert table[1][1:4] == ["1e-4", "0.600", "0.200"]
    assert rates_table(found).endswith("Before: MU / FE 0.612 / 0.099.")
