"""The library: `Unlearner`, and the commands as functions.

Options are those of `config.py`, under the same names and with the same defaults as on the command line. Models and
data may be objects in memory; without an output directory nothing is written to disk.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from unlearner.audit.from_run import check_forget, of_forget
from unlearner.audit.run import Audit
from unlearner.audit.run import audit as _audit
from unlearner.comparing.compare import Compared
from unlearner.comparing.compare import compare as _compare
from unlearner.comparing.options import CompareConfig
from unlearner.config import (
    AuditConfig,
    EvaluateConfig,
    FinetuneConfig,
    ForgetConfig,
    NegateConfig,
    PrepareConfig,
    ProbeConfig,
)
from unlearner.errors import UserError, did_you_mean
from unlearner.evaluation.result import Evaluation
from unlearner.keywords import check_kind, config_from, takes, text_of
from unlearner.models.sharding import is_sharded
from unlearner.options import TrainingArguments
from unlearner.prepare.knowledge import Probe
from unlearner.prepare.prepare import Prepared
from unlearner.prepare.prepare import prepare as _prepare
from unlearner.prepare.probe import probe as _probe
from unlearner.results.layout import RunDirectory
from unlearner.search.config import ForgetCommand
from unlearner.search.listening import Listening
from unlearner.search.subject import SubjectResult
from unlearner.search.subject import forget_subject as _forget_subject
from unlearner.training import checkpoint
from unlearner.workflows.builtin import taught
from unlearner.workflows.evaluate import evaluate as _evaluate
from unlearner.workflows.fine_tune import FinetuneResult
from unlearner.workflows.forget import ForgetResult, Forgetting
from unlearner.workflows.forget import forget as _forget
from unlearner.workflows.negate import NegateResult
from unlearner.workflows.negate import negate as _negate
from unlearner.workflows.repselect import RepSelectResult
from unlearner.workflows.repselect import repselect as _repselect
from unlearner.workflows.repselect_options import RepSelectConfig
from unlearner.workflows.share import share

PUSH = {"private", "token", "commit_message", "commit_description", "revision", "create_pr"}
"""Options of transformers' push_to_hub."""


@dataclass(frozen=True)
class TrainResult:
    """What `Unlearner.train` did: the trained model, and a row for each step (step, epoch, lr, loss, forget, retain,
    grad_norm)."""

    model: Any
    log: list[dict[str, float]]


