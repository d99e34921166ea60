"""`--stop-when`: how it is read, which epoch is best, and training that stops by it, killed and resumed."""

import copy
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import TrainerCallback

import unlearner
from unlearner.config import ForgetConfig
from unlearner.data.profiles import builtin
from unlearner.errors import UserError
from unlearner.models.load import load_model
from unlearner.models.new import new_model
from unlearner.report import write_report
from unlearner.search.listening import Listening, _spread
from unlearner.stopping import Condition, best, met, missed, read_conditions, told

FORGET = [{k: v for k, v in asdict(r).items() if v} for r in builtin("forget", people=3, forget=1)]
RETAIN = [{k: v for k, v in asdict(r).items() if v} for r in builtin("retain", people=3, forget=1)]
NEIGHBOURS = [{k: v for k, v in asdict(r).items() if v} for r in builtin("neighbours", neighbours=3)]
SETTINGS: dict[str, Any] = {
    "forget": FORGET, "retain": RETAIN, "world_facts": NEIGHBOURS, "method": "GA+GD", "learning_rate": 1e-3,
    "epochs": 5, "batch_size": 5, "gradient_accumulation_steps": 1, "evaluate": "none", "max_length": 64,
    "precision": "fp32",
}  # fmt: skip


def test_conditions_are_read() -> None:
    assert read_conditions("leak<0.1 neighbours>0.9") == [
        Condition("leak", "<", 0.1),
        Condition("neighbours", ">", 0.9),
    ]
    assert read_conditions(" paraphrases <= 5%,neighbours>=1 ") == [
        Condition("paraphrases", "<=", 0.05),
        Condition("neighbours", ">=", 1.0),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", 'is not valid from "" on: write conditions such as "leak<0.1 neighbours>0.9"'),
        ("leak<0.1 or neighbours>1", 'is not valid from "or neighbours>1" on'),
        ("leak<a tenth", 'is not valid from "leak<a tenth" on'),
        ("leaks<0.1", "has no measure 'leaks': did you mean 'leak'?"),
        ("leak>0.1", "needs leak<, not leak>"),
        ("neighbours>90", "neighbours>90 must lie between 0 and 1"),
    ],
)
def test_what_cannot_be_read_is_told(text: str, said: str) -> None:
    config = ForgetConfig(model="m", forget="f", output="o", stop_when=text)
    with pytest.raises(UserError) as error:
        config.check()
    assert said in str(error.value)


def test_the_best_epoch_by_hand() -> None:
    conditions = read_conditions("leak<0.2 neighbours>0.8")
    rows = [{"leak": 0.6, "neighbours": 1.0}, {"leak": 0.4, "neighbours": 0.6}, {"leak": 0.0, "neighbours": 0.2}]
    assert [missed(conditions, row) for row in rows] == pytest.approx([0.4 / 0.8, 0.2 / 0.8 + 0.2 / 0.8, 0.6 / 0.8])
    assert best(conditions, rows) == 1, "of two that miss by as much, the one of which less leaks"
    assert best(conditions, [*rows, {"leak": 0.1, "neighbours": 0.9}]) == 3
    assert not met(conditions, {"leak": 0.2, "neighbours": 0.9})
    log = [{"step": 1}, {"step": 2, **rows[1], "kept": 2}]
    said = "epoch 2 of 3 was kept: leak 40%, neighbours 60%, relative to before (none met leak<0.2 neighbours>0.8; "
    assert (told(log, "leak<0.2 neighbours>0.8", 2.5) or "").startswith(said)


# ------------------------------------------------------------------------------------------------------------ training


class Killed(Exception):
    pass


class Epochs(TrainerCallback):
    """Keeps the weights of every epoch, and dies after one."""

    def __init__(self, killed: int | None = None) -> None:
        self.killed = killed
        self.weights: list[dict[str, torch.Tensor]] = []

    def on_epoch_end(self, args: Any, state: Any, control: Any, model: Any = None, **objects: Any) -> None:
        self.weights.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        if len(self.weights) == self.killed:
            raise Killed


