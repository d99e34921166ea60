"""`unlearner forget`: evaluate, unlearn, evaluate; from the user's data to a model that forgot and the evidence."""

import gc
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from unlearner.config import ForgetConfig
from unlearner.console import note, warn
from unlearner.data.records import Record
from unlearner.data.views import View
from unlearner.errors import UserError
from unlearner.evaluation.evaluate import EVALUATION_REMEDY, check_answers, retrained_hash
from unlearner.evaluation.result import Evaluation
from unlearner.files import read_jsonl
from unlearner.models.execution import using
from unlearner.models.load import check_fits, load_model, model_hash
from unlearner.models.sharding import placed
from unlearner.results.evidence import finish_run
from unlearner.results.layout import RunDirectory
from unlearner.results.lock import released
from unlearner.results.run import check_output, open_run, records_hash
from unlearner.results.texts import keyed_hashes
from unlearner.scenarios.fit import Size
from unlearner.settings import resolved
from unlearner.stopping import kept_epoch, told
from unlearner.training.best_epoch import Listener
from unlearner.training.callbacks import callbacks_of
from unlearner.training.checks import check_adapter, check_parts, check_training_fits, load_to_train, warn_truncated
from unlearner.training.interrupt import time_limit
from unlearner.training.loop import Measured
from unlearner.training.setup import check_tracker, make_accelerator, weights_dtype
from unlearner.workflows.alternates import check_prompts_fit, with_alternates
from unlearner.workflows.builtin import resolve_model
from unlearner.workflows.card import MEASURED, card_settings, write_card
from unlearner.workflows.evaluate import Evaluations, check_in_memory
from unlearner.workflows.inputs import Inputs, make_plan, make_views, read_inputs, size_of
from unlearner.workflows.presets import is_fitted, with_preset, without_rate, without_retain
from unlearner.workflows.subject import Subject
from unlearner.workflows.unlearn import Unlearning

FEW_STEPS = 10


@dataclass(frozen=True)
class ForgetResult:
    """The run's directory, the model it made, and both evaluations (None if there were none).

    Without an output directory `output` is None and `model` the trained object itself.
    """

    output: Any
    model: Any
    before: Evaluation | None
    after: Evaluation | None


class Listens(Listener, Protocol):
    """What `config.stop_when` asks for; it is made of config, inputs and subject."""

    def __init__(self, config: ForgetConfig, inputs: Inputs, subject: Subject) -> None: ...

    @property
    def records(self) -> list[Record]: ...

    def begin(self) -> None:
        """Ask the subject's model before it is trained."""
        ...


