"""The two passes over evaluation sets: one scores every answer of a record, the other writes the model's own.

All metrics read the `Example`s that these leave behind (PAPER section 5). In the scoring pass a *group* is the rows of
one record: its answer, paraphrased answer and wrong answers, each after the same question. The question is encoded
once; its keys and values then serve all of the group's rows.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedTokenizerBase

from unlearner import distributed
from unlearner.data.prompts import Template, TokenTable, encode, encode_prompts, end_token_id
from unlearner.data.records import Record
from unlearner.errors import UserError
from unlearner.evaluation.examples import Example
from unlearner.files import read_jsonl, space_errors, write_jsonl
from unlearner.models import generation
from unlearner.models.anatomy import Head, backbone, bare
from unlearner.models.batch_jobs import Map, Pass, two_at_a_time
from unlearner.models.onednn_linear import fast_products
from unlearner.models.sharding import whole
from unlearner.models.vllm_engine import Engine
from unlearner.scoring.token_scores import token_scores

Progress = Callable[[str, int, int], None]
"""Called with the pass (`answers` or `generation`), the records done and all records."""
BATCH_TOKENS = {"cpu": 1_024, "cuda": 32_768}
"""Default budget of one forward of the scoring pass: rows x longest row."""
ROUND = 32
"""Groups whose questions are encoded in one forward, and whose rows are then sorted by length."""


def run_passes(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    records: Sequence[Record],
    *,
    max_length: int = 200,
    max_new_tokens: int = 128,
    batch_tokens: int | None = None,
    generation_tokens: int | None = None,
    official: bool = False,
    total_length: int | None = None,
    batch_size: int = 30,
    progress: Progress | None = None,
    store: "Store | None" = None,
    engine: Engine | None = None,
) -> list[Example]:
    """Measure all `records`, in their order.

    Question and answer are cut at `max_length` tokens. `official` counts the question's tokens as the official code
    does and generates in fixed batches of `batch_size`, each to `total_length` tokens in all (`max_length` unless
    given; the official code has one setting for both). Finished batches are kept in `store`, if there is one, and those
    found there are not computed again. `engine` generates in the place of `generation_pass`.
    """
    pairs = [(record.question, answer) for record in records for answer in variants(record)]
    sizes = [len(variants(record)) for record in records]
    table = encode(tokenizer, template, pairs, max_length, official=official)
    counts = labelled_tokens(table)
    if counts.min() <= 0:
        question = pairs[int(counts.argmin())][0]
        raise UserError(f"max_length {max_length} leaves no room for the answer to {question!r}: raise it.")
    prompts = encode_prompts(tokenizer, template, [record.question for record in records])
    if official and total_length is None:
        total_length = max_length
    ends = end_ids(model, tokenizer, template)
    store = store or Store()
    # A document under a tokenizer without a start token: the end token stands for one, as in GPT-2's training.
    prompts = [prompt or [tokenizer.eos_token_id] for prompt in prompts]
    scoring = scoring_pass(model, table, sizes, batch_tokens=batch_tokens)
    with evaluating(model), fast_products(model):
        if engine is None:
            writing = generation.generation_pass(
                model, prompts, max_new_tokens=max_new_tokens, end_ids=ends, pad_id=tokenizer.eos_token_id,
                batch_tokens=generation_tokens, total_length=total_length, batch_size=batch_size,
            )  # fmt: skip
            nll, answers = store.run([scoring, writing], model, progress)
        else:
            written = [["vllm", prompts, max_new_tokens, sorted(ends)]]
            at_once = Pass(
                "generation", written, lambda _: engine(prompts, max_new_tokens, ends), [len(prompts)], [1.0],
                lambda results: results[0],
            )  # fmt: skip
            (nll,) = store.run([scoring], model, progress)
            (answers,) = store.run([at_once], None, progress)
    texts = [_decode(tokenizer, answer) for answer in answers]
    # As in the official token entropy: the text alone, no special tokens around it.
    text_ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    examples = []
    for record, first, text, ids in zip(records, np.cumsum([0, *sizes[:-1]]), texts, text_ids, strict=True):
        paraphrased = record.paraphrased_answer is not None
        wrong = slice(first + 1 + paraphrased, first + 1 + paraphrased + len(record.perturbed_answer))
        examples.append(
            Example(
                record=record,
                answer_nll=float(nll[first]),
                answer_tokens=int(counts[first]),
                generation=text,
                generation_ids=tuple(ids),
                paraphrase_nll=float(nll[first + 1]) if paraphrased else None,
                paraphrase_tokens=int(counts[first + 1]) if paraphrased else 0,
                perturbed_nll=tuple(nll[wrong].tolist()),
                perturbed_tokens=tuple(counts[wrong].tolist()),
                labelled_answer=_decode(tokenizer, table.row(first)[table.start[first] :]) if official else None,
            )
        )
    return examples


def _decode(tokenizer: PreTrainedTokenizerBase, ids: list[int] | np.ndarray) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True)).strip()


def variants(record: Record) -> tuple[str, ...]:
    """The answers to be scored: the right one, its paraphrase if there is one, the wrong ones."""
    paraphrase = () if record.paraphrased_answer is None else (record.paraphrased_answer,)
    return (record.answer, *paraphrase, *record.perturbed_answer)


def end_ids(model: nn.Module, tokenizer: PreTrainedTokenizerBase, template: Template) -> set[int]:
    """Every token that ends a generation: the template's, the tokenizer's, and those that the model names itself."""
    own = bare(model).generation_config.eos_token_id
    ends = (end_token_id(tokenizer, template), tokenizer.eos_token_id, *(own if isinstance(own, list) else [own]))
    return {end for end in ends if end is not None}


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """No dropout inside; afterwards the model's mode is what it was."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


