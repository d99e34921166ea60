"""What lies where in the directory of `unlearner forget --subject`."""

from dataclasses import dataclass
from pathlib import Path

from unlearner.files import read_json
from unlearner.results.layout import RunDirectory

KEYS = {"options", "hashes", "before"}
"""Of search.json."""


@dataclass(frozen=True)
class SubjectDirectory:
    """What was prepared, what was tried, and the run with what was found."""

    path: Path

    @property
    def manifest(self) -> Path:
        """What makes it this search, and what the model answered before."""
        return self.path / "search.json"

    @property
    def trials(self) -> Path:
        """A line for each trial that has ended: its setting and what came out."""
        return self.path / "trials.jsonl"

    @property
    def held_out(self) -> Path:
        """Held-out questions before and after, and whether the aim was reached: where it is, all is done."""
        return self.path / "held-out.json"

    @property
    def data(self) -> Path:
        """The sources: of one subject what `prepare` made, of several those joined."""
        return self.path / "data"

    def prepared(self, number: int) -> Path:
        """What `prepare` made of one of several subjects, from 1."""
        return self.path / f"data-{number}"

    @property
    def neighbours(self) -> Path:
        """Of several subjects: the names to be kept, none of the subjects among them."""
        return self.path / "neighbours.txt"

    def run(self, label: str) -> RunDirectory:
        """The run with a setting."""
        return RunDirectory(self.path / label)

    @property
    def naming(self) -> list[Path]:
        """The files of the search itself that hold the names; empty where the directory is of no search."""
        try:
            held = read_json(self.manifest)
        except (OSError, ValueError):
            return []
        ours = isinstance(held, dict) and held.keys() == KEYS
        return [file for file in (self.manifest, self.neighbours) if ours and file.is_file()]
