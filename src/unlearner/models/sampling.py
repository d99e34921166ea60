"""Sampling whose answers do not depend on the batch: a random number for each request, sample and step.

The numbers are counter-based: the content of the request makes a key, and step t takes the key's t-th number. No
generator has a state that another row could move. B rows, V vocabulary size.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np
import torch
from torch import Tensor

GAMMA = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn: `n` a prompt, from the `top_k` likeliest tokens (0: all), of these from the fewest that
    hold `top_p` of the probability, at `temperature` above 0."""

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0

    def key(self, prompt: Sequence[int], sample: int) -> int:
        """64 bits for one sample of `prompt`. The number of samples is no part of it: more only add to the first."""
        content = json.dumps([list(prompt), *astuple(self)[1:], sample])
        return int.from_bytes(hashlib.sha256(content.encode()).digest()[:8], "little")


def uniforms(keys: Sequence[int], steps: int) -> np.ndarray:
    """Numbers in [0, 1) for `steps` steps of every key, float64 (keys, steps): SplitMix64 (Steele, Lea and Flood 2014,
    doi 10.1145/2660193.2660195) at any place of its sequence."""
    counters = np.arange(1, steps + 1, dtype=np.uint64) * GAMMA
    z = np.array(keys, dtype=np.uint64)[:, None] + counters
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    # 48 bits, so that a product with a sum of probabilities never rounds up to that sum.
    return (z >> np.uint64(16)).astype(np.float64) * 2.0**-48


def probabilities(logits: Tensor, sampling: Sampling) -> Tensor:
    """What a token is drawn from, float64 (B, V): transformers' own filters, in its order."""
    from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    filters = LogitsProcessorList([TemperatureLogitsWarper(float(sampling.temperature))])
    if sampling.top_k:
        filters.append(TopKLogitsWarper(min(sampling.top_k, logits.shape[-1])))
    if sampling.top_p < 1:
        filters.append(TopPLogitsWarper(float(sampling.top_p)))
    return torch.softmax(filters(None, logits.double()), dim=-1)  # type: ignore[arg-type]  # they read no ids


def draw(logits: Tensor, numbers: Tensor, sampling: Sampling) -> Tensor:
    """A token a row, (B,), by the inverse of the distribution function at `numbers` (B,) in [0, 1).

    Logits of the same row in batches of different shapes differ by float noise, about 1e-6 in float32: so rarely does
    a token change with the batch.
    """
    distribution = probabilities(logits, sampling).cumsum(-1)
    return torch.searchsorted(distribution, numbers[:, None] * distribution[:, -1:], right=True).squeeze(1)
