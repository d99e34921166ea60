"""Training by DeepSpeed's ZeRO-3: each process holds its part of every weight, gradient and optimiser state.

Modules gather their weights by DeepSpeed's hooks while they compute. The output embedding, which the scores read from
outside its module (`scoring.Head`), is registered with the objective. DeepSpeed only trains here: models are evaluated
as without it, and so are references (`sharding`).
"""

import logging
import os
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from unlearner import distributed
from unlearner.errors import UserError, install
from unlearner.models.anatomy import Head
from unlearner.options import TrainOptions

WEIGHT = "weight"
STATES = ("exp_avg", "exp_avg_sq")
"""AdamW's, by their names in torch."""


def check_installed() -> None:
    """Raises UserError where DeepSpeed is missing."""
    if find_spec("deepspeed") is None:
        raise UserError(f"--parallel deepspeed needs DeepSpeed: {install('deepspeed')}.")


def configuration(options: TrainOptions) -> dict[str, Any]:
    """DeepSpeed's configuration for our options. The optimiser is given, and its learning rate set, by the loop."""
    from unlearner.models.load import uses_bf16

    gpu = torch.cuda.is_available()
    zero: dict[str, Any] = {"stage": 3}
    if options.cpu_offload:
        zero |= {f"offload_{what}": {"device": "cpu", "pin_memory": gpu} for what in ("param", "optimizer")}
    made: dict[str, Any] = {
        "zero_optimization": zero,
        "gradient_clipping": options.max_grad_norm,
        # Formal: the loop says which forward is a step's last, and its loss is already a share of the step's mean.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    if options.precision == "pure-bf16":
        made["bf16"] = {"enabled": True, "bf16_master_weights_and_grads": True, "bf16_optimizer_states": True}
    elif uses_bf16(options.precision):
        made["bf16"] = {"enabled": True}
        made |= {"communication_data_type": "fp32", "data_types": {"grad_accum_dtype": "fp32"}}
    if "bf16" in made:
        made["bf16"]["check_grad_overflow"] = False  # a step that is not finite ends the run, here as elsewhere
    return made


def start(objective: Any, optimizer: torch.optim.Optimizer, options: TrainOptions, device: torch.device) -> Any:
    """DeepSpeed's engine around an `Objective` whose model lies whole in main memory; its weights are spread, in place.

    With bf16 arithmetic the weights are rounded to bf16, and trained in a float32 copy.
    """
    deepspeed = _deepspeed()
    distributed.make_group()
    os.environ.setdefault("LOCAL_RANK", str(distributed.local_rank()))  # it asks a process that is alone, too
    config = configuration(options)
    if "bf16" in config:
        for parameter in objective.parameters():
            parameter.data = parameter.data.to(torch.bfloat16)
    for buffer in objective.buffers():
        buffer.data = buffer.data.to(device)
    # Spread weight by weight: the engine would first bring all of them to the device. Its own linear layer saves
    # nothing here, and would stay in torch for good.
    deepspeed.zero.Init(module=objective, config_dict_or_path=config, mem_efficient_linear=False)
    engine, *_ = deepspeed.initialize(model=objective, optimizer=optimizer, config=config)
    head = Head.of(objective.model)
    for tensor in (head.weight, head.bias):
        if tensor is not None:
            deepspeed.zero.register_external_parameter(objective, tensor)
    return engine


def _deepspeed() -> Any:
    check_installed()
    gpu = torch.cuda.is_available()
    if not gpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed would warn that it found no other
    import deepspeed

    if not gpu:  # gloo does; a faster way through shared memory would first be compiled, for minutes
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    warnings.filterwarnings("ignore", message="`torch.distributed.* is deprecated", category=FutureWarning)
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    return deepspeed


def backward(engine: Any, loss: Tensor, *, last: bool) -> None:
    """The backward pass of one forward; after a step's `last`, gradients are clipped and the weights changed."""
    engine.set_gradient_accumulation_boundary(last)
    engine.backward(loss)
    engine.step()


def norm(engine: Any) -> Tensor:
    """The gradient's norm before it was clipped, of the last step; infinite where it was not finite."""
    return torch.as_tensor(engine.get_global_grad_norm())


def is_partitioned(tensor: Tensor) -> bool:
    """Whether a weight is spread by ZeRO-3."""
    return hasattr(tensor, "ds_id")


def is_spread(model: nn.Module) -> bool:
    """Whether a model's weights are."""
    return any(is_partitioned(parameter) for parameter in model.parameters())


def gathered(parameter: Any) -> Tensor:
    """A weight that is spread, whole, in all processes: if it is trained, as it is before any rounding."""
    from deepspeed.utils import safe_get_full_fp32_param

    if parameter.requires_grad:
        return safe_get_full_fp32_param(parameter)
    with _deepspeed().zero.GatheredParameters([parameter]):
        return parameter.clone()


# --------------------------------------------------------------------------------------------------------- checkpoints


def state(model: nn.Module, step: int) -> dict[str, Any]:
    """This process' part of a checkpoint: trained weights, as they are before any rounding, and AdamW's states.

    They are flat, in main memory, and without DeepSpeed's padding, so that any number of processes can read them.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Shard

    mesh = init_device_mesh("cpu", (distributed.count(),))
    parts: dict[str, Any] = {"step": torch.tensor(step)}
    for name, parameter, key in _trained(model):
        part = _get(parameter, key)
        parts[f"{name}:{key}"] = DTensor.from_local(
            part[: _own(parameter)].cpu(), mesh, [Shard(0)], shape=torch.Size([parameter.ds_numel]), stride=(1,)
        )
    return parts


def blank_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """`state` before the first step, to read a checkpoint into."""
    _, first, _ = next(_trained(model))
    for flat in first._z3_optimizer.fp32_partitioned_groups_flat:
        optimizer.state[flat] = {
            "step": torch.zeros((), device=flat.device), **{key: torch.zeros_like(flat) for key in STATES}
        }  # fmt: skip
    return state(model, 0)


def restore(model: nn.Module, optimizer: torch.optim.Optimizer, parts: dict[str, Any]) -> None:
    """Go on from what was read into `blank_state`."""
    from deepspeed.utils import safe_set_local_fp32_param, safe_set_local_optimizer_state

    for states in optimizer.state.values():
        states["step"].fill_(float(parts["step"]))
    for name, parameter, key in _trained(model):
        part = _get(parameter, key).clone()
        part[: _own(parameter)] = parts[f"{name}:{key}"].to_local().to(part)
        if key == WEIGHT:
            safe_set_local_fp32_param(parameter, part)
            parameter.ds_tensor.data.copy_(part)  # the weight that is computed with
        else:
            safe_set_local_optimizer_state(parameter, part, key)


def _trained(model: nn.Module) -> Iterator[tuple[str, Any, str]]:
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            for key in (WEIGHT, *STATES):
                yield name, parameter, key


def _get(parameter: Any, key: str) -> Tensor:
    from deepspeed.utils import safe_get_local_fp32_param, safe_get_local_optimizer_state

    return safe_get_local_fp32_param(parameter) if key == WEIGHT else safe_get_local_optimizer_state(parameter, key)


def _own(parameter: Any) -> int:
    """How much of this process' part is the weight; the last parts may be filled up."""
    size = parameter.ds_tensor.numel()
    return min(max(parameter.ds_numel - distributed.rank() * size, 0), size)
