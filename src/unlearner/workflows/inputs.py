"""What a forget run reads: data, evaluation sets, judges and method, all checked before anything is written."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from unlearner.config import EvalSources, ForgetConfig
from unlearner.data.batches import Plan
from unlearner.data.chunks import chunked
from unlearner.data.pairs import pair
from unlearner.data.prompts import Template
from unlearner.data.quality import data_warnings
from unlearner.data.records import Record
from unlearner.data.refusals import load_refusals
from unlearner.data.sources import earlier_tasks, later_tasks, load_records, select_task
from unlearner.data.views import View, build_views
from unlearner.errors import UserError
from unlearner.evaluation.ability import check_ability
from unlearner.evaluation.benchmarks import benchmark_sets
from unlearner.evaluation.evaluate import check_retrained
from unlearner.evaluation.examples import EvalSet
from unlearner.evaluation.judges import Judges
from unlearner.evaluation.metrics import chosen_metrics
from unlearner.evaluation.sets import load_forget, load_sets
from unlearner.evaluation.summary import MODEL_UTILITY
from unlearner.files import cache_directory
from unlearner.methods import Method
from unlearner.methods.options import read_pairs
from unlearner.models.load import parameter_count
from unlearner.scenarios.fit import Size
from unlearner.training.checks import check_room, check_steps, check_surgery
from unlearner.workflows.alternates import check_alternates
from unlearner.workflows.evaluate import judges_for


@dataclass(frozen=True)
class Inputs:
    """Everything read and checked before anything is written."""

    forget: list[Record]
    retain: list[Record]
    refusals: list[str]
    sets: list[EvalSet]
    earlier: dict[str, EvalSet]
    """Continual: the forget sets of the tasks before this one."""
    judges: Judges | None
    method: Method
    warnings: list[str] = field(default_factory=list)
    """What is odd about the data (`data/quality.py`)."""


def read_inputs(config: ForgetConfig) -> Inputs:
    """All data of a run, read and checked; its options are those of `with_preset`. Raises UserError."""
    method = method_of(config)
    check_surgery(method, config)
    forget = load_forget(config.forget, config.columns, config.task)
    retain = load_records(config.retain, config.columns, name="retain") if config.retain is not None else []
    if config.continual:
        assert config.task is not None  # config.check()
        retain = retain + later_tasks(load_records(config.forget, config.columns), config.task)
    if method.needs_retain and not retain:
        raise UserError(f"{method.name} needs a retain set: give --retain, or choose a method without a retain loss.")
    documents = next((i for i, r in enumerate((*forget, *retain)) if r.question is None), None)
    if method.needs_questions and documents is not None:
        source, row = (
            (config.forget, documents) if documents < len(forget) else (config.retain, documents - len(forget))
        )
        does = "trains refusals to" if method.targeted else "joins two" if method.alternates is None else "needs"
        raise UserError(
            f"{source}, row {row + 1} is plain text, and {method.name} {does} questions: "
            "choose an untargeted method (GA, NPO, ME), or give question and answer."
        )
    if method.alternates is not None:
        check_alternates(forget, method.alternates, config.forget, method.name)
    named = {"forget": forget, "retain": retain}
    refusals = load_refusals(None if config.refusals is None else Path(config.refusals))
    if config.evaluate == "none":
        return Inputs(forget, retain, refusals, [], {}, None, method, _warnings(config, named))
    config = replace(config, eval_columns=config.eval_columns or config.columns)
    columns = config.eval_columns
    forget_rows, retain_rows = forget, retain
    if config.forget_eval is not None:
        forget_rows = load_forget(config.forget_eval, columns, config.task, name="forget_eval")
    if config.retain_eval is not None:
        retain_rows = load_records(config.retain_eval, columns, name="retain_eval")
    sets = load_sets(config, config, forget=forget_rows, retain=retain_rows) + benchmark_sets(config.benchmarks)
    earlier = {}
    if config.continual:
        assert config.task is not None
        if config.forget_eval is None:
            rows = load_records(config.forget, config.columns)
        else:
            rows = load_records(config.forget_eval, columns)
        for task in earlier_tasks(rows, config.task):
            earlier[task] = load_sets(config, EvalSources(), forget=select_task(rows, task))[0]
    judges = judges_for(config)
    missing = set(MODEL_UTILITY) - {metric.name for metric in chosen_metrics(config)}
    if missing and not (config.stop_forget_efficacy is None and config.stop_utility_share is None):
        raise UserError(f"stopping early needs all of the paper's metrics: add {min(missing)} to --metrics.")
    check_ability(config)
    if config.retrained is not None:
        check_retrained(config.retrained, sets, config)
    if config.forget_eval is not None:
        named["forget_eval"] = forget_rows
    if config.retain_eval is not None:
        named["retain_eval"] = retain_rows
    named |= {s.name: list(s.records) for s in sets if s.name not in named and s.metric is None}
    return Inputs(forget, retain, refusals, sets, earlier, judges, method, _warnings(config, named))


def _warnings(config: ForgetConfig, sets: dict[str, list[Record]]) -> list[str]:
    return data_warnings(sets, config.columns, overlap=("forget", "retain"))


def size_of(config: ForgetConfig, rows: int, model: Any) -> Size:
    """So many rows, and a model by its directory, hub id or as an object."""
    if not isinstance(model, str):
        return Size(rows, sum(parameter.numel() for parameter in model.parameters()))
    return Size(rows, parameter_count(model, trust_remote_code=config.trust_remote_code))


def method_of(config: ForgetConfig) -> Method:
    """The method by its name and options, or as it was given."""
    if isinstance(config.method, Method):
        return config.method
    assert config.forget_coeff is not None and config.retain_coeff is not None
    options: dict[str, Any] = {"beta": config.beta, "me_direction": config.me_direction}
    options |= read_pairs(config.method, config.method_options)
    return Method.parse(
        config.method, forget_coeff=config.forget_coeff,
        retain_coeff=config.retain_coeff, official=config.official, **options,
    )  # fmt: skip


def make_plan(config: ForgetConfig, inputs: Inputs, tokenizer: Any, template: Template) -> tuple[Plan, dict[str, View]]:
    """What is trained in which order. Raises UserError where that is nothing.

    The view of alternate answers is left out where the model has still to write some.
    """
    assert config.epochs is not None and config.gradient_accumulation_steps is not None  # with_preset fills them in
    if config.chunk_documents:
        forget, retain = (
            chunked(rows, tokenizer, config.max_length, official=config.official)
            for rows in (inputs.forget, inputs.retain)
        )
        inputs = replace(inputs, forget=forget, retain=retain)
    plan = Plan(
        len(inputs.forget),
        config.epochs,
        config.batch_size,
        config.gradient_accumulation_steps,
        config.seed,
        official=config.official,
        draws=inputs.method.draws,
    )
    check_steps(plan)
    lacking = any(not record.alternate_answer for record in inputs.forget)
    names = [name for name in inputs.method.needs if not (name == "forget_alternate" and lacking)]
    return plan, make_views(names, plan, config, inputs, tokenizer, template)


def make_views(
    names: list[str], plan: Plan, config: ForgetConfig, inputs: Inputs, tokenizer: Any, template: Template
) -> dict[str, View]:
    """The views `names` of what is trained. Raises UserError for rows without room for their answers."""
    sizes = len(inputs.forget), len(inputs.retain), len(inputs.refusals)
    pairings = [
        pair(*sizes, mode=config.pairing, seed=config.seed, epoch=number, draws=plan.draws)
        for number in range(plan.pairing_count)
    ]
    views = build_views(
        names, inputs.forget, inputs.retain, inputs.refusals, pairings, tokenizer, template,
        max_length=config.max_length, official=config.official, **inputs.method.labelling,
        cache=None if config.output is None or config.redact else cache_directory() / "tokens",
    )  # fmt: skip
    check_room(views, config.max_length)
    return views
