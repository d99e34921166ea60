"""Fine-tuning: a subject and rows in, the subject taught; and `unlearner finetune`."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from accelerate import Accelerator

from unlearner.config import FinetuneConfig
from unlearner.console import note, warn
from unlearner.data.batches import Plan
from unlearner.data.chunks import chunked
from unlearner.data.pairs import pair
from unlearner.data.prompts import find_template
from unlearner.data.quality import data_warnings
from unlearner.data.records import Record
from unlearner.data.sources import load_records
from unlearner.data.views import View, build_views
from unlearner.errors import UserError
from unlearner.files import cache_directory, read_jsonl
from unlearner.methods import Method
from unlearner.methods.learn import Learn
from unlearner.models import new
from unlearner.models.sharding import choose
from unlearner.models.smollm2 import directory
from unlearner.options import TrainOptions
from unlearner.results.evidence import finish_run
from unlearner.results.layout import RunDirectory
from unlearner.results.lock import released
from unlearner.results.run import check_output, open_run, records_hash
from unlearner.scenarios.fit import ACCUMULATION, EPOCHS
from unlearner.settings import resolved
from unlearner.training.callbacks import callbacks_of
from unlearner.training.checks import check_room, check_steps, check_training_fits, warn_truncated
from unlearner.training.interrupt import time_limit
from unlearner.training.loop import train
from unlearner.training.setup import check_tracker, make_accelerator, weights_dtype
from unlearner.workflows.card import card_settings, write_card
from unlearner.workflows.subject import Subject


@dataclass(frozen=True)
class FinetuneResult:
    """The trained model: its directory, or without an output directory the object itself."""

    model: Any
    tokenizer: Any
    log: list[dict[str, float]]
    """A row for each step: step, epoch, lr, loss, forget, retain, grad_norm."""


class Lessons(NamedTuple):
    """What is taught, and in which order."""

    plan: Plan
    views: dict[str, View]


def lessons_of(
    subject: Subject, records: Sequence[Record], options: TrainOptions, *, cache: Path | None = None
) -> Lessons:
    """The lessons of `records` for a subject, by `options`' epochs and batches; `cache` keeps tokens."""
    assert options.epochs is not None and options.gradient_accumulation_steps is not None
    plan = Plan(
        len(records), options.epochs, options.batch_size, options.gradient_accumulation_steps, options.seed
    )  # fmt: skip
    views = build_views(
        ["train"], records, [], [], [pair(len(records), 0, 0)], subject.tokenizer, subject.template,
        max_length=options.max_length, cache=cache,
    )  # fmt: skip
    return Lessons(plan, {name: view.every_epoch(plan.pass_count) for name, view in views.items()})


def fine_tune(
    subject: Subject,
    lessons: Lessons,
    options: TrainOptions,
    *,
    accelerator: Accelerator,
    folder: Path | None = None,
    made: Path | None = None,
    peft_config: Any = None,
    callbacks: Sequence[Any] = (),
) -> list[dict[str, float]]:
    """Train a subject's model in place, and save it to `made`; it ends in the mode it was in. Gives a row for each
    step.

    Checkpoints and the log go to the run's directory `folder`; without one nothing is written.
    """
    with subject.trained(made, merge=options.merge):
        subject.model, log = train(
            subject.model, subject.tokenizer, Method("finetune", Learn(), None), lessons.views, lessons.plan, options,
            folder, accelerator=accelerator, parallel=choose(subject.model, options, weights_dtype(options)),
            peft_config=peft_config, callbacks=callbacks,
        )  # fmt: skip
    return log


def finetune(
    config: FinetuneConfig, *, tokenizer: Any = None, peft_config: Any = None, callbacks: Sequence[Any] = ()
) -> FinetuneResult:
    """Fine-tune by `config`. A finished run is left as it is; without an output directory nothing is written.

    `config.model` may be a model object, its tokenizer then `tokenizer`; it is trained in place. Raises UserError.
    """
    with time_limit(config.time_limit), released(config.output):
        return _finetuned(config, tokenizer, peft_config, callbacks)