# -------------------------------------------------------------------------------------------------- scoring the answers


def labelled_tokens(table: TokenTable) -> np.ndarray:
    """Labelled tokens of each row: its answer with the end token, less a very first token, which nothing predicts."""
    return table.lengths - np.maximum(table.start, 1)


def scoring_pass(
    model: nn.Module,
    table: TokenTable,
    sizes: Sequence[int],
    *,
    batch_tokens: int | None = None,
    share: bool = True,
) -> Pass[np.ndarray]:
    """NLL of each row of `table` summed over its labelled tokens, float64 of shape (rows,).

    Group i is the next `sizes[i]` rows. Without `share`, and for any model that keeps anything but keys and values of
    past tokens, the question is encoded again for each row.
    """
    stops = np.cumsum(sizes, dtype=np.int64).tolist()
    groups = [np.arange(stop - size, stop) for size, stop in zip(sizes, stops, strict=True)]
    share = share and generation.row_cache(model) is not None
    prefixes = np.array([common_prefix(table, rows) if share else 0 for rows in groups], dtype=np.int64)
    budget = batch_tokens or BATCH_TOKENS.get(bare(model).device.type, BATCH_TOKENS["cuda"])
    rounds = list(_rounds(table, groups, prefixes))
    rows = [np.concatenate([groups[i] for i in chosen]) for chosen in rounds]

    def join(results: list[list[float]]) -> np.ndarray:
        nll = np.zeros(len(table))
        for part, result in zip(rows, results, strict=True):
            nll[part] = result
        return nll

    return Pass(
        "answers",
        [["answers", [table.row(r).tolist() for r in part], table.start[part].tolist()] for part in rows],
        lambda i: _score_round(model, table, [groups[g] for g in rounds[i]], prefixes[rounds[i]], budget),
        [len(chosen) for chosen in rounds],
        [float(table.lengths[part].sum()) for part in rows],
        join,
    )


def common_prefix(table: TokenTable, rows: np.ndarray) -> int:
    """Tokens with which all `rows` begin, none of them needed to predict a labelled token; 0 for a single row."""
    if len(rows) == 1:
        return 0
    limit = int(np.maximum(table.start[rows], 1).min()) - 1
    heads = np.stack([table.row(row)[:limit] for row in rows])
    same = (heads == heads[0]).all(axis=0)
    return limit if same.all() else int(same.argmin())


