"""The plan of how a run computes: who decides, in what order, where it is kept, and that it is taken back."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from unlearner import Method, Unlearner
from unlearner.bench.cells import typed
from unlearner.config import EvaluateConfig
from unlearner.data.prompts import TokenTable
from unlearner.data.views import View
from unlearner.errors import UserError
from unlearner.models import onednn_linear
from unlearner.models.execution import Execution, now, using
from unlearner.models.new import new_model
from unlearner.options import TrainOptions
from unlearner.results.layout import RunDirectory
from unlearner.scoring import token_scores
from unlearner.training import execution
from unlearner.training.execution import executing, plan_evaluation, plan_training, sharing
from unlearner.training.setup import make_accelerator

MODEL, _ = new_model("new:hidden=32,layers=2,heads=2,vocabulary=300", ["Who is she?\n She is a poet."], seed=0)
OPTIONS = TrainOptions(model="", precision="fp32")


def planned(
    method: str = "ME+GD", folder: Path | None = None, parallel: str = "ddp", views: Any = (), **options: Any
) -> Execution:
    official = options.pop("official", False)
    chosen = replace(OPTIONS, **options)
    return plan_training(
        [MODEL], Method.parse(method, official=official), chosen, parallel, make_accelerator(chosen), folder, views
    )


def test_what_is_chosen_by_itself() -> None:
    plan = planned()
    linear = "onednn" if onednn_linear.mkl_is_slow() else "torch"
    assert plan == Execution("packed", "torch", linear, False, "ddp", 1, torch.get_num_threads())
    assert planned("NPO+KL").rows == "padded", "its gradient shows how attention sums"
    assert planned(official=True).rows == "padded"
    assert planned(torch_compile=True) == replace(plan, rows="by-length", compiled=True)
    assert planned(parallel="fsdp").rows == "packed"
    assert planned(parallel="deepspeed").rows == "padded"


def view(*rows: list[int]) -> View:
    offsets = np.cumsum([0, *map(len, rows)])
    table = TokenTable(np.concatenate(rows), offsets, np.ones(len(rows), np.int32), np.ones(len(rows), bool))
    return View(table, np.arange(len(rows))[None], np.ones(len(rows), np.int64))


def test_tokens_that_all_rows_begin_with_are_shared_where_that_saves(tmp_path: Path) -> None:
    short, long = view([1, 2, 3, 4], [1, 2, 3, 5, 6]), view([1, 2, 7, 8])
    plan = planned(views=[short, long])
    assert (plan.prefix, plan.prefix_tokens) == ("shared", 2), "short's rows share three, long's one does not"
    assert planned(views=[view([1, 2], [1, 2])]).prefix_tokens == 1, "each row has a token of its own"
    repeated = planned(views=[short, long], execution={"prefix": "repeated"})
    assert repeated == replace(plan, prefix="repeated", prefix_tokens=0)
    assert planned(views=[short, view([7, 2, 3])]) == repeated, "nothing is shared"
    little = [view([1, *[2] * 40], [1, *[3] * 40])]
    assert planned(views=little) == repeated, "a fortieth of all tokens"
    assert planned(views=little, execution={"prefix": "shared"}).prefix_tokens == 1
    for unpacked in ({"official": True}, {"method": "NPO+KL"}, {"execution": {"rows": "padded"}}):
        assert planned(views=[short, long], **unpacked).prefix == "repeated"
    with pytest.raises(UserError, match="--execution prefix shared is not possible here"):
        planned(views=[short, long], execution={"rows": "padded", "prefix": "shared"})
    run = RunDirectory(tmp_path)
    before = {key: value for key, value in asdict(plan).items() if "prefix" not in key}
    run.manifest.write_text(json.dumps({"version": 2, "hashes": {}, "execution": [{"step": 0, **before}]}))
    assert planned(folder=tmp_path, views=[short, long]) == repeated, "so was it begun by an earlier version"


def test_views_that_come_later_share_too(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.manifest.write_text(json.dumps({"version": 2, "hashes": {}}))
    views = [view([1, 2, 3, 4], [1, 2, 3, 5, 6])]
    plan = planned(folder=tmp_path, views=views)
    assert plan.prefix_tokens == 3
    fewer = sharing(plan, [*views, view([1, 2, 7, 8])], tmp_path)
    assert fewer == replace(plan, prefix_tokens=2)
    assert [each["prefix_tokens"] for each in json.loads(run.manifest.read_text())["execution"]] == [3, 2]
    none = sharing(plan, [*views, view([7, 2, 3])], None)
    assert none == replace(plan, prefix="repeated", prefix_tokens=0)
    assert sharing(none, views, None) == none, "what was decided stays"


def test_it_is_decided_once(monkeypatch: pytest.MonkeyPatch) -> None:
    decided = []
    settled = execution._settled
    monkeypatch.setattr(execution, "_settled", lambda *given, **more: decided.append(1) or settled(*given, **more))
    model, tokenizer = new_model("new:hidden=32,layers=2,heads=2,vocabulary=300", ["Who is she?\n She is."], seed=0)
    rows = [{"question": "Who is she?", "answer": f"She is {n}."} for n in range(3)]
    u = Unlearner(
        model, tokenizer, forget=rows[:1], retain=rows, method="GA+GD", epochs=1, learning_rate=1e-3, evaluate="none"
    )
    u.evaluate()
    u.train()
    assert len(decided) == 1


def test_a_model_that_cannot_be_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODEL.config, "_attn_implementation", "eager")
    assert planned().rows == "by-length"
    with pytest.raises(
        UserError, match="--execution rows packed is not possible here: choose by-length or padded, or leave"
    ):
        planned(execution={"rows": "packed"})


def test_what_is_asked_for_is_done_or_refused() -> None:
    for rows in ("packed", "by-length", "padded"):
        assert planned(execution={"rows": rows}).rows == rows
    if onednn_linear.has_onednn():
        assert [planned(execution={"linear": name}).linear for name in ("onednn", "torch")] == ["onednn", "torch"]
    with pytest.raises(
        UserError, match="--execution rows by-length is not possible here: choose padded, or leave it out"
    ):
        planned("NPO+KL", execution={"rows": "by-length"})
    with pytest.raises(UserError, match="--execution scores triton is not possible here"):
        planned(execution={"scores": "triton"})


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"row": "padded"}, "--execution has no setting 'row': did you mean 'rows'?"),
        ({"rows": "sorted"}, "--execution rows must be one of packed, by-length, padded, not 'sorted'."),
    ],
)
def test_a_mistyped_choice_is_told(asked: dict[str, str], said: str) -> None:
    with pytest.raises(UserError) as told:
        replace(OPTIONS, execution=asked).check_training()
    assert str(told.value) == said


def test_a_run_goes_on_as_it_began(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.manifest.write_text(json.dumps({"version": 2, "hashes": {}}))
    first = planned(folder=tmp_path, execution={"rows": "padded"})
    assert planned(folder=tmp_path) == first, "though packed rows are what a new run takes"
    assert run.read_manifest()["execution"] == [{"step": 0, **asdict(first)}]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        (run.checkpoints / "step-4").mkdir(parents=True)
        (run.checkpoints / "step-4" / "state.json").write_text("{}")
        second = planned(folder=tmp_path)
    finally:
        torch.set_num_threads(threads)
    assert second == replace(first, threads=threads + 1)
    steps = [(plan["step"], plan["threads"]) for plan in run.read_manifest()["execution"]]
    assert steps == [(0, threads), (4, threads + 1)]


def test_without_a_run_nothing_is_written(tmp_path: Path) -> None:
    planned(folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_is_changed_in_a_model_is_undone() -> None:
    accelerator = make_accelerator(OPTIONS)
    layers = [module for module in MODEL.modules() if isinstance(module, nn.Linear)]
    plan = Execution("packed", "torch", "onednn")
    with executing(plan, [MODEL], accelerator):
        assert now() is plan and MODEL.config._attn_implementation == "packed"
        assert all("forward" in vars(layer) for layer in layers)
        with using(replace(plan, linear="torch")):
            assert not onednn_linear._used()
        assert onednn_linear._used()
    assert now() is None and MODEL.config._attn_implementation == "sdpa"
    assert not any("forward" in vars(layer) for layer in layers)


def test_an_error_ends_the_plan() -> None:
    with pytest.raises(ZeroDivisionError), executing(Execution(), [MODEL], make_accelerator(OPTIONS)):
        1 / 0  # noqa: B018
    assert now() is None


def test_the_plan_tells_who_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    with using(Execution(scores="triton")):
        assert token_scores._fused(cuda, torch.bfloat16, 100, ("logp", "mean_logp"))
        assert not token_scores._fused(cuda, torch.bfloat16, 100, ("logp", "entropy"))
        assert not token_scores._fused(cuda, torch.float64, 100, ("logp",))
    monkeypatch.setattr(token_scores, "kernels_gain", lambda *_: True)
    with using(Execution(scores="torch")):
        assert not token_scores._fused(cuda, torch.bfloat16, 100, ("logp",))
    assert token_scores._fused(cuda, torch.bfloat16, 100, ("logp",))


def test_an_evaluation_has_a_plan_too() -> None:
    options = EvaluateConfig(model="", output="")
    plans = [plan_evaluation(MODEL, options, None, official=official) for official in (False, True)]
    assert [(plan.rows, plan.prefix) for plan in plans] == [("by-length", "shared"), ("padded", "repeated")]
    with pytest.raises(UserError, match="rows packed is not possible here"):
        plan_evaluation(MODEL, replace(options, execution={"rows": "packed"}), None, official=False)


def test_the_cells_of_a_bench_take_it() -> None:
    assert typed("execution", "rows padded linear torch") == {"rows": "padded", "linear": "torch"}
    assert typed("execution", {"rows": "padded"}) == {"rows": "padded"}, "from YAML"
    with pytest.raises(UserError, match="--execution needs names and values in pairs, not 'rows'"):
        typed("execution", "rows")


def test_forward_tokens_follow_the_rows() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert execution.forward_tokens(Execution("padded"), cpu) is None
    assert execution.forward_tokens(Execution("by-length"), cpu) == 128
    assert execution.forward_tokens(Execution("by-length"), cuda) == 128
