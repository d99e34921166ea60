"""Forget quality: does the model treat the forget set like one that never saw it? (Maini et al. 2024, TOFU,
arXiv 2401.06121)

The p-value of the two-sample Kolmogorov-Smirnov test between the truth ratios ρ of the forget set under the unlearned
and under the retrained model: near 1 where the two cannot be told apart, near 0 where they can. TOFU's ρ is the
inverse of the one in `metrics/truth_ratio.py`; the test looks at the order of the values alone, so it is the same.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unlearner.errors import UserError
from unlearner.evaluation.examples import EvalSet
from unlearner.evaluation.metrics.truth_ratio import log_ratio
from unlearner.results.layout import EvaluationDirectory
from unlearner.results.texts import redacted

Row = Mapping[str, Any]


def forget_quality(rows: Sequence[Row], retrained: Sequence[Row]) -> float:
    """The p-value between the truth ratios of two models on the same forget set, given as rows of `records.jsonl`."""
    from scipy.stats import ks_2samp

    return float(ks_2samp(_ratios(rows), _ratios(retrained)).pvalue)


def _ratios(rows: Sequence[Row]) -> list[float]:
    """log ρ of every row with wrong answers."""
    ratios = []
    for row in rows:
        if row["perturbed_nll"]:
            kind = "answer" if row["paraphrase_nll"] is None else "paraphrase"
            truth = row[f"{kind}_nll"] / row[f"{kind}_tokens"]
            ratios.append(log_ratio(truth, row["perturbed_nll"], row["perturbed_tokens"]))
    return ratios


def check_forget_set(sets: Sequence[EvalSet]) -> EvalSet:
    """The forget set among `sets`. Raises UserError where forget quality cannot be computed on it."""
    forget = next((s for s in sets if s.is_forget), None)
    if forget is None:
        raise UserError("--retrained compares two models on the forget set: give --forget.")
    if not any(record.perturbed_answer for record in forget.records):
        raise UserError(
            "--retrained compares truth ratios, and the forget set has no wrong answers (perturbed_answer): "
            "give evaluation rows that have some, or leave --retrained out."
        )
    return forget


def read_retrained(folder: Path, forget: EvalSet) -> list[dict[str, Any]]:
    """The forget rows in the directory of the retrained model's evaluation.

    Raises UserError where it is of other questions than `forget`.
    """
    rows = [row for row in EvaluationDirectory(folder).read_records() if row["set"] == "forget"]
    ours: list[dict[str, Any]] = [{"id": "", "question": r.question, "answer": r.answer} for r in forget.records]
    if any(row.get("redacted") for row in rows):
        ours = list(map(redacted, ours))
    if [(row["question"], row["answer"]) for row in rows] != [(row["question"], row["answer"]) for row in ours]:
        raise UserError(f"--retrained {folder} is an evaluation on another forget set: evaluate on the same one.")
    if not any(row["perturbed_nll"] for row in rows):
        raise UserError(f"--retrained {folder} was evaluated without truth_ratio: evaluate it with that metric.")
    return rows
