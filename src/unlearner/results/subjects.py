"""What lies where in the directory of `unlearner forget --subject`."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from unlearner.files import read_json
from unlearner.results.layout import Inside, RunDirectory


@dataclass(frozen=True)
class Manifest:
    """search.json. What is written and what is known as ours have their names from here."""

    options: dict[str, Any]
    hashes: dict[str, Any]
    """Of the model and of all rows."""
    held_out: dict[str, Any]
    """What the model answered before anything was forgotten."""


KEYS = {each.name for each in fields(Manifest)}
EARLIER_KEYS = {"options", "hashes", "before"}
"""Of search.json as an earlier version wrote it."""


@dataclass(frozen=True)
class SubjectDirectory:
    """What was prepared, what was tried, and the run with what was found."""

    path: Path
    manifest = Inside("search.json")
    """What makes it this search, and what the model answered before."""
    trials = Inside("trials.jsonl")
    """A line for each trial that has ended: its setting and what came out."""
    held_out = Inside("held-out.json")
    """Held-out questions before and after, and whether the aim was reached: where it is, all is done."""
    data = Inside("data")
    """The sources: of one subject what `prepare` made, of several those joined."""
    neighbours = Inside("neighbours.txt")
    """Of several subjects: the names to be kept, none of the subjects among them."""

    def prepared(self, number: int) -> Path:
        """What `prepare` made of one of several subjects, from 1."""
        return self.path / f"data-{number}"

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
        ours = isinstance(held, dict) and held.keys() in (KEYS, EARLIER_KEYS)
        return [file for file in (self.manifest, self.neighbours) if ours and file.is_file()]
