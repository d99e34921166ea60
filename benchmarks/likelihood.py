"""All likelihood metrics of the audit from one pass, against the pass that gives log-probabilities alone.

Without the gradient norm, which takes a backward pass for each row, and without a reference model, which is a pass of
its own. The model is untrained: what it says does not change how long that takes.
"""

from typing import Any

from benchmarks.timing import paired, timed
from benchmarks.work import MODEL, TEMPLATE, Texts
from unlearner.audit.likelihood import likelihood_metrics, token_rows
from unlearner.data.batches import padded
from unlearner.data.pairs import pair
from unlearner.data.views import build_views
from unlearner.models.new import new_model

ROWS = 200


def benchmark(texts: Texts, runs: int) -> tuple[dict[str, float], dict[str, Any]]:
    """Scoring alone ÷ all metrics, both in seconds."""
    records = [*texts.forget, *texts.retain][:ROWS]
    model, tokenizer = new_model(MODEL, [f"{r.question} {r.answer}" for r in records], seed=0)
    view = build_views(["train"], records, [], [], [pair(len(records), 0, 0)], tokenizer, TEMPLATE, max_length=500)
    rows = padded(view["train"], view["train"].rows[0], int(tokenizer.eos_token_id or 0))

    def alone() -> float:
        return timed(lambda: token_rows(model, rows, kinds=("logp",)))[0]

    def everything() -> float:
        return timed(lambda: likelihood_metrics(model, rows, tokenizer, gradients=False))[0]

    alone()
    everything()
    pairs = paired(alone, everything, runs)
    print(f"likelihood metrics of {len(records)} rows: scoring alone is the baseline, {pairs}", flush=True)
    return {"likelihood": pairs.ratio}, {"alone": pairs.baseline, "all_metrics": pairs.ours, "rows": len(records)}
