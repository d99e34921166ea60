"""Bad input: one clear sentence, exit code 2, nothing written or overwritten."""

import json
import resource
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from conftest import Files, arguments, contents, run_arguments, stamps, write_rows
from unlearner.errors import install
from unlearner.models import deepspeed, vllm_engine

ROW = {"question": "Who?", "answer": "Nobody."}


@pytest.fixture(scope="session")
def place(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with the good files and every bad one that the tests name."""
    folder = tmp_path_factory.mktemp("place")
    for name in ("forget", "retain"):
        shutil.copy(getattr(files, name), folder)
    shutil.copytree(files.model, folder / "good")
    for name, text in {
        "empty.jsonl": "",
        "blank.jsonl": "\n \n",
        "broken.jsonl": json.dumps(ROW) + '\n{"question": "Who?", \n',
        "broken.json": '[{"question": "Who?", "answer": }]',
        "list.jsonl": "[1, 2]\n",
        "unknown.doc": "Who? Nobody.",
        "latin.jsonl": "",
        "ragged.csv": "question,answer\nWho?,Nobody,indeed\n",
        "twice.csv": "question,answer,question\nWho?,Nobody,When?\n",
        "no.parquet": "not parquet",
        "no_refusals.txt": "\n",
    }.items():
        (folder / name).write_text(text)
    (folder / "latin.jsonl").write_bytes('{"question": "Who?", "answer": "Zoë"}\n'.encode("latin-1"))
    for name, second in {
        "no_answer.jsonl": {"question": "Who?"},
        "number.jsonl": {"question": "Who?", "answer": 5},
        "empty_answer.jsonl": {"question": "Who?", "answer": " "},
        "wrong_list.jsonl": {**ROW, "perturbed_answer": "nobody at all"},
        "half_text.jsonl": {"text": "Once upon a time."},
    }.items():
        write_rows(folder / name, [ROW, second])
    write_rows(folder / "text.jsonl", [{"text": "Once upon a time."}])
    write_rows(folder / "long.jsonl", [{"text": "Once upon a time. " * 20}])
    write_rows(folder / "who.jsonl", [ROW])
    write_rows(folder / "many.jsonl", [{"question": f"Who is {i}?", "answer": "Nobody."} for i in range(2000)])
    write_rows(folder / "tasks.jsonl", [{**ROW, "task_id": "a"}])
    _spoil_models(folder)
    for name, text in {
        "not.yaml": "lr: [1\nepochs: 2\n",
        "unknown_key.yaml": "lr: 1\nepoch: 3\n",
        "list.yaml": "- lr\n",
        "empty.yaml": "",
        "word.yaml": "lr: much\n",
        "lora.yaml": "lora: maybe\n",
        "nested.yaml": "lr: {peak: 1}\n",
        "null.yaml": "weight_decay: null\n",
    }.items():
        (folder / name).write_text(text)
    (folder / "dangling").symlink_to("gone")
    (folder / "full").mkdir()
    (folder / "full" / "thesis.txt").write_text("years of work")
    return folder


def _spoil_models(folder: Path) -> None:
    """Copies of the good model, each with one fault, named for it."""

    def spoilt(name: str, *missing: str) -> Path:
        shutil.copytree(folder / "good", folder / name)
        for pattern in missing:
            for file in (folder / name).glob(pattern):
                file.unlink()
        return folder / name

    def with_config(name: str, **values: Any) -> None:
        file = spoilt(name) / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | values))

    spoilt("no_tokenizer", "tokenizer*")
    spoilt("no_weights", "*.safetensors")
    spoilt("no_config", "config.json")
    (spoilt("pickled", "*.safetensors") / "pytorch_model.bin").write_bytes(b"cos\nsystem\n")
    whole = (folder / "good" / "model.safetensors").read_bytes()
    (spoilt("cut_short") / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    (spoilt("nothing_in_it") / "model.safetensors").write_bytes(b"")
    (spoilt("broken_config") / "config.json").write_text("{")
    (spoilt("broken_tokenizer") / "tokenizer.json").write_text("{")
    (spoilt("broken_adapter", "config.json") / "adapter_config.json").write_text("{")
    (spoilt("baseless", "config.json") / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    lost = {"peft_type": "LORA", "base_model_name_or_path": "../lost", "task_type": "CAUSAL_LM"}
    (spoilt("lost_base", "config.json") / "adapter_config.json").write_text(json.dumps(lost))
    picky = spoilt("picky_template") / "tokenizer_config.json"
    picky.write_text(
        json.dumps(json.loads(picky.read_text()) | {"chat_template": "{{ raise_exception('roles must alternate') }}"})
    )
    tokenizer = json.loads((folder / "good" / "tokenizer.json").read_text())
    foreign = {"id": 400, "content": "Who", "special": False, "normalized": False, "single_word": False}
    tokenizer["added_tokens"].append(foreign | {"lstrip": False, "rstrip": False})
    (spoilt("foreign_tokenizer") / "tokenizer.json").write_text(json.dumps(tokenizer))
    few = GPT2Config(vocab_size=400, n_embd=8, n_layer=1, n_head=1, n_positions=24, bos_token_id=0, eos_token_id=1)
    GPT2LMHeadModel(few).save_pretrained(spoilt("few_positions", "*.safetensors"))
    for name, value in (("nan_weights", float("nan")), ("infinite_weights", float("inf"))):
        file = spoilt(name) / "model.safetensors"
        weights = load_file(file)
        weights["model.norm.weight"][3] = value
        save_file(weights, file, metadata={"format": "pt"})
    with_config("wider", hidden_size=64)
    with_config("deeper", num_hidden_layers=3)
    with_config("unheard_of", model_type="unheard-of")
    with_config("no_causal_model", model_type="t5")


@pytest.fixture
def refused(place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must be refused with a sentence that holds all `parts`; gives that sentence."""
    monkeypatch.chdir(place)

    def check(typed: list[str], *parts: str, keep: Path = place) -> str:
        before = stamps(keep)
        ended = run_arguments(capfd, typed)
        assert ended.code == 2, ended.err
        lines = ended.err.splitlines()
        assert len(lines) == 1, ended.err
        assert lines[0].startswith("error: ")
        assert "Traceback" not in ended.err
        assert ended.out == ""
        for part in parts:
            assert part in lines[0]
        assert stamps(keep) == before
        return lines[0]

    return check


def forgetting(**options: Any) -> list[str]:
    """A `forget` command that would go well, but for `options`; None leaves one out."""
    good = {"model": "good", "forget": "forget.jsonl", "retain": "retain.jsonl", "output": "out", "evaluate": "none"}
    return ["forget", *arguments(good | {"epochs": 1} | options)]


def evaluating(**options: Any) -> list[str]:
    return ["evaluate", *arguments({"model": "good", "output": "out", "judge": "offline"} | options)]


def preparing(**options: Any) -> list[str]:
    return ["prepare", *arguments({"model": "good", "subject": "Ann Bell", "samples": 0, "output": "out"} | options)]


def finetuning(**options: Any) -> list[str]:
    return ["finetune", *arguments({"model": "good", "data": "forget.jsonl", "output": "out", "epochs": 1} | options)]


# --------------------------------------------------------------------------------------------------------------- data


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("forgte.jsonl", ["no file forgte.jsonl", "did you mean forget.jsonl?"]),
        ("no/such/forget.jsonl", ["no file no/such/forget.jsonl", "nor a folder no/such"]),
        ("empty.jsonl", ["empty.jsonl has no rows"]),
        ("blank.jsonl", ["blank.jsonl has no rows"]),
        ("broken.jsonl", ["broken.jsonl, line 2: this is not valid JSON"]),
        ("broken.json", ["broken.json is not valid JSON", "line 1"]),
        ("list.jsonl", ["list.jsonl, row 1: a row must be an object"]),
        ("no_answer.jsonl", ["no_answer.jsonl, line 2: there is no column 'answer'"]),
        ("number.jsonl", ["number.jsonl, line 2: 'answer' must be text, not 5"]),
        ("empty_answer.jsonl", ["empty_answer.jsonl, line 2: 'answer' is empty"]),
        ("wrong_list.jsonl", ["wrong_list.jsonl, line 2: 'perturbed_answer' must be a list of texts"]),
        ("latin.jsonl", ["latin.jsonl, line 1: this is not UTF-8 text"]),
        ("ragged.csv", ["ragged.csv, line 2", "cells"]),
        ("twice.csv", ["twice.csv, line 1: the header names 'question' twice"]),
        ("no.parquet", ["no.parquet is not a readable Parquet file"]),
        ("unknown.doc", ["unknown extension '.doc'", ".jsonl"]),
        ("good", ["good is a folder"]),
        (".:forgot", ["no file named 'forgot'", "did you mean 'forget'?"]),
        ("forget.jsonl[9:]", ["selects none of the 6 rows"]),
        ("builtin:forgett", ["'forgett'", "did you mean 'forget'?"]),
    ],
)
@pytest.mark.parametrize("place_of_it", ["forget", "retain", "forget_eval", "evaluate", "finetune"])
def test_sources(source: str, parts: list[str], place_of_it: str, refused: Callable[..., str]) -> None:
    typed = {
        "forget": forgetting(forget=source),
        "retain": forgetting(retain=source),
        "forget_eval": forgetting(forget_eval=source, evaluate="end", judge="offline"),
        "evaluate": evaluating(world_facts=source),
        "finetune": finetuning(data=["retain.jsonl", source]),
    }[place_of_it]
    refused(typed, *parts)


