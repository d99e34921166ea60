"""`unlearner forget`: the main job, from the user's files to a model that forgot and the evidence for it."""

import gc
import shutil
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from unlearner.config import EvalSources, ForgetConfig, resolved, with_preset
from unlearner.console import note, warn
from unlearner.data.batches import Plan
from unlearner.data.pairs import pair
from unlearner.data.prompts import Template, find_template
from unlearner.data.records import Record
from unlearner.data.refusals import load_refusals
from unlearner.data.sources import duplicates, earlier_tasks, later_tasks, load_records, select_task
from unlearner.data.views import View, build_views
from unlearner.errors import UserError
from unlearner.evaluation.ability import check_ability, general_ability
from unlearner.evaluation.evaluate import (
    EVALUATION_REMEDY,
    check_answers,
    check_retrained,
    measure,
    retrained_hash,
    retrained_rows,
    way_of_measuring,
)
from unlearner.evaluation.examples import EvalSet
from unlearner.evaluation.judges import Judges, load_judges
from unlearner.evaluation.metrics import find_metrics
from unlearner.evaluation.sets import load_forget, load_sets
from unlearner.evaluation.summary import MODEL_UTILITY
from unlearner.files import cache_directory, read_json, write_json, write_text
from unlearner.methods import Method
from unlearner.methods.options import read_pairs
from unlearner.models.load import check_fits, load_model, load_tokenizer, model_hash
from unlearner.models.sharding import choose, placed, widen
from unlearner.results.records import sha256
from unlearner.results.run import check_output, open_run, records_hash
from unlearner.training.builtin import resolve_model
from unlearner.training.checks import check_room, check_steps, check_training_fits, load_to_train, warn_truncated
from unlearner.training.loop import train
from unlearner.training.reference import needs_copy
from unlearner.training.setup import check_tracker, make_accelerator, place, weights_dtype


@dataclass(frozen=True)
class ForgetResult:
    """Where the run lies, the model it made, and the summaries of both evaluations (None if there were none)."""

    output: Path
    model: Path
    before: dict[str, Any] | None
    after: dict[str, Any] | None


@dataclass(frozen=True)
class _Inputs:
    """Everything read and checked before anything is written."""

    forget: list[Record]
    retain: list[Record]
    refusals: list[str]
    sets: list[EvalSet]
    earlier: dict[str, EvalSet]
    """Continual: the forget sets of the tasks before this one."""
    judges: Judges | None
    method: Method


def forget(config: ForgetConfig, *, known: Path | None = None) -> ForgetResult:
    """Unlearn by `config`. A run cut short goes on where it stopped; a finished one is left as it is.

    `known` is a folder for evaluations by content, shared by runs that measure the same models (`unlearner bench`):
    it saves time and changes no file of the run.
    """
    config = with_preset(config)
    config.check()
    check_tracker(config)
    settings = resolved(config)
    check_output(config.output, "forget", settings)
    inputs = read_inputs(config)
    config = replace(config, model=resolve_model(config.model))
    tokenizer = load_tokenizer(config.model, trust_remote_code=config.trust_remote_code)
    template = find_template(config.template, tokenizer)
    extent = check_answers(tokenizer, template, inputs.sets, config, config.official)
    plan, views = _plan(config, inputs, tokenizer, template)
    model = load_to_train(config)
    check_training_fits(model, tokenizer, views, config.max_length if config.official else 0)
    check_fits(model, tokenizer, *extent, EVALUATION_REMEDY)
    reference, dtype = None, weights_dtype(config)
    if config.reference_model is not None and not inputs.method.needs_reference:
        warn(f"--reference-model is left unread, for {inputs.method.name} needs no reference")
    elif config.reference_model is not None:
        path = resolve_model(config.reference_model)
        reference = load_model(path, dtype=dtype, trust_remote_code=config.trust_remote_code, lazy=True)
    hashes = {
        "forget": records_hash(inputs.forget),
        "retain": records_hash(inputs.retain),
        **{f"eval.{s.name}": records_hash(s.records) for s in inputs.sets},
        **{f"earlier.{task}": records_hash(s.records) for task, s in inputs.earlier.items()},
        "model": model_hash(config.model),
    }
    if config.refusals is not None:
        hashes["refusals"] = records_hash(inputs.refusals)
    if config.retrained is not None:
        hashes["retrained"] = retrained_hash(config.retrained)
    if config.reference_model is not None:
        hashes["reference_model"] = model_hash(resolve_model(config.reference_model))
    accelerator = make_accelerator(config, Path(config.output))
    folder = open_run(config.output, "forget", settings, hashes)
    made = folder / ("adapter" if config.lora and not config.merge else "model")
    evaluations = _Evaluations(config, inputs, tokenizer, template, folder, accelerator, known)
    if (folder / "finished.json").is_file():
        note(f"{folder} is finished already")
        return ForgetResult(folder, made, evaluations.read("before"), evaluations.read("."))

    copies = 1 + (reference is not None or needs_copy(inputs.method, config, config.parallel))
    engine = choose(model, config, dtype, copies=copies)
    if engine == "fsdp":
        model, reference = place(model, reference, inputs.method, config, accelerator, engine)
    elif engine == "ddp":
        widen(model, dtype).to(accelerator.device)
    else:
        model = placed(model, config, dtype)
    before = evaluations.measure(model, "before", "before", config.model)
    if engine == "deepspeed":
        model = load_to_train(config)  # which DeepSpeed spreads itself
    warn_truncated(views, config.max_length)

    def at_epoch(trained: nn.Module, epoch: int) -> bool:
        if config.evaluate != "epochs":
            return False
        summary = evaluations.measure(trained, f"epochs/{epoch}", f"epoch {epoch}")
        return should_stop(config, summary, before, epoch)

    trained = (made / "config.json").is_file() or (made / "adapter_config.json").is_file()
    if not trained:
        model = train(
            model, tokenizer, inputs.method, views, plan, config, folder,
            accelerator=accelerator, parallel=engine, reference_model=reference, at_epoch=at_epoch,
        )  # fmt: skip
    if trained or engine == "deepspeed":  # to the end, then cut short while being evaluated; or spread by DeepSpeed
        del model
        gc.collect()
        trust = config.trust_remote_code
        model = placed(load_model(str(made), dtype=dtype, trust_remote_code=trust, lazy=True), config, dtype)
    after = evaluations.last(model, str(made))
    if accelerator.is_main_process:
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        write_json(folder / "finished.json", {"steps": plan.steps, "model": made.name})
    return ForgetResult(folder, made, before, after)


