"""What several processes make is what one makes: training by ddp, fsdp and deepspeed, evaluation, checkpoints.

A group of processes does all of it at once; the tests compare what it left.
"""

import shutil
import warnings
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_training import FORGET, OPTIONS, RETAIN, TOKENIZER, Killed, fresh_model, killed_at_epoch, log_of, run

from forked import together
from unlearner import Method, distributed
from unlearner.data.prompts import TEMPLATES
from unlearner.evaluation import passes
from unlearner.evaluation.evaluate import measure
from unlearner.evaluation.examples import EvalSet
from unlearner.evaluation.judges import load_judges
from unlearner.evaluation.metrics import METRICS
from unlearner.models import sharding
from unlearner.models.load import load_model
from unlearner.models.sharding import Engine
from unlearner.options import EvalOptions, TrainOptions
from unlearner.stopping import read_conditions

SHORT = replace(OPTIONS, lora_dropout=0.0, learning_rate=1e-3, epochs=1.9, max_tokens_per_forward=150)
"""Five steps in several forwards each, the last of three rows."""
TRAININGS: dict[str, tuple[str | Method, TrainOptions]] = {
    "ME+GD": ("ME+GD", SHORT),
    "NPO+KL": ("NPO+KL", SHORT),
    "DPO+GD": ("DPO+GD", SHORT),
    "IDK+AP": ("IDK+AP", replace(SHORT, epochs=1.7)),  # one row is left for the last step, for one of the processes
    "ME+GD, LoRA": ("ME+GD", replace(SHORT, lora=True)),
    "NPO+KL, LoRA": ("NPO+KL", replace(SHORT, lora=True)),
    "NPO+GD, LoRA, merged": ("NPO+GD", replace(SHORT, lora=True, merge=True)),
    "RMU+REP": (Method.parse("RMU+REP", layer=1, steering=3.0), SHORT),
    "MP-ME": (Method.parse("MP-ME"), replace(SHORT, max_length=96)),
    "ME+KL, checkpointing": ("ME+KL", replace(SHORT, gradient_checkpointing=True)),
    "ME+GD, listening": ("ME+GD", SHORT),
    "ME+GD, LoRA, listening": ("ME+GD", replace(SHORT, lora=True)),
}


class Worsening:
    """Every epoch leaks more than the last, and each process measures something else."""

    def __init__(self) -> None:
        self.conditions = read_conditions("leak<=0")
        self.leak = float(distributed.rank())

    def measure(self, model: Any) -> dict[str, float]:
        self.leak += 0.25 - distributed.rank()
        return {"leak": self.leak}


OFTEN = replace(SHORT, save_steps=2)
KILLED: tuple[tuple[str | Method, TrainOptions], ...] = (
    ("NPO+KL", OFTEN),
    ("NPO+KL", replace(OFTEN, lora=True)),
    (Method.parse("NPO+GD+GRU", forget_coeff=0.5), OFTEN),  # a moving average of gradients
    (Method.parse("NPO+GD+DUALOPTIM", retain_steps=2), OFTEN),  # a second optimiser's states
)
ENGINES: tuple[Engine, ...] = ("ddp", "fsdp", "deepspeed") if find_spec("deepspeed") else ("ddp", "fsdp")
SHOWN = [
    "ddp",
    "fsdp",
    pytest.param("deepspeed", marks=pytest.mark.skipif("deepspeed" not in ENGINES, reason="needs deepspeed")),
]


def train_all(folder: Path, engine: str, names: tuple[str, ...] = tuple(TRAININGS)) -> None:
    for name in names:
        method, options = TRAININGS[name]
        if name.endswith("listening") and engine == "deepspeed":
            continue  # which only trains
        listener = Worsening() if name.endswith("listening") else None
        run(method, folder / engine / name, options=options, parallel=engine, listener=listener)


def train_half(folder: Path, engine: Engine, model: Path) -> None:
    """From bf16 files in float32, with a frozen copy: several processes map them and widen what they keep."""
    loaded = load_model(str(model), lazy=True)
    assert (loaded.dtype == torch.bfloat16) == (distributed.count() > 1)
    run("ME+KL", folder / engine / "half", options=SHORT, model=loaded, parallel=engine)


def killed_with(engine: str) -> list[int]:
    """Which of `KILLED` there are: DeepSpeed takes no surgery."""
    return [place for place, (method, _) in enumerate(KILLED) if engine != "deepspeed" or isinstance(method, str)]


def kill_all(folder: Path, engine: str) -> None:
    """Runs that end after their third step, with a checkpoint of the second."""
    for place in killed_with(engine):
        method, options = KILLED[place]
        with pytest.raises(Killed):
            run(method, folder / engine / str(place), options=options, parallel=engine, at_epoch=killed_at_epoch(1))


def resume_all(source: Path, folder: Path, engine: str) -> None:
    for place in killed_with(engine):
        method, options = KILLED[place]
        if distributed.is_main():
            shutil.copytree(source / str(place), folder / str(place))
        distributed.barrier()
        run(method, folder / str(place), options=options, parallel=engine)


def evaluate_all(folder: Path, way: str) -> None:
    passes.ROUND = 3
    model = fresh_model()
    if way != "ddp":
        sharding.shard(model, torch.device("cpu"), torch.float32, bf16=False, offload=False)
    if way == "lockstep":
        sharding.ROOM = 0.0  # none to gather the whole model
    sets = [EvalSet("forget", tuple(FORGET)), EvalSet("retain", tuple(RETAIN))]
    options = EvalOptions(max_new_tokens=8, eval_tokens=120, metrics=[*METRICS, "extraction_strength"])
    measure(
        model, TOKENIZER, TEMPLATES["plain"], sets, folder / way, options, judges=load_judges("offline", None), seed=0,
    )  # fmt: skip


