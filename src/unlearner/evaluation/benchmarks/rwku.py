"""RWKU (Jin et al. 2024, arXiv 2406.10890): `rwku:hub:SUBJECT`, or a folder of a subject's files in the place of hub.

Its three levels of questions (blanks to be filled in, questions, attacks) on the subject and two on neighbours, asked
as in the official code through the model's template. Figures are recalls in per cent by its own ROUGE, as in its
tables the mean log-probability per token, in nats, of texts on the subject (FM) and others (RM), of both the scores
`zlib` and `mink20`, and the fluency of what the model writes, in bits. What a folder does not hold is left out, and a
note says so. Its tests of general ability are not measured here: `--lm-eval` does that.
"""

import math
from dataclasses import replace
from typing import Any

from unlearner.console import note
from unlearner.data.benchmarks import read_benchmark, sets_there
from unlearner.data.records import Record
from unlearner.data.rows import make_records
from unlearner.errors import UserError
from unlearner.evaluation.benchmarks.base import Benchmark, Figures, RowsBySet, mean, values
from unlearner.evaluation.examples import EvalSet

LEVELS = {
    "forget_level1": "forget_blanks", "forget_level2": "forget_questions", "forget_level3": "forget_attacks",
    "neighbor_level1": "neighbor_blanks", "neighbor_level2": "neighbor_questions",
}  # fmt: skip
TEXTS = {"mia_forget": "FM", "mia_retain": "RM"}
SCORES = {"": "text_probability", "_zlib": "zlib_score", "_mink20": "min_k_plus_plus"}
"""The metric of the texts, by the end of a set's name."""
FLUENCY = "utility_fluency"


def _sets(place: str) -> list[EvalSet]:
    folder, _, subject = place.partition(":")
    found, names = [], (*LEVELS, *TEXTS, FLUENCY)
    if folder != "hub":
        there = sets_there("rwku", folder)
        if absent := [name for name in names if name not in there]:
            if len(absent) == len(names):
                raise UserError(f"--benchmarks rwku:{place}: it has none of the sets {', '.join(names)}.")
            names = tuple(name for name in names if name in there)
            note(f"rwku:{place} has no {', '.join(absent)}: left out")
    for name in names:
        source = f"{folder}:{name}" + f":{subject}" * bool(subject)
        rows = list(read_benchmark("rwku", source))
        records = make_records(f"rwku:{source}", rows, {})
        if name in TEXTS:
            texts = tuple(records)
            found += [EvalSet(f"rwku_{name}{end}", texts, documents=True, metric=m) for end, m in SCORES.items()]
        elif name == FLUENCY:
            told = tuple(replace(record, question=record.answer) for record in records)
            found.append(EvalSet(f"rwku_{name}", told, metric="ngram_entropy"))
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
        found |= {f"{title}{end}": mean(rows, f"rwku_{name}{end}", metric) for end, metric in SCORES.items() if end}
    return found | {"fluency": mean(rows, f"rwku_{FLUENCY}", "ngram_entropy")}


BENCHMARK = Benchmark(_sets, _figures)
