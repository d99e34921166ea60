"""A new, untrained small Llama with a tokenizer of its own, for trying things out without any download."""

from collections.abc import Iterable, Mapping
from typing import Any

import psutil
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from unlearner.errors import UserError, did_you_mean

PREFIX = "new:"
SIZES = {"hidden": 256, "layers": 4, "heads": 4, "vocabulary": 2048}
"""What `new:hidden=256,layers=4,heads=4,vocabulary=2048` may set, with the values that plain `new:` takes."""


def new_model(name: str, texts: Iterable[str], seed: int) -> tuple[Any, PreTrainedTokenizerBase]:
    """The model that a name such as `new:hidden=128,layers=2` stands for, its tokenizer trained on `texts`.

    Raises UserError for an unknown or impossible size.
    """
    sizes = dict(SIZES)
    for setting in filter(None, name.removeprefix(PREFIX).split(",")):
        key, _, value = setting.partition("=")
        if key not in SIZES:
            raise UserError(f"--model {name}: unknown size {key!r}, {did_you_mean(key, SIZES)}")
        if not value.isdecimal() or int(value) < 1:
            raise UserError(f"--model {name}: {key} must be a positive whole number, not {value!r}.")
        sizes[key] = int(value)
    if sizes["hidden"] % (2 * sizes["heads"]):
        raise UserError(f"--model {name}: hidden must be a multiple of twice the heads ({2 * sizes['heads']}).")
    _check_memory(name, sizes)
    tokenizer = _train_tokenizer(texts, sizes["vocabulary"])
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=sizes["hidden"],
        intermediate_size=_inner(sizes["hidden"]),
        num_hidden_layers=sizes["layers"],
        num_attention_heads=sizes["heads"],
        num_key_value_heads=sizes["heads"],
        max_position_embeddings=2048,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config), tokenizer


def _inner(hidden: int) -> int:
    return round(hidden * 8 / 3 / 32) * 32 or 32


def _check_memory(name: str, sizes: Mapping[str, int]) -> None:
    """Raises UserError for a model whose weights in float32 this machine has no memory for."""
    hidden = sizes["hidden"]
    weights = sizes["layers"] * (4 * hidden**2 + 3 * hidden * _inner(hidden)) + 2 * hidden * sizes["vocabulary"]
    free = psutil.virtual_memory().available
    if 4 * weights > free:
        raise UserError(
            f"--model {name} would have {weights:,} weights, {4 * weights / 2**30:,.0f} GiB, and this machine has "
            f"{free / 2**30:,.1f} GiB of memory free: choose smaller sizes."
        )


def _train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerBase:
    special = ["<s>", "</s>", "<pad>"]
    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )
