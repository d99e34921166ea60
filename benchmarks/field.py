"""A step of 4 + 4 rows by plain code and by `unlearner`, in turn: the field's methods against OpenUnlearning's way of
computing, ME+GD and NPO+GD against the paper's, GRU against the two backward passes that it needs.

Both take the same steps on the same rows. What comes before the first step (reference scores of NPO, once a run) is
told apart from it.
"""

import copy
import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks import baseline, plain, surgery
from benchmarks.timing import Pairs, timed
from benchmarks.work import TEMPLATE, Texts, taught_model
from unlearner.config import ForgetConfig
from unlearner.data.batches import Plan, micro_batches
from unlearner.data.pairs import pair
from unlearner.data.prompts import Template, find_template
from unlearner.data.records import Record
from unlearner.data.views import View, build_views
from unlearner.methods import Method
from unlearner.models.execution import Execution
from unlearner.models.load import load_model, load_tokenizer
from unlearner.models.onednn_linear import linear
from unlearner.models.smollm2 import directory
from unlearner.scoring.views import reads_labels_only
from unlearner.training.loop import train
from unlearner.training.setup import make_accelerator
from unlearner.training.step import Steps

ROWS, SEED = 4, 1001
SETTINGS: dict[str, Any] = {"weight_decay": 0.01, "max_grad_norm": 1.0}
RATE = 1e-5
PAPERS = ("ME+GD", "NPO+GD")
"""Methods that are also measured against the paper's way: rows padded to 500 tokens (`baseline`)."""
MAX_LENGTH = 500
APART = "largest_difference_of_a_step's_losses"
GRU = "two passes ÷ a step of NPO+GD+GRU"

Losses = tuple[float, float]
PlainStep = Callable[[int, float], Losses]
"""Takes step n at a learning rate."""


class InTurn:
    """While entered, every step of our training loop comes after the same step by plain code; both are timed."""

    def __init__(self, step: PlainStep) -> None:
        self.step = step
        self.pairs = Pairs([], [])
        self.busy = Pairs([], [])
        """The process's own seconds, of all its threads: what can be compared where others use the machine, too."""
        self.apart: list[float] = []
        """How far the two are apart in each step's losses, relative to the larger of loss and 1."""
        self.take = Steps.take
        self.how = Execution()

    def __enter__(self) -> "InTurn":
        def take(steps: Steps, number: int, lr: float) -> Any:
            self.how = steps.how
            times = [time.process_time()]
            theirs, losses = timed(lambda: self.step(number, lr))
            times.append(time.process_time())
            mine, told = timed(lambda: self.take(steps, number, lr))
            times.append(time.process_time())
            self.pairs.baseline.append(theirs)
            self.pairs.ours.append(mine)
            self.busy.baseline.append(times[1] - times[0])
            self.busy.ours.append(times[2] - times[1])
            both = zip(losses, told[0][1:].tolist(), strict=True)
            self.apart.append(max(abs(a - b) / max(abs(a), 1.0) for a, b in both))
            return told

        setattr(Steps, "take", take)  # noqa: B010
        return self

    def __exit__(self, *_: Any) -> None:
        Steps.take = self.take  # type: ignore[method-assign]


def warm(pairs: Pairs) -> Pairs:
    """Without the first pair, which warms up."""
    return Pairs(pairs.baseline[1:], pairs.ours[1:])


