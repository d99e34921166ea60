"""What audit.json says of likelihoods, from the rows of the attack `likelihood`. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from unlearner.audit.membership import Membership
from unlearner.evaluation.membership import privleak

LIKELIHOOD = "likelihood"
WITHIN = 1_024
"""Samples within which an answer may come out word for word."""
SHARES = ("probability", "exact_memorization", "extraction_strength", "truth_share", "extracted")
"""Figures between 0 and 1, large for what is remembered."""
MEMBERSHIP = (
    "loss", "zlib", "min_k@0.2", "min_k@0.4", "min_k_plus_plus@0.2", "min_k_plus_plus@0.4", "gradient_norm",
)  # fmt: skip
"""Scores that are small for what was trained on; `reference` is made of the loss of two models."""
NOT_NEGATIVE = ("log10_samples", "loss", "zlib", "min_k@0.2", "min_k@0.4", "gradient_norm")
FIGURES = (*SHARES, "log10_samples", "prior_corrected", *MEMBERSHIP)

Row = Mapping[str, Any]


def likelihoods(rows: Iterable[Row]) -> dict[str, dict[str, dict[str, float | int | None]]]:
    """By model and group (`unlearned.forget`), of each figure: the mean of the subjects' means, `low` and `high` of its
    95% t-interval (None for a single subject) and how many subjects there `of`."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row["attack"] == LIKELIHOOD:
            found.setdefault(f"{row['model']}.{row['group']}", []).append(row)
    return {
        key: {figure: _mean(having, figure) for figure in FIGURES if (having := [r for r in mine if figure in r])}
        for key, mine in found.items()
    }


def _mean(rows: Sequence[Row], figure: str) -> dict[str, float | int | None]:
    subjects: dict[str, list[float]] = {}
    for row in rows:
        subjects.setdefault(row["subject"], []).append(row[figure])
    means = np.array([np.mean(values) for values in subjects.values()])
    mean, count = float(means.mean()), len(means)
    if count == 1:
        return {"mean": mean, "low": None, "high": None, "of": 1}
    half = float(stats.t.ppf(0.975, count - 1) * stats.sem(means))
    low, high = mean - half, mean + half
    if figure in SHARES or figure in NOT_NEGATIVE:
        low = max(0.0, low)
    if figure in SHARES:
        high = min(1.0, high)
    return {"mean": mean, "low": low, "high": high, "of": count}


def memberships(rows: Iterable[Row]) -> dict[str, dict[str, dict[str, float | None]]]:
    """By model and score: `auc` of what was forgotten against controls (1: it looks like what was trained on) with
    `low` and `high` (None below 20 subjects), `tpr` at 5% false positives, `p_value`; and of the unlearned model MUSE's
    `privleak` where there is a retrained one.

    `reference` is the loss less that of the retrained model, or without one of the original model.
    """
    models: dict[str, dict[tuple[str, str], Row]] = {}
    for row in rows:
        if row["attack"] == LIKELIHOOD and row["group"] in ("forget", "control"):
            models.setdefault(row["model"], {})[row["group"], row["question"]] = row
    reference = next((models[name] for name in ("retrained", "before") if name in models), {})
    found = {model: _memberships(mine, reference) for model, mine in models.items()}
    for score, theirs in found.get("retrained", {}).items():
        ours = found.get("unlearned", {}).get(score)
        if ours is not None and theirs["auc"] != 1:
            ours["privleak"] = privleak(ours["auc"], theirs["auc"])
    return {model: scores for model, scores in found.items() if scores}


def _memberships(
    mine: Mapping[tuple[str, str], Row], reference: Mapping[tuple[str, str], Row]
) -> dict[str, dict[str, Any]]:
    scores = {name: {key: row[name] for key, row in mine.items() if name in row} for name in MEMBERSHIP}
    if mine is not reference:
        scores["reference"] = {
            key: row["loss"] - reference[key]["loss"] for key, row in mine.items() if key in reference
        }
    found = {}
    for name, values in scores.items():
        ours, theirs = (
            {key: value for key, value in values.items() if key[0] == group} for group in ("forget", "control")
        )
        if ours and theirs:
            told = Membership.of(
                list(ours.values()), list(theirs.values()),
                [mine[key]["subject"] for key in ours], [mine[key]["subject"] for key in theirs],
            )  # fmt: skip
            low, high = told.interval or (None, None)
            found[name] = {"auc": told.auc, "low": low, "high": high, "tpr": told.tpr, "p_value": told.p_value}
    return found