class Forgetting:
    """One forget job. Making it reads and checks everything, loads the model and opens the run's directory.

    Then `before`, `unlearn` and `after`, in this order, or as far as one likes. Without `config.output` nothing is
    written. `config.model`, its data and its reference model may be objects in memory. `listens` makes what
    `config.stop_when` asks for (`search/listening.py`).
    """

    def __init__(
        self,
        config: ForgetConfig,
        *,
        tokenizer: Any = None,
        peft_config: Any = None,
        callbacks: Sequence[Any] = (),
        known: Path | None = None,
        listens: type[Listens] | None = None,
    ) -> None:
        if peft_config is not None and not hasattr(peft_config, "peft_type"):
            raise UserError(
                f"peft_config must be one of peft's, such as a LoraConfig, not {type(peft_config).__name__}."
            )
        if peft_config is not None or hasattr(config.model, "peft_config"):
            config = replace(config, lora=True)
        config.check()
        callbacks = callbacks_of(callbacks)
        check_tracker(config)
        check_in_memory(config)
        inputs = _inputs(config)
        self.base, model = config.model, resolve_model(config.model)
        self.size = size_of(config, len(inputs.forget), model) if is_fitted(config) else None
        config = with_preset(config, self.size)
        settings = resolved(config)
        if config.output is not None:
            check_output(config.output, "forget", settings)
        config = replace(config, model=model)
        self.subject = subject = Subject.of(config, tokenizer)
        extent = check_answers(subject.tokenizer, subject.template, inputs.sets, config, config.official)
        plan, views = make_plan(config, inputs, subject.tokenizer, subject.template)
        self.listener: Listens | None = None
        if config.stop_when is not None:
            assert listens is not None
            self.listener = listens(config, inputs, subject)
        subject.load_to_train(config)
        _check_model(config, inputs, subject, views, peft_config)
        check_fits(subject.model, subject.tokenizer, *extent, EVALUATION_REMEDY)
        reference = _reference(config, inputs)
        accelerator = make_accelerator(config)
        for sentence in inputs.warnings:
            warn(sentence)
        self.config, self.inputs = config, inputs
        self.folder: Path | None = None
        self.hashes: dict[str, str | None] = {}
        self.first: Evaluation | None = None
        self.last: Evaluation | None = None
        if config.output is not None:
            self.hashes = _hashes(config, inputs, subject, reference, self.listener)
            self.folder = open_run(config.output, "forget", settings, self.hashes, inputs.warnings)
        self.evaluations = Evaluations(
            config, inputs.sets, inputs.judges, subject.tokenizer, subject.template, self.folder, accelerator, known
        )
        self.unlearning = Unlearning(
            config, inputs.method, plan, views, self.folder, accelerator, reference, peft_config, callbacks
        )

    @property
    def finished(self) -> bool:
        return self.folder is not None and RunDirectory(self.folder).is_finished

    def before(self) -> Evaluation | None:
        """Place the model on its devices and measure it."""
        subject = self.subject
        self.unlearning.place(subject)
        with self._executing():
            self.first = self.evaluations.before(subject.model, subject.source)
        return self.first

    def unlearn(self) -> None:
        """Train; where the run's directory holds the trained model already, load it."""
        config = self.config
        self.unlearning.place(self.subject)
        if not self.unlearning.done:
            self._add_alternates()
        if self.unlearning.engine == "deepspeed":
            self.subject.model = load_to_train(config)  # which DeepSpeed spreads itself
        warn_truncated(self.unlearning.views, config.max_length, chunked=config.chunk_documents)
        if not self.unlearning.done:
            self._tell_steps()
            if self.listener is not None:
                with self._executing():
                    self.listener.begin()
            at_epoch = self._at_epoch if config.evaluate == "epochs" else None
            self.unlearning.train(self.subject, at_epoch, self.listener)
            if self.kept is not None:
                note(self.kept)
            if self.unlearning.engine != "deepspeed":
                return
        # Trained to the end, then cut short while being evaluated; or spread by DeepSpeed.
        self.subject.model = None
        gc.collect()
        dtype, trust = weights_dtype(config), config.trust_remote_code
        model = load_model(str(self.unlearning.made), dtype=dtype, trust_remote_code=trust, lazy=True)
        self.subject.model = placed(model, config, dtype)

    def _add_alternates(self) -> None:
        """Where a loss reads other answers that the data lack: have the model write them, and make their view."""
        how, unlearning, subject = self.inputs.method.alternates, self.unlearning, self.subject
        if how is None or "forget_alternate" in unlearning.views:
            return
        with self._executing():
            rows = with_alternates(
                subject.model, subject.tokenizer, subject.template, self.inputs.forget, how, self.config, self.folder,
                unlearning.accelerator.autocast,
            )  # fmt: skip
        inputs = replace(self.inputs, forget=rows)
        unlearning.add(
            make_views(["forget_alternate"], unlearning.plan, self.config, inputs, subject.tokenizer, subject.template)
        )

    def after(self) -> Evaluation | None:
        """Measure the model made; the run is then finished."""
        made = None if self.unlearning.made is None else str(self.unlearning.made)
        with self._executing():
            self.last = self.evaluations.after(self.subject.model, made, kept_epoch(self.log))
            self.evaluations.earlier(self.subject.model, made, self.inputs.earlier)
        if self.folder is not None and self.unlearning.accelerator.is_main_process:
            shutil.rmtree(RunDirectory(self.folder).checkpoints, ignore_errors=True)
            assert self.unlearning.made is not None
            self.write_card(self.unlearning.made)
            finish_run(self.folder, steps=self.unlearning.plan.steps, model=self.unlearning.made.name)
        return self.last

    @property
    def log(self) -> list[dict[str, float]]:
        """A row for each step that was taken."""
        return self.unlearning.log if self.folder is None else read_jsonl(RunDirectory(self.folder).log)

    @property
    def kept(self) -> str | None:
        """Which epoch was kept, and why, where training listened."""
        config = self.config
        if config.stop_when is None or config.epochs is None:
            return None
        return told(self.log, config.stop_when, config.epochs)

    def write_card(self, folder: Path) -> None:
        """The card of the model that lies in `folder`."""
        config, inputs = self.config, self.inputs
        data = {
            "forget set": records_hash(inputs.forget),
            "retain set": records_hash(inputs.retain),
            **{f"eval.{each.name}": records_hash(each.records) for each in inputs.sets},
            "starting model": self.hashes.get("model") or (self.subject.source and self.subject.fingerprint()),
        }
        data = keyed_hashes(data) if config.redact else data
        write_card(
            folder, base=self.base if isinstance(self.base, str) else self.subject.name, method=inputs.method.name,
            settings=card_settings(config, "forget_coeff", "retain_coeff"),
            data={name.replace("eval.", MEASURED): digest for name, digest in data.items()}, before=self.first,
            after=self.last,
        )  # fmt: skip

    def _tell_steps(self) -> None:
        """What was fitted to forget set and model, and that there are few steps."""
        if self.size is not None and not self.size.is_papers:
            note(_fitted(self.config, self.size))
        if (steps := self.unlearning.plan.steps) < FEW_STEPS:
            warn(
                f"training has only {steps} step{'s' * (steps != 1)}: raise --epochs or lower "
                "--gradient-accumulation-steps where too little is forgotten"
            )

    def _executing(self) -> AbstractContextManager[Any]:
        """Before and after training, models compute as in training."""
        assert self.unlearning.execution is not None
        return using(self.unlearning.execution)

    def _at_epoch(self, trained: nn.Module, epoch: int) -> Measured:
        measured = self.evaluations.epoch(trained, epoch)
        assert measured is not None
        enough = should_stop(self.config, measured.summary, self.first and self.first.summary, epoch)
        return Measured(measured.figures(), enough)


