"""`unlearner report`: one self-contained page from run directories, and its figures as files."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from unlearner.errors import UserError

PACKAGES = ("jinja2", "matplotlib")


def can_write() -> bool:
    """Whether the packages of the extra `report` are here."""
    return all(find_spec(package) is not None for package in PACKAGES)


def write_report(runs: Sequence[Path], output: Path) -> Path:
    """Write one HTML page about `runs` to `output`, its figures to `figures/` beside it, and return `output`.

    Each of `runs` is a run directory or a folder of run directories, however deep. The page depends on what these hold
    alone: not on the time, nor, where runs can be told apart without, on where they lie. Raises UserError where there
    is no run, the page cannot be written, or `output` is a file that is no report.
    """
    _need_packages()
    from unlearner.report.page import write_page
    from unlearner.report.read import read_runs

    return write_page(read_runs(runs), output)


def write_figures(runs: Sequence[Path], folder: Path) -> list[Path]:
    """Write the report's figures about `runs` to `folder`, each as PNG and as SVG, and return their paths."""
    _need_packages()
    from unlearner.report.figures import save_figures
    from unlearner.report.read import read_runs

    return save_figures(read_runs(runs), folder)


def _need_packages() -> None:
    if not can_write():
        raise UserError('the report needs jinja2 and matplotlib: pip install "unlearner[report]"')
