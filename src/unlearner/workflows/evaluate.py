"""Measure a subject: by itself (`unlearner evaluate`), or before, while and after it forgets."""

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unlearner import distributed
from unlearner.config import EvaluateConfig, ForgetConfig
from unlearner.console import note, warn
from unlearner.data.prompts import Template
from unlearner.data.quality import data_warnings
from unlearner.data.sources import load_records
from unlearner.errors import UserError
from unlearner.evaluation.ability import check_ability, general_ability
from unlearner.evaluation.benchmarks import benchmark_sets
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
from unlearner.evaluation.metrics import chosen_metrics
from unlearner.evaluation.result import Evaluation
from unlearner.evaluation.sets import load_forget, load_sets
from unlearner.files import write_text
from unlearner.models.execution import using
from unlearner.models.load import check_fits, model_hash, uses_bf16
from unlearner.models.sharding import placed
from unlearner.models.vllm_engine import check_engine
from unlearner.models.vllm_engine import engine as vllm_engine
from unlearner.results.evidence import finish_run
from unlearner.results.layout import RunDirectory
from unlearner.results.lock import released
from unlearner.results.records import sha256
from unlearner.results.run import check_output, open_run, records_hash
from unlearner.results.texts import keyed_hashes
from unlearner.settings import resolved
from unlearner.training.execution import plan_evaluation
from unlearner.training.interrupt import time_limit
from unlearner.training.setup import weights_dtype
from unlearner.workflows.builtin import resolve_model
from unlearner.workflows.subject import Subject

NO_CACHE = Path(os.devnull)
"""A cache in which nothing can be kept."""


def judges_for(config: EvaluateConfig | ForgetConfig) -> Judges:
    """The judges of a run; one without a directory, or without texts, keeps no embeddings either."""
    return load_judges(
        config.judge, config.embedding_model, cache=NO_CACHE if config.output is None or config.redact else None
    )


def check_in_memory(config: EvaluateConfig | ForgetConfig) -> None:
    """Raises UserError for what needs a directory where there is none."""
    if config.output is None and config.lm_eval:
        raise UserError("--lm-eval writes files: give --output.")


def evaluate(config: EvaluateConfig, *, tokenizer: Any = None) -> Evaluation:
    """Evaluate by `config`. A finished evaluation is left as it is; without an output directory nothing is written.

    `config.model` may be a model object, its tokenizer then `tokenizer`. It is measured as it is, in its own type and
    on its device where it is one of several, and left in the mode it was in. Raises UserError.
    """
    with time_limit(config.time_limit), released(config.output):
        return _evaluated(config, tokenizer)


def _evaluated(config: EvaluateConfig, tokenizer: Any) -> Evaluation:
    config.check()
    check_in_memory(config)
    chosen_metrics(config)  # a mistyped name is told before anything is loaded or taught
    settings = resolved(config)
    if config.output is not None:
        check_output(config.output, "evaluate", settings)
    config = replace(config, eval_columns=config.eval_columns or config.columns, model=resolve_model(config.model))
    forget = load_forget(config.forget, config.columns, config.task) if config.forget is not None else []
    retain = load_records(config.retain, config.columns, name="retain") if config.retain is not None else []
    sets = load_sets(config, config, forget=forget, retain=retain) + benchmark_sets(config.benchmarks)
    odd = data_warnings(
        {name: rows for name, rows in (("forget", forget), ("retain", retain)) if rows}
        | {s.name: s.records for s in sets if s.name not in ("forget", "retain") and s.metric is None},
        config.columns,
    )
    judges = judges_for(config)
    subject = Subject.of(config, tokenizer)
    extent = check_answers(subject.tokenizer, subject.template, sets, config, config.official)
    check_ability(config)
    if config.retrained is not None:
        check_retrained(config.retrained, sets, config)
    distributed.join()
    if config.engine == "vllm":
        if subject.source is None:
            raise UserError("--engine vllm loads a model itself: save it and give its path.")
        check_engine(subject.source)
    dtype = torch.bfloat16 if uses_bf16(config.precision) else torch.float32
    subject.load(config, dtype)
    check_fits(subject.model, subject.tokenizer, *extent, EVALUATION_REMEDY)
    if subject.source is not None:
        subject.model = placed(subject.model, config, dtype)
    for sentence in odd:
        warn(sentence)
    folder = None
    if config.output is not None:
        folder = open_run(config.output, "evaluate", settings, _hashes(config, sets, subject), odd)
        if (done := finished(folder)) is not None:
            return done
    with using(plan_evaluation(subject.model, config, folder, official=config.official)):
        retrained = None
        if config.retrained is not None:
            retrained = retrained_rows(
                config.retrained, sets, folder and folder / "retrained", config, judges=judges, like=config,
                official=config.official,
            )  # fmt: skip
        vllm = None
        if folder is not None:
            general_ability(subject.model, subject.tokenizer, config, folder)
        if config.engine == "vllm":
            assert subject.source is not None
            vllm = vllm_engine(subject.source, dtype, trust_remote_code=config.trust_remote_code)
        result = measure(
            subject.model, subject.tokenizer, subject.template, sets, folder, config, judges=judges, seed=config.seed,
            official=config.official, retrained=retrained, engine=vllm,
        )  # fmt: skip
    if folder is not None and distributed.is_main():
        finish_run(folder)
    return result


