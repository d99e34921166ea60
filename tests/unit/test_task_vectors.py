"""base − α(fine-tuned − base): on weights made by hand, over files, tied weights and adapters; what is refused."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

import unlearner
from unlearner.errors import UserError
from unlearner.workflows.negate import difference


def moved(model: Any, seed: int) -> Any:
    """A copy of a model with all its weights a little elsewhere."""
    other = copy.deepcopy(model)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return other


@pytest.fixture
def folders(tiny_llama: Callable[[], Any], tiny_tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> Path:
    """`base`, in bf16 and three files, and `taught`, in float32 and one."""
    base = tiny_llama()
    base.to(torch.bfloat16).save_pretrained(tmp_path / "base", max_shard_size="60KB")
    tiny_tokenizer.save_pretrained(tmp_path / "base")
    moved(base.float(), 1).save_pretrained(tmp_path / "taught")
    return tmp_path


def weights(folder: Path) -> dict[str, Tensor]:
    return {name: each for path in folder.glob("*.safetensors") for name, each in load_file(path).items()}


def rewritten(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    """The weights of a model in one file, changed."""
    held = weights(folder)
    change(held)
    save_file({name: each.contiguous() for name, each in held.items()}, folder / "model.safetensors")


def test_by_hand() -> None:
    base, taught = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([1.5, -2.0, 0.25])
    assert difference("w", base, taught, 1.0).tolist() == [0.5, -2.0, 0.75]
    assert difference("w", base, taught, 2.0).tolist() == [0.0, -2.0, 1.0]
    assert torch.equal(difference("w", base, taught, 0.0), base)


def test_it_is_computed_in_float32_and_kept_in_the_bases_type() -> None:
    """256 − (257.5 − 256) is 254.5, though 257.5 and 1.5 are far below what bf16 tells apart at that size."""
    made = difference("w", torch.tensor([256.0], dtype=torch.bfloat16), torch.tensor([257.5]), 1.0)
    assert made.dtype == torch.bfloat16 and made.item() == 254.0  # 254.5 lies between 254 and 255; to even


def test_files_types_and_index_are_the_bases(folders: Path) -> None:
    made = unlearner.negate(folders / "base", folders / "taught", alpha=0.5, output=folders / "out").model
    assert made == folders / "out" / "model"
    base, taught, new = (weights(folder) for folder in (folders / "base", folders / "taught", made))
    assert len(list(made.glob("*.safetensors"))) == len(list((folders / "base").glob("*.safetensors"))) > 1
    assert base.keys() == new.keys() == taught.keys()
    for name, values in new.items():
        expected = base[name].float() - 0.5 * (taught[name] - base[name].float())
        assert values.dtype == torch.bfloat16 and torch.equal(values, expected.bfloat16()), name
    loaded = AutoModelForCausalLM.from_pretrained(made, dtype="auto")
    assert torch.equal(loaded.lm_head.weight, new["lm_head.weight"])
    beside = {path.name for path in (folders / "base").iterdir()}
    assert {path.name for path in made.iterdir()} == beside
    about = json.loads((folders / "out" / "run.json").read_text())
    assert about["command"] == "negate" and about["config"]["alpha"] == 0.5
    assert set(about["hashes"]) == {"model", "finetuned"} and None not in about["hashes"].values()


def test_a_finished_run_is_left_as_it_is_and_another_refused(folders: Path) -> None:
    output = folders / "out"
    made = unlearner.negate(folders / "base", folders / "taught", output=output).model
    before = {path: path.stat().st_mtime_ns for path in made.iterdir()}
    assert unlearner.negate(folders / "base", folders / "taught", output=output).model == made
    assert {path: path.stat().st_mtime_ns for path in made.iterdir()} == before
    with pytest.raises(UserError, match=r"holds another run \(alpha is 1.0 there, 2.0 here\)"):
        unlearner.negate(folders / "base", folders / "taught", alpha=2, output=output)


@pytest.mark.parametrize("twice", [(), ("base",), ("taught",), ("base", "taught")])
def test_tied_weights_count_once(twice: tuple[str, ...], tiny_llama: Callable[[], Any], tmp_path: Path) -> None:
    """A file may hold both names of the tied weights, or one."""
    base = tiny_llama()
    base.config.tie_word_embeddings = True
    base.tie_weights()
    taught = moved(base, 2)
    assert taught.lm_head.weight is taught.model.embed_tokens.weight
    for name, model in (("base", base), ("taught", taught)):
        model.save_pretrained(tmp_path / name)
        assert "lm_head.weight" not in weights(tmp_path / name)
        if name in twice:
            rewritten(
                tmp_path / name, lambda held: held.update({"lm_head.weight": held["model.embed_tokens.weight"].clone()})
            )
    made = unlearner.negate(tmp_path / "base", tmp_path / "taught", output=tmp_path / "out").model
    new = AutoModelForCausalLM.from_pretrained(made)
    expected = 2 * base.lm_head.weight - taught.lm_head.weight
    torch.testing.assert_close(new.lm_head.weight, expected)
    assert new.lm_head.weight is new.model.embed_tokens.weight
    assert ("lm_head.weight" in weights(made)) == ("base" in twice)


NAME = "model.layers.0.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda held: held.pop(NAME), f"taught lacks the weight '{NAME}' of .*base: they are different models"),
        (lambda held: held.update(more=torch.ones(2)), "base lacks the weight 'more' of .*taught"),
        (lambda held: held.update({NAME: torch.ones(3, 2)}), rf"'{NAME}' has the shape \[.*\] in .*base and \[3, 2\]"),
        (lambda held: held[NAME].fill_(1e38), f"the weight '{NAME}' is no longer finite with --alpha 100: lower it"),
    ],
    ids=["missing", "more", "shape", "not finite"],
)  # fmt: skip
def test_models_that_do_not_correspond_are_refused_by_name(change: Any, said: str, folders: Path) -> None:
    rewritten(folders / "taught", change)
    with pytest.raises(UserError, match=said):
        unlearner.negate(folders / "base", folders / "taught", alpha=100.0, output=folders / "out")
    assert not (folders / "out" / "model").exists()


def test_a_model_that_ties_and_one_that_does_not_are_refused(folders: Path) -> None:
    config = folders / "taught" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"tie_word_embeddings": True}))
    with pytest.raises(UserError, match="tie different weights to each other"):
        unlearner.negate(folders / "base", folders / "taught", output=folders / "out")


def test_quantised_weights_are_refused_where_they_differ() -> None:
    whole = torch.tensor([1, 2], dtype=torch.int8)
    assert torch.equal(difference("w", whole, whole.clone(), 1.0), whole)
    with pytest.raises(UserError, match="the weight 'w' is quantised"):
        difference("w", whole, whole + 1, 1.0)


# ------------------------------------------------------------------------------------------------------------- adapters


def adapter_in(folder: Path, base: Path, **options: Any) -> PeftModel:
    """A LoRA adapter that changes what the model says, saved."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = get_peft_model(model, LoraConfig(r=2, lora_alpha=6, target_modules=["q_proj", "down_proj"], **options))
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    return model