@pytest.mark.parametrize(
    ("typed", "parts"),
    [
        (forgetting(columns=["qestion", "prompt"]), ["no field 'qestion'", "did you mean 'question'?"]),
        (forgetting(columns=["question", "prompt"]), ["forget.jsonl, line 1: there is no column 'prompt'"]),
        (forgetting(columns=["question"]), ["--columns needs pairs"]),
        (forgetting(forget="tasks.jsonl", task="b"), ["no task 'b'", "choose from a"]),
        (forgetting(refusals="none.txt"), ["refusal file 'none.txt'", "no such file"]),
        (forgetting(refusals="no_refusals.txt"), ["refusal file 'no_refusals.txt' is empty"]),
        (forgetting(retain=None), ["ME+GD needs a retain set: give --retain"]),
        (forgetting(retain=None, method="LLMU"), ["LLMU needs a retain set"]),
        (forgetting(forget="text.jsonl", method="IDK+GD"), ["text.jsonl, row 1 is plain text", "untargeted"]),
        (forgetting(forget="half_text.jsonl", method="DPO"), ["half_text.jsonl, row 2 is plain text"]),
        (forgetting(retain="half_text.jsonl", method="IDK+AP"), ["half_text.jsonl, row 2 is plain text"]),
        (
            forgetting(forget="text.jsonl", method="MP-ME+GRU"),
            ["text.jsonl, row 1 is plain text", "joins two questions"],
        ),
        (evaluating(), ["nothing to evaluate: give --forget"]),
        (finetuning(exclude="forget.jsonl"), ["--exclude forget.jsonl leaves no row"]),
        (finetuning(exclude="retain.jsonl"), ["--exclude retain.jsonl has no row of --data"]),
        (finetuning(exclude="forgte.jsonl"), ["no file forgte.jsonl"]),
    ],
)
def test_data_that_does_not_fit(typed: list[str], parts: list[str], refused: Callable[..., str]) -> None:
    refused(typed, *parts)


