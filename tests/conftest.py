"""Shared by all tests: where the shared data lies, and tiny models that tests make themselves."""

import os

# Tiny models on one thread: threads that wait for one another on a busy machine take tens of times longer.
os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported, here and in the processes that tests start
os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported, by whatever library: its kernels run without a GPU

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from unlearner.data.profiles import builtin
from unlearner.data.records import Record
from unlearner.errors import UserError
from unlearner.models import smollm2
from unlearner.models.new import new_model

SHARED = Path(__file__).resolve().parents[2] / "shared"
TINY = "new:hidden=32,layers=2,heads=2,vocabulary=400"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder beside the project with TOFU, the real-world data and the official numbers."""
    if not SHARED.is_dir():
        pytest.skip(f"no {SHARED.name}/ folder beside the project: official numbers and TOFU data are not here")
    return SHARED


@pytest.fixture(scope="session")
def forget_records() -> list[Record]:
    """Twenty questions and answers about two invented people."""
    return builtin("forget", people=5, forget=2)


@pytest.fixture(scope="session")
def retain_records() -> list[Record]:
    """Thirty questions and answers about three others."""
    return builtin("retain", people=5, forget=2)


@pytest.fixture(scope="session")
def smollm() -> Path:
    """SmolLM2-135M-Instruct, in the user's own cache, so that it is fetched once."""
    pytest.importorskip("gguf", reason="the package gguf is not installed: pip install 'unlearner[gguf]'")
    try:
        return smollm2.smollm2()
    except UserError as error:
        if "cannot be downloaded" not in str(error):
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def _tiny(forget_records: list[Record], retain_records: list[Record]) -> tuple[Any, PreTrainedTokenizerBase]:
    return new_model(TINY, [f"{r.question}\n {r.answer}" for r in (*forget_records, *retain_records)], seed=0)


@pytest.fixture(scope="session")
def tiny_tokenizer(_tiny: tuple[Any, PreTrainedTokenizerBase]) -> PreTrainedTokenizerBase:
    """400 byte-pair tokens learned from the records, with `<s>`, `</s>` and `<pad>`."""
    return _tiny[1]


@pytest.fixture(scope="session")
def tiny_llama(_tiny: tuple[Any, PreTrainedTokenizerBase]) -> Callable[[], Any]:
    """Makes a fresh untrained Llama of two layers; every one has the same weights."""
    return lambda: copy.deepcopy(_tiny[0])


@pytest.fixture
def spread_llama(tiny_tokenizer: PreTrainedTokenizerBase) -> Any:
    """An untrained Llama with weights so far apart that its answers differ from one another."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tiny_tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, initializer_range=0.3, eos_token_id=tiny_tokenizer.eos_token_id,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()
