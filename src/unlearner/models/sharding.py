"""How processes share a model, and models spread by PyTorch's `fully_shard` (FSDP2): each process holds its part of
every weight. (DeepSpeed's way of training so is in `deepspeed`.)

A decoder layer's weights are whole only while the layer computes. Those around the layers, embeddings, norm and output
embedding, which the scores need (`scoring.Head`), are whole during the forward and backward pass. With that, nothing
in scoring, losses or generation knows about sharding; what has to know is `within` (training) and `whole` (evaluation).
"""

import copy
import types
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeGuard, TypeVar

import psutil
import torch
from torch import Tensor, nn

from unlearner import distributed
from unlearner.console import note
from unlearner.errors import UserError
from unlearner.models.anatomy import backbone, bare
from unlearner.models.deepspeed import gathered, is_partitioned
from unlearner.options import ModelOptions, TrainOptions

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

Result = TypeVar("Result")

ROOM = 0.8
"""Share of a device's memory that is planned with; the rest is for activations, buffers and fragments."""


Engine = Literal["ddp", "fsdp", "deepspeed"]


def choose(
    model: nn.Module, options: ModelOptions, dtype: torch.dtype, *, asked: bool = False, copies: int = 1
) -> Engine:
    """How the processes share `model`, by --parallel, its size and the devices' memory; one line says it and why.

    With `TrainOptions` the model is to be trained, else, or where it is `asked`, only to be evaluated, which deepspeed
    is not for; its weights will be `dtype`; `copies` counts the model and a frozen reference. All processes take part.
    Raises UserError for options that do not go together.
    """
    if options.cpu_offload and options.parallel == "ddp":
        raise UserError("--cpu-offload needs --parallel fsdp or deepspeed: ddp keeps all weights on every device.")
    train = options if isinstance(options, TrainOptions) and not asked else None
    needed, what = _bytes_needed(model, train, dtype, copies)
    room = ROOM * device_memory(_default_device())
    size, limit = f"{needed / 1e9:.3g} GB", f"{room / 1e9:.3g} GB, {ROOM:.0%} of a device's memory"
    engine: Engine = "ddp"
    wanted = "auto" if options.parallel == "deepspeed" and train is None else options.parallel
    if wanted != "auto":
        engine, why = wanted, "as --parallel says"
    elif options.cpu_offload:
        engine, why = "fsdp", "for --cpu-offload"
    elif distributed.count() == 1 or needed <= room:
        why = f"{what} take {size}, within {limit}"
    else:
        engine, why = "fsdp", f"{what} take {size}, more than {limit}"
    engine, why = distributed.agreed((engine, why))
    if engine == "fsdp" and train is not None and train.optimizer == "adamw-8bit":
        raise UserError(
            f"--optimizer adamw-8bit does not work with fsdp ({why}), because its states cannot be sharded: "
            "use --optimizer adamw, or --parallel ddp without --cpu-offload."
        )
    if distributed.count() > 1 or engine != "ddp":
        held = "each with all of the model" if engine == "ddp" else "each with a part of every weight"
        processes = f"{distributed.count()} process{'es' * (distributed.count() != 1)}"
        note(f"{processes}, {engine}, {held}: {why}")
    return engine


def placed(model: Any, options: ModelOptions, dtype: torch.dtype) -> Any:
    """A model that is only to be asked, in `dtype` and on its device: whole, or its part of this process."""
    if choose(model, options, dtype, asked=True) == "ddp":
        return widen(model, dtype).to(_default_device())
    return shard(model, _default_device(), dtype, bf16=False, offload=options.cpu_offload)


def widen(module: Any, dtype: torch.dtype) -> Any:
    """`module` with the float32 that its lazy loading owes it (`load_model`), where `dtype` is that."""
    if dtype == torch.float32:
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.dtype in (torch.bfloat16, torch.float16):
                tensor.data = tensor.data.float()
    return module


def frozen(model: Any) -> Any:
    """A copy of `model` without gradients that has the same weights in memory, until both are sharded."""
    return copy.deepcopy(model, {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in model.parameters()})


def is_sharded(model: nn.Module) -> bool:
    from torch.distributed.fsdp import FSDPModule

    return isinstance(model, FSDPModule)


