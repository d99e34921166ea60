"""`unlearner purge`: take the texts of the data out of runs and caches."""

from dataclasses import dataclass, field
from pathlib import Path

SUMMARY = "take the texts of the data out of runs and caches, and say what is out of reach"


@dataclass(kw_only=True)
class PurgeConfig:
    """Take the texts of the data out of runs, and empty the caches that hold them; list what is out of reach."""

    runs: list[str] = field(metadata={"leading": True})
    """Directories of runs, of audits, of folders of them, of a bench, of forget --subject, or made by prepare; the
    file of a probe, or of a compare's --history. `--runs` itself may be left out before them."""
    dry_run: bool = False
    """Only list."""


OPTIONS = PurgeConfig
EXAMPLE = """\
Example:
  unlearner purge runs/me --dry-run

Records and audits keep their values and ids. Pages, finished batches, all that `prepare`, `probe` and
`compare --history` wrote, and the names in a search are removed; `unlearner report` makes a new page, without texts."""

BEYOND = (
    "copies, backups, snapshots and what a disk keeps of removed files",
    "pages and records that were written or handed on elsewhere; experiment trackers; datasets in the hub's cache",
)


def run(config: PurgeConfig) -> None:
    """Purge, and list what was removed and what was not."""
    from unlearner.commands.tables import out
    from unlearner.errors import UserError
    from unlearner.results.history import is_history
    from unlearner.results.prepared import is_probe
    from unlearner.results.texts import purge

    runs = [Path(run) for run in config.runs]
    for path in runs:
        if not path.is_dir() and not is_probe(path) and not is_history(path):
            raise UserError(
                f"{path} is no directory of runs, and no file of a probe or of compare's: give the --output of one."
            )
    done = purge(runs, dry_run=config.dry_run)
    console = out()
    would = "would be " if config.dry_run else ""
    for title, paths in (
        (f"Texts {would}taken out of:", done.redacted),
        (f"{would}removed:".capitalize(), done.removed),
    ):
        console.print(title if paths else f"{title} nothing", markup=False)
        for path in paths:
            console.print(f"  {path}", markup=False, soft_wrap=True)
    console.print("Out of reach:", markup=False)
    for what in (*done.beyond, *BEYOND):
        console.print(f"  {what}", markup=False, soft_wrap=True)