def _rounds(table: TokenTable, groups: Sequence[np.ndarray], prefixes: np.ndarray) -> Iterator[np.ndarray]:
    """Groups to be scored together, the longest first; those that share a prefix apart from those that do not."""
    longest = np.array([table.lengths[rows].max() for rows in groups])
    for alike in (prefixes > 0, prefixes == 0):
        order = np.flatnonzero(alike)
        order = order[np.argsort(-longest[order], kind="stable")]
        for first in range(0, len(order), ROUND):
            yield order[first : first + ROUND]


@torch.inference_mode()
def _score_round(
    model: nn.Module, table: TokenTable, groups: Sequence[np.ndarray], prefixes: np.ndarray, batch_tokens: int
) -> list[float]:
    """NLL of all rows of `groups`: the prefixes in one forward, then rows of like length together."""
    rows = np.concatenate(groups)
    group = np.repeat(np.arange(len(groups)), [len(members) for members in groups])
    prefix = prefixes[group]
    past = _encode_prefixes(model, table, [members[0] for members in groups], prefixes) if prefix[0] else None
    scores, owners = [], []
    for batch in generation.length_batches((table.lengths[rows] - prefix).tolist(), batch_tokens):
        logp, row = _score_rows(model, table, rows[batch], prefix[batch], past, group[batch])
        scores.append(logp)
        owners.append(np.array(batch)[row])
    weights = -torch.cat(scores).double().cpu().numpy()  # the round's one copy from the device
    return np.bincount(np.concatenate(owners), weights, minlength=len(rows)).tolist()


def _encode_prefixes(
    model: nn.Module, table: TokenTable, rows: Sequence[int], prefixes: np.ndarray
) -> tuple[DynamicCache, Tensor]:
    """Keys and values of the first `prefixes[i]` tokens of row `rows[i]`, padded on the left, and their mask
    (rows, tokens)."""
    width = int(prefixes.max())
    ids = np.zeros((len(rows), width), dtype=np.int64)
    for i, (row, length) in enumerate(zip(rows, prefixes, strict=True)):
        ids[i, width - length :] = table.row(row)[:length]
    body, device = backbone(model), bare(model).device
    mask = torch.from_numpy(np.arange(width) >= width - prefixes[:, None]).long().to(device)
    cache = generation.row_cache(model)
    assert cache is not None
    body(
        input_ids=torch.from_numpy(ids).to(device),
        attention_mask=mask,
        past_key_values=cache,
        use_cache=True,
        **generation.position_ids(body, (mask.cumsum(1) - 1).clamp(min=0)),
    )
    return cache, mask


def _score_rows(
    model: nn.Module,
    table: TokenTable,
    rows: np.ndarray,
    prefix: np.ndarray,
    past: tuple[DynamicCache, Tensor] | None,
    group: np.ndarray,
) -> tuple[Tensor, np.ndarray]:
    """Log-probability of the labelled tokens of `rows`, in one forward over what follows their prefixes.

    The first `prefix[i]` tokens of row i are row `group[i]` of `past`. Returns shape (N,) on the device, and which of
    `rows` each of the N tokens belongs to.
    """
    body, device = backbone(model), bare(model).device
    lengths, first = table.lengths[rows], np.maximum(table.start[rows], 1)
    width = int((lengths - 1 - prefix).max())  # a row's last token predicts nothing
    ids = np.zeros((len(rows), width), dtype=np.int64)
    targets, index = [], []
    for i, row in enumerate(rows):
        tokens = table.row(row).astype(np.int64)
        ids[i, : lengths[i] - 1 - prefix[i]] = tokens[prefix[i] : -1]
        targets.append(tokens[first[i] :])
        # Token t is predicted at t − 1, which stands in column t − 1 − prefix.
        index.append(np.arange(first[i], lengths[i]) - 1 - prefix[i] + i * width)
    # Padding is on the right and needs no mask: causal attention never looks there.
    context: dict[str, Any] = {"use_cache": False}
    if past is not None:
        cache, mask = past
        chosen = torch.from_numpy(group).to(device)
        positions = torch.from_numpy(prefix[:, None] + np.arange(width)).to(device)
        context = {
            "past_key_values": generation.select_rows(cache, chosen),
            "attention_mask": torch.cat([mask[chosen], mask.new_ones(len(rows), width)], dim=1),
            "use_cache": True,
            **generation.position_ids(body, positions),
        }
    hidden = body(input_ids=torch.from_numpy(ids).to(device), **context).last_hidden_state.flatten(0, 1)
    hidden = hidden.index_select(0, torch.from_numpy(np.concatenate(index)).to(device))
    logp = token_scores(hidden, Head.of(model), torch.from_numpy(np.concatenate(targets)).to(device))["logp"]
    return logp, np.repeat(np.arange(len(rows)), lengths - first)