def _finetuned(config: FinetuneConfig, tokenizer: Any, peft_config: Any, callbacks: Sequence[Any]) -> FinetuneResult:
    base, config = config.model, _with_defaults(config, peft_config)
    config.check()
    check_tracker(config)
    settings = resolved(config)
    if config.output is not None:
        check_output(config.output, "finetune", settings)
    records = _records(config)
    config = replace(config, model=directory(config.model))
    odd = data_warnings({"data": records}, config.columns)
    subject = _subject(config, records, tokenizer)
    lessons = _lessons(config, records, subject)
    check_training_fits(subject.model, subject.tokenizer, lessons.views)
    for sentence in odd:
        warn(sentence)
    accelerator = make_accelerator(config)
    folder = trained = run = None
    if config.output is not None:
        hashes = {"data": records_hash(records), "model": subject.fingerprint()}
        folder = open_run(config.output, "finetune", settings, hashes, odd)
        run = RunDirectory(folder)
        trained = run.made(lora=config.lora, merge=config.merge)
        if run.is_finished:
            note(f"{folder} is finished already")
            return FinetuneResult(trained, subject.tokenizer, read_jsonl(run.log))

    warn_truncated(lessons.views, config.max_length, chunked=config.chunk_documents)
    if trained is None or not trained.is_dir():
        log = fine_tune(
            subject, lessons, config, folder=folder, made=trained, accelerator=accelerator, peft_config=peft_config,
            callbacks=callbacks_of(callbacks),
        )  # fmt: skip
        if trained is None:
            return FinetuneResult(subject.model, subject.tokenizer, log)
    assert folder is not None and run is not None
    if accelerator.is_main_process:
        shutil.rmtree(run.checkpoints, ignore_errors=True)
        write_card(
            trained, base=base if isinstance(base, str) else subject.name, method="fine-tuning",
            settings=card_settings(config), data={"data": records_hash(records)},
        )  # fmt: skip
        finish_run(folder, steps=lessons.plan.steps, model=trained.name)
    return FinetuneResult(trained, subject.tokenizer, read_jsonl(run.log))


def _with_defaults(config: FinetuneConfig, peft_config: Any) -> FinetuneConfig:
    """The options with fine-tuning's own values where none were given, and LoRA where an adapter was."""
    accumulation = config.gradient_accumulation_steps
    return replace(
        config,
        lora=config.lora or peft_config is not None or hasattr(config.model, "peft_config"),
        learning_rate=1e-5 if config.learning_rate is None else config.learning_rate,
        epochs=EPOCHS if config.epochs is None else config.epochs,
        gradient_accumulation_steps=ACCUMULATION if accumulation is None else accumulation,
    )


def _lessons(config: FinetuneConfig, records: list[Record], subject: Subject) -> Lessons:
    """What is taught. Raises UserError where that is nothing, or a row has no room for its answer."""
    rows = chunked(records, subject.tokenizer, config.max_length) if config.chunk_documents else records
    found = lessons_of(subject, rows, config, cache=None if config.output is None else cache_directory() / "tokens")
    check_steps(found.plan)
    check_room(found.views, config.max_length)
    return found


def _records(config: FinetuneConfig) -> list[Record]:
    """The rows to learn. Raises UserError where --exclude leaves none, or all."""
    records = [record for source in config.data for record in load_records(source, config.columns)]
    if config.exclude is None:
        return records
    excluded = {(r.question, r.answer) for r in load_records(config.exclude, config.columns)}
    kept = [r for r in records if (r.question, r.answer) not in excluded]
    if not kept:
        raise UserError(f"--exclude {config.exclude} leaves no row to learn: choose other --data.")
    if len(kept) == len(records):  # a model that passes for one that never saw them should not have learned them
        raise UserError(f"--exclude {config.exclude} has no row of --data, question and answer: leave it out.")
    note(f"{len(records) - len(kept)} of {len(records)} rows are left out by --exclude {config.exclude}")
    return kept


def _subject(config: FinetuneConfig, records: list[Record], tokenizer: Any) -> Subject:
    """The model to teach, loaded, or made anew."""
    model: Any = config.model
    if isinstance(model, str) and model.startswith(new.PREFIX):
        texts = (f"{r.question or ''}\n {text}" for r in records for text in (r.answer, r.paraphrased_answer) if text)
        made, tokenizer = new.new_model(model, texts, config.seed)
        return Subject(made, tokenizer, find_template(config.template, tokenizer), model)
    subject = Subject.of(config, tokenizer)
    subject.load_to_train(config)
    return subject