class Unlearner:
    """Make a model forget, in memory.

        u = Unlearner(model, tokenizer, forget=rows, retain=dataset, method="NPO+GD")
        before = u.evaluate()
        u.train()
        after = u.evaluate()

    `model` is a directory, a hub id, `builtin:`, a PreTrainedModel, a PeftModel, or the result of `finetune`; a model
    in memory needs its `tokenizer`, unless it came from a directory. It is trained in place, in the precision that
    `args` says (its weights become float32, or bf16 with pure-bf16), and left in the mode it was in; a PeftModel's
    adapter is trained, and `peft_config`, as for peft's get_peft_model, makes a new one. Data may be a source as on the
    command line, a list of dicts or Records, a `datasets.Dataset` or a DataFrame. `reference_model` is the reference of
    NPO, DPO and KL if it is not the starting model.

    `method` is a name, or a `Method` made of your own losses; `metrics` are names or your own `Metric`s.

    `callbacks` are transformers' TrainerCallbacks. `on_log` gets a row for every step;
    `should_training_stop` of the control is respected. With `output_dir` the run is a directory as the command line
    makes it, and resumes where it stopped; without one nothing is written. `options` are the other options of
    `unlearner forget` (`ForgetConfig`).

    Raises UserError for anything the caller can fix, before training begins.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        forget: Any,
        retain: Any = None,
        method: Any = "ME+GD",
        args: TrainingArguments | None = None,
        peft_config: Any = None,
        callbacks: Sequence[Any] = (),
        output_dir: str | Path | None = None,
        reference_model: Any = None,
        **options: Any,
    ) -> None:
        if args is not None and not isinstance(args, TrainingArguments):
            raise UserError(f"args must be unlearner.TrainingArguments, not {type(args).__name__}.")
        given = {**({} if args is None else vars(args)), **options, "forget": forget, "method": method}
        given |= {"retain": retain, "reference_model": reference_model}
        given |= {} if output_dir is None else {"output_dir": output_dir}
        model, tokenizer = _subject(model, tokenizer)
        config = config_from(ForgetConfig, model, given)
        self._job = Forgetting(
            config, tokenizer=tokenizer, peft_config=peft_config, callbacks=callbacks, listens=Listening
        )
        self._trained = False

    @property
    def model(self) -> Any:
        """The model; once trained with LoRA, the PeftModel around it."""
        return self._job.subject.model

    @property
    def tokenizer(self) -> Any:
        return self._job.subject.tokenizer

    def evaluate(self) -> Evaluation | None:
        """Measure the model as it is now; None with `evaluate="none"`. Raises UserError after interrupted training."""
        if self._trained:
            return self._job.after()
        self._check_whole()
        return self._job.before()

    def train(self) -> TrainResult:
        """Train the model, once. Raises UserError if a loss is no longer finite, or if training was begun before."""
        if self._trained:
            raise UserError("this Unlearner has already trained its model: make a new one to train further.")
        self._check_whole()
        self._job.unlearn()
        self._trained = True
        return TrainResult(self.model, self._job.log)

    def _check_whole(self) -> None:
        """Raises UserError for a model whose training was begun and not ended."""
        if self._job.unlearning.begun:
            raise UserError(
                "training was cut short, and the model is half trained: load the model and make its Unlearner again "
                "(with the same output_dir, train() resumes from the newest checkpoint)."
            )

    def audit(self, **options: Any) -> Audit:
        """Attack the model as it is now: `u.audit(controls=rows, budget="quick").verdicts`.

        Forget set, retain set, tokenizer and seed are this object's. `before` is the original model; it may be
        omitted if that came from a directory or a hub id, but a model in memory is changed by training.
        `options` are those of `unlearner audit` (`AuditConfig`); without `output` nothing is written. Raises UserError.
        """
        held = self._job.config
        taken = ("forget", "retain", "columns", "task", "template", "precision", "max_length", "seed", "retrained")
        given = {name: getattr(held, name) for name in taken if getattr(held, name) is not None} | options
        given.setdefault("before", held.model if isinstance(held.model, str) else None)
        if given["before"] is None:
            raise UserError("training has changed the model in memory: give before=, a copy of it or its directory.")
        return _audit(config_from(AuditConfig, self.model, given), tokenizer=self.tokenizer)

    def save_pretrained(self, directory: str | Path) -> None:
        """Write model (or adapter), tokenizer and a model card into `directory`, as transformers does."""
        main = self._job.unlearning.accelerator.is_main_process
        if is_sharded(self.model):
            checkpoint.save_model(self.model, self.tokenizer, Path(directory), merge=False)
        elif main:
            self.model.save_pretrained(directory)
            self.tokenizer.save_pretrained(directory)
        if main:
            self._job.write_card(Path(directory))

    def push_to_hub(self, repo_id: str, **options: Any) -> str | None:
        """Upload what `save_pretrained` writes, including the model card, to the Hugging Face hub, in one commit.

        `options` are transformers': private, token, commit_message, commit_description, revision, create_pr. Returns
        the repository's address. Raises UserError if the hub refuses.
        """
        if unknown := options.keys() - PUSH:
            raise UserError(f"unknown option {min(unknown)!r}: {did_you_mean(min(unknown), PUSH)}")
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            if self._job.unlearning.accelerator.is_main_process:
                return share(Path(folder), repo_id, **options)
        return None


@takes(ForgetConfig)
def forget(
    model: Any, *, tokenizer: Any = None, peft_config: Any = None, callbacks: Sequence[Any] = (), **options: Any
) -> ForgetResult:
    """Make `model` forget: `forget(model, forget="forget.jsonl", retain="retain.jsonl", method="ME+GD", output="out")`.

    Options: the fields of `ForgetConfig`; models and data as for `Unlearner`. Without `output` nothing is written;
    `audit` writes its findings to audit/ there.
    Returns the model, the run's directory and both evaluations. Raises UserError for anything the caller can fix.
    """
    model, tokenizer = _subject(model, tokenizer)
    config = config_from(ForgetConfig, model, options)
    check_forget(config)
    result = _forget(config, tokenizer=tokenizer, peft_config=peft_config, callbacks=callbacks, listens=Listening)
    if config.audit is not None:
        _audit(of_forget(config))
    return result


@takes(ForgetCommand)
def forget_subject(model: Any, subject: Any = (), *, tokenizer: Any = None, **options: Any) -> SubjectResult:
    """Make `model` forget a name, or several:
    `forget_subject("builtin:smollm2", "Charles Darwin", search="20m", output="runs/darwin")`.

    Instead of a name, give `prepared` folders that `prepare_sources` made, or a file of names as `subjects`. Options:
    the fields of `ForgetCommand` that apply to a name, and those of `ForgetConfig`; `output` is required. Returns the
    run and its model, the aim and whether it was reached, held-out questions before and after, and all trials. Raises
    UserError, or NothingToForgetError if the model does not know the subject.
    """
    model, tokenizer = _subject(model, tokenizer)
    named = {"subject": [subject] if isinstance(subject, str) else list(subject)}
    config = config_from(ForgetCommand, model, {**options, **named})
    check_forget(config)
    result = _forget_subject(config, tokenizer=tokenizer)
    if config.audit is not None:
        _audit(of_forget(result.config))
    return result


@takes(FinetuneConfig)
def finetune(
    model: Any, *, tokenizer: Any = None, peft_config: Any = None, callbacks: Sequence[Any] = (), **options: Any
) -> FinetuneResult:
    """Teach `model` one or more sources: `finetune("new:", data=["facts.jsonl"], output="taught", learning_rate=1e-3)`.

    Options: the fields of `FinetuneConfig`; `data` may also be one source, or data in memory. Returns the directory of
    the trained model, or without `output` the model itself. Raises UserError.
    """
    data = options.get("data")
    if data is not None and not (isinstance(data, list) and all(_is_source(item) for item in data)):
        options["data"] = [data]
    model, tokenizer = _subject(model, tokenizer)
    config = config_from(FinetuneConfig, model, options)
    return taught(config, tokenizer=tokenizer, peft_config=peft_config, callbacks=callbacks)


def negate(base: Any, finetuned: Any, *, output: str | Path, alpha: float = 1.0) -> NegateResult:
    """Subtract from `base` what fine-tuning added: `negate("model", "runs/taught/model", output="runs/negated")`.

    Both are directories; `finetuned` may be that of a LoRA adapter, or the result of `finetune`, written to a
    directory. Options: the fields of `NegateConfig`. Returns the directory of the new model or adapter. Raises
    UserError.
    """
    models = [text_of(_subject(model, None)[0]) for model in (base, finetuned)]
    if not all(isinstance(model, str) for model in models):
        raise UserError("negate works on directories: save the model, and give its directory.")
    check_kind("alpha", alpha, float)
    return _negate(NegateConfig(base=models[0], finetuned=models[1], alpha=float(alpha), output=str(output)))


@takes(RepSelectConfig)
def repselect(model: Any, **options: Any) -> RepSelectResult:
    """Forget along one direction in the MLP weights: `repselect("model", forget="forget.jsonl", output="runs/rep")`.

    `model` is a directory or hub id, or the result of `finetune`, written to a directory; data may be in memory.
    Options: the fields of `RepSelectConfig`. Returns the directory of the new model. Raises UserError.
    """
    model = text_of(_subject(model, None)[0])
    if not isinstance(model, str) or options.get("output") is None:
        raise UserError("repselect works on directories: save the model, give its directory, and give output.")
    return _repselect(config_from(RepSelectConfig, model, options))


@takes(EvaluateConfig)
def evaluate(model: Any, *, tokenizer: Any = None, **options: Any) -> Evaluation:
    """Measure `model`: `evaluate(model, forget="forget.jsonl", retain="retain.jsonl", output="scores")`.

    Options: the fields of `EvaluateConfig`. Without `output` nothing is written. Raises UserError.
    """
    model, tokenizer = _subject(model, tokenizer)
    return _evaluate(config_from(EvaluateConfig, model, options), tokenizer=tokenizer)


@takes(ProbeConfig)
def probe(model: Any, *, tokenizer: Any = None, **options: Any) -> Probe:
    """What `model` knows about a subject: `probe("builtin:smollm2", subject="Charles Darwin").knows`.

    Options: the fields of `ProbeConfig`. Raises UserError.
    """
    model, tokenizer = _subject(model, tokenizer)
    return _probe(config_from(ProbeConfig, model, options), tokenizer=tokenizer)


@takes(PrepareConfig)
def prepare_sources(model: Any, *, tokenizer: Any = None, **options: Any) -> Prepared:
    """Write a folder of sources about a subject:
    `prepare_sources("builtin:smollm2", subject="Charles Darwin", output="data")`.

    Options: the fields of `PrepareConfig`. Raises UserError.
    """
    model, tokenizer = _subject(model, tokenizer)
    config = config_from(PrepareConfig, model, options)
    if config.output is None:
        raise UserError("prepare_sources writes a folder of sources: give output.")
    return _prepare(config, tokenizer=tokenizer)


@takes(CompareConfig)
def compare(
    model: Any, after: Any = None, *, tokenizers: Sequence[Any] = (None, None), **options: Any
) -> list[Compared]:
    """Ask two models the same: `compare("model", "runs/me/model", ask=["Where was Ada born?"])[0].after.answer.text`.

    `model` is the original one; given alone it is the directory of a forget run, which knows both. Models in memory
    need their `tokenizers`. Options: the fields of `CompareConfig`; returns what both said to each question of `ask`.
    Raises UserError.
    """
    (model, mine), (after, theirs) = (
        _subject(each, given) for each, given in zip((model, after), tokenizers, strict=True)
    )
    return _compare(config_from(CompareConfig, model, options | {"after": after}), tokenizers=(mine, theirs))


def report(runs: Any, output: str | Path | None = None, *, redact: bool = False) -> Path:
    """Write the page about one or more runs, and return its path: `report("runs/me")`.

    `runs` is a directory of a run, of runs or of a bench, a ForgetResult, or a list of these; `output` is by default
    report.html in the directory given, or here if several are; `redact` leaves out all texts. Raises UserError.
    """
    from unlearner.report import write_report

    given = list(runs) if isinstance(runs, list | tuple) else [runs]
    folders: list[Any] = [run.output if isinstance(run, ForgetResult) else run for run in given]
    if None in folders:
        raise UserError("a run without an output directory has no report: give output.")
    for folder in folders:
        if not isinstance(folder, str | Path):
            raise UserError(f"report accepts directories and ForgetResults, not {type(folder).__name__}.")
    paths = [Path(folder) for folder in folders]
    beside = paths[0] if len(paths) == 1 else Path()
    return write_report(paths, Path(output or RunDirectory(beside).report), redact=redact)


def _subject(model: Any, tokenizer: Any) -> tuple[Any, Any]:
    """Model and tokenizer; the result of `finetune`, `forget` or `train` may stand for the model it holds."""
    if isinstance(model, FinetuneResult | ForgetResult | TrainResult):
        return model.model, tokenizer or getattr(model, "tokenizer", None)
    return model, tokenizer


def _is_source(value: Any) -> bool:
    """Whether a value of a list names a source, or is one; a row is none."""
    return not isinstance(value, Mapping) and type(value).__name__ != "Record"
