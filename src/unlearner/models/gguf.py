"""Models in GGUF files, the format of llama.cpp: converted once to a directory with safetensors, kept in the cache.

The weights become the float32 numbers that the file's, quantised or not, stand for: what is measured and trained is
the file's own model.
"""

import hashlib
import io
from contextlib import redirect_stderr
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from unlearner.console import note
from unlearner.errors import UserError, first_line, install
from unlearner.files import cache_directory, made_once
from unlearner.models.load import quiet_transformers

SUFFIX = ".gguf"
MAGIC = b"GGUF"
CONVERSION = 2
"""Raised whenever `convert` writes something else: kept conversions are known by it."""


def gguf_model(file: Path) -> Path:
    """The directory of the model in a GGUF file, made on first use and known by the file's content.

    Raises UserError where the file is not there, is broken, or holds what transformers cannot read.
    """
    try:
        with file.open("rb") as opened:
            if opened.read(len(MAGIC)) != MAGIC:
                raise UserError(f"{file} is not a GGUF file: check the path, or download it again.")
            opened.seek(0)
            content = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"the model {file} cannot be read ({error.strerror}): check the path.") from error
    folder = cache_directory() / "models" / f"gguf-{content[:16]}-{CONVERSION}"

    def make(temporary: Path) -> None:
        note(f"Converting {file} to safetensors, once; the model is kept in {folder}")
        convert(file, temporary)

    return made_once(folder, make)


def check_package() -> None:
    """Raises UserError where what reads GGUF files is not installed."""
    if find_spec("gguf") is None:
        raise UserError(f"a GGUF file needs the package gguf; install it with: {install('gguf')}.")


def convert(file: Path, folder: Path) -> None:
    """Write model, tokenizer and chat template of a GGUF file into `folder`. Raises UserError."""
    check_package()
    try:
        with quiet_transformers(), redirect_stderr(io.StringIO()):  # its bar asks no setting
            tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
            made: Any = AutoModelForCausalLM.from_pretrained(
                file.parent, gguf_file=file.name, dtype=torch.float32, output_loading_info=True
            )
            loaded, report = made
    except Exception as error:  # whatever transformers and gguf raise for a file they do not know
        raise UserError(
            f"transformers cannot read a causal language model from {file} ({first_line(error)}): use the directory "
            "of the original model."
        ) from error
    if report["missing_keys"]:
        raise UserError(f"{file} lacks the weight {min(report['missing_keys'])!r}: download it again.")
    # transformers saves no model that came from a GGUF file: a new one of the same kind takes its weights.
    # Nor does it save one whose configuration says that it did: its weights are plain float32 by now.
    config = loaded.config
    vars(config).pop("quantization_config", None)
    with torch.device("meta"):
        model = type(loaded)(config)
    model.load_state_dict(loaded.state_dict(), assign=True)
    model.tie_weights()
    model.generation_config = loaded.generation_config
    with quiet_transformers():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
