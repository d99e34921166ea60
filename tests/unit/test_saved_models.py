"""A saved model's files: who may read them, and in which order they tell sets."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model
from transformers import PreTrainedTokenizerBase

from unlearner.training.checkpoint import save_model


@pytest.fixture
def group_may_read() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


def test_the_users_umask_decides_who_may_read_a_model(
    tiny_llama: Callable[[], Any], tiny_tokenizer: PreTrainedTokenizerBase, tmp_path: Path, group_may_read: None
) -> None:
    save_model(tiny_llama(), tiny_tokenizer, tmp_path / "model", merge=False)
    modes = {file.name: file.stat().st_mode & 0o777 for file in (tmp_path / "model").iterdir()}
    assert "model.safetensors" in modes and set(modes.values()) == {0o640}, modes


def test_an_adapters_modules_are_told_in_one_order(
    tiny_llama: Callable[[], Any], tiny_tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    """PEFT writes a set as it comes, which differs between any two processes."""
    modules = {"v_proj", "down_proj", "q_proj", "up_proj", "o_proj", "gate_proj", "k_proj"}
    adapted = get_peft_model(tiny_llama(), LoraConfig(r=2, target_modules=modules))
    save_model(adapted, tiny_tokenizer, tmp_path / "adapter", merge=False)
    held = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert held["target_modules"] == sorted(modules)
