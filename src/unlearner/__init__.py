"""Make a language model forget chosen data, keep the rest of its abilities, and show both with evidence."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from unlearner.version import __version__

if TYPE_CHECKING:
    from unlearner.api import (
        TrainResult,
        Unlearner,
        compare,
        evaluate,
        finetune,
        forget,
        forget_subject,
        negate,
        prepare_sources,
        probe,
        report,
        repselect,
    )
    from unlearner.audit.run import Audit
    from unlearner.comparing.compare import Compared
    from unlearner.data.records import Record
    from unlearner.errors import UserError
    from unlearner.evaluation.result import Evaluation
    from unlearner.methods import Method
    from unlearner.options import TrainingArguments
    from unlearner.prepare.knowledge import Probe
    from unlearner.prepare.prepare import Prepared
    from unlearner.search.subject import SubjectResult
    from unlearner.workflows.fine_tune import FinetuneResult
    from unlearner.workflows.forget import ForgetResult
    from unlearner.workflows.negate import NegateResult
    from unlearner.workflows.repselect import RepSelectResult

_HOME = {
    "Audit": "unlearner.audit.run",
    "Compared": "unlearner.comparing.compare",
    "Evaluation": "unlearner.evaluation.result",
    "FinetuneResult": "unlearner.workflows.fine_tune",
    "ForgetResult": "unlearner.workflows.forget",
    "Method": "unlearner.methods",
    "NegateResult": "unlearner.workflows.negate",
    "Prepared": "unlearner.prepare.prepare",
    "Probe": "unlearner.prepare.knowledge",
    "Record": "unlearner.data.records",
    "RepSelectResult": "unlearner.workflows.repselect",
    "SubjectResult": "unlearner.search.subject",
    "TrainResult": "unlearner.api",
    "TrainingArguments": "unlearner.options",
    "Unlearner": "unlearner.api",
    "UserError": "unlearner.errors",
    "compare": "unlearner.api",
    "evaluate": "unlearner.api",
    "finetune": "unlearner.api",
    "forget": "unlearner.api",
    "forget_subject": "unlearner.api",
    "negate": "unlearner.api",
    "prepare_sources": "unlearner.api",
    "probe": "unlearner.api",
    "report": "unlearner.api",
    "repselect": "unlearner.api",
}
__all__ = [
    "Audit",
    "Compared",
    "Evaluation",
    "FinetuneResult",
    "ForgetResult",
    "Method",
    "NegateResult",
    "Prepared",
    "Probe",
    "Record",
    "RepSelectResult",
    "SubjectResult",
    "TrainResult",
    "TrainingArguments",
    "Unlearner",
    "UserError",
    "__version__",
    "compare",
    "evaluate",
    "finetune",
    "forget",
    "forget_subject",
    "negate",
    "prepare_sources",
    "probe",
    "report",
    "repselect",
]


# As a package is imported, and only the first time, Python makes it an attribute of ours. Forgotten again, the name is
# that of the function, whatever imports the package later.
import_module("unlearner.report")
globals().pop("report", None)


def __getattr__(name: str) -> Any:
    # torch and transformers take seconds to import: `unlearner --help` should not wait for them.
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'unlearner' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
