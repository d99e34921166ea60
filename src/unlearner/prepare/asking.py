"""A model that is asked: what it answers, and how likely it finds an answer."""

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch

from unlearner import distributed
from unlearner.console import progress_bar
from unlearner.data.records import Record
from unlearner.evaluation.backend import run_passes
from unlearner.evaluation.examples import Example
from unlearner.evaluation.requests import Request, batch_kind
from unlearner.models.load import uses_bf16
from unlearner.models.sharding import placed
from unlearner.options import ModelOptions
from unlearner.workflows.builtin import resolve_model
from unlearner.workflows.subject import Subject


class Asked:
    """The model that `options` name, or are given, ready to answer. Raises UserError where it cannot be loaded."""

    def __init__(self, options: ModelOptions, tokenizer: Any = None) -> None:
        self.options = options = replace(options, model=resolve_model(options.model))
        self.subject = Subject.of(options, tokenizer)
        distributed.join()
        dtype = torch.bfloat16 if uses_bf16(options.precision) else torch.float32
        self.subject.load(options, dtype)
        if self.subject.source is not None:
            self.subject.model = placed(self.subject.model, options, dtype)

    def answers(self, requests: Iterable[Request], title: str | None) -> Example:
        """The answers to all requests, each asked once: look them up by `scored` and `written`. Without a title no
        progress is shown."""
        wanted = list(dict.fromkeys(requests))
        kinds = len({batch_kind(request) for request in wanted})
        done: dict[str, float] = {}
        with nullcontext(lambda now: None) if title is None else progress_bar(title, len(wanted)) as bar:

            def advance(name: str, rows: int, total: int) -> None:
                done[name] = len(wanted) * rows / total / kinds
                bar(round(sum(done.values())))

            (example,) = run_passes(
                self.subject.model, self.subject.tokenizer, self.subject.template, [Record(None, "")],
                asked=[wanted], max_length=self.options.max_length, progress=advance,
            )  # fmt: skip
        return example