def shard(model: Any, device: torch.device, dtype: torch.dtype, *, bf16: bool, offload: bool) -> Any:
    """Spread `model` over all processes, in place: weights of `dtype` lie on `device` (with `offload` in main memory).

    Layer by layer: a process never holds more than its parts and one layer, or what is around the layers.

    With `bf16`, float32 weights are gathered and computed with in bf16 and gradients are summed in float32. Raises
    UserError for a model that does not name its layers.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import (
        CPUOffloadPolicy,
        MixedPrecisionPolicy,
        fully_shard,
        register_fsdp_forward_method,
    )

    distributed.make_group()
    options: dict[str, Any] = {"mesh": init_device_mesh(device.type, (distributed.count(),))}
    if bf16:
        options["mp_policy"] = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    if offload:
        options["offload_policy"] = CPUOffloadPolicy(pin_memory=device.type == "cuda")
    parts: list[Any] = layers(model)
    for layer in parts:
        fully_shard(widen(layer, dtype), **options)
    fully_shard(widen(model, dtype), reshard_after_forward=False, **options)
    # Which weights the backward pass gathers ahead: left to itself, torch goes by the forwards there were, and in an
    # evaluation not every process has the same.
    for layer, before in zip([*parts, model], [parts[0], *parts], strict=True):
        layer.set_modules_to_backward_prefetch([before])
    model.within = types.MethodType(lambda self, function, *inputs: function(*inputs), model)
    register_fsdp_forward_method(model, "within")
    # The first forward decides which module is the root, and makes the buffers that all later ones fill, in inference
    # mode or not.
    with torch.no_grad():
        model.within(_glance, model)
    model.reshard()
    return model


def layers(model: nn.Module) -> list[nn.Module]:
    """The modules that are sharded and gathered one by one: those that transformers never splits over devices."""
    names = set(getattr(bare(model), "_no_split_modules", None) or ())
    found = [module for module in model.modules() if type(module).__name__ in names]
    if not found:
        raise UserError(
            f"{type(bare(model)).__name__} does not name its layers: it cannot be sharded, use --parallel ddp."
        )
    return found


def within(model: Any, function: Callable[..., Result], *inputs: Any) -> Result:
    """`function(*inputs)` as the model's forward pass: of a sharded model, where its gradients are to flow back."""
    return model.within(function, *inputs) if is_sharded(model) else function(*inputs)


@contextmanager
def whole(model: Any) -> Iterator[None]:
    """Inside, without gradients, the parts of `model` may be called as often as each process likes.

    All of a sharded model is gathered once, if there is room, so that the processes need not wait for one another.
    Otherwise it is gathered layer by layer in every forward, which takes all processes: one that is done goes on
    with empty forwards until all are.
    """
    if not is_sharded(model):
        yield
        return
    gathered = not distributed.any_of(_bytes_whole(model) > _free(bare(model).device))
    parts = [module for module in model.modules() if is_sharded(module) and module is not model]
    if gathered:
        for layer in parts:
            layer.set_reshard_after_forward(False, recurse=False)
            layer.unshard()
    model.unshard()
    try:
        if gathered:
            yield
        else:
            with _lockstep(model):
                yield
    finally:
        for layer in parts:
            layer.set_reshard_after_forward(True, recurse=False)
            layer.reshard()
        model.reshard()


@contextmanager
def _lockstep(model: nn.Module) -> Iterator[None]:
    body = backbone(model)
    working = True

    def announce(*_: Any) -> None:
        if working:
            distributed.any_of(True)

    hook = body.register_forward_pre_hook(announce)
    try:
        yield
        working = False
        while distributed.any_of(False):
            _glance(model)
    finally:
        hook.remove()


def _glance(model: nn.Module) -> None:
    """The smallest forward there is."""
    body = backbone(model)
    body(input_ids=torch.zeros(1, 1, dtype=torch.long, device=_device(model)), use_cache=False)


def _is_spread(tensor: Tensor) -> TypeGuard["DTensor"]:
    """Whether fsdp has spread a tensor over the processes."""
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def _device(model: Any) -> torch.device:
    """Where a sharded model computes; its weights may lie elsewhere."""
    mesh = next(p for p in model.parameters() if _is_spread(p)).device_mesh
    return _default_device() if mesh.device_type == "cuda" else torch.device("cpu")


def full(tensor: Tensor) -> Tensor:
    """A tensor that is spread over the processes, by fsdp or deepspeed, whole in all of them; any other as it is."""
    if is_partitioned(tensor):
        return gathered(tensor)
    return tensor.full_tensor() if _is_spread(tensor) else tensor


def own_part(tensor: Tensor) -> Tensor:
    """This process' part of a tensor that fsdp has spread, in the same memory; any other as it is."""
    return tensor.to_local() if _is_spread(tensor) else tensor


def summed(value: Tensor, parameters: Iterable[Tensor]) -> Tensor:
    """`value`, summed over the processes where it is of this process' parts of `parameters`, spread by fsdp."""
    spread = next((each for each in parameters if _is_spread(each)), None)
    if spread is not None:
        mesh = spread.device_mesh
        total = value.to(mesh.device_type)  # offloaded parts lie in main memory, the group's devices do not
        torch.distributed.all_reduce(total, group=mesh.get_group())
        return total.to(value.device)
    return value


# -------------------------------------------------------------------------------------------------------- what it takes


def _bytes_needed(model: nn.Module, train: TrainOptions | None, dtype: torch.dtype, copies: int) -> tuple[float, str]:
    """Bytes of a process that holds all of the model, and what is counted."""
    weights = float(dtype.itemsize * sum(p.numel() for p in model.parameters()))
    if train is None or train.lora:
        return copies * weights, "weights"
    states = 2.0 if train.optimizer == "adamw" else 2.0 / dtype.itemsize
    return (copies + 1 + states) * weights, "weights, gradients and optimiser states"


def _default_device() -> torch.device:
    return torch.device("cuda", distributed.local_rank()) if torch.cuda.is_available() else torch.device("cpu")


def _bytes_whole(model: nn.Module) -> float:
    """What all weights take."""
    return sum(p.numel() * p.element_size() for p in model.parameters())


def device_memory(device: torch.device) -> int:
    """Bytes for one process: its GPU's, or its share of what is free of the machine's main memory."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return psutil.virtual_memory().available // distributed.local_count()


def _free(device: torch.device) -> float:
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else device_memory(device)
    return ROOM * free
