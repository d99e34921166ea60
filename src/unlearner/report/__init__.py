"""`unlearner report`: one self-contained page from runs or a bench, and its figures as files."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from unlearner.errors import UserError, install
from unlearner.results.layout import AuditDirectory, RunDirectory

PACKAGES = ("jinja2", "matplotlib")


def can_write() -> bool:
    """Whether the packages of the extra `report` are here."""
    return all(find_spec(package) is not None for package in PACKAGES)


def write_report(runs: Sequence[Path], output: Path, *, redact: bool = False) -> Path:
    """Write one HTML page about `runs` to `output`, its figures to `OUTPUT-figures/` beside it, and return `output`.

    Each of `runs` is a run directory, a bench, or a folder of such, no deeper; or the only one is an audit. The page
    depends only on what these hold: not on the time, nor on where they lie, unless nothing else tells two runs apart.
    Raises UserError where there is no run, the page cannot be written, or `output` is a file that is no report.
    """
    if not can_write():
        raise UserError(f"the report needs jinja2 and matplotlib: {install('report')}")
    if len(runs) == 1 and AuditDirectory(Path(runs[0])).audit.is_file():
        from unlearner.report.audits import write_audit_page

        return write_audit_page(Path(runs[0]), Path(output))
    from unlearner.report.page import write_page
    from unlearner.report.read import read

    return write_page(read(runs, redact=redact), Path(output))


def check_page(output: Path) -> None:
    """Raises UserError where a page cannot be written to `output`, because what is there is no report."""
    if can_write():
        from unlearner.report import page

        page.check_page(output)


def add_audit_page(folder: Path) -> Path | None:
    """At the end of an audit: audit.html in its directory. Without the extra `report` none is written, and a line says
    so."""
    from unlearner.console import note
    from unlearner.distributed import is_main

    if not is_main():
        return None
    if not can_write():
        note(f"For a page about it all: {install('report')}, then unlearner report {folder}")
        return None
    from unlearner.files import is_page
    from unlearner.report.audits import write_audit_page
    from unlearner.report.drawing import GENERATOR

    page, run = write_audit_page(folder), RunDirectory(folder.parent)
    if run.audited == folder and run.is_finished and is_page(run.report, GENERATOR):
        add_report([run.path])  # whose first lines are the audit's
    return page


def add_report(runs: Sequence[Path]) -> Path | None:
    """At the end of a command: report.html in the only one of `runs`, or in the folder that holds them all.

    A page that is newer than the runs and their audits is left as it is. Without the extra `report` none is written,
    and a line says so.
    """
    from unlearner.console import note
    from unlearner.distributed import is_main
    from unlearner.results.subjects import SubjectDirectory

    if not is_main():
        return None
    output = RunDirectory(runs[0] if len(runs) == 1 else runs[0].parent).report
    if not can_write():
        note(f"For a page about it all: {install('report')}, then unlearner report {output.parent}")
        return None
    files = [place for run in map(RunDirectory, runs) for place in (run.finished, RunDirectory(run.audited).finished)]
    files += [SubjectDirectory(Path(run).absolute().parent).held_out for run in runs]
    ended = max(file.stat().st_mtime_ns for file in files if file.is_file())
    if output.is_file() and output.stat().st_mtime_ns >= ended:
        return output
    return write_report(runs, output)
