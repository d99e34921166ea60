"""Make a language model forget chosen data, keep the rest of its abilities, and show both with evidence."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from unlearner.api import evaluate, finetune, forget
    from unlearner.methods import Method

_HOME = {
    "Method": "unlearner.methods",
    "evaluate": "unlearner.api",
    "finetune": "unlearner.api",
    "forget": "unlearner.api",
}
__all__ = ["Method", "__version__", "evaluate", "finetune", "forget"]


def __getattr__(name: str) -> Any:
    # torch and transformers take seconds to import: `unlearner --help` should not wait for them.
    if name in _HOME:
        from importlib import import_module

        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'unlearner' has no attribute {name!r}")
