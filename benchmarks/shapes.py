"""Llama-shaped models with random weights: what they cost does not depend on what the weights are."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama; `tied` where the output embedding is the input embedding."""

    vocabulary: int
    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    tied: bool = False

    @property
    def head_size(self) -> int:
        return self.hidden // self.heads

    @property
    def body(self) -> int:
        """Weights of all matrices between the embeddings."""
        attention = self.hidden * self.head_size * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.inner)

    @property
    def parameters(self) -> int:
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return self.body + embeddings + self.hidden * (2 * self.layers + 1)

    def make(self, *, dtype: torch.dtype, device: torch.device | str = "cpu", layers: int | None = None) -> Any:
        """A model of this shape, made on `device`."""
        config = LlamaConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            intermediate_size=self.inner,
            num_hidden_layers=self.layers if layers is None else layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            head_dim=self.head_size,
            max_position_embeddings=2048,
            tie_word_embeddings=self.tied,
        )
        with torch.device(device):
            return LlamaForCausalLM._from_config(config, dtype=dtype)

    def forward_flops(self, lengths: list[int], scored: int) -> float:
        """Floating-point operations of one forward over rows of these lengths, `scored` positions of them meeting the
        vocabulary: 2 for each weight and token, and 2·T² (hidden) a layer for causal attention."""
        attention = sum(2 * n * n for n in lengths) * self.layers * self.heads * self.head_size
        return 2.0 * self.body * sum(lengths) + attention + 2.0 * self.vocabulary * self.hidden * scored


SHAPES = {
    "tiny": Shape(vocabulary=4096, hidden=192, inner=512, layers=4, heads=4, kv_heads=2),
    "0.5b": Shape(vocabulary=32_000, hidden=1536, inner=6144, layers=12, heads=16, kv_heads=8),
    "1b": Shape(vocabulary=128_256, hidden=2048, inner=8192, layers=16, heads=32, kv_heads=8, tied=True),
    "8b": Shape(vocabulary=128_256, hidden=4096, inner=14_336, layers=32, heads=32, kv_heads=8),
    "70b": Shape(vocabulary=128_256, hidden=8192, inner=28_672, layers=80, heads=64, kv_heads=8),
}
"""1b is Llama-3.2-1B's, 8b and 70b Llama-3's; 0.5b is the largest that is run on a CPU here."""
