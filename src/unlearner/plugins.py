"""Losses, metrics, attacks and sources of other packages."""

from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from unlearner.console import warn
from unlearner.errors import UserError, did_you_mean

GROUPS = ("unlearner.methods", "unlearner.metrics", "unlearner.attacks", "unlearner.sources")
"""Groups of entry points in which a package names what it adds."""


@cache
def load_plugins(group: str) -> dict[str, Any]:
    """What installed packages add to `group`, by the entry points' names.

    One that cannot be imported is named in a warning, once, and left out.
    """
    assert group in GROUPS, group
    found: dict[str, Any] = {}
    for point in entry_points(group=group):
        try:
            found[point.name] = point.load()
        except Exception as error:  # whatever somebody else's module may raise
            warn(
                f"the plug-in {point.name} ({point.value}, {group}) is left out, because it cannot be imported: {error}"
            )
    return found


def load_object(reference: str) -> Any:
    """The object that `module:Name` stands for. Raises UserError that names it and the reason."""
    module_name, _, name = reference.partition(":")
    try:
        module = import_module(module_name)
    except Exception as error:  # whatever somebody else's module may raise
        raise UserError(
            f"{reference!r} cannot be imported ({error}): check its name, and that it is installed."
        ) from error
    if not hasattr(module, name):
        raise UserError(f"the module {module_name} has no {name!r}: {did_you_mean(name, vars(module))}")
    return getattr(module, name)
