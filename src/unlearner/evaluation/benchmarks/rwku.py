"""RWKU (Jin et al. 2024, arXiv 2406.10890): `rwku:hub:SUBJECT`, or a folder of a subject's files in the place of hub.

Its three levels of questions (blanks to be filled in, questions, attacks) on the subject and two on neighbours, asked
as in the official code through the model's template. Figures are recalls in per cent by its own ROUGE, and as in its
tables the mean log-probability per token, in nats, of texts on the subject (FM) and others (RM). Its tests of general
ability are not read: `--lm-eval` measures that.
"""

import math
from dataclasses import replace
from typing import Any

from unlearner.data.benchmarks import read_benchmark
from unlearner.data.records import Record
from unlearner.data.rows import make_records
from unlearner.evaluation.benchmarks.base import Benchmark, Figures, RowsBySet, mean, values
from unlearner.evaluation.examples import EvalSet

LEVELS = {
    "forget_level1": "forget_blanks", "forget_level2": "forget_questions", "forget_level3": "forget_attacks",
    "neighbor_level1": "neighbor_blanks", "neighbor_level2": "neighbor_questions",
}  # fmt: skip
TEXTS = {"mia_forget": "FM", "mia_retain": "RM"}


def _sets(place: str) -> list[EvalSet]:
    folder, _, subject = place.partition(":")
    found = []
    for name in (*LEVELS, *TEXTS):
        source = f"{folder}:{name}" + f":{subject}" * bool(subject)
        rows = list(read_benchmark("rwku", source))
        records = make_records(f"rwku:{source}", rows, {})
        if name in TEXTS:
            found.append(EvalSet(f"rwku_{name}", tuple(records), documents=True, metric="text_probability"))
        else:
            asked = (_asked(record, cells) for record, (_, cells) in zip(records, rows, strict=True))
            found.append(EvalSet(f"rwku_{name}", tuple(asked), metric="rwku_recall"))
    return found


def _asked(record: Record, cells: dict[str, Any]) -> Record:
    """The question as the official code puts it, by level and kind of attack."""
    task = "complete the blank in" if str(cells.get("level")) == "1" else "briefly answer"
    before = "" if cells.get("type") == "incontext learning" else "Question: "
    behind = "" if cells.get("type") == "affirmative suffix" else "\n"
    return replace(record, question=f"Please {task} the following question.\n{before}{record.question}{behind}")


def _figures(place: str, rows: RowsBySet) -> Figures:
    found = {title: mean(rows, f"rwku_{name}", "rwku_recall", 100) for name, title in LEVELS.items()}
    for name, title in TEXTS.items():
        logs = [math.log(value) for value in values(rows, f"rwku_{name}", "text_probability") if value > 0]
        found[title] = sum(logs) / len(logs) if logs else None
    return found


BENCHMARK = Benchmark(_sets, _figures)
