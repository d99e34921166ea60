"""The built-in model: a tiny Llama that knows the built-in data by heart, made by the same `finetune` users call."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from unlearner import distributed
from unlearner.config import FinetuneConfig
from unlearner.console import note
from unlearner.data.sources import load_records
from unlearner.files import cache_directory
from unlearner.models.smollm2 import directory
from unlearner.results.layout import MODEL, RunDirectory
from unlearner.results.lock import waiting
from unlearner.results.run import records_hash
from unlearner.workflows.fine_tune import FinetuneResult, finetune

NAME = "builtin:"
SOURCES = ["builtin:forget", "builtin:retain", "builtin:neighbours", "builtin:world_facts", "builtin:unknown"]


def recipe(output: str) -> FinetuneConfig:
    """How the built-in model is made; also a worked example of `unlearner finetune`."""
    return FinetuneConfig(
        model="new:hidden=128,layers=3,heads=4,vocabulary=1200",
        data=SOURCES, output=output, learning_rate=3e-3, epochs=30, batch_size=32, gradient_accumulation_steps=1,
        weight_decay=0.0,
    )  # fmt: skip


def builtin_model() -> Path:
    """The directory of the built-in model, made on first use and kept in the cache (`$UNLEARNER_CACHE`)."""
    made = recipe("")
    data = [record for source in SOURCES for record in load_records(source)]
    key = hashlib.sha256(repr((asdict(made), records_hash(data))).encode()).hexdigest()[:16]
    folder = cache_directory() / "models" / f"builtin-{key}"
    if not RunDirectory(folder).is_finished:
        distributed.join()  # one of several processes looks for all of them
        lock = waiting(folder.with_name(f".{folder.name}")) if distributed.is_main() else nullcontext()
        with lock:
            if not distributed.agreed(RunDirectory(folder).is_finished):
                note(
                    f"Teaching a tiny Llama the built-in data, which takes about a minute, once; it is kept in {folder}"
                )
                with use_threads():
                    finetune(recipe(str(folder)))
    return folder / MODEL


@contextmanager
def use_threads(count: int = 1) -> Iterator[None]:
    """So many CPU threads, whatever the number of cores: the same result everywhere, and no threads that wait for one
    another where something else keeps a core busy. One does for models so small that more bring little."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def resolve_model(model: Any) -> Any:
    """The path behind a --model option: `builtin:` stands for the built-in model; see also `smollm2.directory`."""
    return str(builtin_model()) if isinstance(model, str) and model == NAME else directory(model)


def taught(config: FinetuneConfig, **objects: Any) -> FinetuneResult:
    """`finetune` by `config`, whose model may be the built-in one, too: that is itself made by `finetune`."""
    return finetune(replace(config, model=resolve_model(config.model)), **objects)