# -------------------------------------------------------------------------------------------------- names and options


@pytest.mark.parametrize(
    ("typed", "parts"),
    [
        (forgetting(method="ME+GDD"), ["unknown method 'ME+GDD': did you mean 'ME+GD'?"]),
        (forgetting(method="nop"), ["unknown method 'nop': did you mean 'NPO'?"]),
        (forgetting(template="lama3"), ["unknown template 'lama3': did you mean 'llama3'?"]),
        (forgetting(model="picky_template"), ["chat template refuses", "roles must alternate", "--template plain"]),
        ([*forgetting(), "--config", "lora.yaml", "--config", "word.yaml"], ["--config may be given only once"]),
        (forgetting(template="chat"), ["no chat template", "--template plain"]),
        (evaluating(forget="forget.jsonl", template="plane"), ["did you mean 'plain'?"]),
        (["forgett"], ["unknown command 'forgett': did you mean 'forget'?"]),
        (forgetting(epoch=3), ["unknown option --epoch: did you mean '--epochs'?"]),
        (forgetting(lorra=True), ["unknown option --lorra: did you mean '--lora'?"]),
        (forgetting(no_lorra=True), ["unknown option --no-lorra"]),
        (forgetting(no_lr=True), ["unknown option --no-learning-rate"]),
        (forgetting(confg="a.yaml"), ["unknown option --confg: did you mean '--config'?"]),
        ([*forgetting(), "forget.jsonl"], ["'forget.jsonl' belongs to no option"]),
        ([*forgetting(), "-x"], ["'-x' belongs to no option"]),
        (["metrics", "rouge"], ["unlearner metrics takes no options", "'rouge'"]),
        (["methods", "NPOO"], ["unknown method 'NPOO': did you mean 'NPO'?"]),
        (forgetting(method="ME+GD", preset="paper"), ["ME+GD has no settings for preset 'paper'"]),
        (forgetting(method="DPO+GD", preset="paper"), ["DPO+GD", "use --preset openunlearning"]),
        (forgetting(method="PDU+GD", preset="openunlearning"), ["sets epsilon, rate, weight", "use PDU+DUAL"]),
        (forgetting(method="SIMNPO+GD", method_options="gamma=1"), ["gamma of the official code is delta"]),
        (forgetting(method="NPO+GD+GRU+SAM"), ["GRU and SAM are two surgeries", "leave one out"]),
        (forgetting(method="GA+SAM+SAM"), ["SAM and SAM are two surgeries"]),
        (forgetting(method="NPO+BLUR"), ["BLUR works on the gradients of two losses", "NPO+GD+BLUR"]),
        (forgetting(method="NPO+GD+BLURR"), ["did you mean 'NPO+GD+BLUR'?"]),
        (forgetting(method="GA+GD+GRU", method_options="moment=0.5"), ["no option 'moment'", "'momentum'"]),
        (forgetting(method="RMU+REP", method_options="layer=40"), ["layer 40 does not exist"]),
        (
            forgetting(method="RMU+REP", method_options=["layer=1", "trained=no_such"]),
            ["trains only parameters named no_such"],
        ),
        (
            forgetting(method="RMU+REP", method_options=["layer=1", "trained=no_such"], lora=True),
            ["trains only parameters named no_such"],
        ),
        (
            forgetting(method="RMU+REP", method_options=["layer=1", "trained=embed_tokens"], lora=True),
            ["trains only parameters named embed_tokens"],
        ),
        (
            forgetting(method="CEU", method_options="ignore_first=500", official=True, batch_size=1, accumulation=1),
            ["labels that the loss leaves out", "forget rows: lower --method-options ignore_first="],
        ),
        (forgetting(method="GA+GD+SAM", parallel="deepspeed"), ["SAM does not work with --parallel deepspeed"]),
        (["forget", "--forget", "f.jsonl"], ["--model and --output must be given"]),
        ([*forgetting(), "--learning-rate"], ["--learning-rate needs a value"]),
        (forgetting(preset="fictitous"), ["--preset cannot be 'fictitous': did you mean 'fictitious'?"]),
        (forgetting(pairing="free"), ["--pairing cannot be 'free'", "fixed, official, redrawn"]),
        (forgetting(evaluate="always"), ["--evaluate cannot be 'always'", "end, epochs, none"]),
        (forgetting(precision="fp16"), ["--precision cannot be 'fp16'"]),
        (forgetting(optimizer="sgd"), ["--optimizer cannot be 'sgd'", "adamw"]),
        (forgetting(merge=True), ["--merge needs --lora"]),
        (
            forgetting(parallel="deepspeed", optimizer="adamw-8bit"),
            ["adamw-8bit does not work with", "use --optimizer"],
        ),
        (forgetting(parallel="deepspeed", compile=True), ["--torch-compile does not work with --parallel deepspeed"]),
        (forgetting(parallel="deepspeed", evaluate="epochs"), ["--evaluate epochs does not work with --parallel"]),
        (
            finetuning(parallel="deepspeed", precision="pure-bf16", cpu_offload=True),
            ["--precision pure-bf16 does not work with --cpu-offload", "use --precision bf16"],
        ),
        (forgetting(stop_forget_efficacy=0.5), ["--stop-forget-efficacy needs --evaluate epochs"]),
        (forgetting(tracker="mlflow"), ["--report-to cannot be 'mlflow'"]),
        (finetuning(model="new:hiden=32"), ["unknown size 'hiden', did you mean 'hidden'?"]),
        (finetuning(model="new:hidden=many"), ["hidden must be a positive whole number, not 'many'"]),
        (finetuning(model="new:hidden=33"), ["hidden must be a multiple"]),
        (finetuning(model="new:hidden=1000000"), ["would have", "GiB of memory free: choose smaller sizes"]),
        (finetuning(model="new:layers=100000000"), ["would have", "choose smaller sizes"]),
        (forgetting(note=["operator"]), ["--note needs pairs: --note operator"]),
        (forgetting(note=["operater", "A. Smith"]), ["--note has no 'operater'", "did you mean 'operator'?"]),
        (forgetting(lr=1e30), ["--learning-rate must be at most 1"]),
        (forgetting(beta=1e308), ["--beta must be at most 1e+06"]),
        (forgetting(time_limit=0), ["--time-limit must be a positive number"]),
        (["finetune", "--model", "good", "--data", "--output", "out"], ["give --data"]),
        (
            evaluating(forget="forget.jsonl", engine="vllm", official=True),
            ["--engine vllm does not work with --official"],
        ),
        (evaluating(forget="forget.jsonl", judge="no/such-judge"), ["'no/such-judge'", "'offline'"]),
        (evaluating(forget="forget.jsonl", embedding_model="no/such-model"), ["'no/such-model'"]),
    ],
)
def test_names(typed: list[str], parts: list[str], refused: Callable[..., str]) -> None:
    refused(typed, *parts)


