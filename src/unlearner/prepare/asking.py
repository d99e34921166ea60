"""A model that is asked: what it answers, and how likely it finds an answer."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from unlearner import distributed
from unlearner.console import progress_bar
from unlearner.data.records import Record
from unlearner.evaluation.backend import run_passes
from unlearner.evaluation.examples import Answer, Example
from unlearner.evaluation.requests import Request, Scored, Written, batch_kind
from unlearner.files import cache_directory, read_json, space_errors, write_text
from unlearner.models.anatomy import bare
from unlearner.models.load import uses_bf16
from unlearner.models.sharding import placed
from unlearner.options import ModelOptions
from unlearner.version import __version__
from unlearner.workflows.builtin import resolve_model
from unlearner.workflows.subject import Subject

ANSWERS = "answers"
"""Folder of kept answers in the cache."""
NOBODY = Record(None, "")
"""Whom requests are about that belong to no row."""


class Asked:
    """The model that `options` name, or are given, ready to answer. Raises UserError where it cannot be loaded."""

    def __init__(self, options: ModelOptions, tokenizer: Any = None) -> None:
        self.options = options = replace(options, model=resolve_model(options.model))
        self.subject = Subject.of(options, tokenizer)
        self.keeps = tokenizer is None and self.subject.source is not None and Path(self.subject.source).is_dir()
        distributed.join()
        dtype = torch.bfloat16 if uses_bf16(options.precision) else torch.float32
        self.subject.load(options, dtype)
        if self.subject.source is not None:
            self.subject.model = placed(self.subject.model, options, dtype)

    @cached_property
    def fingerprint(self) -> str | None:
        """sha256 of the model; None for a hub id."""
        return self.subject.fingerprint()

    def answers(self, requests: Iterable[Request], title: str | None, *, keep: bool = False) -> Example:
        """The answers to all requests, each asked once: look them up by `scored` and `written`. Without a title no
        progress is shown.

        `keep` is for what is asked again about other subjects, always in the same company: the answers of a model from
        a directory are then kept in the cache, all together, so that what was kept and what is computed are the same
        to the bit.
        """
        wanted = list(dict.fromkeys(requests))
        if not wanted:
            return Example.of(NOBODY, {})
        file = self._kept(wanted) if keep and self.keeps else None
        held = distributed.agreed(read_json(file) if file is not None and file.is_file() else None)
        if held is not None:
            return Example.of(NOBODY, dict(zip(wanted, map(_answer, held), strict=True)))
        kinds = len({batch_kind(request) for request in wanted})
        done: dict[str, float] = {}
        with nullcontext(lambda now: None) if title is None else progress_bar(title, len(wanted)) as bar:

            def advance(name: str, rows: int, total: int) -> None:
                done[name] = len(wanted) * rows / total / kinds
                bar(round(sum(done.values())))

            (example,) = run_passes(
                self.subject.model, self.subject.tokenizer, self.subject.template, [NOBODY], asked=[wanted],
                max_length=self.options.max_length, progress=advance,
            )  # fmt: skip
        if file is not None and distributed.is_main():
            with space_errors(file):
                file.parent.mkdir(parents=True, exist_ok=True)
            write_text(file, json.dumps([_plain(example.answers[request]) for request in wanted]))
        return example

    def _kept(self, wanted: Sequence[Request]) -> Path:
        """The file of these answers: all that decides them is in its name."""
        parameter = next(bare(self.subject.model).parameters())
        computed = (__version__, torch.__version__, parameter.device.type, parameter.dtype)
        asked = (self.fingerprint, *computed, self.subject.template, self.options.max_length, wanted)
        key = hashlib.sha256(repr(asked).encode()).hexdigest()
        return cache_directory() / ANSWERS / key[:2] / f"{key}.json"


def _plain(answer: Answer) -> Any:
    """As JSON has it."""
    if isinstance(answer, tuple):
        return [asdict(each) for each in answer]
    return answer if isinstance(answer, str) else asdict(answer)


def _answer(held: Any) -> Answer:
    if isinstance(held, dict):
        statistics = {name: tuple(values) for name, values in held.get("statistics", {}).items()}
        return Scored(held["nll"], held["tokens"], tuple(held["logp"]), tuple(held["is_argmax"]), statistics)
    return held if isinstance(held, str) else tuple(Written(each["text"], tuple(each["ids"])) for each in held)
