"""The names of options: ours, older ones, and those of transformers and TRL where ours differ."""

from collections.abc import Collection, Mapping
from dataclasses import fields
from functools import wraps
from typing import Any, TypeVar

from unlearner.errors import UserError, did_you_mean

Options = TypeVar("Options")

ALIASES = {
    "lr": "learning_rate",
    "accumulation": "gradient_accumulation_steps",
    "max_tokens": "max_tokens_per_forward",
    "clip": "max_grad_norm",
    "compile": "torch_compile",
    "save_every": "save_steps",
    "keep_checkpoints": "save_total_limit",
    "log_every": "logging_steps",
    "tracker": "report_to",
    "output_dir": "output",
    "num_train_epochs": "epochs",
}
"""Other names of options: older ones, and those of transformers and TRL where ours differ."""


def own_name(name: str) -> str:
    """The name of an option, `_` for `-`, from any of its names."""
    name = name.replace("-", "_")
    return ALIASES.get(name, name)


def by_own_name(given: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """Options by their own names. Raises UserError for a name that is none of the `known`, or one given twice."""
    named: dict[str, Any] = {}
    for name, value in given.items():
        ours = own_name(name)
        if ours not in known:
            raise UserError(f"unknown option {name!r}: {did_you_mean(name, [*known, *ALIASES])}")
        if ours in named:
            names = " and ".join(other for other in given if own_name(other) == ours)
            raise UserError(f"{ours} is given twice, as {names}: leave one out.")
        named[ours] = value
    return named


def takes_any_name(options: "type[Options]") -> "type[Options]":
    """Has a class of options take them by any of their names. Raises UserError for a name that is none."""
    plain = options.__init__
    known = [field.name for field in fields(options)]  # type: ignore[arg-type]

    @wraps(plain)
    def init(self: Any, **given: Any) -> None:
        plain(self, **by_own_name(given, known))

    options.__init__ = init  # type: ignore[method-assign]
    return options