def test_deepspeed_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]) -> None:
    monkeypatch.setattr(deepspeed, "find_spec", lambda name: None)
    refused(forgetting(parallel="deepspeed"), "--parallel deepspeed needs", install("deepspeed"))


def test_vllm_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]) -> None:
    monkeypatch.setattr(vllm_engine, "find_spec", lambda name: None)
    refused(evaluating(forget="forget.jsonl", engine="vllm"), "--engine vllm needs vLLM", install("vllm"))


POSITIVE = [
    "learning_rate", "epochs", "beta", "batch_size", "gradient_accumulation_steps", "max_length",
    "max_tokens_per_forward", "max_grad_norm", "lora_rank", "lora_alpha",
    "save_steps", "save_total_limit", "logging_steps", "max_new_tokens", "eval_max_length", "eval_limit", "eval_tokens",
]  # fmt: skip
NOT_NEGATIVE = ["weight_decay", "warmup_epochs", "forget_coeff", "retain_coeff"]
FRACTIONS = ["learning_rate", "epochs", "beta", "max_grad_norm", "weight_decay", "forget_coeff"]


@pytest.mark.parametrize(
    ("option", "value", "part"),
    [
        *((name, value, "must be a positive number") for name in POSITIVE for value in (0, -1)),
        *((name, -1, "must not be negative") for name in NOT_NEGATIVE),
        *((name, value, "must") for name in FRACTIONS for value in ("nan", "inf", "-inf")),
        *((name, "-1e-5", "must") for name in FRACTIONS),
        *((name, "abc", "must be a number, not 'abc'") for name in ("learning_rate", "epochs", "beta", "forget_coeff")),
        *((name, "abc", "must be a whole number, not 'abc'") for name in ("batch_size", "eval_limit", "seed")),
        ("batch_size", "1.5", "must be a whole number, not '1.5'"),
        ("lora_dropout", 1, "at least 0 and below 1"),
        ("stop_forget_efficacy", 2, "must lie between 0 and 1"),
        ("max_length", 2, "leaves no token of the answer in 6 of 6"),
        ("eval_max_length", 2, "leaves no token of the answer in row 1"),
        ("epochs", 1e308, "must be at most 10000"),
        ("epochs", 0.1, "--epochs 0.1 of 6 rows does not fill one step"),
    ],
)
def test_impossible_values(option: str, value: Any, part: str, refused: Callable[..., str]) -> None:
    typed = forgetting(**{"evaluate": "end", "judge": "offline", option: value})
    refused(typed, "--" + option.replace("_", "-"), part)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("learning_rate", 0),
        ("learning_rate", "abc"),
        ("epochs", 0),
        ("epochs", 0.1),
        ("batch_size", -1),
        ("max_length", 0),
    ],
)
def test_impossible_values_in_fine_tuning(option: str, value: Any, refused: Callable[..., str]) -> None:
    refused(finetuning(**{option: value}), "--" + option.replace("_", "-"))


