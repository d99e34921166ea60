"""The files of judge models: found in a directory or the Hugging Face cache, or fetched from the hub."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from unlearner.data.hub import hub_answers
from unlearner.errors import UserError, install

NEEDED_FILES = ("*.json", "*.txt", "*.model", "*.safetensors")


def need_package(module: str, purpose: str, extra: str) -> None:
    if find_spec(module) is None:
        raise UserError(f"{purpose} needs the package {module}: {install(extra)}")


def fetch(model: str) -> Path:
    """The directory of a model: `model` itself, its snapshot in the Hugging Face cache, or one fetched from the hub."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import ENDPOINT

    if Path(model).is_dir():
        return Path(model)
    try:
        return _cached(model) or Path(snapshot_download(model, allow_patterns=list(NEEDED_FILES), etag_timeout=5))
    except Exception as error:  # the errors of the hub's HTTP library, which changes with its version, have no base
        raise UserError(
            f"{model!r} is not a directory and could not be downloaded from {ENDPOINT} ({type(error).__name__}): "
            "give a model's hub id or directory, or use the judge 'offline', which needs no network."
        ) from error


def _cached(model: str) -> Path | None:
    """The snapshot of a hub model in the Hugging Face cache, if its weights and configuration are there."""
    from huggingface_hub import try_to_load_from_cache

    files = ("config.json", "tokenizer.json", "model.safetensors")
    paths = [path for path in (try_to_load_from_cache(model, file) for file in files) if isinstance(path, str)]
    return Path(paths[0]).parent if len(paths) == len(files) else None


def can_load(models: Sequence[str]) -> bool:
    """Whether all `models` are here or can be fetched (and then are); a matter of seconds without a network."""
    hub = [model for model in models if not Path(model).is_dir()]
    try:
        if not all(_cached(model) for model in hub) and not hub_answers():
            return False
        for model in hub:
            fetch(model)
    except (UserError, ValueError):
        return False
    return True
