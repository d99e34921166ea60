"""`unlearner report`: one page about a run or several: verdict, figures, every answer before and after."""

from pathlib import Path

from unlearner.config import ReportConfig

SUMMARY = "one page about a run or several: verdict, figures, every answer before and after"
OPTIONS = ReportConfig
EXAMPLE = """\
Example:
  unlearner report runs/me runs/npo --output compared.html

The page opens without a network, in any browser. A run that is not finished is shown as far as it is."""


def run(config: ReportConfig) -> None:
    """Write the page, and say where it is."""
    from unlearner.commands.tables import print_report
    from unlearner.report import write_report
    from unlearner.results.layout import RunDirectory

    runs = [Path(run) for run in config.runs]
    beside = runs[0] if len(runs) == 1 else Path()
    print_report(write_report(runs, Path(config.output or RunDirectory(beside).report), redact=config.redact))
