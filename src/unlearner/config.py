"""Every option, once: these dataclasses make the command line, the YAML files and the documentation."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from unlearner.errors import UserError
from unlearner.scenarios import PRESETS


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
    """Optimiser; adamw-8bit keeps its states in 8 bits (needs bitsandbytes and a GPU)."""
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
        _positive(self, *(name for name in ("lr", "save_every") if getattr(self, name) is not None))
        _not_negative(self, "weight_decay", "warmup_epochs")
        if not 0 <= self.lora_dropout < 1:
            raise UserError(f"--lora-dropout must be at least 0 and below 1, not {self.lora_dropout}.")
        if self.merge and not self.lora:
            raise UserError("--merge goes with --lora: without an adapter there is nothing to merge.")


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
    eval_tokens: int | None = None
    """Most padded tokens in one evaluation forward; by default what the device does best. Never changes the result."""

    def check_evaluation(self) -> None:
        _positive(self, "max_new_tokens", "eval_max_length")
        _positive(self, *(name for name in ("eval_limit", "eval_tokens") if getattr(self, name) is not None))


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
    refusals: str | None = None
    """Your refusal sentences, a text file with one a line; by default the built-in list of 100."""


@dataclass(kw_only=True)
class MethodOptions:
    method: str = "ME+GD"
    """FORGET+RETAIN; `unlearner methods` lists them all."""
    preset: Literal["fictitious", "continual", "real-world"] = "fictitious"
    """Whose learning rate and forget coefficient to take where you give none: the paper's, for this scenario."""
    beta: float = 0.1
    """β of NPO, DPO and AP."""
    forget_coeff: float | None = None
    """Weight of the forget loss; by default the preset's (ME 0.1, others 1 in the fictitious scenario)."""
    retain_coeff: float = 1.0
    """Weight of the retain loss."""
    me_direction: Literal["uniform-to-model", "model-to-uniform"] = "uniform-to-model"
    """ME's divergence: KL(U‖p) as in the official code, or KL(p‖U) as in the paper's equation."""
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
        _positive(self, "beta")
        _not_negative(self, *(["forget_coeff"] if self.forget_coeff is not None else []), "retain_coeff")
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

    def check(self) -> None:
        """Raises UserError for the first option that cannot be."""
        self.check_model()
        self.check_evaluation()
        if not any((self.forget, self.retain, self.real_authors, self.world_facts)):
            raise UserError("nothing to evaluate: give --forget, --retain, --real-authors or --world-facts.")


@dataclass(kw_only=True)
class DemoConfig:
    """Watch a tiny built-in model forget four invented people: ME+GD and IDK+AP, measured before and after."""

    output: str = "demo"
    """Directory of the results. Repeating the command shows them again."""
    judge: str = "offline"
    """Who judges entailment: offline, auto, paper, or an NLI model's directory or hub id."""
    seed: int = 1001
    """Seed of both runs."""


def with_preset(config: ForgetConfig) -> ForgetConfig:
    """The options with the preset's values where none were given; official mode takes the official pairing."""
    preset = PRESETS[config.preset]
    method = config.method.upper()
    return replace(
        config,
        lr=preset.lr.get(method, preset.lr[""]) if config.lr is None else config.lr,
        forget_coeff=preset.forget_coeff.get(method.partition("+")[0], 1.0)
        if config.forget_coeff is None
        else config.forget_coeff,
        pairing="official" if config.official else config.pairing,
    )


def resolved(config: Any) -> dict[str, Any]:
    """The options as plain values, without the output directory: what makes two runs the same run."""
    values = asdict(config)
    values.pop("output")
    return values


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