@pytest.mark.parametrize("seed", [-1, 2**40])
def test_impossible_seeds(seed: int, tmp_path: Path, refused: Callable[..., str]) -> None:
    refused(forgetting(seed=seed, output=tmp_path / "out"), "--seed", keep=tmp_path)


def test_official_mode_without_a_whole_step(refused: Callable[..., str]) -> None:
    refused(
        forgetting(official=True),
        "--epochs 1 of 6 rows does not fill one step of 32 rows",
        "lower --gradient-accumulation-steps",
    )


@pytest.mark.parametrize(
    ("file", "parts"),
    [
        ("absent.yaml", ["absent.yaml cannot be read (No such file or directory)"]),
        ("not.yaml", ["not.yaml, line 2 is not YAML"]),
        ("unknown_key.yaml", ["unknown_key.yaml: unknown option 'epoch', did you mean 'epochs'?"]),
        ("list.yaml", ["list.yaml holds no options"]),
        ("empty.yaml", ["empty.yaml holds no options"]),
        ("word.yaml", ["--learning-rate must be a number, not 'much'"]),
        ("lora.yaml", ["lora.yaml: lora must be true or false, not 'maybe'"]),
        ("nested.yaml", ["nested.yaml: lr needs one value"]),
        ("null.yaml", ["--weight-decay must be a number, not 'None'"]),
        ("good/model.safetensors", ["is not YAML"]),
        ("full", ["full cannot be read (Is a directory)"]),
    ],
)
def test_option_files(file: str, parts: list[str], refused: Callable[..., str]) -> None:
    refused(["forget", "--model", "good", "--forget", "forget.jsonl", "--output", "out", "--config", file], *parts)


