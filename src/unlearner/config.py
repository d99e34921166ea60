"""The options of every command: these dataclasses make the command line, the YAML files and the documentation."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal

from unlearner.errors import UserError, did_you_mean
from unlearner.options import (
    EvalOptions,
    MethodOptions,
    ModelOptions,
    TrainOptions,
    check_not_negative,
    check_positive,
    flag_of,
)
from unlearner.scenarios import SCENARIOS


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
    """What to forget: FILE (.jsonl .json .csv .parquet), FOLDER:NAME, hub:OWNER/NAME:CONFIG:SPLIT, builtin:NAME; all
    may end in a slice of rows, [0:40]."""
    retain: str | None = None
    """What to keep: a source like --forget. Needed by every method with a retain loss."""
    output: str
    """Directory of the run. Repeating the command continues it."""
    columns: dict[str, str] = field(default_factory=dict)
    """Our field and your column, in pairs: --columns question prompt answer reply."""
    task: str | None = None
    """Take only the forget rows of this task_id."""
    continual: bool = False
    """The tasks of --forget are unlearned one after another: keep also those that come after --task in the file, and
    measure again, afterwards, those before it."""
    refusals: str | None = None
    """Your refusal sentences, a text file with one a line; by default the built-in list of 100."""


@dataclass(kw_only=True)
class ForgetConfig(EvalSources, EvalOptions, TrainOptions, MethodOptions, ForgetSources):
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

    def check(self) -> None:
        """Raises UserError for the first option that cannot be."""
        self.check_model()
        self.check_training()
        self.check_evaluation()
        check_positive(self, *(["beta"] if self.beta is not None else []))
        if self.continual and self.task is None:
            raise UserError("--continual needs --task, the task that is to be unlearned now.")
        check_not_negative(self, *(["forget_coeff"] if self.forget_coeff is not None else []), "retain_coeff")
        if self.parallel == "deepspeed" and self.evaluate == "epochs":
            raise UserError(
                "--evaluate epochs does not go with --parallel deepspeed, which only trains: take --evaluate end, or "
                "--parallel fsdp."
            )
        for name in ("stop_forget_efficacy", "stop_utility_share"):
            value = getattr(self, name)
            if value is None:
                continue
            if not 0 < value <= 1:
                raise UserError(f"{flag_of(name)} must lie between 0 and 1, not {value}.")
            if self.evaluate != "epochs":
                raise UserError(f"{flag_of(name)} needs --evaluate epochs, for it is looked at after every epoch.")


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
    added is taken away as often as alpha says (a negated task vector, arXiv 2212.04089). No retain set is used: measure
    what is left of the rest, and lower alpha if too little is. Both are directories of the same kind of model; or the
    fine-tuned one is a LoRA adapter, and the result is an adapter of negative scale."""

    base: str = field(metadata={"leading": True})
    """Directory of the model that is to forget; also given without the flag, as the first word."""
    finetuned: str = field(metadata={"leading": True})
    """Directory of the same model after fine-tuning on the forget set, or of a LoRA adapter; the second word."""
    alpha: float = 1.0
    """How often the difference is taken away: 0 changes nothing."""
    output: str
    """Directory of the run; the new model is its `model/`, the new adapter its `adapter/`."""

    def check(self) -> None:
        """Raises UserError for the first option that cannot be."""
        check_not_negative(self, "alpha")


@dataclass(kw_only=True)
class EvaluateConfig(EvalSources, EvalOptions, ModelOptions):
    """Measure a model: six metrics on every set, model utility and forget efficacy, with intervals."""

    forget: str | None = None
    """The forget set: a source, with paraphrases and wrong answers where there are some."""
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
        self.check_evaluation()
        if self.official and self.engine == "vllm":
            raise UserError("--engine vllm does not go with --official, whose generations depend on their batch.")
        if not any((self.forget, self.retain, self.real_authors, self.world_facts)):
            raise UserError("nothing to evaluate: give --forget, --retain, --real-authors or --world-facts.")


