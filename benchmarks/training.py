"""Unlearning: the same steps on the same pairs by baseline and by `unlearner`, everything after loading the model."""

import copy
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import baseline
from benchmarks.timing import Pairs, paired, timed
from benchmarks.work import TEMPLATE, Texts, taught_model
from unlearner.config import ForgetConfig
from unlearner.data.batches import Plan
from unlearner.data.pairs import Pairing, pair
from unlearner.data.views import build_views
from unlearner.files import read_jsonl
from unlearner.methods import Method
from unlearner.training.checkpoint import save_model
from unlearner.training.loop import train
from unlearner.training.setup import make_accelerator

METHODS = ("ME+GD", "NPO+GD", "DPO+GD", "IDK+AP")
SETTINGS: dict[str, Any] = {"learning_rate": 2e-4, "weight_decay": 0.01, "max_grad_norm": 1.0}
MAX_LENGTH = 500
EPOCHS, BATCH_SIZE, ACCUMULATION, SEED = 2, 4, 4, 1001

Losses = list[tuple[float, float]]
"""Forget and retain loss of every step."""


def forget_coeff(method: str) -> float:
    return 0.1 if method.startswith("ME") else 1.0


def plan_for(rows: int, epochs: float = EPOCHS) -> Plan:
    return Plan(rows, epochs, BATCH_SIZE, ACCUMULATION, SEED)


def pairings_for(plan: Plan, texts: Texts) -> list[Pairing]:
    sizes = plan.items, len(texts.retain), len(texts.refusals)
    return [pair(*sizes, seed=SEED, epoch=epoch) for epoch in range(plan.pass_count)]


def run_baseline(name: str, model: Any, tokenizer: Any, texts: Texts, plan: Plan) -> tuple[float, Losses]:
    trained, reference = copy.deepcopy(model), copy.deepcopy(model)
    warmup = plan.steps_per_epoch if plan.steps_per_epoch > 1 else 0
    with tempfile.TemporaryDirectory() as folder:
        return timed(
            lambda: baseline.unlearn(
                name, trained, reference, tokenizer, TEMPLATE, texts.forget, texts.retain, texts.refusals,
                pairings_for(plan, texts), plan, Path(folder), forget_coeff=forget_coeff(name), warmup_steps=warmup,
                max_length=MAX_LENGTH, **SETTINGS,
            )
        )  # fmt: skip


def run_ours(name: str, model: Any, tokenizer: Any, texts: Texts, plan: Plan) -> tuple[float, Losses, Any]:
    """Seconds, losses, and the trained model."""
    trained = copy.deepcopy(model)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)

        def work() -> Any:
            method = Method.parse(name, beta=0.1, forget_coeff=forget_coeff(name))
            views = build_views(
                list(method.needs), texts.forget, texts.retain, texts.refusals, pairings_for(plan, texts), tokenizer,
                TEMPLATE, max_length=MAX_LENGTH, mask_question=True, cache=home / "tokens",
            )  # fmt: skip
            options = ForgetConfig(
                model="", forget="", output=folder, max_length=MAX_LENGTH, epochs=plan.epochs,
                batch_size=BATCH_SIZE, gradient_accumulation_steps=ACCUMULATION, save_steps=plan.steps, seed=SEED,
                **SETTINGS,
            )  # fmt: skip
            accelerator = make_accelerator(options)
            made = train(trained, tokenizer, method, views, plan, options, home, accelerator=accelerator).model
            save_model(made, tokenizer, home / "model", merge=False)
            return made

        seconds, made = timed(work)
        losses = [(row["forget"], row["retain"]) for row in read_jsonl(home / "log.jsonl")]
    return seconds, losses, made


def benchmark(texts: Texts, runs: int) -> tuple[dict[str, float], dict[str, Any]]:
    """Ratios by method, and all runs."""
    model, tokenizer = taught_model(texts)
    plan = plan_for(len(texts.forget))
    print(f"unlearning: {plan.steps} steps of {BATCH_SIZE} × {ACCUMULATION} rows of {texts.name}", flush=True)
    ratios, details = {}, {}
    for name in METHODS:
        theirs: list[Losses] = []
        mine: list[Losses] = []

        def slow(name: str = name, kept: list[Losses] = theirs) -> float:
            seconds, losses = run_baseline(name, model, tokenizer, texts, plan)
            kept.append(losses)
            return seconds

        def fast(name: str = name, kept: list[Losses] = mine) -> float:
            seconds, losses, _ = run_ours(name, model, tokenizer, texts, plan)
            kept.append(losses)
            return seconds

        run_ours(name, model, tokenizer, texts, plan_for(len(texts.forget), 16 / len(texts.forget)))  # warms up
        pairs: Pairs = paired(slow, fast, runs)
        apart = max(
            abs(a - b) / max(abs(a), 1e-3)
            for one, other in zip(theirs, mine, strict=True)
            for step, same in zip(one, other, strict=True)
            for a, b in zip(step, same, strict=True)
        )
        print(f"  {name:8} {pairs}   last losses {_show(theirs[-1])} and {_show(mine[-1])}, "
              f"at most {apart:.1e} apart in any step", flush=True)  # fmt: skip
        ratios[name] = pairs.ratio
        details[name] = {
            "seconds": vars(pairs),
            "last_losses": {"baseline": theirs[-1][-1], "ours": mine[-1][-1]},
            "largest_relative_difference_of_a_step's_loss": apart,
        }
    return ratios, details


def _show(losses: Losses) -> str:
    forget, retain = losses[-1]
    return f"{forget:.5f} / {retain:.5f}"