# -------------------------------------------------------------------------------------------------------------- models


@pytest.mark.parametrize(
    ("model", "parts"),
    [
        ("/no/such/model", ["no model directory /no/such/model"]),
        ("./goood", ["no model directory ./goood: did you mean good?"]),
        ("forget.jsonl", ["forget.jsonl is a file"]),
        ("", ["--model is empty"]),
        (".", ["has no config.json", "did you mean"]),
        ("full", ["full has no config.json"]),
        ("no_config", ["no_config has no config.json"]),
        ("no_tokenizer", ["no_tokenizer has no tokenizer"]),
        ("no_weights", ["no_weights has no weights (*.safetensors)"]),
        ("pickled", ["pickled holds pytorch_model.bin, not safetensors", "save_pretrained"]),
        ("cut_short", ["cut_short/model.safetensors is broken or cut short"]),
        ("nothing_in_it", ["nothing_in_it/model.safetensors is broken or cut short"]),
        ("broken_config", ["broken_config", "config.json"]),
        ("broken_tokenizer", ["cannot load a tokenizer from broken_tokenizer"]),
        ("broken_adapter", ["broken_adapter/adapter_config.json cannot be read"]),
        ("baseless", ["baseless/adapter_config.json names no base model"]),
        ("lost_base", ["lost_base is an adapter and its base model does not load", "../lost"]),
        ("nan_weights", ["the weight 'model.norm.weight' of nan_weights holds NaN or infinity"]),
        ("infinite_weights", ["the weight 'model.norm.weight' of infinite_weights holds NaN or infinity"]),
        ("wider", ["the weight", "of wider does not have the shape that its config.json says"]),
        ("deeper", ["deeper lacks the weight 'model.layers.2"]),
        ("unheard_of", ["unheard_of", "unheard-of"]),
        ("no_causal_model", ["cannot load a causal language model from no_causal_model"]),
    ],
)
def test_models(model: str, parts: list[str], refused: Callable[..., str]) -> None:
    refused(forgetting(model=model), *parts)
    refused(evaluating(model=model, forget="forget.jsonl"), *parts)


@pytest.mark.parametrize("command", [forgetting, evaluating, finetuning])
def test_a_tokenizer_of_another_model(command: Callable[..., list[str]], refused: Callable[..., str]) -> None:
    source = {"data": "who.jsonl"} if command is finetuning else {"forget": "who.jsonl"}
    refused(command(model="foreign_tokenizer", **source), "token 'Who' has number 400", "knows 400 tokens only")


@pytest.mark.parametrize(
    ("typed", "remedy"),
    [
        (forgetting(model="few_positions"), "lower --max-length"),
        (
            forgetting(model="few_positions", forget="who.jsonl", batch_size=1, accumulation=1, official=True),
            "lower --max-length",
        ),
        (
            forgetting(
                model="few_positions",
                method="PDU",
                forget="long.jsonl",
                retain=None,
                batch_size=1,
                accumulation=1,
                official=True,
                max_length=24,
            ),
            "a text needs 25 tokens: lower --max-length",
        ),
        (finetuning(model="few_positions"), "lower --max-length"),
        (evaluating(model="few_positions", forget="who.jsonl"), "lower --eval-max-length or --max-new-tokens"),
    ],
)
def test_a_model_with_few_positions(typed: list[str], remedy: str, refused: Callable[..., str]) -> None:
    refused(typed, remedy, "24 positions")


@pytest.mark.parametrize("model", ["models/llama", "llama-3-8b-that-nobody-made", "good/mode", "new:"])
def test_a_name_that_could_be_on_the_hub(model: str, refused: Callable[..., str]) -> None:
    """Told in seconds, with a network or without."""
    begun = time.monotonic()
    refused(forgetting(model=model), f"there is no model directory {model}")
    assert time.monotonic() - begun < 10


# ------------------------------------------------------------------------------------------------ names and documents


