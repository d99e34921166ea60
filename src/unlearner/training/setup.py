"""What training starts from: the accelerator, the model on its device with its adapter, the optimiser."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DistributedDataParallelKwargs, get_mixed_precision_context_manager, set_seed
from torch import nn

from unlearner import distributed
from unlearner.errors import UserError
from unlearner.methods import Method
from unlearner.models import deepspeed
from unlearner.models.load import uses_bf16
from unlearner.models.sharding import Engine, frozen, shard, widen
from unlearner.options import TrainOptions
from unlearner.random_state import own_random_state
from unlearner.training.reference import needs_copy, train_only

ACCELERATE = {
    "ACCELERATE_USE_FSDP": "--parallel fsdp",
    "ACCELERATE_USE_DEEPSPEED": "--parallel deepspeed",
    "ACCELERATE_DYNAMO_BACKEND": "--torch-compile",
}
"""What `accelerate launch` may set that would change the model behind our back, and what to use instead."""


def make_accelerator(options: TrainOptions, *, alone: bool = False) -> Accelerator:
    """Devices and processes as accelerate finds them; `alone`, every process trains the whole by itself, all the same.

    Raises UserError for settings of `accelerate launch` that would wrap or compile the model, and where DeepSpeed is
    missing.
    """
    if options.parallel == "deepspeed":
        deepspeed.check_installed()
    for setting, ours in ACCELERATE.items():
        if (value := os.environ.get(setting, "no")).lower() not in ("no", "false"):
            raise UserError(f"accelerate is set to {setting}={value}, which is not supported: use {ours} instead.")
    distributed.join()
    # Gradients lie in the buffers in which ddp sums them: otherwise each process would hold them twice.
    once = DistributedDataParallelKwargs(gradient_as_bucket_view=True)
    return (_Alone if alone else _Accelerator)(
        mixed_precision="bf16" if uses_bf16(options.precision) else "no",
        cpu=not torch.cuda.is_available(), kwargs_handlers=[once],
    )  # fmt: skip


class _Accelerator(Accelerator):
    """An Accelerator with a state of its own. accelerate shares one between all of a process: here two runs may differ
    in precision, and an Accelerator of the caller's keeps its settings."""

    def __init__(self, **options: Any) -> None:
        self._states: dict[Any, dict[str, Any]] = {AcceleratorState: {}, GradientState: {}}
        with self._in_place():
            super().__init__(**options)

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        theirs = {kind: kind._shared_state for kind in self._states}
        try:
            for kind, state in self._states.items():
                kind._shared_state = state
            yield
        finally:
            for kind, state in theirs.items():
                kind._shared_state = state

    def prepare(self, *args: Any, **more: Any) -> Any:
        with self._in_place():
            return super().prepare(*args, **more)

    @contextmanager
    def autocast(self, autocast_handler: Any = None) -> Iterator[None]:
        with self._in_place():  # which precision is read as it is made
            context = get_mixed_precision_context_manager(self.native_amp, autocast_handler or self.autocast_handler)
        with context:
            yield


class _Alone(_Accelerator):
    """An Accelerator that knows of no other process, so that what is trained is the same to the bit for any number."""

    num_processes = property(lambda self: 1)
    process_index = property(lambda self: 0)

    def prepare(self, *args: Any, **more: Any) -> Any:
        placed = tuple(each.to(self.device) if isinstance(each, nn.Module) else each for each in args)
        return placed[0] if len(placed) == 1 else placed

    def reduce(self, tensor: Any, *args: Any, **more: Any) -> Any:
        return tensor


def check_tracker(options: TrainOptions) -> None:
    """Raises UserError for a tracker that is not installed, and for a run without a directory: trackers write files."""
    if options.report_to != "none" and find_spec(options.report_to) is None:
        raise UserError(f"--report-to {options.report_to} is not installed: pip install {options.report_to}.")
    if options.report_to != "none" and getattr(options, "output", None) is None:
        raise UserError(f"--report-to {options.report_to} needs --output, or pass a transformers callback of your own.")


def weights_dtype(options: TrainOptions) -> torch.dtype:
    """In what the weights are kept: bf16 where asked for, and under a LoRA adapter, which itself stays in fp32."""
    half = options.precision == "pure-bf16" or (options.lora and uses_bf16(options.precision))
    return torch.bfloat16 if half else torch.float32