def test_an_adapter_is_negated_by_its_scale(folders: Path) -> None:
    """What it adds to every weight is −α times what it added; the files are PEFT's."""
    trained = adapter_in(folders / "adapter", folders / "base")
    made = unlearner.negate(folders / "base", folders / "adapter", alpha=2.0, output=folders / "out").model
    assert made.name == "adapter"
    base = AutoModelForCausalLM.from_pretrained(folders / "base", dtype=torch.float32)
    merged = trained.merge_and_unload().state_dict()
    negated = PeftModel.from_pretrained(copy.deepcopy(base), made).merge_and_unload().state_dict()
    changed = 0
    for name, before in base.state_dict().items():
        torch.testing.assert_close(negated[name], before - 2 * (merged[name] - before), rtol=1e-4, atol=1e-6)
        changed += not torch.equal(merged[name], before)
    assert changed == 4
    assert json.loads((made / "adapter_config.json").read_text())["base_model_name_or_path"] == str(folders / "base")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"use_dora": True}, "holds .*lora_magnitude_vector.* besides its LoRA matrices"),
        ({"modules_to_save": ["lm_head"]}, "holds .*lm_head.* besides its LoRA matrices"),
        ({"init_lora_weights": "olora"}, "of the kind LoRA initialised by olora: only plain LoRA"),
    ],
)
def test_adapters_that_are_more_than_lora_are_refused(options: dict[str, Any], said: str, folders: Path) -> None:
    adapter_in(folders / "adapter", folders / "base", **options)
    with pytest.raises(UserError, match=said):
        unlearner.negate(folders / "base", folders / "adapter", output=folders / "out")


def test_an_adapter_of_another_model_is_refused(folders: Path) -> None:
    adapter_in(folders / "adapter", folders / "taught")
    with pytest.raises(UserError, match=r"adapter was trained on .*taught, which is not .*base"):
        unlearner.negate(folders / "base", folders / "adapter", output=folders / "out")
    with pytest.raises(UserError, match="adapter is an adapter: give the model that it belongs to as the base"):
        unlearner.negate(folders / "adapter", folders / "taught", output=folders / "out")


def test_what_is_no_directory_is_refused(folders: Path) -> None:
    with pytest.raises(UserError, match=r"there is no model directory .*taugth: did you mean .*taught\?"):
        unlearner.negate(folders / "base", folders / "taugth", output=folders / "out")
    with pytest.raises(UserError, match="negate works on directories"):
        unlearner.negate(folders / "base", torch.nn.Linear(1, 1), output=folders / "out")
    with pytest.raises(UserError, match="--alpha must not be negative"):
        unlearner.negate(folders / "base", folders / "taught", alpha=-1.0, output=folders / "out")
