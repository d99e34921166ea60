"""MUSE (Shi et al. 2024, arXiv 2407.06460): `muse:News`, `muse:Books`, or a folder in the official layout.

Figures in per cent, as in its tables. Prompts are as in the official code, without a template: KnowMem gives ten solved
questions before each, VerbMem the beginning of a text.
"""

from dataclasses import replace
from pathlib import Path

from unlearner.data.records import Record
from unlearner.data.sources import load_records
from unlearner.evaluation.benchmarks.base import Benchmark, Figures, RowsBySet, mean, values
from unlearner.evaluation.examples import EvalSet
from unlearner.evaluation.membership import auc, privleak

RETRAINED_AUC = {"news": 0.4772, "books": 0.5393}
"""P(a holdout text scores above a forget text) of the official retrained models, both Llama-2-7B; `constants.py` of
swj0419/muse_bench, key forget_holdout_Min-40%."""


def _sets(place: str) -> list[EvalSet]:
    def read(name: str) -> tuple[Record, ...]:
        return tuple(load_records(f"muse:{place}:{name}"))

    def knowledge(side: str) -> EvalSet:
        solved = "".join(f"Question: {r.question}\nAnswer: {r.answer}\n\n" for r in read(f"knowmem/{side}_qa_icl"))
        asked = tuple(
            replace(record, question=f"{solved}Question: {record.question}\nAnswer: ")
            for record in read(f"knowmem/{side}_qa")
        )
        return EvalSet(f"muse_{side}_knowledge", asked, documents=True, metric="knowmem")

    return [
        EvalSet("muse_forget_verbatim", read("verbmem/forget"), documents=True, metric="verbmem"),
        knowledge("forget"),
        knowledge("retain"),
        EvalSet("muse_forget_texts", read("privleak/forget"), documents=True, metric="min_k"),
        EvalSet("muse_holdout_texts", read("privleak/holdout"), documents=True, metric="min_k"),
    ]


def _figures(place: str, rows: RowsBySet) -> Figures:
    """`privleak` needs the retrained model's AUC, which is published for News and Books. `auc` is P(a holdout text
    scores above a forget text): with that of another retrained model PrivLeak is 100 (auc/auc_retrained − 1)."""
    forget, holdout = (values(rows, f"muse_{side}_texts", "min_k") for side in ("forget", "holdout"))
    retrained = RETRAINED_AUC.get(Path(place).name.lower())
    found = auc(forget, holdout) if forget and holdout else None
    return {
        "verbmem_f": mean(rows, "muse_forget_verbatim", "verbmem", 100),
        "knowmem_f": mean(rows, "muse_forget_knowledge", "knowmem", 100),
        "knowmem_r": mean(rows, "muse_retain_knowledge", "knowmem", 100),
        "auc": found,
        "privleak": None if found is None or retrained is None else privleak(1 - found, 1 - retrained),
    }


BENCHMARK = Benchmark(_sets, _figures)
