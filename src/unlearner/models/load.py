"""Load a causal language model and its tokenizer, from a directory or the Hugging Face hub; safetensors only."""

import difflib
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
from safetensors import safe_open
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from unlearner import distributed
from unlearner.errors import UserError, first_line
from unlearner.models.anatomy import bare, check_head

BUILTIN = "builtin:"


def uses_bf16(precision: str) -> bool:
    """Whether a --precision option means bf16 arithmetic on this machine."""
    gpu = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return precision in ("bf16", "pure-bf16") or (precision == "auto" and gpu)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Inside, transformers says nothing and shows no bars; those for loading and saving are over before they can be
    read, and what is missing of a model is told by us. Afterwards all is as it was."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def load_tokenizer(model: str, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer that lies beside a model. Raises UserError where there is none."""
    folder = _checked(model)
    offline = folder is None and _cache_only(model)
    if folder is not None and not any(folder.glob("tokenizer*")):
        raise UserError(f"{model} has no tokenizer: copy the original model's tokenizer.json there.")
    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(
                model, trust_remote_code=trust_remote_code, local_files_only=offline
            )
    except Exception as error:
        raise UserError(f"cannot load a tokenizer from {model}: {first_line(error)}") from error
    if tokenizer.eos_token_id is None:
        raise UserError(f"the tokenizer of {model} has no EOS token: set eos_token in its tokenizer_config.json.")
    return tokenizer


