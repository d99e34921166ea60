"""`unlearner purge`: take the texts of the data out of runs and caches."""

from dataclasses import dataclass, field
from pathlib import Path

SUMMARY = "remove the texts of the data from runs and caches, and list what is out of reach"


@dataclass(kw_only=True)
class PurgeConfig:
    """Remove the texts of the data from runs, and empty the caches that hold them; list what is out of reach."""

    runs: list[str] = field(metadata={"leading": True})
    """Directories of runs, audits, a bench, forget --subject or prepare, or folders of them; the file of a probe, or
    of compare --history. `--runs` itself may be omitted before them."""
    dry_run: bool = False
    """Only list."""


OPTIONS = PurgeConfig
EXAMPLE = """\
Example:
  unlearner purge runs/me --dry-run

Records and audits keep their values and ids. Pages, finished batches, all that `prepare`, `probe` and
`compare --history` wrote, and the names in a search are removed; `unlearner report` makes a new page, without texts."""

BEYOND = (
    "copies, backups, snapshots, and traces of removed files on the disk",
    "pages and records written or passed on elsewhere; experiment trackers; datasets in the hub's cache",
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
                f"{path} is neither a directory of runs nor a file of probe or compare: give the --output of one."
            )
    done = purge(runs, dry_run=config.dry_run)
    console = out()
    would = "would be " if config.dry_run else ""
    for title, paths in (
        (f"Texts {would}removed from:", done.redacted),
        (f"{would}removed:".capitalize(), done.removed),
    ):
        console.print(title if paths else f"{title} nothing", markup=False)
        for path in paths:
            console.print(f"  {path}", markup=False, soft_wrap=True)
    console.print("Out of reach:", markup=False)
    for what in (*done.beyond, *BEYOND):
        console.print(f"  {what}", markup=False, soft_wrap=True)