def _hashes(config: EvaluateConfig, sets: Sequence[EvalSet], subject: Subject) -> dict[str, str | None]:
    """What tells the run's data and models from others."""
    hashes = {f"eval.{s.name}": records_hash(s.records) for s in sets} | {"model": subject.fingerprint()}
    if config.retrained is not None:
        hashes["retrained"] = retrained_hash(config.retrained)
    return keyed_hashes(hashes) if config.redact else hashes


def finished(folder: Path) -> Evaluation | None:
    """The evaluation in a run's directory, in every process, where the run is finished."""
    if not distributed.agreed(RunDirectory(folder).is_finished):
        return None
    note(f"{folder} is finished already")
    return Evaluation.read(folder)


class Evaluations:
    """The evaluations of a forget run: `before` training, `epochs/N`, and of the model made, in the run's directory.

    Each gives None where nothing is to be evaluated. Without a folder they are not written.
    """

    def __init__(
        self,
        config: ForgetConfig,
        sets: list[EvalSet],
        judges: Judges | None,
        tokenizer: Any,
        template: Template,
        folder: Path | None,
        accelerator: Any,
        known: Path | None,
    ) -> None:
        self.config, self.sets, self.tokenizer, self.template = config, sets, tokenizer, template
        self.folder, self.accelerator, self.known = folder, accelerator, known
        self.judges = judges

    def read(self, place: str) -> Evaluation | None:
        """The evaluation that lies in a place of the run's directory."""
        return None if self.folder is None else Evaluation.read(self.folder / place)

    def before(self, model: nn.Module, source: str | None, place: str = "before") -> Evaluation | None:
        """Of the model before training; `source` is where it lies."""
        return self._with_ability(model, place, "before", source)

    def epoch(self, model: nn.Module, epoch: int) -> Evaluation | None:
        """Of the model while it is trained, after an epoch."""
        return self._measure(model, self.sets, f"epochs/{epoch}", f"epoch {epoch}", None, self._retrained)

    def after(self, model: nn.Module, source: str | None, kept: int | None) -> Evaluation | None:
        """Of the model made: what was measured after the epoch that was kept, or the last, if something was."""
        if self.folder is not None:
            run = RunDirectory(self.folder)
            if run.epochs and self.accelerator.is_main_process:
                last = run.epochs[kept or max(run.epochs)]
                for theirs, ours in ((last.records, run.records), (last.summary, run.summary)):
                    write_text(ours, theirs.read_text(encoding="utf-8"))
        return self._with_ability(model, ".", "after", source)

    def earlier(self, model: nn.Module, source: str | None, sets: dict[str, EvalSet]) -> None:
        """Of the model made, on the forget sets of earlier tasks, each in `earlier/TASK`."""
        for task, eval_set in sets.items():
            self._measure(model, [eval_set], f"earlier/{task}", f"task {task}", source, None)

    def _with_ability(self, model: nn.Module, place: str, title: str, source: str | None) -> Evaluation | None:
        if self.judges is not None and self.folder is not None:
            general_ability(
                model, self.tokenizer, self.config, self.folder / place, autocast=self.accelerator.autocast,
                known=self._known(source),
            )  # fmt: skip
        return self._measure(model, self.sets, place, title, source, self._retrained)

    def _measure(
        self, model: nn.Module, sets: list[EvalSet], place: str, title: str, source: str | None, retrained: Any
    ) -> Evaluation | None:
        if self.judges is None:
            return None
        return measure(
            model, self.tokenizer, self.template, sets, self.folder and self.folder / place, self.config,
            judges=self.judges, seed=self.config.seed, official=self.config.official, title=f"evaluation: {title}",
            autocast=self.accelerator.autocast, retrained=retrained, known=self._known(source),
        )  # fmt: skip

    @cached_property
    def _retrained(self) -> list[dict[str, Any]] | None:
        source = self.config.retrained
        if source is None or self.judges is None:
            return None
        return retrained_rows(
            source, self.sets, self.folder and self.folder / "retrained", self.config, judges=self.judges,
            like=self.config, official=self.config.official, autocast=self.accelerator.autocast,
            known=self._known(source),
        )  # fmt: skip

    def _known(self, source: str | None) -> Path | None:
        """The folder that keeps evaluations of the model at `source`, measured as this run measures."""
        if self.known is None or source is None:
            return None
        config, judges = self.config, self.judges
        assert judges is not None
        how = way_of_measuring(config, config, self.template, judges, config.official, weights_dtype(config))
        return self.known / sha256([model_hash(source) or source, how])[:24]
