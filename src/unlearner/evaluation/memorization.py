"""How much of a text a model says by itself: from which of its tokens are the likeliest at their place."""

import math

import numpy as np


def exact_memorization(is_argmax: np.ndarray) -> float:
    """The share of the labelled tokens (T,) that are the likeliest at their place; NaN without tokens.

    Tirumala et al. 2022, arXiv 2205.10770.
    """
    return float(is_argmax.mean()) if is_argmax.size else math.nan


def extraction_strength(is_argmax: np.ndarray, *, official: bool = False) -> float:
    """1 − k/T, k the fewest tokens after which every further one is the likeliest: 1 for what comes by itself, 0 if not
    even the last token does; NaN without tokens. Carlini et al. 2021, arXiv 2012.07805.

    `official`: its loop ends at k = T − 1, so that an answer of which nothing is known gets 1/T; one without tokens 0.
    """
    tokens = len(is_argmax)
    if not tokens:
        return 0.0 if official else math.nan
    wrong = np.flatnonzero(is_argmax == 0)
    k = int(wrong[-1]) + 1 if wrong.size else 0
    return 1 - (min(k, tokens - 1) if official else k) / tokens
