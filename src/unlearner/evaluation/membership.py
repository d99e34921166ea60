"""From likelihoods to membership: which of two sets was in the training data?"""

from typing import Any

import numpy as np
from scipy import stats


def auc(forget: Any, holdout: Any) -> float:
    """P(holdout > forget) + ½ P(equal)."""
    # Of large arrays with many resamples: ranks rather than scipy's whole test.
    ranks = stats.rankdata(np.concatenate([holdout, forget]))
    n, m = len(holdout), len(forget)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))


def privleak(auc_unlearned: float, auc_retrained: float) -> float:
    """MUSE's PrivLeak in per cent (Shi et al. 2024, arXiv 2407.06460), of two AUCs as given here: 0 is ideal, below 0
    too little was unlearned, above 0 too much. With a = 1 − AUC: 100 (a_U − a_R)/a_R."""
    return 100 * (auc_retrained - auc_unlearned) / (1 - auc_retrained)


def min_k(values: np.ndarray, k: float, *, official: bool = False) -> float:
    """−mean of the lowest ⌊kT⌋ of `values` (T,), one at least. `official`: 0 without values."""
    if not values.size:
        return 0.0 if official else float("nan")
    return float(-np.sort(values)[: max(1, int(values.size * k))].mean())
