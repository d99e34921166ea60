"""Which retain row and which refusal go with each forget row (arXiv 2410.08109)."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

PairingMode = Literal["redrawn", "fixed", "official"]


@dataclass(frozen=True)
class Pairing:
    """For forget row i: retain row `retain[i]` and refusal `refusal[i]`; int64 arrays of shape (forget rows,)."""

    retain: np.ndarray
    refusal: np.ndarray
    epoch: int = 0
    """Which alternate answer goes with each forget row: number `epoch` of its own, modulo their count."""


def pair(
    n_forget: int,
    n_retain: int,
    n_refusals: int,
    *,
    mode: PairingMode = "redrawn",
    seed: int = 0,
    epoch: int = 0,
    draws: int = 1,
) -> Pairing:
    """Pair forget rows with retain rows and refusals.

    `redrawn` draws retain rows anew every epoch, none twice in an epoch until all have been used; `fixed` draws them
    once for all epochs. In both a question keeps its refusal, or the model would learn a mixture of sentences.
    `official` is the official code's pairing, the same in every epoch and for every seed. With several `draws` an epoch
    (`Plan.draws`) `epoch` counts these; those of one epoch differ when `fixed`, too.
    """
    if mode == "official":
        pairs = [_official(i, n_retain, n_refusals) for i in range(n_forget)]
        retain, refusal = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
        return Pairing(retain, refusal, epoch // draws)
    draw = np.random.default_rng([seed, epoch if mode == "redrawn" else epoch % draws])
    refusals = np.random.default_rng([seed, 0, 1])
    rounds = -(-n_forget // n_retain) if n_retain else 0
    drawn = [draw.permutation(n_retain) for _ in range(rounds)]
    retain = np.concatenate(drawn)[:n_forget] if drawn else np.zeros(n_forget, dtype=np.int64)
    refusal = refusals.integers(n_refusals, size=n_forget) if n_refusals else np.zeros(n_forget, np.int64)
    return Pairing(retain, refusal, epoch // draws)


def _official(i: int, n_retain: int, n_refusals: int) -> tuple[int, int]:
    generator = torch.Generator().manual_seed(i)

    def draw(n: int) -> int:
        return int(torch.randint(0, n, (1,), generator=generator)) if n else 0

    retain = (i + draw(n_retain)) % n_retain if n_retain else 0
    return retain, draw(n_refusals)
