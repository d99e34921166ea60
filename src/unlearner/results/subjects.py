"""What lies where in the directory of `unlearner forget --subject`."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from unlearner.files import read_json, read_jsonl
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

    def read_held_out(self) -> dict[str, Any]:
        """Its keys: `run`, the folder of the run; `after`, a rate a question; `found`, `aim`, `reached`; `sets`, each
        with `name`, `questions`, `counted`, `before` and `after`. Raises OSError or ValueError."""
        held = read_json(self.held_out)
        if not isinstance(held, dict):
            raise ValueError(f"{self.held_out} is no object")
        return held

    def read_trials(self) -> list[dict[str, Any]]:
        """The trials in the order in which they ended; none without --search. Raises UserError or OSError."""
        return read_jsonl(self.trials) if self.trials.is_file() else []

    @property
    def naming(self) -> list[Path]:
        """The files of the search itself that hold the names, the manifest last; empty where the directory is of no
        search."""
        try:
            held = read_json(self.manifest)
        except (OSError, ValueError):
            return []
        ours = isinstance(held, dict) and held.keys() in (KEYS, EARLIER_KEYS)
        return [file for file in (self.neighbours, self.manifest) if ours and file.is_file()]


def label(setting: Mapping[str, Any], epochs: float) -> str:
    """ME+GD,learning_rate=7e-05,forget_coeff=0.5,lora,epochs=7: the setting, as a folder may be called."""
    parts = [str(setting["method"])]
    for name, value in setting.items():
        if name == "lora":
            parts += ["lora"] if value else []
        elif name != "method":
            parts.append(f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}")
    return ",".join([*parts, f"epochs={epochs:g}"])
