"""`unlearner negate`: a negated task vector (Ilharco et al. 2023, arXiv 2212.04089)."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from unlearner import distributed
from unlearner.config import NegateConfig
from unlearner.console import note, progress_bar
from unlearner.errors import UserError
from unlearner.files import atomic_directory, space_errors, write_json
from unlearner.models.load import HASHED, model_folder, model_hash, quiet_transformers
from unlearner.results.evidence import finish_run
from unlearner.results.layout import RunDirectory
from unlearner.results.lock import released
from unlearner.results.run import check_output, open_run
from unlearner.settings import resolved

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
PLAIN_STARTS = (True, False, "gaussian")
"""`init_lora_weights` that leave the base model's weights as they are."""


@dataclass(frozen=True)
class NegateResult:
    """The directory of the model that forgot, or of its adapter."""

    model: Path


def negate(config: NegateConfig) -> NegateResult:
    """θ − α(θ_ft − θ) by `config`, as a directory in `config.output`. A finished run is left as it is.

    Weights are read, changed in float32 and written one at a time, each in the base's type. A LoRA adapter is negated
    by the scale of its B matrices and stays an adapter. Raises UserError, naming it, for a weight that only one of the
    models has, that differs in shape, or that arithmetic does not apply to.
    """
    with released(config.output):
        return _negated(config)


def _negated(config: NegateConfig) -> NegateResult:
    config.check()
    if distributed.count() > 1:
        raise UserError("negate works in one process: start it without torchrun.")
    settings = resolved(config)
    check_output(config.output, "negate", settings)
    base, finetuned = model_folder(config.base), model_folder(config.finetuned)
    if (base / ADAPTER_CONFIG).is_file():
        raise UserError(f"{base} is an adapter: give the model that it belongs to as the base.")
    adapter = (finetuned / ADAPTER_CONFIG).is_file()
    weights = {} if adapter else _matched(base, finetuned)
    scaled = _negated_adapter(config, base, finetuned) if adapter else {}
    hashes = {"model": model_hash(str(base)), "finetuned": model_hash(str(finetuned))}
    folder = open_run(config.output, "negate", settings, hashes)
    made = RunDirectory(folder).made(lora=adapter, merge=False)
    if RunDirectory(folder).is_finished:
        note(f"{folder} is finished already")
        return NegateResult(made)
    with atomic_directory(made) as fresh, space_errors(made):
        if adapter:
            _copy_beside(finetuned, fresh)
            told = json.loads((finetuned / ADAPTER_CONFIG).read_text(encoding="utf-8"))
            write_json(fresh / ADAPTER_CONFIG, told | {"base_model_name_or_path": str(base)})
            save_file(scaled, fresh / ADAPTER_WEIGHTS, metadata={"format": "pt"})
        else:
            _copy_beside(base, fresh)
            _write_difference(base, weights, config.alpha, fresh)
    finish_run(folder, model=made.name)
    return NegateResult(made)


def _copy_beside(source: Path, target: Path) -> None:
    """What makes a model whole beside its weights: configuration, tokenizer, templates, code, the weights' index."""
    patterns = (*(pattern for pattern in HASHED if pattern != "*.safetensors"), "*.safetensors.index.json")
    for path in sorted({path for pattern in patterns for path in source.glob(pattern) if path.is_file()}):
        copied = target / path.relative_to(source)
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copied)


# --------------------------------------------------------------------------------------------------------- whole models


def _matched(base: Path, finetuned: Path) -> dict[str, tuple[Path, str]]:
    """For every weight in the base's files, the file that holds the fine-tuned model's, and its name there.

    Of tied weights a file may hold one or both names. Raises UserError where the two models do not correspond.
    """
    ours, theirs, tied = _shapes(base), _shapes(finetuned), _tied(base)
    if tied != _tied(finetuned):
        raise UserError(f"{base} and {finetuned} tie different weights to each other: they do not correspond.")
    first = {tied.get(name, name): place for name, place in theirs.items()}
    wanted = {name: tied.get(name, name) for name in ours}
    for here, there, names in (
        (finetuned, base, [name for name, source in wanted.items() if source not in first]),
        (base, finetuned, [name for name in theirs if tied.get(name, name) not in wanted.values()]),
    ):
        if names:
            raise UserError(f"{here} lacks the weight {min(names)!r} of {there}: they are different models.")
    for name, source in wanted.items():
        (_, _, shape), (_, _, other) = ours[name], first[source]
        if shape != other:
            raise UserError(
                f"the weight {name!r} has the shape {shape} in {base} and {other} in {finetuned}: they are different "
                "models."
            )
    return {name: first[source][:2] for name, source in wanted.items()}


