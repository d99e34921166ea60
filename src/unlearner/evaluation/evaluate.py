"""Measure a model: what the chosen metrics ask, answered; records and summary on disk."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from unlearner import distributed
from unlearner.config import EvaluateConfig, ForgetConfig
from unlearner.console import progress_bar
from unlearner.data.prompts import DOCUMENT, Template, find_template
from unlearner.errors import UserError
from unlearner.evaluation.backend import encode_scores, prompt_tokens, run_passes
from unlearner.evaluation.benchmarks import benchmark_summary
from unlearner.evaluation.examples import EvalSet, Example
from unlearner.evaluation.forget_quality import check_forget_set, read_retrained
from unlearner.evaluation.judges import Judges
from unlearner.evaluation.metrics import chosen_metrics, metrics_of
from unlearner.evaluation.metrics.base import Metric
from unlearner.evaluation.passes import labelled_tokens
from unlearner.evaluation.requests import Generate, Request, Score, batch_kind
from unlearner.evaluation.result import Evaluation
from unlearner.evaluation.store import Store
from unlearner.evaluation.summary import Row, embed_together, per_example, summarise
from unlearner.files import read_jsonl, space_errors, write_json, write_jsonl
from unlearner.models.load import load_model, load_tokenizer, model_hash, uses_bf16
from unlearner.models.sharding import placed
from unlearner.models.vllm_engine import Engine
from unlearner.options import EvalOptions, ModelOptions
from unlearner.results.layout import EvaluationDirectory
from unlearner.results.records import sha256
from unlearner.results.run import records_hash
from unlearner.results.texts import redacted

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
    """What the chosen metrics will ask. Raises UserError for a question so long that nothing of an answer would be
    scored: before a run begins."""
    length = max_length(options, official)
    highest = longest = 0
    for eval_set, requests in zip(sets, _asked(sets, chosen_metrics(options)), strict=True):
        prompt = DOCUMENT if eval_set.documents else template
        scored = [(i, r) for i, of_record in enumerate(requests) for r in of_record if isinstance(r, Score)]
        for rows in ([row for row in scored if row[1].open == is_open] for is_open in (False, True)):
            if not rows:
                continue
            table = encode_scores(tokenizer, prompt, [request for _, request in rows], length, official)
            labelled = labelled_tokens(table)
            if labelled.min() < 1:
                row = rows[int(labelled.argmin())][0] + 1
                raise UserError(
                    f"--eval-max-length {length} leaves no token of the answer in row {row} of the evaluation set "
                    f"{eval_set.name}: raise it, or leave out the row."
                )
            highest, longest = max(highest, int(table.ids.max())), max(longest, int(table.lengths.max()))
        written = [r for of_record in requests for r in of_record if isinstance(r, Generate)]
        for request, ids in zip(written, prompt_tokens(tokenizer, prompt, written), strict=True):
            new = request.max_new_tokens or options.max_new_tokens
            highest, longest = max(highest, *ids), max(longest, max(len(ids), length) if official else len(ids) + new)
    return Extent(highest, longest)


def _asked(sets: Sequence[EvalSet], metrics: Sequence[Metric]) -> list[list[list[Request]]]:
    """For every record of every set, what the metrics ask about it."""
    return [
        [list(dict.fromkeys(r for m in metrics_of(s, metrics) for r in m.requests(record, s))) for record in s.records]
        for s in sets
    ]


@dataclass(frozen=True, kw_only=True)
class _Way:
    """How a model is measured."""

    options: EvalOptions
    official: bool
    title: str
    autocast: Callable[[], AbstractContextManager[Any]] | None
    engine: Engine | None
    judges: Judges

    @property
    def metrics(self) -> list[Metric]:
        return chosen_metrics(self.options)


def way_of_measuring(options: EvalOptions, like: ModelOptions, template: Template, judges: Judges, *more: Any) -> str:
    """A hash of all that decides, beside model and records, what is measured: two evaluations of the same may share
    their rows. `more` is what else the caller's arithmetic depends on."""
    free = (
        "eval_tokens", "eval_limit", "retrained", "judge", "embedding_model", "metrics", "metric_options", "benchmarks",
    )  # fmt: skip
    chosen = {field.name: getattr(options, field.name) for field in fields(EvalOptions) if field.name not in free}
    metrics = [[m.name, f"{type(m).__module__}:{type(m).__qualname__}", m.formula] for m in chosen_metrics(options)]
    named: Sequence[str | Metric] = options.metrics
    given = [metric.as_text() for metric in named if isinstance(metric, Metric)]
    content = [
        chosen, metrics, asdict(template), like.precision, judges.embedding_model, judges.judge, *map(str, more),
        *given, *options.metric_options,
    ]  # fmt: skip
    return sha256(content)[:24]


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
    place = None if folder is None else EvaluationDirectory(folder)
    if place is None or not distributed.agreed(place.evaluated):
        if folder is not None:
            with space_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)
        way = _Way(options=options, official=official, title=title, autocast=autocast, engine=engine, judges=judges)
        store = Store(None if options.redact else folder)  # its files hold what the model wrote
        rows = _rows(model, tokenizer, template, sets, way, store, known)
        records = [row for of_set in rows.values() for row in of_set]
        summary = _summary(sets, rows, way, seed, retrained) if distributed.is_main() else {}
        if place is None:
            return Evaluation(distributed.agreed(summary), None, distributed.agreed(records))
        if distributed.is_main():
            write_jsonl(place.records, records)
            write_json(place.summary, summary)
    if distributed.is_main():
        for path in place.batches:
            path.unlink()
    return Evaluation(distributed.agreed(place.read_summary() if distributed.is_main() else {}), folder)