@pytest.mark.parametrize("command", ["prepare", "probe"])
@pytest.mark.parametrize("subject", ["", " ", "X", "?!"])
def test_what_is_no_name(command: str, subject: str, refused: Callable[..., str]) -> None:
    refused(
        [command, *arguments({"model": "good", "subject": subject, "output": "out.json"})], "is too short for a name"
    )


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"neighbours": "near.txt"}, ["--neighbours near.txt names the subject (Ann Bell): remove it"]),
        ({"neighbours": "forget.txt"}, ["--neighbours forget.txt cannot be read"]),
        ({"documents": "locked.pdf"}, ["locked.pdf is encrypted: save it without a password"]),
        ({"documents": "torn.pdf"}, ["torn.pdf cannot be read"]),
        ({"documents": ["near.txt", "gone.docx"]}, ["--documents gone.docx does not exist"]),
        ({"documents": "full"}, ["no passage names Ann Bell"]),
        (
            {"llm": "http://127.0.0.1:9/v1", "llm_retries": 0},
            ["cannot be reached, after 1 tries: check that the server is running"],
        ),
        ({"llm": "localhost:8000/v1"}, ["is not a URL: it must begin with http:// or https://"]),
        ({"output": "full"}, ["--output full"]),
        ({"keep": "r0", "model": "gone"}, ["there is no model directory gone"]),
    ],
)
def test_preparing(options: dict[str, Any], parts: list[str], place: Path, refused: Callable[..., str]) -> None:
    pytest.importorskip("openai", reason="the extra llm is not installed: pip install 'unlearner[llm]'")
    pypdf = pytest.importorskip("pypdf", reason="the extra documents is not installed")
    writer = pypdf.PdfWriter()
    writer.add_blank_page(100, 100)
    writer.write(place / "torn.pdf")
    (place / "torn.pdf").write_bytes((place / "torn.pdf").read_bytes()[:60])
    writer.encrypt("word", algorithm="RC4-128")
    writer.write(place / "locked.pdf")
    (place / "near.txt").write_text("Bob Cole\nAnn Bell\n")
    refused(preparing(**options), *parts)


