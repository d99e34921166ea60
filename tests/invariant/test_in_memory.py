"""A library in memory: objects in, objects out, nothing written, and the very numbers of the commands."""

import copy
import json
import os
import pydoc
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import EarlyStoppingCallback, TrainerCallback

import unlearner
from unlearner import Method, TrainingArguments, Unlearner, UserError
from unlearner.commands.parse import parse
from unlearner.config import FinetuneConfig, ForgetConfig
from unlearner.data.profiles import builtin
from unlearner.models.load import load_model
from unlearner.models.new import new_model

TINY = "new:hidden=32,layers=2,heads=2,vocabulary=400"
FORGET = [{k: v for k, v in asdict(r).items() if v} for r in builtin("forget", people=3, forget=1)]
RETAIN = [{k: v for k, v in asdict(r).items() if v} for r in builtin("retain", people=3, forget=1)]
JUDGED: dict[str, Any] = {"judge": "offline", "max_new_tokens": 8}
ARGS = TrainingArguments(
    learning_rate=3e-3, epochs=2, batch_size=2, gradient_accumulation_steps=2, precision="fp32", max_length=64
)


@pytest.fixture(scope="module")
def made() -> tuple[Any, Any]:
    texts = [f"{row['question']}\n {row['answer']}" for row in (*FORGET, *RETAIN)]
    return new_model(TINY, texts, seed=0)


@pytest.fixture
def model(made: tuple[Any, Any]) -> Any:
    return copy.deepcopy(made[0]).eval()


@pytest.fixture
def tokenizer(made: tuple[Any, Any]) -> Any:
    return made[1]


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def without_cosine(records: list[dict[str, Any]]) -> Any:
    return json.loads(json.dumps([{k: v for k, v in row.items() if k != "cosine_similarity"} for row in records]))