def measure_before(config: ForgetConfig, known: Path) -> None:
    """Measure the model that `config` starts from into `known`, where `forget` will find it; nothing else is done."""
    config = with_preset(config)
    inputs = read_inputs(config)
    config = replace(config, model=resolve_model(config.model))
    tokenizer = load_tokenizer(config.model, trust_remote_code=config.trust_remote_code)
    template = find_template(config.template, tokenizer)
    accelerator = make_accelerator(config)
    model = placed(load_to_train(config), config, weights_dtype(config))
    evaluations = _Evaluations(config, inputs, tokenizer, template, Path(config.output), accelerator, known)
    evaluations.measure(model, ".", "before", config.model)


def read_inputs(config: ForgetConfig) -> _Inputs:
    """All data of a run, read and checked; its options are those of `with_preset`. Raises UserError."""
    assert config.forget_coeff is not None
    options: dict[str, Any] = {"beta": config.beta, "me_direction": config.me_direction}
    options |= read_pairs(config.method, config.method_options)
    method = Method.parse(
        config.method, forget_coeff=config.forget_coeff, retain_coeff=config.retain_coeff,
        official=config.official, **options,
    )  # fmt: skip
    forget = load_forget(config.forget, config.columns, config.task)
    retain = load_records(config.retain, config.columns) if config.retain is not None else []
    if config.continual:
        assert config.task is not None  # config.check()
        retain = retain + later_tasks(load_records(config.forget, config.columns), config.task)
    if method.needs_retain and not retain:
        raise UserError(f"{method.name} needs a retain set: give --retain, or choose a method without a retain loss.")
    documents = next((i for i, r in enumerate((*forget, *retain)) if r.question is None), None)
    if method.targeted and documents is not None:
        source, row = (
            (config.forget, documents) if documents < len(forget) else (config.retain, documents - len(forget))
        )
        raise UserError(
            f"{source}, row {row + 1} is plain text, and {method.name} trains refusals to questions: "
            "choose an untargeted method (GA, NPO, ME), or give question and answer."
        )
    both = duplicates(forget, retain)
    if both:
        warn(f"{both} of {len(forget)} forget rows are also in the retain set; what is retained is hardly forgotten")
    refusals = load_refusals(None if config.refusals is None else Path(config.refusals))
    if config.evaluate == "none":
        return _Inputs(forget, retain, refusals, [], {}, None, method)
    config = replace(config, eval_columns=config.eval_columns or config.columns)
    columns = config.eval_columns
    forget_rows = load_forget(config.forget_eval, columns, config.task) if config.forget_eval else forget
    retain_rows = load_records(config.retain_eval, columns) if config.retain_eval else retain
    sets = load_sets(config, config, forget=forget_rows, retain=retain_rows)
    earlier = {}
    if config.continual:
        assert config.task is not None
        rows = load_records(config.forget_eval or config.forget, columns if config.forget_eval else config.columns)
        for task in earlier_tasks(rows, config.task):
            earlier[task] = load_sets(config, EvalSources(), forget=select_task(rows, task))[0]
    judges = load_judges(config.judge, config.embedding_model)
    missing = set(MODEL_UTILITY) - {metric.name for metric in find_metrics(config.metrics)}
    if missing and not (config.stop_forget_efficacy is None and config.stop_utility_share is None):
        raise UserError(f"stopping early needs all of the paper's metrics: add {min(missing)} to --metrics.")
    check_ability(config)
    if config.retrained is not None:
        check_retrained(config.retrained, sets, config)
    return _Inputs(forget, retain, refusals, sets, earlier, judges, method)


