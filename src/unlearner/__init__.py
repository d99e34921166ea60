"""Make a language model forget chosen data, keep the rest of its abilities, and show both with evidence."""

from typing import TYPE_CHECKING, Any

from unlearner.version import __version__

if TYPE_CHECKING:
    from unlearner.api import TrainingArguments, TrainResult, Unlearner, evaluate, finetune, forget, negate, report
    from unlearner.data.records import Record
    from unlearner.errors import UserError
    from unlearner.evaluation.result import Evaluation
    from unlearner.methods import Method
    from unlearner.workflows.fine_tune import FinetuneResult
    from unlearner.workflows.forget import ForgetResult
    from unlearner.workflows.negate import NegateResult

_HOME = {
    "Evaluation": "unlearner.evaluation.result",
    "FinetuneResult": "unlearner.workflows.fine_tune",
    "ForgetResult": "unlearner.workflows.forget",
    "Method": "unlearner.methods",
    "NegateResult": "unlearner.workflows.negate",
    "Record": "unlearner.data.records",
    "TrainResult": "unlearner.api",
    "TrainingArguments": "unlearner.api",
    "Unlearner": "unlearner.api",
    "UserError": "unlearner.errors",
    "evaluate": "unlearner.api",
    "finetune": "unlearner.api",
    "forget": "unlearner.api",
    "negate": "unlearner.api",
    "report": "unlearner.api",
}
__all__ = [
    "Evaluation",
    "FinetuneResult",
    "ForgetResult",
    "Method",
    "NegateResult",
    "Record",
    "TrainResult",
    "TrainingArguments",
    "Unlearner",
    "UserError",
    "__version__",
    "evaluate",
    "finetune",
    "forget",
    "negate",
    "report",
]


def __getattr__(name: str) -> Any:
    # torch and transformers take seconds to import: `unlearner --help` should not wait for them.
    if name in _HOME:
        from importlib import import_module

        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'unlearner' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