def forget(config: ForgetConfig, *, known: Path | None = None, **given: Any) -> ForgetResult:
    """Unlearn by `config`. A run cut short goes on where it stopped; a finished one is left as it is.
    Without `config.output` nothing is written.

    `known` is a folder for evaluations by content, shared by runs that measure the same models (`unlearner bench`):
    it saves time and changes no file of the run. `given` are tokenizer, peft_config, callbacks and listens.
    """
    with time_limit(config.time_limit), released(config.output):
        return _forgotten(config, known, given)


def _forgotten(config: ForgetConfig, known: Path | None, given: dict[str, Any]) -> ForgetResult:
    job = Forgetting(config, known=known, **given)
    made = job.unlearning.made
    if job.finished:
        note(f"{job.folder} is finished already")
        return ForgetResult(job.folder, made, job.evaluations.read("before"), job.evaluations.read("."))
    before = job.before()
    job.unlearn()
    after = job.after()
    return ForgetResult(job.folder, made or job.subject.model, before, after)


def measure_before(config: ForgetConfig, known: Path) -> None:
    """Measure the model that `config` starts from into `known`, where `forget` will find it; nothing else is done."""
    config = with_preset(config)
    inputs = read_inputs(config)
    config = replace(config, model=resolve_model(config.model))
    subject = Subject.of(config)
    accelerator = make_accelerator(config)
    model = placed(load_to_train(config), config, weights_dtype(config))
    evaluations = Evaluations(
        config, inputs.sets, inputs.judges, subject.tokenizer, subject.template, Path(config.output), accelerator, known
    )
    evaluations.before(model, config.model, ".")


def _inputs(config: ForgetConfig) -> Inputs:
    """What the run reads, with what is to be said of its preset and its retain set."""
    inputs = read_inputs(with_preset(config))
    said = [each for each in (without_rate(config), without_retain(config, inputs.method)) if each is not None]
    return replace(inputs, warnings=[*inputs.warnings, *said])


def _check_model(config: ForgetConfig, inputs: Inputs, subject: Subject, views: dict[str, View], peft: Any) -> None:
    """Raises UserError for a model that lacks what the method reads or trains, or room for the texts."""
    model, tokenizer, method = subject.model, subject.tokenizer, inputs.method
    check_parts(model, method, lora=config.lora)
    check_adapter(model, method, config, peft)
    official = (config.max_length, method.forget.official_shift) if config.official else (0, 0)
    check_training_fits(model, tokenizer, views, *official)
    if (how := method.alternates) is not None:
        check_prompts_fit(model, tokenizer, subject.template, inputs.forget, how)


def _fitted(config: ForgetConfig, size: Size) -> str:
    large = "" if size.parameters is None else f" and a model of {size.parameters / 1e6:,.1f} million parameters"
    return (
        f"fitted to {size.rows} rows{large}, because you gave neither learning rate nor epochs: learning rate "
        f"{config.learning_rate:g}, {config.epochs:g} epochs, {config.gradient_accumulation_steps} × "
        f"{config.batch_size} rows per step (--preset fictitious uses the paper's)"
    )


def _reference(config: ForgetConfig, inputs: Inputs) -> Any:
    """The reference model that was given, loaded; None without one, or where none is needed."""
    if config.reference_model is None:
        return None
    if not inputs.method.needs_reference:
        warn(f"--reference-model is not used, because {inputs.method.name} needs no reference")
        return None
    given: Any = resolve_model(config.reference_model)
    if not isinstance(given, str):
        return given
    return load_model(given, dtype=weights_dtype(config), trust_remote_code=config.trust_remote_code, lazy=True)


def _hashes(
    config: ForgetConfig, inputs: Inputs, subject: Subject, reference: Any, listener: Listens | None
) -> dict[str, str | None]:
    """What tells the run's data and models from others."""
    hashes = {
        "forget": records_hash(inputs.forget),
        "retain": records_hash(inputs.retain),
        **{f"eval.{s.name}": records_hash(s.records) for s in inputs.sets},
        **{f"earlier.{task}": records_hash(s.records) for task, s in inputs.earlier.items()},
        "model": subject.fingerprint(),
    }
    if listener is not None:
        hashes["eval.stop_when"] = records_hash(listener.records)
    if config.refusals is not None:
        hashes["refusals"] = records_hash(inputs.refusals)
    if config.retrained is not None:
        hashes["retrained"] = retrained_hash(config.retrained)
    if isinstance(config.reference_model, str):
        hashes["reference_model"] = model_hash(resolve_model(config.reference_model))
    elif reference is not None:
        raise UserError("a run in a directory needs a reference model from a directory: save it and give its path.")
    return keyed_hashes(hashes) if config.redact else hashes


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