def _rows(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    sets: Sequence[EvalSet],
    way: _Way,
    store: Store,
    known: Path | None,
) -> dict[str, list[Row]]:
    """By set, the rows of `records.jsonl`, in the main process. What lies in `known` is read, the rest computed and put
    there."""
    kept: dict[str, Path] = {}
    if known is not None:
        kept = {s.name: known / f"{s.name}-{sha256(asdict(replace(s, left_out=0)))[:24]}.jsonl" for s in sets}
    there = distributed.agreed({name: file for name, file in kept.items() if file.is_file()})
    waiting = [s for s in sets if s.name not in there]
    examples = _answered(model, tokenizer, template, waiting, way, store)
    if not distributed.is_main():
        return {}
    rows = {name: read_jsonl(file) for name, file in there.items()} | _judged(waiting, examples, way)
    if way.options.redact:
        rows = {name: [redacted(row) for row in of_set] for name, of_set in rows.items()}
    for s in waiting:
        if s.name in kept:
            kept[s.name].parent.mkdir(parents=True, exist_ok=True)
            write_jsonl(kept[s.name], rows[s.name])
    return {s.name: rows[s.name] for s in sets}


def _summary(
    sets: Sequence[EvalSet], rows: dict[str, list[Row]], way: _Way, seed: int, retrained: Sequence[Row] | None
) -> dict[str, Any]:
    """What `summary.json` holds."""
    plain = {s.name: rows[s.name] for s in sets if s.metric is None}
    summary = summarise(
        plain, embedding_model=way.judges.embedding_model, judge=way.judges.judge, seed=seed, retrained=retrained,
        metrics=way.metrics,
    )  # fmt: skip
    if len(plain) < len(rows):
        summary["benchmarks"] = benchmark_summary(way.options.benchmarks, sets, rows, seed)
    summary["notes"] += [
        f"{s.name!r} was measured on the first {len(s.records):,} of {len(s.records) + s.left_out:,} rows "
        "(--eval-limit)."
        for s in sets
        if s.left_out
    ]
    return summary