class Work:
    """What both sides work on: the rows of `runs` + 1 steps, the first of which warms up."""

    def __init__(self, texts: Texts, model: Any, tokenizer: Any, template: Template, runs: int, layer: int) -> None:
        rows = zip(texts.forget, texts.forget_eval, strict=False)
        # ALTPO's other answer: the first wrong one that the data have, which is about as long.
        forget = [replace(row, alternate_answer=(wrong.perturbed_answer or (wrong.answer,))[:1]) for row, wrong in rows]
        self.forget: list[Record] = forget[: ROWS * (runs + 1)]
        self.texts, self.model, self.tokenizer, self.template = texts, model, tokenizer, template
        self.layer = layer
        self.plan = Plan(len(self.forget), 1, ROWS, 1, SEED)
        self.pairings = [pair(len(self.forget), len(texts.retain), len(texts.refusals), seed=SEED, epoch=0)]
        direction = torch.rand(model.config.hidden_size, generator=torch.Generator().manual_seed(SEED))
        self.direction = direction / direction.norm()

    def items(self, number: int, view: str) -> list[Record]:
        """The rows of step `number` in a view."""
        _, items = self.plan.step(number)
        if view.startswith("retain"):
            return [self.texts.retain[self.pairings[0].retain[i]] for i in items]
        rows = [self.forget[i] for i in items]
        return [replace(r, answer=r.alternate_answer[0]) for r in rows] if view == "forget_alternate" else rows

    def as_openunlearning(self, name: str) -> PlainStep:
        """Rows are tokenised before the first step, as there."""
        method = plain.Plain(name, self.model, layer=self.layer, direction=self.direction, **SETTINGS)
        tokenised = [
            {view: [self._row(row) for row in self.items(n, view)] for view in plain.VIEWS[name]}
            for n in range(self.plan.steps)
        ]

        def step(number: int, lr: float) -> Losses:
            views = {v: plain.collate(rows, self.tokenizer.eos_token_id) for v, rows in tokenised[number].items()}
            return method.step(views, lr)

        return step

    def _row(self, row: Record) -> plain.Row:
        """Tokens by themselves, question and answer: a token that straddles both counts as the answer's."""
        question = self.template.question_part(row.question)
        text = question + self.template.answer_part(row.question, row.answer)
        out = self.tokenizer(text, add_special_tokens=self.template.special_tokens, return_offsets_mapping=True)
        start = sum(stop <= len(question) for _, stop in out["offset_mapping"])
        end = self.template.end or self.tokenizer.eos_token
        return [*out["input_ids"], *self.tokenizer(end, add_special_tokens=False)["input_ids"]], start

    def as_in_the_paper(self, name: str) -> PlainStep:
        model, reference = copy.deepcopy(self.model).train(), copy.deepcopy(self.model).eval()
        optimizer = torch.optim.AdamW(model.parameters(), weight_decay=SETTINGS["weight_decay"])
        tokenised = [
            {view: baseline.stack([self._padded(row) for row in self.items(n, view)]) for view in baseline.VIEWS[name]}
            for n in range(self.plan.steps)
        ]

        def step(number: int, lr: float) -> Losses:
            forget, retain = baseline.losses(name, model, tokenised[number], reference)
            (forget + retain).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), SETTINGS["max_grad_norm"])
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()
            optimizer.zero_grad()
            return forget.item(), retain.item()

        return step

    def _padded(self, row: Record) -> Any:
        return baseline.encode_row(self.tokenizer, self.template, row.question or "", row.answer, MAX_LENGTH)

    def method(self, name: str) -> Method:
        options: dict[str, Any] = {"beta": plain.BETA.get(name)}
        if name == "RMU+REP":
            options = {"layer": self.layer, "steering": plain.STEERING, "control_vector": self.direction}
        return Method.parse(name, **options)

    def views(self, method: Method) -> dict[str, View]:
        return build_views(
            list(method.needs), self.forget, self.texts.retain, self.texts.refusals, self.pairings, self.tokenizer,
            self.template, max_length=MAX_LENGTH, mask_question=True,
        )  # fmt: skip

    def train(self, name: str) -> dict[str, View]:
        """By our loop, as a user's run does; returns the views."""
        method = self.method(name)
        views = self.views(method)
        options = ForgetConfig(
            model="", forget="", output="", max_length=MAX_LENGTH, epochs=1, batch_size=ROWS,
            gradient_accumulation_steps=1, learning_rate=RATE, warmup_epochs=0.0, seed=SEED, **SETTINGS,
        )  # fmt: skip
        train(
            copy.deepcopy(self.model), self.tokenizer, method, views, self.plan, options, None,
            accelerator=make_accelerator(options),
        )  # fmt: skip
        return views

    def compare(self, name: str, step: PlainStep, rate: float) -> dict[str, Any]:
        """Our loop's steps, each after the same one by plain code; `rate` is the machine's (`product_rate`)."""
        begun = time.perf_counter()
        with InTurn(step) as both:
            views = self.train(name)
        whole = time.perf_counter() - begun
        pairs, busy = warm(both.pairs), warm(both.busy)
        seconds = statistics.median(pairs.ours)
        prefix = both.how.prefix_tokens
        tokens, labelled = self.tokens(views)
        asked = self.method(name)
        ends = ROWS * len(views) if reads_labels_only(asked.needs, asked.asked) else 0  # each row's last token
        computed = tokens - prefix * (ROWS * len(views) - 1) - ends
        head = self.model.get_output_embeddings().weight.numel()
        body = sum(p.numel() for p in self.model.parameters()) - head
        operations = 6.0 * (body * computed + head * labelled)  # a forward pass, and a backward one of twice as many
        return {
            "ratio": pairs.ratio,
            "seconds": vars(pairs),
            "ratio_of_processor_seconds": busy.ratio,
            "processor_seconds": vars(busy),
            "beside_the_steps": whole - sum(both.pairs.ours) - sum(both.pairs.baseline),
            APART: max(both.apart),
            "tokens_a_step": tokens,
            "tokens_computed": computed,
            "tokens_per_second": tokens / seconds,
            # RMU computes no more than some layers, and gradients of a few matrices
            "share_of_product_rate": None if name == "RMU+REP" else operations / seconds / rate,
        }

    def tokens(self, views: dict[str, View]) -> tuple[float, float]:
        """Tokens of all rows of a step, each with its system text, and the labelled ones among them, on average."""
        counts = [
            [int(numbers[part.rows[name]].sum()) for numbers in (view.table.lengths, view.labelled)]
            for n in range(1, self.plan.steps)
            for part in micro_batches(self.plan, views, n, max_tokens=10**9)
            for name, view in views.items()
        ]
        tokens, labelled = (sum(each) / (self.plan.steps - 1) for each in zip(*counts, strict=True))
        return tokens, labelled


