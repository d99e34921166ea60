"""What `prepare` and `probe` write: names of files, as in layout.py."""

from dataclasses import dataclass
from pathlib import Path

from unlearner.files import is_page, read_json
from unlearner.results.layout import Inside


@dataclass(frozen=True)
class PreparedDirectory:
    """A folder of sources that `prepare` made."""

    path: Path
    manifest = Inside("prepare.json")
    """Options, questions, neighbours; under `rows` the sources by name, with their sizes."""
    all_rows = Inside("all/rows.jsonl")
    """Every row with its source, those that were left out among them."""
    page = Inside("rows.html")
    """To look through all rows."""

    def source(self, name: str) -> Path:
        return self.path / f"{name}.jsonl"

    @property
    def files(self) -> list[Path]:
        """All that `prepare` wrote, as far as it is there."""
        try:
            names = read_json(self.manifest)["rows"]
            plain = [name for name in names if Path(name).name == name]
        except (OSError, ValueError, KeyError, TypeError):
            return []
        return [p for p in (*map(self.source, plain), self.all_rows.parent, self.page, self.manifest) if p.exists()]


PROBED = {"options", "knows", "answers", "scale", "known", "invented"}
"""The keys of the file that `probe` writes."""


def is_probe(file: Path) -> bool:
    """Whether `probe` wrote the file."""
    try:
        held = read_json(file)
    except (OSError, ValueError):
        return False
    return isinstance(held, dict) and held.keys() == PROBED


def probe_files(file: Path) -> list[Path]:
    """The file that `probe` wrote, last, and the page beside it."""
    page = file.with_suffix(".html")
    return [*([page] if is_page(page, "unlearner") else []), file]
