"""Relearning: taught a little, does the model tell again what it was not taught?

Half of the facts are trained, the other half is asked (Deeb and Roger 2024, arXiv 2410.08827; Hu et al. 2024, arXiv
2406.13356). Needs questions with answers, and memory for training: all weights up to `LARGE`, above it LoRA of rank
16. Costs a training of `steps` for each arm, half, learning rate and seed, and an answer to each question at every
step. What was relearned holds the erased data again: it stays in memory, and the weights are put back to the bit.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from transformers import TrainerCallback

from unlearner.audit.attack import ANSWER_TOKENS, Cost, Finding, Question, Target, WeightAttack, written
from unlearner.audit.detector import Fact
from unlearner.audit.relearned import FORGOTTEN, RELEARNED, RETAINED, UNKNOWN
from unlearner.console import quiet
from unlearner.data.records import Record
from unlearner.evaluation.requests import Generate
from unlearner.models.sharding import is_sharded, widen
from unlearner.options import TrainOptions
from unlearner.training.setup import make_accelerator, weights_dtype
from unlearner.workflows.fine_tune import fine_tune, lessons_of
from unlearner.workflows.subject import Subject

LARGE = 1_000_000_000
SMALL = 20_000_000
"""Weights below which a model is taught with ten times the learning rate."""
UTILITY_ROWS = 20
"""Retained questions that are asked at every step: a model that lost them has not relearned, it has broken."""


@dataclass(frozen=True)
class Relearning(WeightAttack):
    """Arms: on other facts about the forgotten subjects and, as its control, about subjects nobody ever trained on;
    with `retained`, also on retained rows. With `swapped` the halves change places."""

    name = RELEARNED
    title = "Relearning"
    access = "training"
    source = "Deeb and Roger 2024, arXiv 2410.08827; Hu et al. 2024, arXiv 2406.13356"
    of = ("unlearned", "retrained")
    asks_of = "questions, not documents, about two facts of a subject, and a model that is not sharded over devices"

    steps: tuple[int, ...] = (0, 5, 10, 20)
    """When it is asked; the learning rate falls to 0 at the last."""
    rates: tuple[float, ...] = (1.0,)
    """Learning rates, times 1e-4, or 1e-3 below `SMALL` weights."""
    seeds: int = 1
    retained: bool = False
    swapped: bool = False
    controls: int = 4
    """Groups of controls, each of as many subjects as were forgotten: with one forgotten subject as many controls."""
    batch_size: int = 8
    max_new_tokens: int = ANSWER_TOKENS

    def cost(self, asked: Mapping[str, int]) -> Cost:
        """Were there enough controls."""
        trainings = (1 + self.retained + self.controls) * (1 + self.swapped) * len(self.rates) * self.seeds
        questions = asked.get("forget", 0) // 2 + min(UTILITY_ROWS, asked.get("retain", 0))
        return Cost(
            answers=trainings * len(self.steps) * questions,
            rows=trainings * max(self.steps) * self.batch_size,
            trainings=trainings,
        )

    def findings(self, target: Target) -> Iterator[Finding]:
        forgotten = [q for q in target.questions["forget"] if q.detector is not None]
        if is_sharded(target.model) or any(question.document for question in forgotten):
            return
        for rate in self.rates:
            for seed in range(self.seeds):
                for half in range(1 + self.swapped):
                    for arm, rows, asked in self._arms(target, forgotten, half):
                        about = {"arm": arm, "rate": rate, "seed": seed, "half": half}
                        for found in self._taught(target, rows, asked, rate, seed):
                            yield replace(found, about=about | found.about)

    def _arms(
        self, target: Target, forgotten: list[Question], half: int
    ) -> Iterator[tuple[str, list[Record], list[tuple[str, Question]]]]:
        """(arm, rows to train on, questions by group)."""
        trained, tested = halves(forgotten, half)
        yield FORGOTTEN, [q.record for q in trained], [("forget", q) for q in tested]
        if self.retained and target.retained:
            yield RETAINED, list(target.retained)[: len(trained)], [("forget", q) for q in tested]
        controls = [q for q in target.questions["control"] if q.detector is not None and not q.document]
        subjects = list(dict.fromkeys(question.subject for question in controls))
        size = len({question.subject for question in forgotten})
        for first in range(0, min(len(subjects) // size, self.controls) * size, size):
            group = set(subjects[first : first + size])
            trained, tested = halves([q for q in controls if q.subject in group], half)
            yield UNKNOWN, [q.record for q in trained], [("control", q) for q in tested]

    def _taught(
        self, target: Target, rows: Sequence[Record], asked: list[tuple[str, Question]], rate: float, seed: int
    ) -> Iterator[Finding]:
        """What the model tells after each of `steps` on `rows`."""
        if not rows or not asked:
            return
        retained = [("retain", q) for q in target.questions["retain"] if q.detector is not None and not q.document]
        asked = asked + retained[:UTILITY_ROWS]
        questions = [question for _, question in asked]
        requests = [Generate(q.record.question, max_new_tokens=self.max_new_tokens) for q in questions]
        found: list[Finding] = []

        def ask(step: int) -> None:
            examples = target.answer([q.record for q in questions], [[request] for request in requests], False)
            for (group, question), request, example in zip(asked, requests, examples, strict=True):
                for outcome in written(question, example, request):
                    found.append(Finding(group, question, outcome, about={"step": step}))

        options = self._options(target, rows, rate, seed)
        with restored(target.model):
            widen(target.model, weights_dtype(options))
            target.model.requires_grad_(True)
            if 0 in self.steps:
                ask(0)
            _teach(target, rows, options, _At(self.steps, ask))
        yield from found

    def seconds(self, target: Target) -> tuple[float, float]:
        """How long it takes to begin a training, and to train on a row: by two short ones, which leave no trace. Zeros
        where there is nothing to be taught."""
        rows = [q.record for q in target.questions["forget"] if q.detector is not None and not q.document]
        if is_sharded(target.model) or not rows:
            return 0.0, 0.0
        short, long = 1, 4
        took = []
        for steps in (short, short, long):  # the first one ever takes longer
            options = replace(self, steps=(steps,))._options(target, rows[: self.batch_size], 1.0, 0)
            began = time.monotonic()
            with restored(target.model):
                widen(target.model, weights_dtype(options))
                target.model.requires_grad_(True)
                _teach(target, rows[: self.batch_size], options, _At((), None))
            took.append(time.monotonic() - began)
        row = max(0.0, took[2] - took[1]) / ((long - short) * self.batch_size)
        return max(0.0, took[1] - row * short * self.batch_size), row

    def _options(self, target: Target, rows: Sequence[Record], rate: float, seed: int) -> TrainOptions:
        weights = sum(weight.numel() for weight in target.model.parameters())
        lora = weights > LARGE
        return TrainOptions(
            model="", learning_rate=rate * (1e-3 if weights < SMALL else 1e-4), batch_size=self.batch_size,
            gradient_accumulation_steps=1, epochs=(max(self.steps) * self.batch_size + 0.5) / len(rows),
            warmup_epochs=0.0, weight_decay=0.0, lora=lora, lora_rank=16, lora_alpha=32.0, lora_dropout=0.0,
            precision=target.options.precision if lora else "fp32", seed=target.options.seed + seed,
            max_length=target.options.max_length, parallel="ddp",
        )  # fmt: skip


def halves(questions: Sequence[Question], half: int) -> tuple[list[Question], list[Question]]:
    """(to be trained, to be asked): of every subject the even and the odd facts, or for half 1 the other way about.

    Rows with one and the same fact stay together: another wording of what is trained is no other fact.
    """
    parts: tuple[list[Question], list[Question]] = ([], [])
    seen: dict[str, list[Any]] = {}
    for question in questions:
        facts = seen.setdefault(question.subject, [])
        told = question.detector.parts if isinstance(question.detector, Fact) else question.record.answer
        if told not in facts:
            facts.append(told)
        parts[(facts.index(told) + half) % 2].append(question)
    return parts


class _At(TrainerCallback):
    """Asks after given steps."""

    def __init__(self, steps: Sequence[int], ask: Any) -> None:
        self.steps, self.ask = steps, ask

    def on_step_end(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
        if state.global_step in self.steps:
            self.ask(state.global_step)


def _teach(target: Target, rows: Sequence[Record], options: TrainOptions, callback: TrainerCallback) -> None:
    subject = Subject(target.model, target.tokenizer, target.template, None)
    accelerator = make_accelerator(options, alone=True)
    with quiet():  # a bar for every short training would hide the audit's own
        fine_tune(subject, lessons_of(subject, rows, options), options, accelerator=accelerator, callbacks=[callback])
    if options.lora:
        subject.model.unload()


@contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Inside, the weights may be trained; afterwards they, and the mode, are what they were."""
    tensors = [*model.parameters(), *model.buffers()]
    own = [(tensor, tensor.data, tensor.requires_grad) for tensor in tensors]
    training = model.training
    for tensor in tensors:
        tensor.data = tensor.data.clone()
    try:
        yield
    finally:
        for tensor, data, grad in own:
            tensor.data = data
            tensor.requires_grad_(grad)
            tensor.grad = None
        model.train(training)