def _shapes(folder: Path) -> dict[str, tuple[Path, str, list[int]]]:
    """Every weight of a model's files: file, name there, shape."""
    files = sorted(folder.glob("*.safetensors"))
    return {name: (path, name, each["shape"]) for path in files for name, each in _header(path)[1].items()}


def _header(path: Path) -> tuple[bytes, dict[str, Any]]:
    """What a safetensors file begins with: its bytes, and what they say of each tensor."""
    with path.open("rb") as file:
        size = file.read(8)
        words = file.read(int.from_bytes(size, "little"))
    said = json.loads(words)
    said.pop("__metadata__", None)
    return size + words, said


def _tied(folder: Path) -> dict[str, str]:
    """Weights that are others under a second name; from an outline of the model, without memory for weights."""
    try:
        with quiet_transformers(), torch.device("meta"):
            outline = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    except Exception as error:
        raise UserError(f"{folder}/config.json does not make a causal language model ({error}).") from error
    return dict(outline.all_tied_weights_keys)


def _write_difference(base: Path, theirs: dict[str, tuple[Path, str]], alpha: float, target: Path) -> None:
    """The base's files with other values: names, types and places of the weights in them stay as they are."""
    done = 0
    with progress_bar("negate", len(theirs)) as bar:
        for path in sorted(base.glob("*.safetensors")):
            start, said = _header(path)
            with (target / path.name).open("wb") as file:
                file.write(start)
                for name in sorted(said, key=lambda each: said[each]["data_offsets"]):
                    made = difference(name, _value(path, name), _value(*theirs[name]), alpha)
                    file.write(made.contiguous().flatten().view(torch.uint8).numpy().data)
                    done += 1
                    bar(done)


def _value(path: Path, name: str) -> Tensor:
    with safe_open(path, "pt") as file:
        return file.get_tensor(name)


def difference(name: str, base: Tensor, finetuned: Tensor, alpha: float) -> Tensor:
    """base − α(finetuned − base), computed in float32 at least, in the base's type.

    Raises UserError for whole numbers that differ (quantised weights), and where the result is not finite.
    """
    if not base.is_floating_point():
        if not torch.equal(base, finetuned):
            raise UserError(f"the weight {name!r} is quantised ({base.dtype}) and differs: use models in bf16.")
        return base
    wide = torch.promote_types(base.dtype, torch.float32)
    before = base.to(wide)
    made = (before - alpha * (finetuned.to(wide) - before)).to(base.dtype)
    if not made.float().isfinite().all():
        raise UserError(f"the weight {name!r} is no longer finite with --alpha {alpha:g}: lower it.")
    return made


# ------------------------------------------------------------------------------------------------------------- adapters


def _negated_adapter(config: NegateConfig, base: Path, folder: Path) -> dict[str, Tensor]:
    """The adapter's weights, each B matrix times −α. Raises UserError for an adapter that is more than LoRA."""
    told = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    start = told.get("init_lora_weights", True)
    if told.get("peft_type") != "LORA" or start not in PLAIN_STARTS:
        kind = told.get("peft_type") if start in PLAIN_STARTS else f"LoRA initialised by {start}"
        raise UserError(f"{folder} is an adapter of the kind {kind}: only plain LoRA adapters can be negated.")
    _check_base(told.get("base_model_name_or_path"), base, folder)
    weights = load_file(folder / ADAPTER_WEIGHTS)
    for name in weights:
        if not ("lora_A" in name or "lora_B" in name or "lora_embedding_" in name) or name.endswith(".bias"):
            raise UserError(
                f"{folder} holds {name!r} besides its LoRA matrices, which a negative scale does not undo: merge it "
                "into its base model and give that."
            )
    up = ("lora_B", "lora_embedding_B")
    return {
        name: difference(name, torch.zeros_like(tensor), tensor, config.alpha) if any(b in name for b in up) else tensor
        for name, tensor in weights.items()
    }


def _check_base(recorded: Any, base: Path, folder: Path) -> None:
    """Raises UserError where the adapter was trained on another model, as far as that can be told."""
    if recorded and Path(recorded).is_dir() and model_hash(recorded) != model_hash(str(base)):
        raise UserError(f"{folder} was trained on {recorded}, which is not {base}: give its own base model.")