def work(folder: Path, killed: Path | None) -> None:
    """What each process of a group does."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    distributed.join()
    if distributed.count() == 1:  # alone, and in a process of its own, for DeepSpeed changes things that stay changed
        assert killed is not None
        resume_all(killed / "deepspeed", folder / "resumed" / "deepspeed", "deepspeed")
        return
    assert distributed.met_by_all("the same error") and not distributed.met_by_all(
        f"an error of rank {distributed.rank()}"
    )
    for engine in ENGINES:
        train_all(folder / "trained", engine)
        train_half(folder / "trained", engine, folder.parent / "half")
        if killed is None:
            kill_all(folder / "killed", engine)
        else:
            resume_all(killed / engine, folder / "resumed" / engine, engine)
    for way in ("ddp", "fsdp", "lockstep"):
        evaluate_all(folder / "evaluated", way)
    distributed.leave()


# ---------------------------------------------------------------------------------------------------------------- tests


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one, two and three processes left, in folders 1, 2 and 3; 3 went on with what was killed in 2."""
    folder = tmp_path_factory.mktemp("processes")
    fresh_model(dtype=torch.bfloat16).save_pretrained(folder / "half")
    train_all(folder / "1" / "trained", "ddp")
    train_half(folder / "1" / "trained", "ddp", folder / "half")
    for place, (method, options) in enumerate(KILLED):
        run(method, folder / "1" / "whole" / str(place), options=options)
    for count in (2, 3, 1) if "deepspeed" in ENGINES else (2, 3):
        killed = None if count == 2 else folder / "2" / "killed"
        together(count, folder / "said" / str(count), work, folder / str(count), killed)
    return folder


def assert_same_run(ours: Path, theirs: Path) -> None:
    """Weights within 1e-5 of a tensor's norm, and the log of every step."""
    for a, b in zip(log_of(ours), log_of(theirs), strict=True):
        assert a == pytest.approx(b, rel=1e-5, abs=2e-6)
    a, b = (load_file(next(folder.glob("*/*.safetensors"))) for folder in (ours, theirs))
    assert a.keys() == b.keys()
    for name in a:
        assert (a[name] - b[name]).norm() <= 1e-5 * b[name].norm(), name


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("engine", SHOWN)
@pytest.mark.parametrize("name", [*TRAININGS, "half"])
def test_processes_train_as_one_does(made: Path, name: str, engine: str, count: int) -> None:
    if name.endswith("listening") and engine == "deepspeed":
        pytest.skip("DeepSpeed only trains")
    one, several = made / "1" / "trained" / "ddp" / name, made / str(count) / "trained" / engine / name
    assert len(log_of(one)) == 5
    assert_same_run(several, one)
    if name.endswith("listening"):  # the first of two epochs, of three steps and two, was kept
        assert [row.get("kept") for row in log_of(several)] == [None, None, 1, None, None]
        last = one.with_name(name.removesuffix(", listening"))
        a, b = (load_file(next(folder.glob("*/*.safetensors"))) for folder in (several, last))
        assert any((a[name] - b[name]).norm() > 1e-3 * b[name].norm() for name in a)


@pytest.mark.slow
@pytest.mark.parametrize("engine", SHOWN)
@pytest.mark.parametrize("place", range(len(KILLED)), ids=["full", "LoRA", "GRU", "DualOptim"])
def test_what_two_processes_saved_one_and_three_continue(made: Path, place: int, engine: str, tmp_path: Path) -> None:
    if place not in killed_with(engine):
        pytest.skip("DeepSpeed takes no surgery")
    whole, killed = made / "1" / "whole" / str(place), made / "2" / "killed" / engine / str(place)
    assert [path.name for path in (killed / "checkpoints").iterdir()] == ["step-000002"]
    assert_same_run(made / "3" / "resumed" / engine / str(place), whole)
    if engine == "deepspeed":
        one = made / "1" / "resumed" / engine / str(place)
    else:
        method, options = KILLED[place]
        one = tmp_path / "one"
        shutil.copytree(killed, one)
        run(method, one, options=options)
    assert_same_run(one, whole)


@pytest.mark.slow
def test_a_sharded_model_is_saved_as_any_other(made: Path) -> None:
    folder = made / "2" / "trained" / "fsdp" / "ME+GD" / "model"
    model = load_model(str(folder))
    assert type(model).__name__ == "LlamaForCausalLM"
    assert {p.name for p in folder.iterdir()} == {
        p.name for p in (made / "1" / "trained" / "ddp" / "ME+GD" / "model").iterdir()
    }


@pytest.mark.slow
@pytest.mark.parametrize("way", ["ddp", "fsdp", "lockstep"])
@pytest.mark.parametrize("count", [2, 3])
def test_processes_evaluate_as_one_does(made: Path, count: int, way: str) -> None:
    """To the last bit, whether each process has the model, gathers it, or goes through its layers with the others."""
    if not (made / "1" / "evaluated").exists():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(passes, "ROUND", passes.ROUND)
            evaluate_all(made / "1" / "evaluated", "ddp")
    for name in ("records.jsonl", "summary.json"):
        one = (made / "1" / "evaluated" / "ddp" / name).read_bytes()
        assert (made / str(count) / "evaluated" / way / name).read_bytes() == one
    assert not list((made / str(count) / "evaluated" / way).glob("passes*"))


def test_shares_are_balanced_and_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    costs = [float(cost) for cost in range(1, 50)]
    owners = distributed.shares(costs)
    loads = [sum(cost for cost, owner in zip(costs, owners, strict=True) if owner == rank) for rank in range(3)]
    assert sum(loads) == sum(costs) and max(loads) - min(loads) <= 2
    assert distributed.shares([1.0]) == [0]
