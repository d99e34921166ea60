"""Datasets of the Hugging Face hub, and folders that look like one."""

from collections.abc import Iterator
from typing import Any

from unlearner.data.readers import INSTALL, first_line
from unlearner.data.rows import numbered
from unlearner.errors import UserError


def read_hub(spec: str) -> Iterator[tuple[str, Any]]:
    """The rows of `hub:SPEC`. Raises UserError where they cannot be loaded, or several splits are there."""
    name, config, split, *more = [*spec.split(":"), "", ""]
    if not name or any(more):
        raise UserError(f"hub:{spec}: write hub:OWNER/NAME, hub:OWNER/NAME:CONFIG or hub:OWNER/NAME:CONFIG:SPLIT.")
    try:
        from datasets import load_dataset
    except ImportError:
        raise UserError(f"hub:{spec} needs the datasets library; {INSTALL}.") from None
    try:
        data = load_dataset(name, config or None, split=split or None)
    except Exception as error:  # datasets, huggingface_hub, httpx and the file formats each raise their own
        raise UserError(
            f"hub:{spec} cannot be loaded ({first_line(error)}); "
            "check the name, config, split and network, or give a file instead."
        ) from error
    if isinstance(data, dict):
        if len(data) > 1:
            choice = f"hub:{name}:{config}:{next(iter(data))}"
            raise UserError(f"hub:{spec} has the splits {', '.join(data)}; choose one, as in {choice}.")
        (data,) = data.values()
    yield from numbered(data.to_list())
