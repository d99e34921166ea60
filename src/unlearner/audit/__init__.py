"""Attack an unlearned model and say, with bounds, what still leaks."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unlearner.audit.likelihood import likelihood_metrics

__all__ = ["likelihood_metrics"]


def __getattr__(name: str) -> Any:
    if name in __all__:  # torch is imported when it is needed
        from unlearner.audit import likelihood

        return getattr(likelihood, name)
    raise AttributeError(f"module 'unlearner.audit' has no attribute {name!r}")