def add_lora(model: Any, options: TrainOptions, peft_config: Any = None) -> Any:
    """The adapter of `peft_config`; by default LoRA on all linear layers but the output embedding, as in the paper."""
    from peft import LoraConfig, get_peft_model

    config = peft_config or LoraConfig(
        r=options.lora_rank,
        lora_alpha=options.lora_alpha,  # type: ignore[arg-type]
        lora_dropout=options.lora_dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def merged(model: Any, trained: Sequence[tuple[nn.Parameter, bool]]) -> Any:
    """The base model with its adapter added to its weights; of these, the ones that were `trained` before it came."""
    base = model.merge_and_unload()
    for parameter, was in trained:
        parameter.requires_grad_(was)
    return base


@own_random_state()
def place(
    model: Any,
    reference: Any,
    method: Method,
    options: TrainOptions,
    accelerator: Accelerator,
    parallel: Engine,
    peft_config: Any = None,
    undo: ExitStack | None = None,
) -> tuple[Any, Any]:
    """The model as it is to be trained, with its adapter, and the reference model: on their device, with fsdp spread
    over the processes. With deepspeed the model stays where it is, and the reference is spread as with fsdp.

    With `undo`, models that are not spread are trained and recomputed as before once it is closed.
    """
    set_seed(options.seed)
    dtype = weights_dtype(options)
    if parallel != "ddp" and reference is None and needs_copy(method, options, parallel):
        reference = frozen(model)
    undo = undo if undo is not None and parallel == "ddp" else ExitStack()
    if options.gradient_checkpointing:
        undo.callback(_recompute(model))
    if parallel == "ddp":
        widen(model, dtype).to(accelerator.device)
    elif parallel == "deepspeed":
        widen(model, dtype)
    if options.lora and not hasattr(model, "peft_config"):
        model = add_lora(model, options, peft_config)
    undo.callback(_trained(model))
    train_only(model, method)
    if reference is not None:
        undo.callback(_trained(reference))
        reference.eval().requires_grad_(False)
        if parallel == "ddp":
            widen(reference, dtype).to(accelerator.device)
    bf16 = accelerator.mixed_precision == "bf16"
    for part in {"ddp": (), "fsdp": (model, reference), "deepspeed": (reference,)}[parallel]:
        if part is not None:
            shard(part, accelerator.device, dtype, bf16=bf16, offload=options.cpu_offload)
    return model, reference


def _trained(model: nn.Module) -> Callable[[], None]:
    """What has the same parameters trained as now."""
    trained = {name: parameter.requires_grad for name, parameter in model.named_parameters()}

    def undo() -> None:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(trained.get(name, parameter.requires_grad))

    return undo


def _recompute(model: Any) -> Callable[[], None]:
    """Have layers compute their activations anew in the backward pass. Gives what takes that back."""
    names = ("gradient_checkpointing", "_gradient_checkpointing_func", "_require_grads_hook", "_require_grads_hooks")
    modules = list(model.modules())
    values = [{name: vars(module)[name] for name in names if name in vars(module)} for module in modules]
    hooks = [set(module._forward_hooks) for module in modules]
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.enable_input_require_grads()

    def undo() -> None:
        for module, own, before in zip(modules, values, hooks, strict=True):
            for name in names:
                vars(module).pop(name, None)
            vars(module).update(own)
            for key, hook in list(module._forward_hooks.items()):  # peft may have added one more
                if key not in before and "make_inputs_require_grad" in getattr(hook, "__name__", ""):
                    del module._forward_hooks[key]

    return undo


def make_optimizer(objective: nn.Module, options: TrainOptions) -> torch.optim.Optimizer:
    assert options.learning_rate is not None  # commands fill it in before they come here
    trained = [p for p in objective.parameters() if p.requires_grad]
    if options.optimizer == "adamw-8bit":
        from bitsandbytes.optim import AdamW8bit

        return AdamW8bit(trained, lr=options.learning_rate, weight_decay=options.weight_decay)
    return torch.optim.AdamW(trained, lr=options.learning_rate, weight_decay=options.weight_decay, fused=True)
