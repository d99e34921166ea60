"""`unlearner finetune`: teach a model questions and answers."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from unlearner.config import FinetuneConfig, resolved
from unlearner.console import note
from unlearner.data.batches import Plan
from unlearner.data.pairs import Pairing, pair
from unlearner.data.prompts import find_template
from unlearner.data.records import Record
from unlearner.data.sources import load_records
from unlearner.data.views import build_views
from unlearner.errors import UserError
from unlearner.files import cache_directory, write_json
from unlearner.methods import Method
from unlearner.methods.learn import Learn
from unlearner.models import new
from unlearner.models.load import load_tokenizer, model_hash
from unlearner.models.sharding import choose
from unlearner.results.run import check_output, open_run, records_hash
from unlearner.training.checks import check_room, check_steps, check_training_fits, load_to_train, warn_truncated
from unlearner.training.loop import train
from unlearner.training.setup import check_tracker, make_accelerator, weights_dtype


def finetune(config: FinetuneConfig) -> Path:
    """Fine-tune by `config`; returns the directory of the trained model. A finished run is left as it is."""
    config = replace(config, lr=1e-5 if config.lr is None else config.lr)
    config.check()
    check_tracker(config)
    settings = resolved(config)
    check_output(config.output, "finetune", settings)
    records = [record for source in config.data for record in load_records(source, config.columns)]
    if config.exclude is not None:
        excluded = {(r.question, r.answer) for r in load_records(config.exclude, config.columns)}
        kept = [r for r in records if (r.question, r.answer) not in excluded]
        if not kept:
            raise UserError(f"--exclude {config.exclude} leaves no row to learn: choose other --data.")
        if len(kept) == len(records):  # a model that passes for one that never saw them should not have learned them
            raise UserError(f"--exclude {config.exclude} has no row of --data, question and answer: leave it out.")
        note(f"{len(records) - len(kept)} of {len(records)} rows are left out by --exclude {config.exclude}")
        records = kept
    model, tokenizer = _model(config, records)
    template = find_template(config.template, tokenizer)
    plan = Plan(len(records), config.epochs, config.batch_size, config.accumulation, config.seed)
    check_steps(plan)
    pairing: Pairing = pair(len(records), 0, 0)
    views = build_views(
        ["train"], records, [], [], [pairing], tokenizer, template,
        max_length=config.max_length, cache=cache_directory() / "tokens",
    )  # fmt: skip
    check_room(views, config.max_length)
    check_training_fits(model, tokenizer, views)
    hashes = {"data": records_hash(records), "model": model_hash(config.model)}
    accelerator = make_accelerator(config, Path(config.output))
    folder = open_run(config.output, "finetune", settings, hashes)
    trained = folder / ("adapter" if config.lora and not config.merge else "model")
    if (folder / "finished.json").is_file():
        note(f"{folder} is finished already")
        return trained

    views = {name: view.every_epoch(plan.pass_count) for name, view in views.items()}
    warn_truncated(views, config.max_length)
    method = Method("finetune", Learn(), None)
    if not trained.is_dir():
        train(
            model, tokenizer, method, views, plan, config, folder, accelerator=accelerator,
            parallel=choose(model, config, weights_dtype(config)),
        )  # fmt: skip
    if accelerator.is_main_process:
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        write_json(folder / "finished.json", {"steps": plan.steps, "model": trained.name})
    return trained


def _model(config: FinetuneConfig, records: list[Record]) -> tuple[Any, Any]:
    if config.model.startswith(new.PREFIX):
        texts = (f"{r.question or ''}\n {text}" for r in records for text in (r.answer, r.paraphrased_answer) if text)
        return new.new_model(config.model, texts, config.seed)
    return load_to_train(config), load_tokenizer(config.model, trust_remote_code=config.trust_remote_code)
