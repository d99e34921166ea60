"""`unlearner report`: one page about a run or several: verdict, figures, every answer before and after."""

from dataclasses import dataclass, field
from pathlib import Path

SUMMARY = "write one page about one or more runs: verdict, figures, every answer before and after"


@dataclass(kw_only=True)
class ReportConfig:
    """One HTML page about runs or a whole bench: verdict, tables, figures, every question with its answers."""

    runs: list[str] = field(metadata={"leading": True})
    """Directories of runs, of folders of runs, or of a bench; `--runs` itself may be omitted before them."""
    output: str | None = None
    """The page; by default report.html in the directory given, or here if several are. Its figures go to a folder
    beside it, as PNG and SVG."""
    redact: bool = False
    """Leave out every text of the data and of the model: a page with values and ids that can be passed on."""


OPTIONS = ReportConfig
EXAMPLE = """\
Example:
  unlearner report runs/me runs/npo --output compared.html

The page opens without a network, in any browser. An unfinished run is shown as far as it has got."""


def run(config: ReportConfig) -> None:
    """Write the page, and say where it is."""
    from unlearner.commands.tables import print_report
    from unlearner.report import write_report
    from unlearner.results.layout import RunDirectory

    runs = [Path(run) for run in config.runs]
    beside = runs[0] if len(runs) == 1 else Path()
    print_report(write_report(runs, Path(config.output or RunDirectory(beside).report), redact=config.redact))
