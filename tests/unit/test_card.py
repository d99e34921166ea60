"""The model card: the hub reads it, it tells how the model was made and how it came out, and none of the data."""

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from unlearner.evaluation.result import Evaluation
from unlearner.workflows.card import is_hub_id, write_card


def evaluation(efficacy: float) -> Evaluation:
    return Evaluation(
        {
            "forget_efficacy": efficacy, "model_utility": None, "counts": {"forget": 40}, "sets": {},
            "intervals": {"forget_efficacy": [efficacy - 0.1, efficacy + 0.1], "model_utility": None},
            "judge": "offline", "embedding_model": "minilm",
        }
    )  # fmt: skip


def card(folder: Path, base: str, **more: Any) -> ModelCard:
    data = {"forget set": "a" * 64, "retain set": "b" * 64, "starting model": None}
    write_card(folder, base=base, method="ME+GD", settings={"learning_rate": 1e-5, "epochs": 5.0}, data=data, **more)
    return ModelCard.load(folder / "README.md")


def test_the_hub_reads_base_model_and_results(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    made = card(tmp_path, "meta-llama/Llama-2-7b", before=evaluation(0.1), after=evaluation(0.8))
    about = made.data
    assert (about.base_model, about.library_name, about.model_name) == (
        "meta-llama/Llama-2-7b", "peft", "meta-llama/Llama-2-7b, ME+GD"
    )  # fmt: skip
    (result,) = about.eval_results
    assert (result.metric_type, result.metric_value) == ("forget_efficacy", 0.8)
    assert "| Forget efficacy | 0.100 (0.000–0.200) | 0.800 (0.700–0.900) |" in made.text
    assert "| Model utility | – | – |" in made.text
    assert f"| forget set | {'a' * 64} |" in made.text and "starting model" not in made.text
    assert "| learning rate | 1e-05 |" in made.text
    assert "Judge: offline" in made.text and "Nothing here proves erasure." in made.text


def test_a_path_is_not_told(tmp_path: Path) -> None:
    made = card(tmp_path, "/home/somebody/taught/model")
    assert made.data.base_model is None and made.data.library_name == "transformers"
    assert "somebody" not in made.content and "`taught`" in made.text
    assert "The model was not measured." in made.text


def test_a_model_of_the_hub_may_have_no_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert card(tmp_path, "gpt2").data.base_model == "gpt2"
    assert is_hub_id("org/name") and not any(map(is_hub_id, ("builtin:", "../name", "/a", "a/b/c", "")))
    (tmp_path / "gpt2").mkdir()
    assert card(tmp_path, "gpt2").data.base_model is None  # a directory here


def test_the_built_in_real_model_is_named_by_its_place_on_the_hub(tmp_path: Path) -> None:
    made = card(tmp_path, "builtin:smollm2")
    assert made.data.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert "quantised to 4 bits" in made.text and "quantised" not in card(tmp_path, "gpt2").text
