"""`unlearner negate` after `finetune`, as a user types them; RMU's options that do not fit the model."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from conftest import Files, arguments, contents, run_arguments
from unlearner.scoring.batch import Batch
from unlearner.scoring.views import score_views

TEACH: dict[str, Any] = {"learning_rate": 1e-3, "epochs": 3, "batch_size": 2, "gradient_accumulation_steps": 1}


def nll(folder: Path, file: Path) -> float:
    """How unlikely the model finds the file's answers, tokenised in the plainest way."""
    from transformers import AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    texts = tokenizer([f"Question: {row['question']}\nAnswer: {row['answer']}" for row in rows])["input_ids"]
    total = 0.0
    for ids in texts:
        tensor = torch.tensor([ids])
        view = {"input_ids": tensor, "labels": tensor, "attention_mask": torch.ones_like(tensor)}
        with torch.no_grad():
            total += score_views(model, Batch.build({"x": view}), {"x": ["logp"]})["x"].nll.item() / len(ids)
    return total / len(texts)


@pytest.mark.parametrize("lora", [False, True], ids=["whole", "adapter"])
def test_what_was_taught_is_taken_away(
    lora: bool, files: Files, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The base knew the forget set; taught more of it and negated, it finds it less likely than before."""
    options = {**TEACH, "model": files.model, "data": files.forget, "output": tmp_path / "taught", "lora": lora or None}
    options |= {"learning_rate": 1e-2} if lora else {}
    ended = run_arguments(capfd, ["finetune", *arguments(options)])
    assert ended.code == 0, ended.err
    taught = tmp_path / "taught" / ("adapter" if lora else "model")
    output = tmp_path / "negated"
    typed = ["negate", str(files.model), str(taught), "--output", str(output)]
    ended = run_arguments(capfd, typed)
    made = output / taught.name
    assert (ended.code, ended.out) == (0, ""), ended.err
    assert "".join(str(made).split()) in "".join(ended.err.split())
    assert {path.name for path in output.iterdir()} == {"run.json", "config.yaml", "finished.json", made.name}
    if lora:
        for name, values in load_file(made / "adapter_model.safetensors").items():
            other = load_file(taught / "adapter_model.safetensors")[name]
            assert torch.equal(values, -other if "lora_B" in name else other)
    else:
        base, new, up = (load_file(folder / "model.safetensors") for folder in (files.model, made, taught))
        assert all(torch.equal(new[name], base[name] - (up[name] - base[name])) for name in base)
        assert nll(taught, files.forget) < nll(files.model, files.forget) < nll(made, files.forget)
    before = contents(output)
    again = run_arguments(capfd, typed)
    assert again.code == 0 and "finished already" in again.err and contents(output) == before
    scored = ["evaluate", *arguments({"model": made, "forget": files.forget, "judge": "offline", "max_new_tokens": 4})]
    ended = run_arguments(capfd, [*scored, "--output", str(tmp_path / "scores")])
    assert ended.code == 0, ended.err
    refused = run_arguments(capfd, ["report", str(output)])
    assert refused.code == 2 and "holds only a negated model, which has no report" in " ".join(refused.err.split())


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["negate"], "--base and --finetuned and --output must be given"),
        (["negate", "{model}", "{model}x", "--output", "out"], "there is no model directory"),
        (["negate", "{model}", "{model}", "--alpha", "x", "--output", "out"], "--alpha must be a number, not 'x'"),
        (["negate", "{model}", "{model}", "--alpha", "-1", "--output", "out"], "--alpha must not be negative"),
    ],
)
def test_bad_input_is_one_sentence(
    typed: list[str], said: str, files: Files, tmp_path: Path, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    ended = run_arguments(capfd, [word.format(model=files.model) for word in typed])
    assert ended.code == 2 and ended.err.startswith("error: ") and said in " ".join(ended.err.split())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["layer=7"], "layer 7 does not exist: the model has layers 0 to 1"),
        (["layer=1", "trained=no_such_matrix"], "trains only parameters named no_such_matrix, and the model has none"),
        (["layer=1", "trained=("], "trained is not a regular expression"),
        (["layer=1", "control_vector=1,2"], "control_vector has 2 numbers, the model's states 32"),
        (["layers=1"], "has no option 'layers': did you mean 'layer'?"),
    ],
)
def test_rmu_that_does_not_fit_the_model_is_refused_before_anything_is_written(
    options: list[str], said: str, files: Files, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    given = {"model": files.model, "forget": files.forget, "retain": files.retain, "output": output}
    typed = ["forget", *arguments({**given, "method": "RMU+REP", "method_options": options, "evaluate": "none"})]
    ended = run_arguments(capfd, typed)
    assert ended.code == 2 and said in " ".join(ended.err.split()), ended.err
    assert not output.exists()