def _plan(config: ForgetConfig, inputs: _Inputs, tokenizer: Any, template: Template) -> tuple[Plan, dict[str, View]]:
    """What is trained in which order. Raises UserError where that is nothing."""
    plan = Plan(
        len(inputs.forget), config.epochs, config.batch_size, config.accumulation, config.seed, official=config.official
    )
    check_steps(plan)
    pairings = [
        pair(
            len(inputs.forget), len(inputs.retain), len(inputs.refusals), mode=config.pairing, seed=config.seed, epoch=e
        )
        for e in range(plan.pass_count)
    ]
    views = build_views(
        list(inputs.method.needs), inputs.forget, inputs.retain, inputs.refusals, pairings, tokenizer, template,
        max_length=config.max_length, mask_question=inputs.method.mask_question, official=config.official,
        cache=cache_directory() / "tokens",
    )  # fmt: skip
    check_room(views, config.max_length)
    return plan, views


class _Evaluations:
    """The run's evaluations: `before` training, `epochs/N`, and of the model made, in the run's directory itself."""

    def __init__(
        self,
        config: ForgetConfig,
        inputs: _Inputs,
        tokenizer: Any,
        template: Template,
        folder: Path,
        accelerator: Any,
        known: Path | None,
    ) -> None:
        self.config, self.inputs, self.tokenizer, self.template = config, inputs, tokenizer, template
        self.folder, self.accelerator, self.known = folder, accelerator, known
        if inputs.judges is not None:
            note(inputs.judges.describe())

    def read(self, place: str) -> dict[str, Any] | None:
        file = self.folder / place / "summary.json"
        return read_json(file) if file.is_file() else None

    def measure(
        self, model: nn.Module, place: str, title: str, path: str | None = None, sets: list[EvalSet] | None = None
    ) -> dict[str, Any] | None:
        """Evaluate into `place` of the run's directory; None where nothing is to be evaluated.

        `path` is where the model lies, if it lies anywhere; general ability is measured only of such.
        """
        if self.inputs.judges is None:
            return None
        known = None if path is None else self._known(path)
        if path is not None and sets is None:
            general_ability(
                model, self.tokenizer, self.config, self.folder / place, autocast=self.accelerator.autocast,
                known=known,
            )  # fmt: skip
        return measure(
            model, self.tokenizer, self.template, self.inputs.sets if sets is None else sets, self.folder / place,
            self.config, judges=self.inputs.judges, seed=self.config.seed, official=self.config.official,
            title=f"evaluation: {title}", autocast=self.accelerator.autocast,
            retrained=self._retrained if sets is None else None, known=known,
        )  # fmt: skip

    @cached_property
    def _retrained(self) -> list[dict[str, Any]] | None:
        source = self.config.retrained
        if source is None:
            return None
        assert self.inputs.judges is not None
        return retrained_rows(
            source, self.inputs.sets, self.folder / "retrained", self.config, judges=self.inputs.judges,
            like=self.config, official=self.config.official, autocast=self.accelerator.autocast,
            known=self._known(source),
        )  # fmt: skip

    def _known(self, path: str) -> Path | None:
        """The folder that keeps evaluations of the model at `path`, measured as this run measures."""
        if self.known is None:
            return None
        config, judges = self.config, self.inputs.judges
        assert judges is not None
        how = way_of_measuring(config, config, self.template, judges, config.official, weights_dtype(config))
        return self.known / sha256([model_hash(path) or path, how])[:24]

    def last(self, model: nn.Module, path: str) -> dict[str, Any] | None:
        """The evaluation of the model made: the last epoch's, if there was one; then the earlier tasks'."""
        epochs = sorted((self.folder / "epochs").glob("*/summary.json"), key=lambda file: int(file.parent.name))
        if epochs and self.accelerator.is_main_process:
            for name in ("records.jsonl", "summary.json"):
                write_text(self.folder / name, epochs[-1].with_name(name).read_text(encoding="utf-8"))
        after = self.measure(model, ".", "after", path)
        for task, eval_set in self.inputs.earlier.items():
            self.measure(model, f"earlier/{task}", f"task {task}", path, [eval_set])
        return after


def should_stop(config: ForgetConfig, summary: Any, before: Any, epoch: int) -> bool:
    """Whether a stop criterion is met by the evaluation after this epoch."""
    efficacy, share = config.stop_forget_efficacy, config.stop_utility_share
    if efficacy is not None and summary["forget_efficacy"] >= efficacy:
        note(f"stopped after epoch {epoch}: forget efficacy {summary['forget_efficacy']:.3f} reached {efficacy}")
        return True
    utility, original = summary["model_utility"], before["model_utility"]
    if share is not None and utility is not None and utility < share * original:
        note(f"stopped after epoch {epoch}: model utility {utility:.3f} fell below {share} of {original:.3f}")
        return True
    return False