# ------------------------------------------------------------------------------------------------------------- resuming


class Store:
    """Finished batches in JSON-lines files, so that a killed evaluation goes on where it stopped.

    A batch is known by the hash of its tokens, so rows that changed in between are computed anew. A folder serves any
    number of sets, but one model. What is read back is to the last bit what was written. Every process writes a file
    of its own, passes.jsonl or passes-RANK.jsonl, and any number of processes reads them all. Without a folder,
    nothing outlives the process.
    """

    def __init__(self, folder: Path | None = None):
        self._results: dict[str, Any] = {}
        self.path: Path | None = None
        if folder is None:
            return
        if distributed.is_main():
            for path in self.files(folder):
                rows = read_jsonl(path)
                self._results |= {row["batch"]: row["result"] for row in rows}
                if not path.read_bytes().endswith(b"\n"):
                    write_jsonl(path, rows)  # without the line that the last run was killed in
        self._results = distributed.agreed(self._results)
        self.path = folder / ("passes.jsonl" if distributed.is_main() else f"passes-{distributed.rank()}.jsonl")

    @staticmethod
    def files(folder: Path) -> list[Path]:
        return sorted(folder.glob("passes*.jsonl"))

    def run(self, passes: Sequence[Pass[Any]], model: nn.Module | None, progress: Progress | None = None) -> list[Any]:
        """The results of all `passes`, in every process.

        What is not kept is computed, each batch by one process and maybe beside another one; `model` is what computes.
        The batches are those of one process, whatever the number of processes, so that the results are, too. The
        passes take turns: where two batches run side by side, one that waits for Python and one that does not.
        """
        turns = range(max(len(work.batches) for work in passes))
        jobs = [(p, i) for i in turns for p, work in enumerate(passes) if i < len(work.batches)]
        keys = {(p, i): _key(passes[p].batches[i]) for p, i in jobs}
        missing = {keys[job]: job for job in reversed(jobs) if keys[job] not in self._results}
        owners: dict[tuple[int, int], int] = {}
        for p, work in enumerate(passes):
            places = sorted(job for job in missing.values() if job[0] == p)
            owners |= zip(places, distributed.shares([work.costs[i] for _, i in places]), strict=True)
        made: dict[str, Any] = {}
        done = [0] * len(passes)
        with ExitStack() as stack:
            run: Map = map
            if model is not None:
                stack.enter_context(whole(model))
                run = stack.enter_context(two_at_a_time(model, len(jobs)))
            mine = [job for job in jobs if owners.get(job) == distributed.rank()]
            results = run(lambda job: passes[job[0]].compute(job[1]), mine)
            for p, i in jobs:
                if owners.get((p, i)) == distributed.rank():
                    key = keys[p, i]
                    made[key] = self._results[key] = next(results)
                    if self.path is not None:
                        with space_errors(self.path), self.path.open("a", encoding="utf-8") as file:
                            file.write(json.dumps({"batch": key, "result": made[key]}) + "\n")
                done[p] += passes[p].rows[i]
                if progress is not None:
                    progress(passes[p].name, done[p], sum(passes[p].rows))
        for theirs in distributed.gathered(made):
            self._results |= theirs
        results_of = [[self._results[keys[p, i]] for i in range(len(work.batches))] for p, work in enumerate(passes)]
        return [work.join(results) for work, results in zip(passes, results_of, strict=True)]


def _key(batch: Any) -> str:
    return hashlib.sha256(json.dumps(batch).encode()).hexdigest()[:24]
