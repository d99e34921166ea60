"""Every option, once: these dataclasses make the command line, the YAML files and the documentation."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from unlearner.errors import UserError, did_you_mean
from unlearner.scenarios import SCENARIOS

ALIASES = {
    "learning_rate": "lr",
    "gradient_accumulation_steps": "accumulation",
    "max_tokens_per_forward": "max_tokens",
    "max_grad_norm": "clip",
    "torch_compile": "compile",
    "save_steps": "save_every",
    "save_total_limit": "keep_checkpoints",
    "logging_steps": "log_every",
    "report_to": "tracker",
    "output_dir": "output",
}
"""Names of options in transformers and TRL, and ours."""

MOST_EPOCHS = 10_000
"""More can only be a slip; the pairs of every epoch are drawn before the first."""


@dataclass(kw_only=True)
class ModelOptions:
    model: str
    """The model: a local directory or a Hugging Face hub id (safetensors only), or `builtin:` for the built-in one."""
    template: str = "auto"
    """Prompt template: auto (the model's chat template if it has one, else plain), chat, plain, llama2, llama3."""
    max_length: int = 512
    """Longest training text in tokens; longer ones are cut, and counted in a warning."""
    precision: Literal["auto", "fp32", "bf16", "pure-bf16"] = "auto"
    """Arithmetic: auto takes bf16 where a GPU has it, fp32 elsewhere. pure-bf16 also keeps weights, gradients and
    optimiser states in bf16: half the memory of bf16, coarser steps."""
    seed: int = 1001
    """Seed of everything random: order, pairing, LoRA initialisation, dropout, bootstrap."""
    parallel: Literal["auto", "ddp", "fsdp", "deepspeed"] = "auto"
    """How several processes (torchrun) share a model: ddp (each has all of it), fsdp (each holds a part of every
    weight, gradient and optimiser state), deepspeed (the same by DeepSpeed's ZeRO-3, extra deepspeed; it trains only,
    and evaluates as auto); auto takes ddp where that fits into the devices, else fsdp."""
    cpu_offload: bool = False
    """With fsdp or deepspeed: keep weights and optimiser states in main memory, and only what computes on the GPU."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Only for models whose authors you trust."""

    def check_model(self) -> None:
        _positive(self, "max_length")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"--seed must be a whole number from 0 to {2**32 - 1}, not {self.seed}.")


@dataclass(kw_only=True)
class TrainOptions(ModelOptions):
    lr: float | None = None
    """Peak learning rate of AdamW; by default the preset's, 1e-5 in most."""
    epochs: float = 5.0
    """Passes over the forget set (over the data, when fine-tuning)."""
    batch_size: int = 4
    """Rows of one logical micro-batch; mean token losses are taken within it."""
    accumulation: int = 8
    """Micro-batches of one optimiser step, over all devices together; the paper's 4 × 4 × 2 GPUs is 4 and 8."""
    max_tokens: int = 16384
    """Most padded tokens in one forward. Bounds memory; changes nothing else but which units LoRA's dropout draws."""
    weight_decay: float = 0.01
    """AdamW's weight decay."""
    clip: float = 1.0
    """Largest gradient norm; larger gradients are scaled down to it."""
    warmup_epochs: float = 1.0
    """Length of the linear warm-up; a linear decay to zero follows."""
    optimizer: Literal["adamw", "adamw-8bit"] = "adamw"
    """Optimiser; adamw-8bit keeps its states in 8 bits (extra 8bit; not with fsdp or deepspeed)."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    compile: bool = False
    """Compile the model's layers by torch.compile while training: a minute's wait at the start, then faster steps on a
    GPU. On a CPU it needs a C++ compiler."""
    lora: bool = False
    """Train a LoRA adapter instead of all weights."""
    lora_rank: int = 8
    """Rank of the adapter's matrices."""
    lora_alpha: float = 32.0
    """Scale of the adapter (alpha / rank)."""
    lora_dropout: float = 0.05
    """Dropout on the adapter's input."""
    merge: bool = False
    """With LoRA: save the merged model rather than the adapter alone."""
    save_every: int | None = None
    """Steps between checkpoints; by default one after every epoch. Checkpoints go once the run has ended well."""
    keep_checkpoints: int = 1
    """How many checkpoints lie there at a time."""
    log_every: int = 10
    """Steps between writes to log.jsonl, which has a line for every step."""
    tracker: Literal["none", "tensorboard", "wandb", "trackio"] = "none"
    """Also log to this experiment tracker."""

    def check_training(self) -> None:
        _positive(self, "epochs", "batch_size", "accumulation", "max_tokens", "clip", "lora_rank", "lora_alpha")
        _positive(self, "keep_checkpoints", "log_every")
        if self.epochs > MOST_EPOCHS:
            raise UserError(f"--epochs must be at most {MOST_EPOCHS}, not {self.epochs:g}.")
        _positive(self, *(name for name in ("lr", "save_every") if getattr(self, name) is not None))
        _not_negative(self, "weight_decay", "warmup_epochs")
        if not 0 <= self.lora_dropout < 1:
            raise UserError(f"--lora-dropout must be at least 0 and below 1, not {self.lora_dropout}.")
        if self.merge and not self.lora:
            raise UserError("--merge goes with --lora: without an adapter there is nothing to merge.")
        if self.parallel != "deepspeed":
            return
        if self.optimizer == "adamw-8bit":
            raise UserError("--optimizer adamw-8bit does not go with --parallel deepspeed: take --optimizer adamw.")
        if self.compile:
            raise UserError("--compile does not go with --parallel deepspeed: leave it out, or take fsdp or ddp.")
        if self.precision == "pure-bf16" and self.cpu_offload:
            raise UserError(
                "--precision pure-bf16 does not go with --cpu-offload and --parallel deepspeed, which offloads float32 "
                "states: take --precision bf16, or --parallel fsdp."
            )