def product_rate() -> float:
    """Floating-point operations a second in large products of float32, by whichever of oneDNN and MKL is faster."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    quickest = min(timed(partial(by, a, b))[0] for by in (F.linear, linear) for _ in range(5))
    return 2 * 2048**3 / quickest


def benchmark(texts: Texts, runs: int, *, real: bool) -> tuple[dict[str, float], dict[str, Any]]:
    """Ratios by method, and all runs: of SmolLM2 (`real`), or of the tiny Llama."""
    name = "SmolLM2" if real else "tiny"
    if not texts.name.startswith("TOFU"):
        print(f"{name}: left out, because its figures are of TOFU's rows: name their folder by --tofu", flush=True)
        return {}, {"left_out": "TOFU is not here"}
    if real:
        folder = directory("builtin:smollm2")
        model, tokenizer = load_model(folder), load_tokenizer(folder)
        template, layer = find_template("auto", tokenizer), 7
    else:
        (model, tokenizer), template, layer = taught_model(texts), TEMPLATE, 2
    work, rate = Work(texts, model, tokenizer, template, runs, layer), product_rate()
    print(f"{name}: steps of {ROWS} + {ROWS} rows of {texts.name}; products at {rate / 1e9:.0f} GFLOP/s", flush=True)
    sides: list[tuple[str, str, Callable[[str], PlainStep]]] = [
        *((method, method, work.as_openunlearning) for method in plain.VIEWS),
        *((method, f"{method} as in the paper", work.as_in_the_paper) for method in PAPERS),
    ]
    ratios: dict[str, float] = {}
    details: dict[str, Any] = {"operations_per_second_of_products": rate}
    for method, label, plainly in sides:
        found = work.compare(method, plainly(method), rate)
        gc.collect()
        ratios[f"{name} {label}"], details[label] = found["ratio"], found
        share = found["share_of_product_rate"]
        print(
            f"  {label:26} {Pairs(**found['seconds'])} ({found['ratio_of_processor_seconds']:.2f} of processor seconds)"
            f"   {found['tokens_per_second']:.0f} tokens/s"
            + (f", {share:.0%} of the products' rate" if share else "")
            + f"   losses at most {found[APART]:.1e} apart",
            flush=True,
        )
    with surgery.Clock() as clock:
        work.train("NPO+GD+GRU")
    details["NPO+GD+GRU"] = clock.medians()
    ratios[f"{name} {GRU}"] = details["NPO+GD+GRU"]["passes"] / details["NPO+GD+GRU"]["whole"]
    print(f"  NPO+GD+GRU: a step takes {1 / ratios[f'{name} {GRU}']:.2f} times its two passes", flush=True)
    return ratios, details