def _answered(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    sets: Sequence[EvalSet],
    way: _Way,
    store: Store,
) -> dict[str, list[Example]]:
    """By set, its records with the answers to all that the metrics ask."""
    options, official = way.options, way.official
    together = [(group, _asked(group, way.metrics)) for group in _together(sets, official)]
    asked = [[requests for of_set in found for requests in of_set] for _, found in together]
    kinds = [len({batch_kind(r) for requests in each for r in requests}) for each in asked]
    done: dict[tuple[int, str], float] = {}
    examples: dict[str, list[Example]] = {}
    with progress_bar(way.title, sum(len(each) * n for each, n in zip(asked, kinds, strict=True))) as bar:
        for place, ((group, _), requests) in enumerate(zip(together, asked, strict=True)):

            def advance(name: str, rows: int, total: int, place: int = place) -> None:
                done[place, name] = len(asked[place]) * rows / total
                bar(round(sum(done.values())))

            with way.autocast() if way.autocast else nullcontext():
                found = run_passes(
                    model, tokenizer, DOCUMENT if group[0].documents else template,
                    [record for s in group for record in s.records], asked=requests,
                    max_length=max_length(options, official), max_new_tokens=options.max_new_tokens,
                    batch_tokens=options.eval_tokens, generation_tokens=options.eval_tokens, official=official,
                    progress=advance, store=store, engine=way.engine,
                )  # fmt: skip
            measured = iter(found)
            examples |= {s.name: list(islice(measured, len(s.records))) for s in group}
    return examples


def _judged(sets: Sequence[EvalSet], examples: dict[str, list[Example]], way: _Way) -> dict[str, list[Row]]:
    """By set, the rows of `records.jsonl`."""
    rows: dict[str, list[Row]] = {}
    with progress_bar(f"{way.title}: judging", sum(map(len, examples.values()))) as bar:
        embed_together([examples[s.name] for s in sets if s.metric is None], way.judges, way.metrics)
        for eval_set in sets:
            metrics = metrics_of(eval_set, way.metrics)
            rows[eval_set.name] = per_example(examples[eval_set.name], eval_set, way.judges, metrics)
            bar(sum(map(len, rows.values())))
    return rows


def _together(sets: Sequence[EvalSet], official: bool) -> list[list[EvalSet]]:
    """Sets that share their passes: all of one kind, for fewer and fuller batches; in official mode each by itself."""
    if official:
        return [[eval_set] for eval_set in sets]
    kinds = [[s for s in sets if s.documents], [s for s in sets if not s.documents]]
    return [kind for kind in kinds if kind]


def check_retrained(source: str, sets: Sequence[EvalSet], config: EvaluateConfig | ForgetConfig) -> None:
    """Raises UserError where `source` is neither an evaluation of the forget set nor a model."""
    if all(metric.name != "truth_ratio" for metric in chosen_metrics(config)):
        raise UserError("--retrained compares truth ratios: add truth_ratio to --metrics.")
    forget = check_forget_set(sets)
    if EvaluationDirectory(Path(source)).records.is_file():
        read_retrained(Path(source), forget)
    else:
        load_tokenizer(source, trust_remote_code=config.trust_remote_code)


def retrained_hash(source: str) -> str | None:
    """What tells the retrained model, or its evaluation, from others."""
    records = EvaluationDirectory(Path(source)).records
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
    if EvaluationDirectory(Path(source)).records.is_file():
        return read_retrained(Path(source), forget)
    if folder is not None and distributed.agreed(EvaluationDirectory(folder).evaluated):
        return read_retrained(folder, forget)
    tokenizer = load_tokenizer(source, trust_remote_code=like.trust_remote_code)
    dtype = torch.bfloat16 if autocast is None and uses_bf16(like.precision) else torch.float32
    model = load_model(source, dtype=dtype, trust_remote_code=like.trust_remote_code, lazy=True)
    return measure(
        placed(model, like, dtype), tokenizer, find_template(like.template, tokenizer), [forget], folder, options,
        judges=judges, seed=like.seed, official=official, title="evaluation: the retrained model", autocast=autocast,
        known=known,
    ).records  # fmt: skip