@pytest.mark.parametrize("method", ["NPO+KL", "IDK+AP"])
def test_the_same_bits_as_a_run_in_a_directory(method: str, model: Any, tokenizer: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    for name, rows in (("forget", FORGET), ("retain", RETAIN)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = unlearner.forget(
        tmp_path / "model", forget=tmp_path / "forget.jsonl", retain=tmp_path / "retain.jsonl", method=method,
        output=tmp_path / "run", learning_rate=3e-3, epochs=2, batch_size=2, gradient_accumulation_steps=2,
        precision="fp32", max_length=64,
        **JUDGED,
    )  # fmt: skip

    u = Unlearner(model, tokenizer, forget=FORGET, retain=Dataset.from_list(RETAIN), method=method, args=ARGS, **JUDGED)
    before = u.evaluate()
    trained = u.train()
    after = u.evaluate()
    assert trained.model is u.model is model, "it is trained in place"
    assert not model.training
    assert same_weights(model, load_model(str(run.model)))
    assert trained.log == [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert before is not None and after is not None and run.before is not None and run.after is not None
    for ours, theirs in ((before, run.before), (after, run.after)):
        # A sentence's embedding depends on those computed beside it by float noise, and stays in the cache as it is.
        assert without_cosine(ours.records) == without_cosine(theirs.records)
        cosines = [[row["cosine_similarity"] for row in each.records] for each in (ours, theirs)]
        assert cosines[0] == pytest.approx(cosines[1], abs=1e-6)
        assert ours.summary["forget_efficacy"] == pytest.approx(theirs.summary["forget_efficacy"], abs=1e-6)
        assert ours.summary["notes"] == theirs.summary["notes"]
    frame = after.to_pandas()
    assert len(frame) == len(after.records) and list(frame["question"])[:2] == [row["question"] for row in FORGET[:2]]
    assert "forget efficacy" in after._repr_html_()


def test_a_page_shows_what_a_model_said_as_text() -> None:
    summary = {
        "sets": {"<b>": {"rouge": 0.5}}, "model_utility": None, "forget_efficacy": 0.25,
        "intervals": {"model_utility": None, "forget_efficacy": [0.2, 0.3]}, "judge": "<i>", "embedding_model": "e",
    }  # fmt: skip
    shown = unlearner.Evaluation(summary)._repr_html_()
    assert "&lt;b&gt;" in shown and "&lt;i&gt;" in shown and "<i>" not in shown
    assert "0.250</b> (0.200–0.300)" in shown


def quick(model: Any, tokenizer: Any, **more: Any) -> Unlearner:
    options: dict[str, Any] = {"forget": FORGET, "retain": RETAIN, "args": ARGS, "evaluate": "none"} | more
    return Unlearner(model, tokenizer, **options)


def test_a_run_that_was_trained_to_the_end_is_measured_without_training(
    model: Any, tokenizer: Any, tmp_path: Path
) -> None:
    """Killed before its last evaluation, and taken up again without a first one."""
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    more = {"output_dir": tmp_path / "run", "evaluate": "end", "judge": "offline", "max_new_tokens": 4}
    quick(str(tmp_path / "model"), None, **more).train()
    again = quick(str(tmp_path / "model"), None, **more)
    again.train()
    measured = again.evaluate()
    assert measured is not None and measured.summary["counts"]["forget"] == len(FORGET)


def test_a_run_taken_up_again_has_its_log(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    other = copy.deepcopy(model)
    log = quick(model, tokenizer, output_dir=tmp_path / "run").train().log
    assert log and quick(other, tokenizer, output_dir=tmp_path / "run").train().log == log


def test_a_training_cut_short_is_not_begun_again(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    other, whole = copy.deepcopy(model), copy.deepcopy(model)
    more: dict[str, Any] = {"output_dir": tmp_path / "run", "args": replace(ARGS, save_steps=1)}
    u = quick(model, tokenizer, callbacks=[Interrupting(2)], **more)
    with pytest.raises(KeyboardInterrupt):
        u.train()
    for again in (u.train, u.evaluate):
        with pytest.raises(UserError, match="half trained: load the model and make its Unlearner again"):
            again()
    quick(other, tokenizer, **more).train()
    quick(whole, tokenizer).train()
    assert same_weights(other, whole)


def test_a_data_frame_and_records_are_data_too(model: Any, tokenizer: Any, made: tuple[Any, Any]) -> None:
    frame = pd.DataFrame(FORGET).rename(columns={"question": "prompt"})
    one = quick(model, tokenizer, forget=frame, columns={"question": "prompt"}, retain=None, method="NPO")
    records = builtin("forget", people=3, forget=1)
    two = quick(copy.deepcopy(made[0]), tokenizer, forget=records, retain=None, method="NPO")
    assert one.train().log == two.train().log
    assert same_weights(one.model, two.model)


def test_peft_config_makes_the_adapter_that_a_peft_model_brings(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    config = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    other = copy.deepcopy(model)
    untouched = copy.deepcopy(model)
    one = quick(model, tokenizer, method="NPO+KL", peft_config=config)
    one.train()
    assert isinstance(one.model, PeftModel) and one.model.peft_config["default"].r == 4
    torch.manual_seed(0)
    given = get_peft_model(other, copy.deepcopy(config))
    start = {name: p.detach().clone() for name, p in given.named_parameters() if p.requires_grad}
    two = quick(given, tokenizer, method="NPO+KL")
    result = two.train()
    assert two.model is given
    moved = [name for name, p in given.named_parameters() if p.requires_grad and not torch.equal(p, start[name])]
    assert len(moved) == len(start)
    base = given.get_base_model().model.layers[0].self_attn.q_proj.base_layer.weight
    assert torch.equal(base, untouched.model.layers[0].self_attn.q_proj.weight)
    assert result.log[0]["retain"] == pytest.approx(0, abs=1e-5), "the reference is the model as it came"

    two.save_pretrained(tmp_path / "adapter")
    assert (tmp_path / "adapter" / "adapter_config.json").is_file() and (
        tmp_path / "adapter" / "tokenizer.json"
    ).is_file()


def test_the_reference_of_a_peft_model_is_with_its_adapter(model: Any, tokenizer: Any) -> None:
    """Not the base model, which it becomes with its adapter off."""
    given = get_peft_model(model, LoraConfig(r=2, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, parameter in given.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.2)
    log = quick(given, tokenizer, method="ME+KL").train().log
    assert log[0]["retain"] == pytest.approx(0, abs=1e-5)
    assert log[-1]["retain"] > 1e-4


def test_an_adapter_that_is_frozen_is_refused(model: Any, tokenizer: Any) -> None:
    with pytest.raises(UserError, match=r"no weights to train: .*is_trainable=True"):
        quick(model.requires_grad_(False), tokenizer)


def kept(model: nn.Module) -> Any:
    """What training must leave as it was: what is trained, hooks, and what is recomputed."""
    recomputed = [vars(m).get("gradient_checkpointing") for m in model.modules()]
    return {n: p.requires_grad for n, p in model.named_parameters()}, hooks(model), recomputed


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


class Interrupting(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("adapter", [False, True], ids=["whole", "adapter"])
def test_what_a_method_freezes_is_trained_by_the_next(adapter: bool, model: Any, tokenizer: Any) -> None:
    """And what the user has frozen stays so."""
    if adapter:
        model = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    else:
        model.model.norm.weight.requires_grad_(False)
    own = kept(model)
    args = replace(ARGS, gradient_checkpointing=True)
    for callbacks, ending in (((), nullcontext()), ([Interrupting(1)], pytest.raises(KeyboardInterrupt))):
        with ending:
            quick(
                model, tokenizer, args=args, callbacks=callbacks,
                method=Method.parse("RMU+GD", layer=1, trained="layers.1.mlp"),
            ).train()  # fmt: skip
        assert kept(model) == own
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    quick(model, tokenizer, method="GA+GD").train()
    moved = {name: not torch.equal(p, before[name]) for name, p in model.named_parameters()}
    assert moved == own[0]


def test_a_users_own_recomputing_stays(model: Any, tokenizer: Any) -> None:
    model.gradient_checkpointing_enable()
    own, function = kept(model), model.model.layers[0]._gradient_checkpointing_func
    quick(model, tokenizer, args=replace(ARGS, gradient_checkpointing=True)).train()
    assert kept(model) == own and model.model.layers[0]._gradient_checkpointing_func is function


def test_a_new_adapter_leaves_no_hooks(model: Any, tokenizer: Any) -> None:
    u = quick(model, tokenizer, args=replace(ARGS, gradient_checkpointing=True), lora=True)
    u.train()
    trained, left, recomputed = kept(u.model)
    assert not left and not any(recomputed)
    assert {name for name, on in trained.items() if on} == {name for name in trained if "lora_" in name}


class Recorder(TrainerCallback):
    def __init__(self, stop_after: int | None = None) -> None:
        self.seen: list[tuple[str, int]] = []
        self.logs: list[dict[str, float]] = []
        self.stop_after = stop_after

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        assert args.learning_rate == 3e-3 and args.gradient_accumulation_steps == 2
        assert {"model", "processing_class", "optimizer"} <= kwargs.keys()
        self.seen.append(("begin", state.global_step))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seen.append(("step", state.global_step))
        control.should_training_stop = state.global_step == self.stop_after

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seen.append(("epoch", state.global_step))

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.logs.append({**logs, "step": state.global_step})

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seen.append(("end", state.global_step))


def test_callbacks_hear_everything_and_change_nothing(model: Any, tokenizer: Any, made: tuple[Any, Any]) -> None:
    heard = Recorder()
    log = quick(model, tokenizer, callbacks=[heard]).train().log
    alone = quick(copy.deepcopy(made[0]), tokenizer)
    assert alone.train().log == log
    assert same_weights(alone.model, model)
    steps = len(log)
    assert heard.seen[0] == ("begin", 0) and heard.seen[-1] == ("end", steps)
    assert [step for event, step in heard.seen if event == "step"] == [*range(1, steps + 1)]
    assert len([step for event, step in heard.seen if event == "epoch"]) == 2
    assert [row["loss"] for row in heard.logs] == [row["loss"] for row in log]
    assert [row["step"] for row in heard.logs] == [*range(1, steps + 1)]
    assert heard.logs[2]["learning_rate"] == log[2]["lr"]


def test_a_callback_ends_the_training(model: Any, tokenizer: Any) -> None:
    heard = Recorder(stop_after=2)
    assert [row["step"] for row in quick(model, tokenizer, callbacks=[heard]).train().log] == [1, 2]
    assert heard.seen[-1] == ("end", 2)


def test_transformers_early_stopping(model: Any, tokenizer: Any) -> None:
    """It watches forget efficacy, of which there is more after every epoch, or not."""
    heard: list[dict[str, float]] = []

    class Hears(TrainerCallback):
        def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any, **objects: Any) -> None:
            heard.append(metrics)

    stops = EarlyStoppingCallback(early_stopping_patience=1, early_stopping_threshold=1.0)  # nothing gains so much
    args = replace(ARGS, epochs=4)
    u = Unlearner(
        model, tokenizer, forget=FORGET[:4], retain=RETAIN[:4], args=args, callbacks=[stops, Hears()],
        evaluate="epochs", **JUDGED,
    )  # fmt: skip
    u.evaluate()
    log = u.train().log
    assert len(heard) == 2 and log[-1]["epoch"] == 2  # the first is the best so far, the second gains too little
    after = u.evaluate()
    assert after is not None
    assert heard[-1]["eval_forget_efficacy"] == pytest.approx(after.summary["forget_efficacy"])
    assert heard[-1]["eval_forget_rouge"] == pytest.approx(after.summary["sets"]["forget"]["rouge"])
    with pytest.raises(AssertionError, match="metric_for_best_model"):  # transformers' own, where nothing is measured
        quick(model, tokenizer, callbacks=[EarlyStoppingCallback()]).train()


def test_a_merged_model_is_trained_by_the_next(model: Any, tokenizer: Any) -> None:
    model.model.embed_tokens.weight.requires_grad_(False)
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    u = quick(model, tokenizer, lora=True, merge=True)
    u.train()
    assert {name: p.requires_grad for name, p in u.model.named_parameters()} == before
    taught = unlearner.finetune(
        u.model, tokenizer=tokenizer, data=RETAIN, epochs=1, learning_rate=1e-3, max_length=64, lora=True, merge=True
    )
    assert {name: p.requires_grad for name, p in taught.model.named_parameters()} == before


def test_functions_take_objects_too(model: Any, tokenizer: Any) -> None:
    taught = unlearner.finetune(model, tokenizer=tokenizer, data=RETAIN, epochs=1, learning_rate=1e-3, max_length=64)
    assert taught.model is model and taught.log
    result = unlearner.forget(model, tokenizer=tokenizer, forget=FORGET, method="GA", epochs=1, evaluate="none")
    assert result.model is model and result.output is None
    measured = unlearner.evaluate(model, tokenizer=tokenizer, forget=FORGET[:2], **JUDGED)
    assert len(measured.records) == 2 and not model.training


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epochs": "1"}, "epochs must be a number, not '1'"),
        ({"batch_size": 4.0}, "batch_size must be a whole number, not 4.0"),
        ({"lora": "no"}, "lora must be True or False, not 'no'"),
        ({"columns": ["question"]}, "columns must be a dict of texts"),
        ({"retain": 3}, "the int given as retain is not data"),
        ({"learning_rates": 1e-3}, "unknown option 'learning_rates': did you mean 'learning_rate'"),
        ({"lr": 1e-3, "learning_rate": 1e-3}, "learning_rate is given twice, as lr and learning_rate: leave one out."),
        ({"method": "ME+GDD"}, "unknown method"),
        ({"lm_eval": ["arc_easy"]}, "--lm-eval writes files"),
        ({"parallel": "deepspeed"}, "deepspeed trains a model from a directory"),
        ({"report_to": "tensorboard"}, "--report-to tensorboard needs --output"),
    ],
)
def test_wrong_options_are_refused_in_a_sentence(options: Any, words: str, model: Any, tokenizer: Any) -> None:
    with pytest.raises(UserError) as error:
        Unlearner(model, tokenizer, **({"forget": FORGET, "retain": RETAIN} | options))
    assert words in str(error.value)


def test_a_model_needs_its_tokenizer_and_must_be_one(model: Any, tokenizer: Any) -> None:
    with pytest.raises(UserError, match="a model in memory needs its tokenizer"):
        Unlearner(model, forget=FORGET, retain=RETAIN)
    with pytest.raises(UserError, match="model must be a directory, a hub id or a transformers model, not 7"):
        Unlearner(7, tokenizer, forget=FORGET)


def test_an_accelerator_of_the_users_keeps_its_settings(model: Any, tokenizer: Any) -> None:
    theirs = Accelerator(mixed_precision="bf16", cpu=True, gradient_accumulation_steps=3)
    quick(model, tokenizer).train()
    assert theirs.mixed_precision == "bf16" and theirs.gradient_accumulation_steps == 3
    assert Accelerator(cpu=True).state.mixed_precision == "bf16", "and the state is still theirs"
    theirs.state._reset_state()


def test_the_names_are_listed() -> None:
    listed = {"Unlearner", "TrainingArguments", "Evaluation", "ForgetResult", "UserError", "Method", "Record"}
    assert listed | {"forget", "finetune", "evaluate", "report"} <= set(dir(unlearner))
    for name in dir(unlearner):
        assert getattr(unlearner, name) is not None


@pytest.mark.parametrize(("name", "config"), [("forget", ForgetConfig), ("finetune", FinetuneConfig)])
def test_help_lists_every_option(name: str, config: type[Any]) -> None:
    told = pydoc.render_doc(getattr(unlearner, name), renderer=pydoc.plaintext)
    assert "learning_rate: float | None = None" in told and "output: str | None = None" in told
    assert all(f"{field.name}: " in told for field in fields(config))


def test_transformers_names_are_flags_too(tmp_path: Path) -> None:
    needed = ["--model", "m", "--forget", "f", "--output", "o"]
    typed = ["--learning-rate", "1e-4", "--gradient_accumulation_steps=3", "--no-torch-compile"]
    config = parse(ForgetConfig, [*needed, *typed], "unlearner forget")
    assert (config.learning_rate, config.gradient_accumulation_steps, config.torch_compile) == (1e-4, 3, False)
    (tmp_path / "run.yaml").write_text("learning_rate: 1.0e-4\nsave_steps: 7\n")
    config = parse(ForgetConfig, [*needed, "--config", str(tmp_path / "run.yaml")], "unlearner forget")
    assert (config.learning_rate, config.save_steps) == (1e-4, 7)


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from tests.invariant.test_in_memory import ARGS, FORGET, JUDGED, RETAIN, TINY
from unlearner import Unlearner
from unlearner.models.new import new_model
model, tokenizer = new_model(TINY, [f"{{row['question']}}\\n {{row['answer']}}" for row in RETAIN], seed=0)
u = Unlearner(model, tokenizer, forget=FORGET, retain=RETAIN, args=ARGS, **JUDGED)
u.evaluate()
u.train()
print(len(u.evaluate().records))
"""


@pytest.mark.slow
def test_nothing_is_written(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    home = tmp_path / "home"
    home.mkdir()
    variables = {name: str(home) for name in ("HOME", "UNLEARNER_CACHE", "HF_HOME", "XDG_CACHE_HOME", "TMPDIR")}
    environment = {**os.environ, **variables, "PYTHONDONTWRITEBYTECODE": "1", "HF_HUB_OFFLINE": "1"}
    script = SCRIPT.format(tests=str(root))
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=home, env=environment, capture_output=True, text=True, check=True
    )  # fmt: skip
    assert ended.stdout.strip() == str(len(FORGET) + len(RETAIN))
    assert [str(path.relative_to(home)) for path in home.rglob("*")] == []
