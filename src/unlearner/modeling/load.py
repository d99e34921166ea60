"""Load a causal language model and its tokenizer, from a directory or the Hugging Face hub; safetensors only."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from unlearner.errors import UserError, did_you_mean
from unlearner.modeling.scoring import check_head

transformers_logging.disable_progress_bar()  # its bars for loading and saving are over before they can be read

BUILTIN = "builtin:"


def uses_bf16(precision: str) -> bool:
    """Whether a --precision option means bf16 arithmetic on this machine."""
    gpu = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return precision in ("bf16", "pure-bf16") or (precision == "auto" and gpu)


def load_tokenizer(model: str, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer that lies beside a model. Raises UserError where there is none."""
    folder = _checked(model)
    if folder is not None and not any(folder.glob("tokenizer*")):
        raise UserError(f"{model} has no tokenizer: copy the original model's tokenizer.json there.")
    try:
        tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=trust_remote_code)
    except Exception as error:
        raise UserError(f"cannot load a tokenizer from {model}: {_first_line(error)}") from error
    if tokenizer.eos_token_id is None:
        raise UserError(f"the tokenizer of {model} has no EOS token: set eos_token in its tokenizer_config.json.")
    return tokenizer


def load_model(
    model: str,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    trust_remote_code: bool = False,
) -> Any:
    """The causal LM at a path or hub id, in evaluation mode; a LoRA adapter's folder gives its base model with it.

    Raises UserError where weights are missing or not safetensors, and for a model whose logits cannot be scored.
    """
    folder = _checked(model)
    adapter = folder is not None and (folder / "adapter_config.json").is_file()
    if folder is not None and not any(folder.glob("*.safetensors")):
        others = sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for p in folder.glob(pattern))
        if others:
            raise UserError(
                f"{model} holds {others[0]}, not safetensors, and such files can run code when loaded: "
                "convert it with transformers' save_pretrained."
            )
        raise UserError(f"{model} has no weights (*.safetensors): is it the right directory?")
    if adapter:
        from peft import PeftConfig, PeftModel

        base = PeftConfig.from_pretrained(model).base_model_name_or_path
        loaded = load_model(base, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
        return PeftModel.from_pretrained(loaded, model).eval()
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        made: Any = AutoModelForCausalLM.from_pretrained(
            model, dtype=dtype, trust_remote_code=trust_remote_code, use_safetensors=True, output_loading_info=True
        )
    except Exception as error:
        raise UserError(f"cannot load a causal language model from {model}: {_first_line(error)}") from error
    finally:
        transformers_logging.set_verbosity(verbosity)
    loaded, report = made
    if report.get("missing_keys"):
        raise UserError(
            f"{model} lacks the weight {min(report['missing_keys'])!r}: its safetensors files are not whole."
        )
    loaded = loaded.to(device).eval()
    check_head(loaded)
    return loaded


def _checked(model: str) -> Path | None:
    """The model's directory, None for a hub id."""
    folder = Path(model)
    if folder.is_dir():
        if not any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
            near = sorted(p.parent.name for p in folder.glob("*/config.json"))
            hint = f": did you mean {folder / near[0]}?" if near else ": is it the right directory?"
            raise UserError(f"{model} has no config.json{hint}")
        return folder
    if folder.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1 or folder.is_file():
        siblings = [p.name for p in folder.parent.glob("*") if p.is_dir()] if folder.parent.is_dir() else []
        hint = did_you_mean(folder.name, siblings) if siblings else "check the path."
        raise UserError(f"there is no model directory {model}: {hint}")
    return None


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]


def model_hash(model: str) -> str | None:
    """sha256 over a model directory's weights and config, None for a hub id (whose revision tells as much)."""
    folder = Path(model)
    if not folder.is_dir():
        return None
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*config.json")]):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def model_config(model: str, *, trust_remote_code: bool = False) -> Any:
    return AutoConfig.from_pretrained(model, trust_remote_code=trust_remote_code)