@dataclass(kw_only=True)
class BenchConfig:
    """Run a scenario of the paper: every method on every split with every seed, and the table of all.

    Further options are those of `unlearner forget` and hold for every cell: --lr 1e-4 --epochs 5 --lora."""

    scenario: str = field(metadata={"leading": True})
    """Which scenario: fictitious, continual or real-world; also given without the flag, as the first word."""
    output: str
    """Directory of the bench. Repeating the command leaves out finished cells and continues the others."""
    data: str = "builtin:"
    """Folder of the scenario's files (TOFU's, or the real-world ones), or `builtin:` for the built-in data."""
    model: str | None = None
    """The model: a directory or hub id; on the built-in data by default the built-in one."""
    methods: list[str] = field(default_factory=list)
    """Methods, as in `unlearner methods`; by default GA+GD, NPO+GD, ME+GD, DPO+GD, IDK+GD and IDK+AP."""
    splits: list[str] = field(default_factory=list)
    """Splits of the scenario, such as forget01; by default all."""
    tasks: int | None = None
    """Continual: only so many tasks, the first ones."""
    seeds: list[int] = field(default_factory=lambda: [1001, 1002, 1003])
    """One run for each."""
    reference: Literal["rolling", "frozen"] = "rolling"
    """Continual: the reference of NPO, DPO and KL is the last task's model (rolling) or the original one (frozen)."""
    tune: list[str] = field(default_factory=list)
    """Try these values for every method and split, then run with the best: --tune lr=1e-5,5e-6 epochs=5,10. Best is
    the highest forget efficacy among those that keep 90% of model utility; if none does, the highest model utility."""
    tune_seed: int = 0
    """Seed of these trials; better none of --seeds."""
    jobs: int = 1
    """Cells at a time on this machine, in a process each (1: in this process); GPUs are dealt out in turn."""
    ray: str | None = None
    """Run the cells as Ray tasks: the address of a cluster, or `local`. All its machines must see the same files."""
    gpus: float | None = None
    """GPUs of one Ray task; by default 1 where the cluster has some."""
    threads: int = 1
    """CPU threads of one cell. They decide the last digits, so they do not depend on --jobs."""
    options: dict[str, str] = field(default_factory=dict)
    """Further options of `unlearner forget`, in pairs; each may also be given as its own flag."""

    def check(self) -> None:
        """Raises UserError for the first option that cannot be."""
        if self.scenario not in SCENARIOS:
            raise UserError(f"unknown scenario {self.scenario!r}: {did_you_mean(self.scenario, SCENARIOS)}")
        if not self.seeds:
            raise UserError("--seeds needs at least one seed.")
        for name in ("methods", "splits", "seeds"):
            values = [str(value).upper() for value in getattr(self, name)]
            if twice := {value for value in values if values.count(value) > 1}:
                raise UserError(f"{flag_of(name)} names {min(twice)} twice: leave one out.")
        if self.model is None and self.data != "builtin:":
            raise UserError("--model must be given with --data other than builtin:.")
        check_positive(self, "jobs", "threads", *(["tasks"] if self.tasks is not None else []))
        if self.gpus is not None:
            check_not_negative(self, "gpus")
        if self.ray is not None and self.jobs != 1:
            raise UserError("--jobs is for one machine and --ray for several: leave one out.")


@dataclass(kw_only=True)
class DemoConfig:
    """Watch a tiny built-in model forget four invented people: ME+GD and IDK+AP, measured before and after."""

    output: str = "demo"
    """Directory of the results. Repeating the command shows them again."""
    judge: str = "offline"
    """Who judges entailment: offline, auto, paper, or an NLI model's directory or hub id."""
    seed: int = 1001
    """Seed of both runs."""


@dataclass(kw_only=True)
class ReportConfig:
    """One HTML page about runs or a whole bench: verdict, tables, figures, every question with its answers."""

    runs: list[str] = field(metadata={"leading": True})
    """Directories of runs, of folders of runs, or of a bench; `--runs` itself may be left out before them."""
    output: str | None = None
    """The page; by default report.html in the directory given, or here if several are. Its figures go to a folder
    beside it, as PNG and SVG."""


def with_preset(config: ForgetConfig) -> ForgetConfig:
    """The options with the preset's values where none were given; official mode takes the official pairing."""
    preset = SCENARIOS[config.preset].preset
    method = str(getattr(config.method, "name", config.method)).upper()  # a Method in memory has its name
    coefficient = preset.forget_coeff.get(method.partition("+")[0], 1.0)
    return replace(
        config,
        lr=preset.lr.get(method, preset.lr[""]) if config.lr is None else config.lr,
        forget_coeff=coefficient if config.forget_coeff is None else config.forget_coeff,
        pairing="official" if config.official else config.pairing,
    )


def resolved(config: Any) -> dict[str, Any]:
    """The options as plain values, without the output directory: what makes two runs the same run."""
    return {f.name: _plain(getattr(config, f.name)) for f in fields(config) if f.name != "output"}


def _plain(value: Any) -> Any:
    """An option as it is written down: data and models in memory by what they are."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Mapping):
        return dict(value)
    if is_dataclass(value) and not isinstance(value, type):
        return repr(value)
    if isinstance(value, list) and all(isinstance(item, str | int | float) for item in value):
        return list(value)
    size = f", {len(value)} rows" if hasattr(value, "__len__") else ""
    return f"{type(value).__name__} in memory{size}"
