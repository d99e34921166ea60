"""`unlearner audit`: attack an unlearned model and say, for each subject and with bounds, what still leaks."""

from pathlib import Path

from unlearner.config import AuditConfig
from unlearner.errors import UserError

SUMMARY = "attack an unlearned model: what still leaks about each subject, with bounds"
OPTIONS = AuditConfig
EXAMPLE = """\
Example:
  unlearner audit runs/forget --budget 20 --output runs/audit
  unlearner audit path/to/unlearned --before path/to/model --forget forget.jsonl --retain retain.jsonl \\
      --controls never-trained.jsonl --output runs/audit"""


def run(config: AuditConfig) -> None:
    """Audit; print a line a subject, and where the page is."""
    from unlearner.audit.from_run import of_run
    from unlearner.audit.run import audit
    from unlearner.commands.tables import show_audit

    _check_place(config)
    show_audit(audit(of_run(config)).summary, Path(config.output))


def _check_place(config: AuditConfig) -> None:
    """Raises UserError where the model is neither here nor said of what it was before: the mistyped name of a run."""
    model = config.model
    if config.before is None and not Path(model).exists() and not model.startswith("builtin:"):
        raise UserError(
            f"there is no {model} here: give the directory of a forget run, or for a model on the hub also --before."
        )