def same(model: nn.Module, weights: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that knows these three people and three neighbours by heart."""
    rows = FORGET + RETAIN + NEIGHBOURS
    model, tokenizer = new_model(
        "new:hidden=64,layers=2,heads=2,vocabulary=500",
        [f"{row['question']}\n {row['answer']}" for row in rows],
        seed=0,
    )
    folder = tmp_path_factory.mktemp("taught")
    made = unlearner.finetune(
        model, tokenizer=tokenizer, data=rows, learning_rate=5e-3, epochs=30, batch_size=8,
        gradient_accumulation_steps=1, weight_decay=0.0, precision="fp32", max_length=64,
    )  # fmt: skip
    made.model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def rows_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def test_training_stops_when_it_is_good_enough(taught: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    epochs = Epochs()
    text = "leak<0.5 neighbours>=0"
    done = unlearner.forget(str(taught), **SETTINGS, stop_when=text, output=tmp_path / "run", callbacks=[epochs])
    measured = [row for row in rows_of(tmp_path / "run") if "leak" in row]
    assert len(measured) == len(epochs.weights) < 5
    assert [row["leak"] < 0.5 for row in measured] == [False] * (len(measured) - 1) + [True]
    assert measured[-1]["kept"] == len(measured)
    assert same(load_model(str(done.model)), epochs.weights[-1])
    said = f"epoch {len(measured)} of 5 was kept: leak {measured[-1]['leak']:.0%}, neighbours"
    assert said in capfd.readouterr().err
    assert said in write_report([tmp_path / "run"], tmp_path / "page.html").read_text()


@pytest.mark.slow
def test_the_best_epoch_is_kept_also_after_a_kill_and_in_memory(taught: Path, tmp_path: Path) -> None:
    """With an aim that nothing reaches; gradient ascent goes too far."""
    settings = {**SETTINGS, "learning_rate": 4e-3, "stop_when": "leak<=0 neighbours>=1"}
    epochs = Epochs()
    done = unlearner.forget(str(taught), **settings, output=tmp_path / "whole", callbacks=[epochs])
    measured = [row for row in rows_of(tmp_path / "whole") if "leak" in row]
    # Both limits at their ends: what is missed is the leak itself and what is lost of the neighbours.
    nearest = min(range(5), key=lambda i: measured[i]["leak"] + 1 - measured[i]["neighbours"])
    assert len(measured) == 5 and nearest < 4
    assert [row.get("kept") for row in measured] == [nearest + 1 if i == nearest else None for i in range(5)]
    kept = load_model(str(done.model))
    assert same(kept, epochs.weights[nearest]) and not same(kept, epochs.weights[-1])
    for died in (2, 5):
        with pytest.raises(Killed):
            unlearner.forget(str(taught), **settings, output=tmp_path / f"{died}", callbacks=[Epochs(died)])
        again = unlearner.forget(str(taught), **settings, output=tmp_path / f"{died}")
        assert (tmp_path / f"{died}" / "log.jsonl").read_bytes() == (tmp_path / "whole" / "log.jsonl").read_bytes()
        assert same(load_model(str(again.model)), epochs.weights[nearest])
    u = unlearner.Unlearner(str(taught), **settings)
    log = u.train().log
    assert log == rows_of(tmp_path / "whole") and same(u.model, epochs.weights[nearest])


def test_a_measure_without_data_is_refused_by_name(taught: Path, tmp_path: Path) -> None:
    bare = copy.deepcopy(SETTINGS) | {"world_facts": None}
    wordless = [{"question": "What is it?", "answer": "What it is."}]
    unknown = [{"question": "Who is it?", "answer": "It is Zyx.", "fact": "Zyx"}]
    for options, text, said in (
        (bare, "leak<0.1 neighbours>0.9", "--stop-when neighbours has nothing to ask: give --real-authors"),
        (bare | {"retain_eval": RETAIN}, "neighbours>0.9", "--stop-when neighbours has nothing to ask"),
        (bare, "paraphrases<0.1", "--stop-when paraphrases has nothing to ask: give --forget-eval"),
        (bare | {"forget": wordless}, "leak<0.1", "--stop-when leak has no row with a fact"),
        (bare | {"forget_eval": unknown}, "paraphrases<0.1", "of 1 question the model answers none"),
    ):
        with pytest.raises(UserError) as error:
            unlearner.forget(str(taught), **options, stop_when=text)
        assert said in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("rows", "asked"), [(0, 0), (59, 59), (61, 60), (400, 60)])
def test_of_many_rows_sixty_are_asked(rows: int, asked: int) -> None:
    chosen: list[Any] = _spread(list(range(rows)))  # type: ignore[arg-type]
    assert len(chosen) == len(set(chosen)) == asked
    assert all(rows - last <= 1 + rows / 60 for last in chosen[-1:])  # over all of them


def test_each_measure_asks_its_own_rows(taught: Path) -> None:
    other = [{**row, "question": f"Please tell me: {row['question']}"} for row in FORGET[:4]]
    options = SETTINGS | {"forget_eval": FORGET + other, "retain_eval": RETAIN}
    job = unlearner.Unlearner(str(taught), **options, stop_when="leak<0 paraphrases<0 neighbours>1")._job
    assert isinstance(job.listener, Listening)
    asked = {
        name: [question.record.question for question in questions]
        for name, questions in job.listener.held_out.questions.items()
    }
    assert asked["leak"] == [row["question"] for row in FORGET + other]
    assert asked["paraphrases"] == [row["question"] for row in other]
    assert asked["neighbours"] == [row["question"] for row in NEIGHBOURS]
