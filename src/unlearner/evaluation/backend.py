"""Answers to all requests by our own passes, or with vLLM's help: joined, deduplicated, batched, each answered once."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn
from transformers import PreTrainedTokenizerBase

from unlearner.data.prompts import Template, TokenTable, encode, end_token_id
from unlearner.data.records import Record
from unlearner.errors import UserError
from unlearner.evaluation.examples import Answer, Example, variants
from unlearner.evaluation.passes import labelled_tokens, scoring_pass
from unlearner.evaluation.requests import Cut, Generate, Request, Score, Scored, Written, batch_kind
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
UNCUT = 2**31 - 1
"""More tokens than any text has."""


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
    store = store or Store()
    jobs: list[Job] = [
        _scoring(model, tokenizer, template, scores, max_length, official, batch_tokens)
        for kind in ("answers", "open answers")
        if (scores := kinds.pop(kind, []))
    ]
    if cuts := kinds.pop("cuts", []):
        jobs.append(_cutting(tokenizer, cuts))
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
    """All that is to be scored, each text once; what follows the same prompt stands together."""
    plain = {key: (key[0], replace(key[1], is_argmax=False, statistics=())) for key in keys}
    groups: dict[tuple[int, str | None], list[tuple[int, Score]]] = {}
    for part, text in dict.fromkeys(plain.values()):
        groups.setdefault((part, text.prompt), []).append((part, text))
    rows = [row for group in groups.values() for row in group]
    told = {plain[key] for key in keys if key[1].is_argmax}
    is_argmax = np.array([row in told for row in rows]) if told else None
    named: dict[tuple[int, Score], set[str]] = {}
    for key in keys:
        named.setdefault(plain[key], set()).update(key[1].statistics)
    statistics = [sorted(named[row]) for row in rows] if any(named.values()) else None
    table = _table(tokenizer, template, [request for _, request in rows], max_length, official)
    each = keys[0][1].open
    sizes = [len(group) for group in groups.values()]
    job = scoring_pass(
        model, table, sizes, batch_tokens=batch_tokens, each=each, is_argmax=is_argmax, statistics=statistics
    )
    counts = labelled_tokens(table).tolist()

    def join(results: list[Any]) -> dict[Key, Answer]:
        found = job.join(results)
        if not told and statistics is None:
            found = [(score, ()) for score in (found if each else found.tolist())]
        by_text, more = {}, {}
        for row, (score, hits, *others), count in zip(rows, found, counts, strict=True):
            nll, logp = (-sum(score), tuple(score)) if each else (score, ())
            by_text[row] = Scored(nll, count, logp, tuple(map(bool, hits)))
            more[row] = others[0] if others else {}
        return {
            key: replace(by_text[text], statistics={name: tuple(more[text][name]) for name in key[1].statistics})
            for key, text in plain.items()
        }

    return replace(job, join=join)


def encode_scores(
    tokenizer: PreTrainedTokenizerBase, template: Template, requests: Sequence[Score], max_length: int, official: bool
) -> TokenTable:
    """The rows of requests to be scored, all of them open or none."""
    pairs = [(request.prompt, request.continuation) for request in requests]
    if requests[0].open:
        return encode(tokenizer, replace(template, end=""), pairs, UNCUT)
    return encode(tokenizer, template, pairs, max_length, official=official)


def have_room(
    tokenizer: PreTrainedTokenizerBase, template: Template, requests: Sequence[Score], max_length: int
) -> list[bool]:
    """Of requests to be scored, none of them open, whether `max_length` leaves room for an answer."""
    counts = labelled_tokens(encode_scores(tokenizer, template, requests, max_length, official=False))
    return [count > 0 for count in counts.tolist()]


def _table(
    tokenizer: PreTrainedTokenizerBase, template: Template, requests: Sequence[Score], max_length: int, official: bool
) -> TokenTable:
    table = encode_scores(tokenizer, template, requests, max_length, official)
    counts = labelled_tokens(table)
    if counts.min() <= 0:
        question = requests[int(counts.argmin())].prompt
        raise UserError(f"max_length {max_length} leaves no room for the answer to {question!r}: raise it.")
    return table


def _cutting(tokenizer: PreTrainedTokenizerBase, keys: Sequence[tuple[int, Cut]]) -> Job:
    """Texts as far as so many tokens reach."""

    def compute(_: int) -> list[str]:
        ids = tokenizer([request.text for _, request in keys])["input_ids"]
        return [_decode(tokenizer, row[: request.tokens]) for row, (_, request) in zip(ids, keys, strict=True)]

    content = ["cuts", [[request.text, request.tokens] for _, request in keys]]
    return BatchJob(
        "cuts", [content], compute, [len(keys)], [1.0], lambda results: dict(zip(keys, results[0], strict=True))
    )


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
        stops = [key[1].stop for key in keys for _ in range(key[1].n)]
        texts = [_decode(tokenizer, answer, stop) for answer, stop in zip(job.join(results), stops, strict=True)]
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


def _decode(tokenizer: PreTrainedTokenizerBase, ids: Any, stop: Sequence[str] = ()) -> str:
    text = str(tokenizer.decode(ids, skip_special_tokens=True))
    for end in stop:
        text = text.partition(end)[0]
    return text.strip()


def end_ids(model: nn.Module, tokenizer: PreTrainedTokenizerBase, template: Template) -> set[int]:
    """Every token that ends a generation: the template's, the tokenizer's, and those that the model names itself."""
    own = bare(model).generation_config.eos_token_id
    ends = (end_token_id(tokenizer, template), tokenizer.eos_token_id, *(own if isinstance(own, list) else [own]))
    return {end for end in ends if end is not None}
