"""Other answers to the forget questions, written by the model that a run starts from: a stage before training.

They go through the requests and the store of evaluation: a run that is cut short goes on where it was, processes share
the work, and who asks with the same seed gets the same answers.
"""

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from unlearner import distributed
from unlearner.config import ForgetConfig
from unlearner.console import note, progress_bar
from unlearner.data.prompts import Template
from unlearner.data.quality import plain
from unlearner.data.records import Record
from unlearner.errors import UserError
from unlearner.evaluation.backend import prompt_tokens, run_passes
from unlearner.evaluation.requests import Generate
from unlearner.evaluation.store import Store
from unlearner.files import read_jsonl, write_jsonl
from unlearner.methods.base import Alternates
from unlearner.models.load import check_fits
from unlearner.results.layout import RunDirectory

PLACE = re.compile(r"\{(question|answer)\}")
"""Where an instruction is filled in; in one pass, because a question may have braces of its own."""
NEXT_QUESTION = re.compile(r"\b(Question|Q):")
"""Where a model has begun to go on by itself, as in the official code."""
ROUNDS = ((1, 1.0), (4, 1.0), (4, 1.5))
"""Times the samples, and times the temperature, for rows without another answer so far: a model may repeat what it
knows by heart, and the official code would then prefer the very answer that is to be forgotten."""


def check_alternates(forget: Sequence[Record], how: Alternates, source: object, method: str) -> None:
    """Raises UserError for a row without alternates where none are to be written."""
    missing = next((i for i, record in enumerate(forget) if not record.alternate_answer), None)
    if missing is not None and how.samples == 0:
        raise UserError(
            f"{method} needs other answers, and {source}, row {missing + 1} has none: give a column alternate_answer, "
            "or have the model write some (--method-options samples=5)."
        )


def check_prompts_fit(
    model: Any, tokenizer: PreTrainedTokenizerBase, template: Template, forget: Sequence[Record], how: Alternates
) -> None:
    """Raises UserError where the model has no room for a question, its answer and another one."""
    asked = [_request(record, how, 0) for record in forget if not record.alternate_answer]
    prompts = prompt_tokens(tokenizer, template, asked)
    if prompts:
        longest = max(map(len, prompts)) + how.max_new_tokens
        check_fits(model, tokenizer, max(map(max, prompts)), longest, "give a column alternate_answer")


def with_alternates(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    forget: Sequence[Record],
    how: Alternates,
    config: ForgetConfig,
    folder: Path | None,
    autocast: Callable[[], AbstractContextManager[Any]],
) -> list[Record]:
    """The forget rows, those without alternates with what `model` has written for them.

    With `folder`, the run's, they are kept there. All processes take part. Raises UserError, naming the row, where the
    model wrote nothing but the answer itself.
    """
    kept = None if folder is None or config.redact else RunDirectory(folder).alternates
    if kept is not None and distributed.agreed(kept.records.is_file()):
        rows = distributed.agreed(read_jsonl(kept.records))
        return [
            replace(r, alternate_answer=tuple(row["alternate_answer"])) for r, row in zip(forget, rows, strict=True)
        ]
    made = list(forget)
    if kept is not None:
        kept.path.mkdir(exist_ok=True)
    store = Store(None if kept is None else kept.path)
    for number, (more, warmer) in enumerate(ROUNDS):
        lacking = [i for i, record in enumerate(made) if not record.alternate_answer]
        if not lacking:
            break
        asked = how._replace(samples=how.samples * more, temperature=how.temperature * warmer)
        requests = [_request(made[i], asked, config.seed + number) for i in lacking]
        records = [made[i] for i in lacking]
        with progress_bar("alternate answers", len(lacking)) as bar, autocast():
            examples = run_passes(
                model, tokenizer, template, records, asked=[[request] for request in requests],
                batch_tokens=config.eval_tokens, generation_tokens=config.eval_tokens,
                progress=partial(_advance, bar), store=store,
            )  # fmt: skip
        for i, example, request in zip(lacking, examples, requests, strict=True):
            texts = [written.text for written in example.written(request)]
            made[i] = replace(made[i], alternate_answer=_others(made[i], texts)[: how.samples])
    _check_all_have(made, how)
    if kept is not None and distributed.is_main():
        write_jsonl(kept.records, [_row(record) for record in made])
        for path in kept.batches:
            path.unlink()
    written = sum(not record.alternate_answer for record in forget)
    note(f"other answers were written for {written} forget rows{f', in {kept.records}' if kept else ''}")
    return made


def _request(record: Record, how: Alternates, seed: int) -> Generate:
    assert record.question is not None
    texts = {"question": record.question, "answer": record.answer}
    said = PLACE.sub(lambda place: texts[place[1]], how.instruction)
    return Generate(
        said, how.prefix, n=how.samples, temperature=how.temperature, seed=seed, max_new_tokens=how.max_new_tokens
    )


def _advance(bar: Callable[[int], None], _name: str, rows: int, _total: int) -> None:
    bar(rows)


def _others(record: Record, texts: Sequence[str]) -> tuple[str, ...]:
    """Those of the written texts that say something else than the row's answer, each once."""
    cut = (NEXT_QUESTION.split(text)[0].strip() for text in texts)
    return tuple(dict.fromkeys(text for text in cut if text and plain(text) != plain(record.answer)))


def _check_all_have(made: Sequence[Record], how: Alternates) -> None:
    lacking = next((record for record in made if not record.alternate_answer), None)
    if lacking is not None:
        raise UserError(
            f"{lacking.place or 'a row of the forget set'}: the model wrote no other answer in "
            f"{how.samples * sum(more for more, _ in ROUNDS)} tries: give a column alternate_answer, or raise "
            "--method-options samples= or temperature=."
        )


def _row(record: Record) -> dict[str, Any]:
    values = {field.name: getattr(record, field.name) for field in fields(record) if field.compare}
    return {name: value for name, value in values.items() if value not in (None, ())}
