"""Answers to all requests by our own passes, or with vLLM's help: joined, deduplicated, batched, each answered once."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from unlearner.data.prompts import Template, TokenTable, encode, end_token_id
from unlearner.data.records import Record
from unlearner.errors import UserError
from unlearner.evaluation.examples import Answer, Example, variants
from unlearner.evaluation.passes import labelled_tokens, scoring_pass
from unlearner.evaluation.requests import Generate, Request, Score, Scored, Written, batch_kind
from unlearner.evaluation.store import Progress, Store
from unlearner.models.anatomy import bare, evaluating
from unlearner.models.batch_jobs import BatchJob
from unlearner.models.generation import generation_pass
from unlearner.models.onednn_linear import fast_products
from unlearner.models.vllm_engine import Engine

Key = tuple[int, Request]
"""A request, and the row that it is of in official mode (0 elsewhere): the official batches hold every row, in the
order given, even one that is there twice."""
Job = BatchJob[dict[Key, Answer]]


def everyday(record: Record) -> list[Request]:
    """What the paper's six metrics ask: every answer scored, one written."""
    return [*(Score(record.question, answer) for answer in variants(record)), Generate(record.question)]


def run_passes(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    records: Sequence[Record],
    *,
    asked: Sequence[Sequence[Request]] | None = None,
    max_length: int = 200,
    max_new_tokens: int = 128,
    batch_tokens: int | None = None,
    generation_tokens: int | None = None,
    official: bool = False,
    total_length: int | None = None,
    batch_size: int = 30,
    progress: Progress | None = None,
    store: Store | None = None,
    engine: Engine | None = None,
) -> list[Example]:
    """Answer what is `asked` of each of the `records`, in their order; `everyday` unless given.

    Question and answer are cut at `max_length` tokens. `official` counts the question's tokens as the official code
    does and generates in fixed batches of `batch_size`, each to `total_length` tokens in all (`max_length` unless
    given; the official code has one setting for both). Finished batches are kept in `store`, if there is one, and those
    found there are not computed again. `engine` generates in the place of `generation_pass`.
    """
    asked = [everyday(record) for record in records] if asked is None else asked
    keys = [[(i if official else 0, r) for r in requests] for i, requests in enumerate(asked)]
    kinds: dict[Any, list[Any]] = {}
    for key in dict.fromkeys(key for of_record in keys for key in of_record):
        kinds.setdefault(batch_kind(key[1]), []).append(key)
    scores = kinds.pop("answers", [])
    store = store or Store()
    jobs: list[Job] = []
    if scores:
        jobs.append(_scoring(model, tokenizer, template, scores, max_length, official, batch_tokens))
    writing = [
        _writing(
            model, tokenizer, template, wanted, max_new_tokens=max_new_tokens, batch_tokens=generation_tokens,
            total_length=(total_length or max_length) if official else total_length, batch_size=batch_size,
            engine=engine, name="generation" if number == 1 else f"generation {number}",
        )
        for number, wanted in enumerate(kinds.values(), start=1)
    ]  # fmt: skip
    with evaluating(model), fast_products(model):
        if engine is None:
            results = store.run([*jobs, *writing], model, progress)
        else:
            results = store.run(jobs, model, progress) + store.run(writing, None, progress)
    answers = {key: answer for found in results for key, answer in found.items()}
    labelled = _labelled(tokenizer, template, records, max_length) if official else [None] * len(records)
    return [
        Example.of(record, {key[1]: answers[key] for key in of_record}, label)
        for record, of_record, label in zip(records, keys, labelled, strict=True)
    ]


def _scoring(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    keys: Sequence[tuple[int, Score]],
    max_length: int,
    official: bool,
    batch_tokens: int | None,
) -> Job:
    """All that is to be scored; what follows the same prompt stands together."""
    groups: dict[tuple[int, str | None], list[Key]] = {}
    for part, request in keys:
        groups.setdefault((part, request.prompt), []).append((part, request))
    rows: list[Any] = [key for group in groups.values() for key in group]
    table = _table(tokenizer, template, [request for _, request in rows], max_length, official)
    job = scoring_pass(model, table, [len(group) for group in groups.values()], batch_tokens=batch_tokens)
    counts = labelled_tokens(table).tolist()

    def join(results: list[Any]) -> dict[Key, Answer]:
        return {
            key: Scored(nll, count) for key, nll, count in zip(rows, job.join(results).tolist(), counts, strict=True)
        }

    return replace(job, join=join)  # type: ignore[arg-type, return-value]


