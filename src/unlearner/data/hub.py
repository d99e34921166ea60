"""Datasets of the Hugging Face hub, and folders that look like one."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from unlearner.data.rows import numbered
from unlearner.errors import UserError, first_line, install

PATIENCE = 2.0
"""Seconds in which the hub has to answer."""


def read_hub(spec: str) -> Iterator[tuple[str, Any]]:
    """The rows of `hub:SPEC`. Raises UserError where they cannot be loaded, or several splits are there."""
    name, config, split, *more = [*spec.split(":"), "", ""]
    if not name or any(more):
        raise UserError(f"hub:{spec}: write hub:OWNER/NAME, hub:OWNER/NAME:CONFIG or hub:OWNER/NAME:CONFIG:SPLIT.")
    try:
        from datasets import load_dataset
    except ImportError:
        raise UserError(f"hub:{spec} needs the datasets library; install it with: {install('data')}.") from None
    from huggingface_hub import is_offline_mode

    silent = not Path(name).exists() and not is_offline_mode() and not hub_answers()
    try:
        with _cache_alone(silent):
            data = load_dataset(name, config or None, split=split or None)
    except Exception as error:  # datasets, huggingface_hub, httpx and the file formats each raise their own
        why = "the hub does not answer, and the cache has no copy" if silent else first_line(error)
        raise UserError(
            f"hub:{spec} cannot be loaded ({why}); check the name, config, split and network, or give a file instead."
        ) from error
    if isinstance(data, dict):
        if len(data) > 1:
            choice = f"hub:{name}:{config}:{next(iter(data))}"
            raise UserError(f"hub:{spec} has the splits {', '.join(data)}; choose one, as in {choice}.")
        (data,) = data.values()
    yield from numbered(data.to_list())


def hub_answers() -> bool:
    """Whether the hub can be reached, known within `PATIENCE`; taken for granted behind a proxy."""
    from huggingface_hub import is_offline_mode
    from huggingface_hub.constants import ENDPOINT

    if is_offline_mode():
        return False
    url = urlsplit(ENDPOINT)
    if url.scheme in getproxies():
        return True
    reached: list[bool] = []

    def reach() -> None:
        try:
            port = url.port or (80 if url.scheme == "http" else 443)
            socket.create_connection((url.hostname, port), timeout=PATIENCE).close()
            reached.append(True)
        except OSError:
            pass

    trial = Thread(target=reach, daemon=True)  # looking up a name has no time limit of its own
    trial.start()
    trial.join(PATIENCE)
    return bool(reached)


@contextmanager
def _cache_alone(offline: bool) -> Iterator[None]:
    """With `offline`, datasets reads its cache and does not try the network again and again, which takes minutes."""
    import datasets
    from huggingface_hub import constants

    places: tuple[Any, Any] = (datasets.config, constants)
    before = [place.HF_HUB_OFFLINE for place in places]
    for place, held in zip(places, before, strict=True):
        place.HF_HUB_OFFLINE = held or offline
    try:
        yield
    finally:
        for place, held in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = held
