"""PISTOL (Qiu et al. 2024, arXiv 2406.16810): `pistol:FOLDER:sample_data_1:A_B`, the contract between A and B to be
forgotten; several with commas.

Measured as in the official code on the first 200 rows of each set: the forgotten contracts, all others, of
`sample_data_1` also those whose parties have no other contract (sales, employment), and `factual_data`. What of the
last three a folder does not hold is left out, and a note says so. Questions go
through the model's template. Figures are recalls from 0 to 1, stemmed: ROUGE-1 and ROUGE-L.
"""

from unlearner.console import note
from unlearner.data.benchmarks import sets_there
from unlearner.data.sources import load_records
from unlearner.errors import UserError
from unlearner.evaluation.benchmarks.base import Benchmark, Figures, RowsBySet, mean
from unlearner.evaluation.examples import EvalSet

ROWS = 200
"""The first rows of each set, which are all that the official code measures."""
INDEPENDENT = {"sales": "E1_F1,E2_F2,E3_F3", "employment": "E1_q1,E2_q2,E3_q3"}
"""Edges of `sample_data_1` that share no node with any other: the official configuration."""
SETS = ("forget", "retain", *INDEPENDENT, "factual")
METRICS = {"rouge1": "rouge1", "rougel": "rouge"}
"""Our metric, by what stands at the end of a set's name."""


def _sets(place: str) -> list[EvalSet]:
    folder, _, rest = place.partition(":")
    name, _, edges = rest.partition(":")
    if not edges or edges.startswith("-"):
        raise UserError(
            f"--benchmarks pistol:{place}: say which edge was forgotten, as in pistol:FOLDER:sample_data_1:A_B."
        )
    wanted = {"forget": f"{name}:{edges}", "retain": f"{name}:-{edges}"}
    if name == "sample_data_1":
        there = {record.task_id for record in load_records(f"pistol:{folder}:{name}")}
        wanted |= {kind: f"{name}:{some}" for kind, some in INDEPENDENT.items() if there.issuperset(some.split(","))}
    if "factual_data" in sets_there("pistol", folder):
        wanted["factual"] = "factual_data"
    asked = [kind for kind in SETS if name == "sample_data_1" or kind not in INDEPENDENT]
    if absent := [kind for kind in asked if kind not in wanted]:
        note(f"pistol:{place}: {', '.join(absent)} left out, because {folder} does not hold their rows")
    found = []
    for kind, source in wanted.items():
        records = tuple(load_records(f"pistol:{folder}:{source}"))
        found += [EvalSet(f"pistol_{kind}_{end}", records[:ROWS], metric=metric) for end, metric in METRICS.items()]
    return found


def _figures(place: str, rows: RowsBySet) -> Figures:
    return {
        f"{kind}_{end}": mean(rows, f"pistol_{kind}_{end}", metric)
        for kind in SETS
        for end, metric in METRICS.items()
        if f"pistol_{kind}_{end}" in rows
    }


BENCHMARK = Benchmark(_sets, _figures)