def _table(
    tokenizer: PreTrainedTokenizerBase, template: Template, requests: Sequence[Score], max_length: int, official: bool
) -> TokenTable:
    pairs = [(request.prompt, request.continuation) for request in requests]
    table = encode(tokenizer, template, pairs, max_length, official=official)
    counts = labelled_tokens(table)
    if counts.min() <= 0:
        question = pairs[int(counts.argmin())][0]
        raise UserError(f"max_length {max_length} leaves no room for the answer to {question!r}: raise it.")
    return table


def _writing(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    keys: Sequence[tuple[int, Generate]],
    *,
    max_new_tokens: int,
    batch_tokens: int | None,
    total_length: int | None,
    batch_size: int,
    engine: Engine | None,
    name: str,
) -> Job:
    """Answers to requests of one kind."""
    first = keys[0][1]
    steps, sampling = first.max_new_tokens or max_new_tokens, first.sampling
    prompts = prompt_tokens(tokenizer, template, [request for _, request in keys])
    ends = end_ids(model, tokenizer, template)
    if engine is None:
        plain = sampling is None and first.max_new_tokens is None and not first.prefix  # the official code's own
        job = generation_pass(
            model, prompts, max_new_tokens=steps, end_ids=ends, pad_id=tokenizer.eos_token_id, sampling=sampling,
            batch_tokens=batch_tokens, total_length=total_length if plain else None, batch_size=batch_size,
        )  # fmt: skip
    else:
        content = ["vllm", prompts, steps, sorted(ends), repr(sampling)]
        job = BatchJob(
            name, [content], lambda _: engine(prompts, steps, ends, sampling), [len(prompts)], [1.0],
            lambda results: results[0],
        )  # fmt: skip

    def join(results: list[Any]) -> dict[Key, Answer]:
        texts = [_decode(tokenizer, answer) for answer in job.join(results)]
        # As in the official token entropy: the text alone, no special tokens around it.
        ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
        written = iter([Written(text, tuple(tokens)) for text, tokens in zip(texts, ids, strict=True)])
        return {key: tuple(next(written) for _ in range(key[1].n)) for key in keys}

    return replace(job, name=name, join=join)  # type: ignore[arg-type, return-value]


def prompt_tokens(
    tokenizer: PreTrainedTokenizerBase, template: Template, requests: Sequence[Generate]
) -> list[list[int]]:
    """Token ids that each answer follows: the question's part of the template, and the forced beginning."""
    texts = [
        template.question_part(r.prompt) + (template.answer_part(r.prompt, r.prefix) if r.prefix else "")
        for r in requests
    ]
    # A tokenizer does not take an empty list.
    prompts = tokenizer(texts, add_special_tokens=template.special_tokens)["input_ids"] if texts else []
    # A document under a tokenizer without a start token: the end token stands for one, as in GPT-2's training.
    return [prompt or [tokenizer.eos_token_id] for prompt in prompts]


def _labelled(
    tokenizer: PreTrainedTokenizerBase, template: Template, records: Sequence[Record], max_length: int
) -> list[str | None]:
    """The answers as far as `max_length` leaves them, by the official count of tokens."""
    pairs = [(record.question, record.answer) for record in records]
    table = encode(tokenizer, template, pairs, max_length, official=True)
    return [_decode(tokenizer, table.row(i)[table.start[i] :]) for i in range(len(records))]


def _decode(tokenizer: PreTrainedTokenizerBase, ids: Any) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True)).strip()


def end_ids(model: nn.Module, tokenizer: PreTrainedTokenizerBase, template: Template) -> set[int]:
    """Every token that ends a generation: the template's, the tokenizer's, and those that the model names itself."""
    own = bare(model).generation_config.eos_token_id
    ends = (end_token_id(tokenizer, template), tokenizer.eos_token_id, *(own if isinstance(own, list) else [own]))
    return {end for end in ends if end is not None}
