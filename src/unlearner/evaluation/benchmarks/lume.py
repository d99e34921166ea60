"""LUME and SemEval-2025 Task 4 (Ramakrishna et al. 2025, arXiv 2502.15097): `lume:hub` or `lume:FOLDER`.

The folder holds `forget` and `retain`, maybe in `data/`, and for membership inference `mia_data/member.jsonl` and
`mia_data/nonmember.jsonl` (SemEval's; without them, as of `hub`, `mia` is not told). Inputs go to the model as they
are. Figures are shares; the final score is the mean of `task_aggregate`, `mia` and MMLU, which `--lm-eval mmlu`
measures.
"""

from itertools import product
from pathlib import Path
from statistics import harmonic_mean

from unlearner.data.benchmarks import read_benchmark
from unlearner.data.rows import make_records
from unlearner.data.sources import load_records
from unlearner.errors import UserError
from unlearner.evaluation.benchmarks.base import Benchmark, Figures, RowsBySet, mean, values
from unlearner.evaluation.examples import EvalSet
from unlearner.evaluation.membership import auc

KINDS = {"sc": "continuation", "qa": "exact_answer"}
"""What the letters before an id's last digit say: which metric."""
TASKS = ("Task1", "Task2", "Task3")
DOCUMENTS = ("member", "nonmember")


def _sets(place: str) -> list[EvalSet]:
    found = [eval_set for side in ("forget", "retain") for eval_set in _side(place, side)]
    if Path(place, "mia_data").is_dir():
        for name in DOCUMENTS:
            texts = tuple(load_records(f"lume:{place}:mia_data/{name}"))
            found.append(EvalSet(f"lume_{name}", texts, documents=True, metric="text_probability"))
    return found


def _side(place: str, side: str) -> list[EvalSet]:
    """The rows by task and kind, a set each."""
    rows: dict[str, list[tuple[str, dict[str, str]]]] = {_set_name(side, t, k): [] for t in TASKS for k in KINDS}
    for where, cells in read_benchmark("lume", f"{place}:{side}"):
        name = _set_name(side, str(cells.get("task_id")), str(cells.get("id"))[-3:-1])
        if name not in rows:
            raise UserError(
                f"lume:{place}:{side}, {where}: 'task' must be one of {', '.join(TASKS)}, and 'id' end in sc or qa and "
                "a digit; correct the row."
            )
        rows[name].append((where, cells))
    return [
        EvalSet(name, tuple(make_records(f"lume:{place}:{side}", of_set, {})), documents=True, metric=KINDS[name[-2:]])
        for name, of_set in rows.items()
        if of_set
    ]


def _set_name(side: str, task: str, kind: str) -> str:
    return f"lume_{side}_{task.lower()}_{kind}"


def _figures(place: str, rows: RowsBySet) -> Figures:
    """`task_aggregate`: harmonic mean of the twelve means, those of forget sets as 1 − mean; 0 if one is 0, None unless
    all twelve are there. `mia`: 1 − 2 |AUC − ½|, of the mean loss on members and others."""
    scores = []
    for side, task, (kind, metric) in product(("forget", "retain"), TASKS, KINDS.items()):
        value = mean(rows, _set_name(side, task, kind), metric)
        scores.append(value if value is None or side == "retain" else 1 - value)
    there = [score for score in scores if score is not None]
    found: Figures = {"task_aggregate": harmonic_mean(there) if len(there) == len(scores) else None}
    member, other = (values(rows, f"lume_{name}", "text_probability") for name in DOCUMENTS)
    if member and other:
        found["mia"] = 1 - 2 * abs(auc(member, other) - 0.5)
    return found


BENCHMARK = Benchmark(_sets, _figures)
