"""Checkpoints and final models: whole or not there, and few."""

import shutil
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedTokenizerBase

from unlearner.files import atomic_directory, remove_leftovers, space_errors
from unlearner.training.objective import Objective

ADAPTER = "adapter.safetensors"


def latest(folder: Path) -> tuple[int, Path] | None:
    """The step and directory of the newest checkpoint in `folder`."""
    found = sorted((int(p.name.removeprefix("step-")), p) for p in folder.glob("step-*"))
    return found[-1] if found else None


def save(accelerator: Accelerator, folder: Path, step: int, keep: int) -> None:
    """Write a checkpoint under a temporary name, rename it, then delete the oldest beyond `keep`."""
    temporary, final = folder / f".step-{step:06d}.tmp", folder / f"step-{step:06d}"
    with space_errors(final):
        if accelerator.is_main_process:
            folder.mkdir(exist_ok=True)
            remove_leftovers(folder)
            temporary.mkdir()
        accelerator.wait_for_everyone()
        accelerator.save_state(str(temporary))
        accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        if final.is_dir():
            shutil.rmtree(final)
        temporary.rename(final)
        for old in sorted(folder.glob("step-*"))[:-keep]:
            shutil.rmtree(old)


def only_adapter(accelerator: Accelerator, objective: Objective) -> None:
    """With LoRA let checkpoints hold the adapter instead of the unchanged base weights."""
    trained = {name for name, p in objective.named_parameters() if p.requires_grad}

    def save_adapter(models: list[nn.Module], weights: list[Any], directory: str) -> None:
        weights.clear()
        if accelerator.is_main_process:
            save_file(
                {n: p.detach().contiguous() for n, p in objective.named_parameters() if n in trained},
                f"{directory}/{ADAPTER}",
            )

    def load_adapter(models: list[nn.Module], directory: str) -> None:
        models.clear()
        objective.load_state_dict(load_file(f"{directory}/{ADAPTER}"), strict=False)

    accelerator.register_save_state_pre_hook(save_adapter)
    accelerator.register_load_state_pre_hook(load_adapter)


def save_model(
    accelerator: Accelerator, wrapped: nn.Module, tokenizer: PreTrainedTokenizerBase, folder: Path, *, merge: bool
) -> None:
    """The trained model (or its adapter alone) with its tokenizer, as safetensors that transformers loads."""
    state = accelerator.get_state_dict(wrapped)
    if not accelerator.is_main_process:
        return
    model: Any = accelerator.unwrap_model(wrapped).model
    with atomic_directory(folder) as fresh:
        if merge:
            model.merge_and_unload().save_pretrained(fresh)
        else:
            model.save_pretrained(fresh, state_dict={k.removeprefix("model."): v for k, v in state.items()})
        tokenizer.save_pretrained(fresh)
