"""The options of `unlearner repselect`, beside the workflow that reads them."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from unlearner.errors import UserError
from unlearner.options import MOST_EPOCHS, ModelOptions, check_positive

Shrink = Literal["soft", "hard", "quadratic"]


@dataclass(kw_only=True)
class RepSelectConfig(ModelOptions):
    """Make a model forget along one fixed direction in its MLP matrices (RepSelect, arXiv 2606.17168).

    A LoRA adapter learns the forget set for one epoch; with it active, the gradients of the whole forget set are added
    up; then the adapter is dropped. The leading singular directions of each matrix's sum, which carry most of what is
    general, are shrunk, and steps follow the rest until the retain set shows that the disruption budget is used up."""

    forget: str
    """What to forget: a source, as for `forget`."""
    retain: str | None = None
    """What the disruption is measured on, its first 300 rows: a source, such as general text. Nothing is trained on
    it. Without it, all steps are taken."""
    output: str
    """Directory of the run; the new model is its `model/`."""
    columns: dict[str, str] = field(default_factory=dict)
    """Our field and your column, in pairs: --columns question prompt answer reply."""
    learning_rate: float = 0.05
    """Step size: η in W − η·G."""
    adapter_learning_rate: float = 0.01
    """Learning rate of the adapter's plain SGD."""
    lora_rank: int = 8
    """Rank of the adapter's matrices; its scale is 1."""
    rank: int = 512
    """How many leading singular directions of each matrix are shrunk; at most as many as the matrix has. If all are,
    hardly anything is left: use fewer on small models."""
    shrink: Shrink = "soft"
    """What becomes of a leading singular value s, the smallest of them being m: m²/s (soft), m⁴/s³ (quadratic), 0
    (hard)."""
    epochs: int = 10
    """Maximum number of steps along the direction."""
    disruption: float = 0.01
    """Stop before the step at which the original model diverges by more than this from the changed one (KL, nats per
    token of --retain)."""
    batch_size: int = 4
    """Rows per batch. The direction is the sum of the batches' mean gradients, so smaller batches make it longer."""

    def check(self) -> None:
        """Raises UserError for the first option that cannot be."""
        self.check_model()
        check_positive(self, "learning_rate", "adapter_learning_rate", "lora_rank", "rank", "epochs", "disruption")
        check_positive(self, "batch_size")
        if self.epochs > MOST_EPOCHS:
            raise UserError(f"--epochs must be at most {MOST_EPOCHS}, not {self.epochs}.")
        if self.shrink not in get_args(Shrink):
            raise UserError(f"--shrink must be soft, hard or quadratic, not {self.shrink!r}.")
        if self.precision == "pure-bf16":
            raise UserError(
                "--precision pure-bf16 would round away most of each step, which is small beside the weights: use bf16."
            )
        if self.parallel in ("fsdp", "deepspeed") or self.cpu_offload:
            raise UserError("repselect works in one process: leave out --parallel and --cpu-offload.")
