"""`unlearner forget`: forget a forget set, keep a retain set, measure before and after."""

from pathlib import Path

from unlearner.config import ForgetConfig

SUMMARY = "forget a forget set, keep a retain set, measure before and after"
OPTIONS = ForgetConfig
EXAMPLE = """\
Example:
  unlearner forget --model path/to/model --forget forget.jsonl --retain retain.jsonl --method ME+GD --output runs/me"""


def run(config: ForgetConfig) -> None:
    """Forget; print before and after, and where the records, the report and the model are."""
    from unlearner.commands.tables import out, print_records, print_report, print_summary, print_verdict
    from unlearner.report import add_report
    from unlearner.workflows.forget import forget

    if config.audit is not None:
        from unlearner.audit.from_run import check_forget

        check_forget(config)
    result = forget(config)
    if result.before is not None and result.after is not None:
        page = add_report([result.output])
        print_summary({"before": result.before.summary, f"after {config.method}": result.after.summary}, config)
        print_verdict([result.output])
        print_records(result.output)
        if page is not None:
            print_report(page)
    if config.audit is not None:
        from unlearner.audit.from_run import of_forget
        from unlearner.audit.run import audit
        from unlearner.commands.tables import show_audit

        asked = of_forget(config)
        show_audit(audit(asked).summary, Path(asked.output))
    out().print(f"The model is in {result.model}", style="green", markup=False, soft_wrap=True)