@dataclass(kw_only=True)
class EvalOptions:
    judge: str = "auto"
    """Who judges entailment: auto, paper (its two models), offline, or an NLI model's directory or hub id."""
    embedding_model: str | None = None
    """Sentence-embedding model for cosine similarity; by default the judge's companion."""
    max_new_tokens: int = 128
    """Longest generated answer, in tokens."""
    eval_max_length: int = 512
    """Longest text scored in evaluation, in tokens; the official code takes 200."""
    eval_limit: int | None = 300
    """Rows taken of each set that is to be kept (the first ones, as in the paper)."""
    entailment: Literal["tofu", "real-world"] = "tofu"
    """Entailment on sets to be kept: tofu asks reference → generation, real-world the other way round."""
    metrics: list[str] = field(default_factory=list)
    """What to measure: names (see `unlearner metrics`) or module:Name, by default the paper's six; nothing else is."""
    eval_tokens: int | None = None
    """Most padded tokens in one evaluation forward; by default what the device does best. Never changes the result."""
    retrained: str | None = None
    """A model that never saw the forget set (finetune --exclude), or the directory of its evaluation: gives forget
    quality, the p-value of a Kolmogorov-Smirnov test between both models' truth ratios on the forget set."""
    lm_eval: list[str] = field(default_factory=list)
    """Tasks of lm-evaluation-harness for general ability, by name; `paper` stands for the paper's five."""
    lm_eval_limit: int | None = None
    """Rows of each lm-eval task (its --limit); all by default."""
    lm_eval_tasks: str | None = None
    """Folder of your own lm-eval tasks (its --include_path)."""

    def check_evaluation(self) -> None:
        _positive(self, "max_new_tokens", "eval_max_length")
        _positive(self, *(n for n in ("eval_limit", "eval_tokens", "lm_eval_limit") if getattr(self, n) is not None))


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
class MethodOptions:
    method: str = "ME+GD"
    """FORGET+RETAIN; `unlearner methods` lists them all. Either may be MODULE:NAME, a loss of your own."""
    preset: Literal["fictitious", "continual", "real-world"] = "fictitious"
    """Whose learning rate and forget coefficient to take where you give none: the paper's, for this scenario."""
    method_options: list[str] = field(default_factory=list)
    """Options of the method's losses, NAME=VALUE ...; `unlearner methods` lists them with their defaults."""
    beta: float | None = None
    """β of NPO, DPO and AP; by default the loss's own, 0.1."""
    forget_coeff: float | None = None
    """Weight of the forget loss; by default the preset's (ME 0.1, others 1 in the fictitious scenario)."""
    retain_coeff: float = 1.0
    """Weight of the retain loss."""
    me_direction: Literal["uniform-to-model", "model-to-uniform"] | None = None
    """ME's divergence: KL(U‖p) as in the official code, the default, or KL(p‖U) as in the paper's equation."""
    pairing: Literal["redrawn", "fixed", "official"] = "redrawn"
    """How forget rows meet retain rows: redrawn every epoch, fixed for all epochs, or the official code's pairs."""
    official: bool = False
    """Compute as the official code does, quirks included (docs/faithfulness.md); implies --pairing official."""
    reference_model: str | None = None
    """Reference of NPO, DPO and KL where it is not the starting model (continual unlearning with a frozen original)."""


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
        _positive(self, *(["beta"] if self.beta is not None else []))
        if self.continual and self.task is None:
            raise UserError("--continual needs --task, the task that is to be unlearned now.")
        _not_negative(self, *(["forget_coeff"] if self.forget_coeff is not None else []), "retain_coeff")
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
                raise UserError(f"{_flag(name)} must lie between 0 and 1, not {value}.")
            if self.evaluate != "epochs":
                raise UserError(f"{_flag(name)} needs --evaluate epochs, for it is looked at after every epoch.")


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
                raise UserError(f"{_flag(name)} names {min(twice)} twice: leave one out.")
        if self.model is None and self.data != "builtin:":
            raise UserError("--model must be given with --data other than builtin:.")
        _positive(self, "jobs", "threads", *(["tasks"] if self.tasks is not None else []))
        if self.gpus is not None:
            _not_negative(self, "gpus")
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
    method = config.method.upper()
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
    if isinstance(value, list) and all(isinstance(item, str | int | float) for item in value):
        return list(value)
    size = f", {len(value)} rows" if hasattr(value, "__len__") else ""
    return f"{type(value).__name__} in memory{size}"


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _positive(config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not 0 < value < float("inf"):
            raise UserError(f"{_flag(name)} must be a positive number, not {value}.")


def _not_negative(config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not 0 <= value < float("inf"):
            raise UserError(f"{_flag(name)} must not be negative, not {value}.")
