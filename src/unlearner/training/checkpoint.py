"""Checkpoints and final models: whole or not there, and few.

A checkpoint holds the trained weights, the optimisers' states, the losses' and the surgery's own tensors, written by
PyTorch's distributed checkpoints: every process writes its part, and any other number can read it. Nothing else
belongs to it, for what a step does is a function of its number (`Plan`, the learning rate, the seeds of dropout).
"""

import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from transformers import PreTrainedTokenizerBase

from unlearner import distributed
from unlearner.files import atomic_directory, read_json, remove_leftovers, space_errors, write_json
from unlearner.models import deepspeed
from unlearner.models.anatomy import bare
from unlearner.models.load import quiet_transformers
from unlearner.models.sharding import full, is_sharded

TRAINED = StateDictOptions(ignore_frozen_params=True)
"""With LoRA the adapter alone, without the base weights that do not change."""
LOADED = StateDictOptions(ignore_frozen_params=True, strict=False)
FILE_BYTES = 4 * 2**30
"""Largest file of a sharded model's weights; the main process holds one and a weight at a time."""


def latest(folder: Path) -> tuple[int, Path] | None:
    """The step and directory of the newest checkpoint in `folder`."""
    found = sorted((int(p.name.removeprefix("step-")), p) for p in folder.glob("step-*"))
    return found[-1] if found else None