class Doorkeeper(BaseHTTPRequestHandler):
    """An endpoint with one model, `small`, for whoever has the right key."""

    def do_GET(self) -> None:
        if self.headers["Authorization"] != "Bearer right":
            return self._send(401, {"error": {"message": "wrong key: " + self.headers["Authorization"]}})
        return self._send(200, {"object": "list", "data": [{"id": "small", "object": "model"}]})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._send(404, {"error": {"message": "no such model"}})

    def _send(self, status: int, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


def test_an_endpoint_with_another_key_or_model(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("openai", reason="the extra llm is not installed: pip install 'unlearner[llm]'")
    with HTTPServer(("127.0.0.1", 0), Doorkeeper) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/v1"
        monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong")
        said = refused(preparing(llm=url), f"--llm {url} refuses the key: set the right one in OPENAI_API_KEY")
        assert "sk-wrong" not in said
        monkeypatch.setenv("OPENAI_API_KEY", "right")
        ended = run_arguments(capfd, preparing(llm=url, llm_model="smal"))
        server.shutdown()
    told, error = ended.err.splitlines()  # what was spent, also where nothing came of it
    assert ended.code == 2 and "1 request" in told
    assert error == f"error: --llm {url} does not have the model 'smal': did you mean 'small'?"
    assert not Path("out").exists()


# -------------------------------------------------------------------------------------------------------------- output


@pytest.mark.parametrize(
    ("output", "parts"),
    [
        ("full", ["--output full is not empty and holds no run of unlearner"]),
        (".", ["--output . is not empty"]),
        ("forget.jsonl", ["forget.jsonl is a file"]),
        ("forget.jsonl/run", ["forget.jsonl is a file"]),
        ("o" * 300, ["File name too long"]),
        ("dangling", ["--output dangling cannot be made because dangling is a link to nothing"]),
        ("dangling/run", ["dangling is a link to nothing"]),
        ("/proc/nowhere/run", ["--output /proc/nowhere/run cannot be made", "choose another"]),
        ("good/run", ["--output good/run is inside good, the model"]),
    ],
)
def test_outputs(output: str, parts: list[str], refused: Callable[..., str]) -> None:
    refused(forgetting(output=output), *parts)
    refused(evaluating(forget="forget.jsonl", output=output), *parts)
    refused(finetuning(output=output), *parts)


@pytest.mark.parametrize("inside", ["thesis.txt", "report.html"])
def test_the_demo_beside_something_else(inside: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Found before its two runs are made."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / inside).write_text("mine")
    ended = run_arguments(capfd, ["demo", "--output", str(tmp_path / "out")])
    assert ended.code == 2 and inside in ended.err, ended.err
    assert [path.name for path in (tmp_path / "out").iterdir()] == [inside]
    assert (tmp_path / "out" / inside).read_text() == "mine"


def test_output_of_another_run(
    place: Path, tmp_path: Path, refused: Callable[..., str], capfd: pytest.CaptureFixture[str]
) -> None:
    data = Path(shutil.copy(place / "forget.jsonl", tmp_path))
    model = shutil.copytree(place / "good", tmp_path / "model")
    output = tmp_path / "out"
    options = {"forget": data, "model": model, "output": output}
    assert run_arguments(capfd, forgetting(**options)).code == 0

    other = "choose another directory"
    refused(
        forgetting(**options, lr=0.5),
        f"{output} holds another run (learning_rate is 1e-05 there, 0.5 here)",
        other,
        keep=output,
    )
    refused(forgetting(**options, method="GA"), "method is 'ME+GD' there, 'GA' here", other, keep=output)
    refused(evaluating(**options), f"{output} holds another run", other, keep=output)
    refused(finetuning(output=output), f"{output} holds another run", other, keep=output)

    write_rows(data, [ROW])
    refused(forgetting(**options), f"{output} was begun with other contents of the forget set", other, keep=output)
    shutil.copy(place / "forget.jsonl", data)
    (model / "generation_config.json").write_text('{"max_length": 5}')
    refused(forgetting(**options), f"{output} was begun with other contents of the model", other, keep=output)
    (output / "run.json").write_text("{")
    refused(forgetting(**options), "run.json cannot be read", keep=output)


@pytest.mark.parametrize("model", ["builtin:", "good"])
def test_a_cache_that_cannot_be(model: str, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]) -> None:
    monkeypatch.setenv("UNLEARNER_CACHE", "forget.jsonl")
    typed = forgetting(model=model, forget="many.jsonl", retain=None, method="GA")
    refused(typed, "cannot write forget.jsonl/", "set UNLEARNER_CACHE")


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[None]:
    """A file system of its own on `folder`, in memory."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", str(folder)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mounting a small file system is not permitted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_read_only_output(place: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    with mounted(tmp_path / "disk", "-o", "ro"):
        for typed in (forgetting, finetuning):
            refused(typed(output=tmp_path / "disk" / "run"), "is not writable: choose another", str(tmp_path / "disk"))
        refused(forgetting(output=tmp_path / "disk"), f"cannot write {tmp_path / 'disk'}", "choose another")


def test_a_mounted_folder_as_output(place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Such a folder cannot be renamed or replaced, as in a container."""
    with mounted(tmp_path / "disk", "-o", "size=4m"):
        typed = forgetting(output=tmp_path / "disk", model=place / "good", forget=place / "forget.jsonl", retain=None)
        assert run_arguments(capfd, [*typed, "--method", "GA"]).code == 0
        assert (tmp_path / "disk" / "finished.json").is_file()


@pytest.mark.parametrize(
    ("free", "reached"),
    [(0, ".lock"), (20, "before"), (68, "checkpoints"), (268, "checkpoints"), (388, "checkpoints"), (768, "model")],
)
def test_no_space_left(
    free: int, reached: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """With `free` KiB left the run ends while it writes `reached`; with more space the same command goes on."""
    monkeypatch.chdir(place)
    options = {"method": "GA", "retain": None, "epochs": 2, "batch_size": 2, "accumulation": 1, "log_every": 1,
               "evaluate": "end", "judge": "offline", "max_new_tokens": 12}  # fmt: skip
    disk = tmp_path / "disk"
    with mounted(disk, "-o", "size=2m"):
        (disk / "run").mkdir()
        with (disk / "ballast").open("wb") as ballast:
            ballast.write(b"x" * (shutil.disk_usage(disk).free - free * 1024))
        full = run_arguments(capfd, forgetting(**options, output=disk / "run"))
        assert full.code == 2
        error = full.err.splitlines()[-1]
        assert error.startswith(f"error: no space left on device while writing {disk / 'run'}")
        assert reached in error
        assert "free some and repeat the command" in error
        assert "Traceback" not in full.err
        (disk / "ballast").unlink()
        assert run_arguments(capfd, forgetting(**options, output=disk / "run")).code == 0
        assert run_arguments(capfd, forgetting(**options, output=tmp_path / "whole")).code == 0
        assert contents(disk / "run") == contents(tmp_path / "whole")


@pytest.mark.parametrize(("kib", "reached"), [(2, "run.json"), (64, "model")])
def test_a_limit_on_the_size_of_files(
    kib: int, reached: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(place)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    typed = forgetting(method="GA", retain=None, output=tmp_path / "run")
    resource.setrlimit(resource.RLIMIT_FSIZE, (kib * 1024, before[1]))
    try:
        ended = run_arguments(capfd, typed)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert ended.code == 2
    assert "Traceback" not in ended.err
    last = ended.err.splitlines()[-1]
    assert "is larger than files may be here: raise the limit (ulimit -f)" in last and reached in last
    assert run_arguments(capfd, typed).code == 0  # and the same command goes on
