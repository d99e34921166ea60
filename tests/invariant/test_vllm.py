"""Generation by vLLM is our own. Run where vLLM is installed, which `make setup` leaves out."""

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from unlearner.config import EvaluateConfig
from unlearner.data.profiles import builtin
from unlearner.files import read_jsonl, write_jsonl
from unlearner.workflows.evaluate import evaluate

pytest.importorskip("vllm", reason="needs vllm")


@pytest.mark.slow
def test_an_evaluation_by_vllm_is_our_own(tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tiny_tokenizer), hidden_size=128, intermediate_size=256, num_hidden_layers=2,
        num_attention_heads=4, initializer_range=0.3, eos_token_id=tiny_tokenizer.eos_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    rows = [{"question": r.question, "answer": r.answer} for r in builtin("forget", people=3, forget=1)[:6]]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    found = {}
    for engine in ("own", "vllm"):
        evaluate(EvaluateConfig(
            model=str(tmp_path / "model"), forget=str(tmp_path / "rows.jsonl"), output=str(tmp_path / engine),
            judge="offline", max_new_tokens=12, template="plain", engine=engine,  # type: ignore[arg-type]
        ))  # fmt: skip
        found[engine] = read_jsonl(tmp_path / engine / "records.jsonl")
    assert any(row["generation"] for row in found["own"])
    assert [row["generation"] for row in found["vllm"]] == [row["generation"] for row in found["own"]]