def at(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / f"step-{step:06d}"


def weights(model: nn.Module) -> dict[str, Any]:
    """A copy of the trained weights, each process' part of them, in memory."""
    held: dict[str, Any] = dict(get_model_state_dict(model, options=TRAINED))
    return {name: tensor.clone() for name, tensor in held.items()}


def put_back(model: nn.Module, kept: dict[str, Any]) -> None:
    """Give a model the `weights` that it had."""
    set_model_state_dict(model, kept, options=LOADED)


def save(
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    folder: Path,
    step: int,
    keep: int,
    losses: Mapping[str, Mapping[str, Tensor]] = MappingProxyType({}),
    spared: int | None = None,
) -> None:
    """Write a checkpoint under a temporary name, rename it, then delete the oldest beyond `keep`, but not that of the
    step `spared`.

    `losses` are the losses' own tensors, the same in all processes, and the surgery's.
    """
    temporary, final = folder / f".step-{step:06d}.tmp", at(folder, step)
    with space_errors(final):
        if distributed.is_main():
            folder.mkdir(exist_ok=True)
            remove_leftovers(folder)
            temporary.mkdir()
        distributed.barrier()
        state = deepspeed.state(model, step) if deepspeed.is_spread(model) else _trained(model, optimizers)
        state |= _own(losses)
        with _alone_or_not() as no_dist:
            dcp.save(state, checkpoint_id=temporary, no_dist=no_dist)
        distributed.barrier()
    if distributed.is_main():
        if final.is_dir():
            shutil.rmtree(final)
        temporary.rename(final)
        for old in sorted(folder.glob("step-*"))[:-keep]:
            if spared is None or old != at(folder, spared):
                shutil.rmtree(old)


def load(
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    folder: Path,
    losses: Mapping[str, Mapping[str, Tensor]] = MappingProxyType({}),
) -> None:
    """Continue from the checkpoint in `folder`, whatever number of processes wrote it; `losses` are read in place.
    Without `optimizers` the weights alone are."""
    if deepspeed.is_spread(model):
        (optimizer,) = optimizers
        parts = deepspeed.blank_state(model, optimizer) | _own(losses)
        dcp.load(parts, checkpoint_id=folder)
        deepspeed.restore(model, optimizer, parts)
        return
    state = _trained(model, optimizers)
    with _alone_or_not() as no_dist:
        dcp.load(state | _own(losses), checkpoint_id=folder, no_dist=no_dist)
    set_model_state_dict(model, state["model"], options=LOADED)
    for name, optimizer in zip(_names(optimizers), optimizers, strict=True):
        set_optimizer_state_dict(model, optimizer, state[name], options=LOADED)


def _trained(model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Any]:
    """The trained weights and the optimisers' states, which may be those of the same weights."""
    names = _names(optimizers)
    states = [get_optimizer_state_dict(model, optimizer, options=TRAINED) for optimizer in optimizers]
    return {"model": get_model_state_dict(model, options=TRAINED), **dict(zip(names, states, strict=True))}


def _names(optimizers: Sequence[torch.optim.Optimizer]) -> list[str]:
    return ["optimizer" if place == 0 else f"optimizer {place + 1}" for place in range(len(optimizers))]


def _own(losses: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Any]:
    return {f"loss {loss}": dict(state) for loss, state in losses.items()}


@contextmanager
def _alone_or_not() -> Iterator[bool]:
    """Whether there is no process group; torch would warn of that each time."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        try:
            yield not torch.distributed.is_initialized()
        except dcp.api.CheckpointException as error:  # a BaseException, which nobody's `except` looks for
            raise RuntimeError(str(error)) from error


def save_model(model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path, *, merge: bool) -> None:
    """The trained model (or its adapter alone) with its tokenizer, as safetensors that transformers loads.

    All processes take part; the main one writes.
    """
    state: dict[str, Tensor] | None = None
    in_parts = is_sharded(model) or deepspeed.is_spread(model)
    streamed = in_parts and (merge or not hasattr(model, "peft_config"))
    if streamed:
        if not distributed.is_main():
            for _ in _files(model):  # help to gather them
                pass
    elif in_parts:
        state = {name: full(p).detach().cpu() for name, p in model.named_parameters() if p.requires_grad}
    elif merge:
        model = model.merge_and_unload()  # in every process: all of them go on to evaluate it
    else:
        state = model.state_dict()
    if not distributed.is_main():
        return
    with atomic_directory(folder) as fresh, quiet_transformers():
        if streamed:
            _save_streamed(model, fresh)
        else:
            model.save_pretrained(fresh, state_dict=state)
        tokenizer.save_pretrained(fresh)
        _tidy(fresh)


def _tidy(folder: Path) -> None:
    """Files as the user's umask has them, which safetensors leaves out; sets in adapter_config.json in one order."""
    mode = folder.stat().st_mode & 0o666
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(mode)
    config = folder / "adapter_config.json"
    if config.is_file():
        held = read_json(config)
        for name in ("target_modules", "exclude_modules"):
            if isinstance(held.get(name), list):
                held[name] = sorted(held[name])
        write_json(config, held)


def _save_streamed(model: Any, folder: Path) -> None:
    """A sharded model's files, its weights gathered for one of them at a time."""
    inner = bare(model)
    inner.save_pretrained(folder, state_dict={})  # the configuration; the weights follow
    (folder / "model.safetensors").unlink(missing_ok=True)
    written: list[list[str]] = []
    size = 0
    for weights in _files(model):
        save_file(weights, folder / f"part-{len(written)}", metadata={"format": "pt"})
        written.append(list(weights))
        size += sum(tensor.nbytes for tensor in weights.values())
        weights.clear()
    names = [f"model-{i + 1:05d}-of-{len(written):05d}.safetensors" for i in range(len(written))]
    if len(names) == 1:
        names = ["model.safetensors"]
    else:
        places = {weight: name for name, weights in zip(names, written, strict=True) for weight in weights}
        write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": places})
    for i, name in enumerate(names):
        (folder / f"part-{i}").rename(folder / name)


def _files(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """The weights of one file after another, whole, in the main process; the others help to gather them."""
    part: dict[str, Tensor] = {}
    size = 0
    for name, tensor, adapter in _weights(model):
        weight = full(tensor).detach()
        if part and size + weight.nbytes > FILE_BYTES:
            yield part
            part, size = {}, 0
        if adapter is not None:
            down, up = (full(half["default"].weight).detach() for half in (adapter.lora_A, adapter.lora_B))
            change = up @ down * adapter.scaling["default"]
            weight = weight + (change.T if adapter.fan_in_fan_out else change).to(weight.dtype)
        part[name] = weight.cpu().contiguous() if distributed.is_main() else weight.new_empty(0)
        size += weight.nbytes
    yield part


def _weights(model: nn.Module) -> Iterator[tuple[str, Tensor, Any]]:
    """What a model's file holds: every weight once, tied ones under their first name, and lasting buffers; and the
    adapter of each weight that has one, to be merged."""
    inner = bare(model)
    adapters = {f"{name}.base_layer.weight": m for name, m in inner.named_modules() if hasattr(m, "lora_A")}
    kept = inner.state_dict().keys()
    for name, tensor in inner.named_parameters():
        if ".lora_" not in name:
            yield name.replace(".base_layer.", "."), tensor, adapters.get(name)
    yield from ((name, buffer, None) for name, buffer in inner.named_buffers() if name in kept)
