"""Measure a model: two passes over every set, all metrics, records and summary on disk (DESIGN idea 4)."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from unlearner import distributed
from unlearner.config import EvalOptions, ModelOptions
from unlearner.console import progress_bar
from unlearner.data.prompts import DOCUMENT, Template, encode, encode_prompts, find_template
from unlearner.errors import UserError
from unlearner.evaluation.examples import EvalSet, Example
from unlearner.evaluation.forget_quality import check_forget_set, read_retrained
from unlearner.evaluation.judges import Judges
from unlearner.evaluation.passes import Store, labelled_tokens, run_passes, variants
from unlearner.evaluation.result import Evaluation
from unlearner.evaluation.summary import Row, embed_together, per_example, summarise
from unlearner.files import read_json, read_jsonl, space_errors, write_json, write_jsonl
from unlearner.models.load import load_model, load_tokenizer, model_hash, uses_bf16
from unlearner.models.sharding import placed
from unlearner.models.vllm_engine import Engine
from unlearner.results.run import records_hash

OFFICIAL_MAX_LENGTH = 200
EVALUATION_REMEDY = "lower --eval-max-length or --max-new-tokens, or leave out long questions"


def max_length(options: EvalOptions, official: bool) -> int:
    """Longest text that is scored, in tokens."""
    return OFFICIAL_MAX_LENGTH if official else options.eval_max_length


class Extent(NamedTuple):
    """What texts ask of a model."""

    highest: int
    """The highest token id."""
    longest: int
    """Tokens of the longest text, a generation among them."""


def check_answers(
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    sets: Sequence[EvalSet],
    options: EvalOptions,
    official: bool,
) -> Extent:
    """Raises UserError for a question so long that nothing of an answer would be scored: before a run begins."""
    length = max_length(options, official)
    highest = longest = 0
    for eval_set in sets:
        rows = [(i, record.question, text) for i, record in enumerate(eval_set.records) for text in variants(record)]
        prompt = DOCUMENT if eval_set.documents else template
        table = encode(
            tokenizer, prompt, [(question, answer) for _, question, answer in rows], length, official=official
        )
        labelled = labelled_tokens(table)
        if labelled.min() < 1:
            row = rows[int(labelled.argmin())][0] + 1
            raise UserError(
                f"--eval-max-length {length} leaves no token of the answer in row {row} of the evaluation set "
                f"{eval_set.name}: raise it, or leave out the row."
            )
        asked = max(map(len, encode_prompts(tokenizer, prompt, [record.question for record in eval_set.records])))
        written = max(asked, length) if official else asked + options.max_new_tokens
        highest, longest = max(highest, int(table.ids.max())), max(longest, int(table.lengths.max()), written)
    return Extent(highest, longest)


def measure(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    sets: Sequence[EvalSet],
    folder: Path | None,
    options: EvalOptions,
    *,
    judges: Judges,
    seed: int,
    official: bool = False,
    title: str = "evaluation",
    autocast: Callable[[], AbstractContextManager[Any]] | None = None,
    retrained: Sequence[Row] | None = None,
    known: Path | None = None,
    engine: Engine | None = None,
) -> Evaluation:
    """Write `folder`/records.jsonl and `folder`/summary.json, and return what they hold (keys: `summary.py`).

    All processes take part: the passes are shared out over them, the main one judges and writes. Finished batches are
    kept in `folder`/passes*.jsonl until the summary is there; a summary that is there is returned as it is. Without a
    folder nothing is written.
    `retrained` are the retrained model's rows on the forget set. `known` is a folder of this very model, measured in
    this very way: rows of a set that lie there are not computed again, others are put there. A row depends on the
    others that are measured with it, of all sets, by float noise only. `engine` generates in the place of our own loop.
    """
    main = distributed.is_main()
    if folder is not None and distributed.agreed((folder / "summary.json").is_file()):
        summary: dict[str, Any] = read_json(folder / "summary.json") if main else {}
        records = None
    else:
        if folder is not None:
            with space_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)
        store = Store(folder)
        kept = {s.name: known and known / f"{s.name}-{records_hash([repr(s)])[:24]}.jsonl" for s in sets}
        waiting = [s for s in sets if not distributed.agreed((file := kept[s.name]) is not None and file.is_file())]
        examples: dict[str, list[Example]] = {}
        done: dict[tuple[int, str], int] = {}
        with progress_bar(title, 2 * sum(len(s.records) for s in waiting)) as bar:
            for place, part in enumerate(_together(waiting, official)):
                asked = [record for s in part for record in s.records]

                def advance(name: str, rows: int, _: int, place: int = place) -> None:
                    done[place, name] = rows
                    bar(sum(done.values()))

                with autocast() if autocast else nullcontext():
                    found = run_passes(
                        model, tokenizer, DOCUMENT if part[0].documents else template, asked,
                        max_length=max_length(options, official),
                        max_new_tokens=options.max_new_tokens, batch_tokens=options.eval_tokens,
                        generation_tokens=options.eval_tokens, official=official, progress=advance, store=store,
                        engine=engine,
                    )  # fmt: skip
                measured = iter(found)
                examples |= {s.name: list(islice(measured, len(s.records))) for s in part}
        rows: dict[str, list[dict[str, Any]]] = {}
        summary = {}
        if main:
            judged = 0
            with progress_bar(f"{title}: judging", sum(map(len, examples.values()))) as bar:
                embed_together(examples.values(), judges)
                for eval_set in sets:
                    name, file = eval_set.name, kept[eval_set.name]
                    if name not in examples:
                        assert file is not None
                        rows[name] = read_jsonl(file)
                        continue
                    rows[name] = per_example(examples[name], eval_set, judges)
                    judged += len(rows[name])
                    bar(judged)
                    if file is not None:
                        file.parent.mkdir(parents=True, exist_ok=True)
                        write_jsonl(file, rows[name])
            names = {"embedding_model": judges.embedding_model, "judge": judges.judge}
            summary = summarise(rows, **names, seed=seed, retrained=retrained)
        records = [row for part in rows.values() for row in part]
        if folder is None:
            records = distributed.agreed(records)
        elif main:
            write_jsonl(folder / "records.jsonl", records)
            write_json(folder / "summary.json", summary)
            summary = read_json(folder / "summary.json")
    if main and folder is not None:
        for path in Store.files(folder):
            path.unlink()
    return Evaluation(distributed.agreed(summary), folder, records if folder is None else None)


def _together(sets: Sequence[EvalSet], official: bool) -> list[list[EvalSet]]:
    """Sets that share their passes: all of one kind, for fewer and fuller batches; in official mode each by itself."""
    if official:
        return [[eval_set] for eval_set in sets]
    kinds = [[s for s in sets if s.documents], [s for s in sets if not s.documents]]
    return [kind for kind in kinds if kind]


def check_retrained(source: str, sets: Sequence[EvalSet], trust_remote_code: bool) -> None:
    """Raises UserError where `source` is neither an evaluation of the forget set nor a model."""
    forget = check_forget_set(sets)
    if (Path(source) / "records.jsonl").is_file():
        read_retrained(Path(source), forget)
    else:
        load_tokenizer(source, trust_remote_code=trust_remote_code)


def retrained_hash(source: str) -> str | None:
    """What tells the retrained model, or its evaluation, from others."""
    records = Path(source) / "records.jsonl"
    return records_hash(map(repr, read_jsonl(records))) if records.is_file() else model_hash(source)


def retrained_rows(
    source: str,
    sets: Sequence[EvalSet],
    folder: Path | None,
    options: EvalOptions,
    *,
    judges: Judges,
    like: ModelOptions,
    official: bool,
    autocast: Callable[[], AbstractContextManager[Any]] | None = None,
    known: Path | None = None,
) -> list[Row]:
    """The retrained model's rows on the forget set: from its evaluation, or measured into `folder`.

    It is loaded and measured as the model of the run is (`like`: precision, template, seed).
    """
    forget = check_forget_set(sets)
    if (Path(source) / "records.jsonl").is_file():
        return read_retrained(Path(source), forget)
    if folder is not None and distributed.agreed((folder / "summary.json").is_file()):
        return read_retrained(folder, forget)
    tokenizer = load_tokenizer(source, trust_remote_code=like.trust_remote_code)
    dtype = torch.bfloat16 if autocast is None and uses_bf16(like.precision) else torch.float32
    model = load_model(source, dtype=dtype, trust_remote_code=like.trust_remote_code, lazy=True)
    return measure(
        placed(model, like, dtype), tokenizer, find_template(like.template, tokenizer), [forget], folder, options,
        judges=judges, seed=like.seed, official=official, title="evaluation: the retrained model", autocast=autocast,
        known=known,
    ).records  # fmt: skip