def load_model(
    model: str,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    trust_remote_code: bool = False,
    lazy: bool = False,
) -> Any:
    """The causal LM at a path or hub id, in evaluation mode; a LoRA adapter's folder gives its base model with it.

    Weights that are to be what the files hold are not read but mapped: the processes of a machine share them, and what
    is sharded is copied from there. With `lazy`, float32 is left to `sharding.widen` where there are several processes,
    so that this holds for it, too.

    Raises UserError where weights are missing or not safetensors, and for a model whose logits cannot be scored.
    """
    folder = _checked(model)
    offline = folder is None and _cache_only(model)
    adapter = folder is not None and (folder / "adapter_config.json").is_file()
    if folder is not None and not any(folder.glob("*.safetensors")):
        others = sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for p in folder.glob(pattern))
        if others:
            raise UserError(
                f"{model} holds {others[0]}, not safetensors, and such files can run code when loaded: "
                "convert it with transformers' save_pretrained."
            )
        raise UserError(f"{model} has no weights (*.safetensors): is it the right directory?")
    if folder is not None:
        _check_whole(folder)
    if adapter:
        return _load_adapter(model, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
    try:
        with quiet_transformers():
            made: Any = AutoModelForCausalLM.from_pretrained(
                model, dtype="auto" if lazy and dtype == torch.float32 and distributed.count() > 1 else dtype,
                trust_remote_code=trust_remote_code, use_safetensors=True, local_files_only=offline,
                output_loading_info=True, ignore_mismatched_sizes=True,
            )  # fmt: skip
    except Exception as error:
        raise UserError(f"cannot load a causal language model from {model}: {first_line(error)}") from error
    loaded, report = made
    if report.get("mismatched_keys"):
        raise UserError(
            f"the weight {min(report['mismatched_keys'])[0]!r} of {model} does not have the shape that its config.json "
            "says: the two do not belong together."
        )
    if report.get("missing_keys"):
        raise UserError(
            f"{model} lacks the weight {min(report['missing_keys'])!r}: its safetensors files are incomplete."
        )
    _check_finite(loaded, model)
    loaded = loaded.to(device).eval()
    check_head(loaded)
    return loaded


def _check_finite(loaded: nn.Module, model: str) -> None:
    """Raises UserError, in the main process, for a weight that is NaN or infinite."""
    if not distributed.is_main():  # each would have all of the mapped files in its memory
        return
    for name, weight in loaded.named_parameters():
        if not weight.is_floating_point() or weight.is_meta or not weight.numel():
            continue
        # One pass without a copy: the extremes of a tensor with NaN are NaN.
        if not bool(torch.isfinite(torch.stack(torch.aminmax(weight.detach()))).all()):
            raise UserError(f"the weight {name!r} of {model} holds NaN or infinity: the model is broken.")


def load_config(model: str, *, trust_remote_code: bool = False) -> Any:
    """The configuration of the model at a path or hub id; of an adapter's folder, that of its base model."""
    folder = _checked(model)
    if folder is not None and (folder / "adapter_config.json").is_file():
        return load_config(adapter_base(model), trust_remote_code=trust_remote_code)
    offline = folder is None and _cache_only(model)
    try:
        return AutoConfig.from_pretrained(model, trust_remote_code=trust_remote_code, local_files_only=offline)
    except Exception as error:
        raise UserError(f"cannot load the configuration of {model}: {first_line(error)}") from error


def adapter_base(model: str) -> str:
    """The base model that the LoRA adapter in a directory names."""
    from peft import PeftConfig

    try:
        base = PeftConfig.from_pretrained(model).base_model_name_or_path
    except Exception as error:
        raise UserError(f"{model}/adapter_config.json cannot be read: {first_line(error)}") from error
    if not base:
        raise UserError(f"{model}/adapter_config.json names no base model: set base_model_name_or_path in it.")
    return str(base)


def _load_adapter(model: str, *, dtype: torch.dtype, device: torch.device | str, trust_remote_code: bool) -> Any:
    """The LoRA adapter in a directory, on its base model."""
    from peft import PeftModel

    base = adapter_base(model)
    try:
        loaded = load_model(base, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
    except UserError as error:
        raise UserError(f"{model} is an adapter and its base model does not load: {error}") from error
    try:
        with quiet_transformers():
            adapted = PeftModel.from_pretrained(loaded, model).eval()
    except Exception as error:
        raise UserError(f"cannot load the adapter {model}: {first_line(error)}") from error
    _check_finite(adapted, model)
    return adapted


def model_folder(model: str) -> Path:
    """The directory of a model or an adapter, for commands that work on files. Raises UserError for anything else."""
    folder = _checked(model)
    if folder is None:
        raise UserError(f"there is no model directory {model}: {_nearest(Path(model))}")
    _check_whole(folder)
    if not any(folder.glob("*.safetensors")):
        raise UserError(f"{model} has no weights (*.safetensors): is it the right directory?")
    return folder


def _checked(model: str) -> Path | None:
    """The model's directory, None for a hub id."""
    if not model:
        raise UserError("--model is empty: give a directory or a hub id.")
    folder = Path(model)
    _check_readable(folder)
    if folder.is_dir():
        if not any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
            near = sorted(p.parent.name for p in folder.glob("*/config.json"))
            hint = f": did you mean {folder / near[0]}?" if near else ": is it the right directory?"
            raise UserError(f"{model} has no config.json{hint}")
        return folder
    if folder.is_file():
        raise UserError(f"the model {model} is a file: give the directory that holds config.json and the weights.")
    if folder.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1:
        raise UserError(f"there is no model directory {model}: {_nearest(folder)}")
    return None


def _check_readable(folder: Path) -> None:
    """Raises UserError for a directory, or a file in it, that may not be read."""
    try:
        for file in folder.iterdir() if folder.is_dir() else ():
            if file.is_file():
                file.open("rb").close()
    except OSError as error:
        raise UserError(
            f"the model {error.filename} cannot be read ({error.strerror}): check its permissions."
        ) from error


def _check_whole(folder: Path) -> None:
    """Raises UserError for a weights file that was cut short; the libraries' messages do not name it."""
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "pt"):
                pass
        except Exception as error:
            raise UserError(f"{path} is broken or cut short ({first_line(error)}): copy it again.") from error


@cache
def _cache_only(model: str) -> bool:
    """Whether a hub model must come from the cache alone. Raises UserError where it is not there either.

    Asked once and briefly: without a network transformers would try again and again for most of a minute.
    """
    nowhere = f"there is no model directory {model}"
    try:
        HfApi().model_info(model, timeout=5)
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise UserError(f"{nowhere}, nor such a model on the hub: {_nearest(Path(model))}") from error
    except Exception as error:  # the hub's HTTP library has many words for having no network
        if not isinstance(try_to_load_from_cache(model, "config.json"), str):
            raise UserError(f"{nowhere}, and the hub cannot be reached: {_nearest(Path(model))}") from error
        return True
    return False


def _nearest(folder: Path) -> str:
    """The end of a sentence about a directory that is not there."""
    siblings = [path.name for path in folder.parent.glob("*") if path.is_dir()]
    near = difflib.get_close_matches(folder.name, siblings, n=1)
    return f"did you mean {folder.with_name(near[0])}?" if near else "check the path."


def parameter_count(model: str, *, trust_remote_code: bool) -> int | None:
    """Parameters of the model at a path or hub id, of an adapter's base model; None where its configuration does not
    tell. No weights are read."""
    made = skeleton(model, trust_remote_code=trust_remote_code)
    return None if made is None else int(made.num_parameters())


def skeleton(model: str, *, trust_remote_code: bool) -> Any:
    """The model at a path or hub id, of an adapter its base model, without numbers in its weights (on `meta`); None
    where its configuration does not tell, which loading it will explain. No weights are read."""
    try:
        with quiet_transformers(), torch.device("meta"):
            folder = _checked(model)
            if folder is not None and (folder / "adapter_config.json").is_file():
                from peft import PeftConfig

                base = PeftConfig.from_pretrained(model).base_model_name_or_path
                return None if base is None else skeleton(base, trust_remote_code=trust_remote_code)
            offline = folder is None and _cache_only(model)
            config = AutoConfig.from_pretrained(model, trust_remote_code=trust_remote_code, local_files_only=offline)
            return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    except Exception:  # of any library, for any broken file
        return None


HASHED = (
    "*.safetensors", "*config.json", "tokenizer*", "*.model", "vocab*", "merges*", "added_tokens.json",
    "special_tokens_map.json", "*.jinja", "additional_chat_templates/*.jinja", "*.py",
)  # fmt: skip
"""What makes a model this model: weights, configuration, tokenizer, chat templates, and code of its own."""


def model_hash(model: str) -> str | None:
    """sha256 over the names, sizes and contents of a model directory's files; None for a hub id (its revision tells
    it)."""
    folder = Path(model)
    if not folder.is_dir():
        return None
    digest = hashlib.sha256()
    for path in sorted({path for pattern in HASHED for path in folder.glob(pattern) if path.is_file()}):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def check_fits(model: Any, tokenizer: PreTrainedTokenizerBase, highest: int, longest: int, remedy: str) -> None:
    """Raises UserError for token ids, or a length of texts, for which the model has no embedding.

    Only positions that were learned one by one, as in GPT-2, come to an end.
    """
    inner = bare(model)
    embeddings = inner.get_input_embeddings()
    if highest >= embeddings.weight.shape[0]:
        raise UserError(
            f"the tokenizer's token {tokenizer.convert_ids_to_tokens(highest)!r} has number {highest}, but the model "
            f"knows {embeddings.weight.shape[0]} tokens only: take the tokenizer that belongs to the model."
        )
    learned = any(isinstance(part, nn.Embedding) and part is not embeddings for part in inner.modules())
    positions = inner.config.get_text_config().max_position_embeddings if learned else longest
    if longest > positions:
        raise UserError(f"the model has {positions} positions, and a text needs {longest} tokens: {remedy}.")
