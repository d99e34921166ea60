"""Measure a model: two passes over every set, all metrics, records and summary on disk (DESIGN idea 4)."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from unlearner.config import EvalOptions, EvaluateConfig, resolved
from unlearner.console import note, progress_bar
from unlearner.data.prompts import DOCUMENT, Template, encode, find_template
from unlearner.data.sources import load_records
from unlearner.errors import UserError
from unlearner.evaluation.examples import EvalSet
from unlearner.evaluation.judges import Judges, load_judges
from unlearner.evaluation.passes import Store, labelled_tokens, run_passes
from unlearner.evaluation.sets import load_forget, load_sets
from unlearner.evaluation.summary import per_example, summarise
from unlearner.files import read_json, space_errors, write_json, write_jsonl
from unlearner.modeling.load import load_model, load_tokenizer, model_hash, uses_bf16
from unlearner.run import check_output, open_run, records_hash

OFFICIAL_MAX_LENGTH = 200


def max_length(options: EvalOptions, official: bool) -> int:
    """Longest text that is scored, in tokens."""
    return OFFICIAL_MAX_LENGTH if official else options.eval_max_length


def check_answers(
    tokenizer: PreTrainedTokenizerBase, template: Template, sets: Sequence[EvalSet], length: int, official: bool
) -> None:
    """Raises UserError for a question so long that nothing of its answer would be scored: before a run begins."""
    for eval_set in sets:
        pairs = [(record.question, record.answer) for record in eval_set.records]
        prompt = DOCUMENT if eval_set.documents else template
        labelled = labelled_tokens(encode(tokenizer, prompt, pairs, length, official=official))
        if labelled.min() < 1:
            row = int(labelled.argmin())
            raise UserError(
                f"--eval-max-length {length} leaves no token of the answer in row {row + 1} of the evaluation set "
                f"{eval_set.name}: raise it, or leave out the row."
            )


def measure(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    sets: Sequence[EvalSet],
    folder: Path,
    options: EvalOptions,
    *,
    judges: Judges,
    seed: int,
    official: bool = False,
    title: str = "evaluation",
    autocast: Callable[[], AbstractContextManager[Any]] | None = None,
) -> dict[str, Any]:
    """Write `folder`/records.jsonl and `folder`/summary.json, and return the summary (its keys: `summary.py`).

    Finished batches are kept in `folder`/passes.jsonl until the summary is there; a summary that is there is returned
    as it is.
    """
    summary_file = folder / "summary.json"
    if not summary_file.is_file():
        with space_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        store = Store(folder / "passes.jsonl")
        rows: dict[str, list[dict[str, Any]]] = {}
        total = 2 * sum(len(s.records) for s in sets)
        done = 0
        with progress_bar(title, total) as bar:
            for eval_set in sets:
                size = len(eval_set.records)

                def advance(stage: str, finished: int, _: int, before: int = done, size: int = size) -> None:
                    bar(before + finished + (size if stage == "generation" else 0))

                with autocast() if autocast else nullcontext():
                    examples = run_passes(
                        model, tokenizer, template, eval_set,
                        max_length=max_length(options, official),
                        max_new_tokens=options.max_new_tokens, batch_tokens=options.eval_tokens,
                        generation_tokens=options.eval_tokens, official=official, progress=advance, store=store,
                    )  # fmt: skip
                rows[eval_set.name] = per_example(examples, eval_set, judges)
                done += 2 * size
        write_jsonl(folder / "records.jsonl", [row for part in rows.values() for row in part])
        write_json(summary_file, summarise(rows, embedding_model=judges.embedding_model, judge=judges.judge, seed=seed))
    (folder / "passes.jsonl").unlink(missing_ok=True)
    return read_json(summary_file)


def evaluate(config: EvaluateConfig, *, path: str | None = None) -> dict[str, Any]:
    """Evaluate by `config`; returns the summary. A finished evaluation is left as it is.

    `path` is where the model lies, if `config.model` only names it (`builtin:`).
    """
    config.check()
    settings = resolved(config)
    check_output(config.output, "evaluate", settings)
    config = replace(config, eval_columns=config.eval_columns or config.columns)
    forget = load_forget(config.forget, config.columns, config.task) if config.forget else []
    retain = load_records(config.retain, config.columns) if config.retain else []
    sets = load_sets(config, config, forget=forget, retain=retain)
    judges = load_judges(config.judge, config.embedding_model)
    path = path or config.model
    tokenizer = load_tokenizer(path, trust_remote_code=config.trust_remote_code)
    template = find_template(config.template, tokenizer)
    check_answers(tokenizer, template, sets, max_length(config, config.official), config.official)
    model = load_model(
        path,
        dtype=torch.bfloat16 if uses_bf16(config.precision) else torch.float32,
        device="cuda" if torch.cuda.is_available() else "cpu",
        trust_remote_code=config.trust_remote_code,
    )
    hashes = {f"{s.name} set": records_hash(s.records) for s in sets} | {"model": model_hash(path)}
    folder = open_run(config.output, "evaluate", settings, hashes)
    note(judges.describe())
    return measure(
        model, tokenizer, template, sets, folder, config, judges=judges, seed=config.seed, official=config.official
    )
