"""`--stop-when`: when training has done enough, as text, and which epoch came nearest."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from operator import ge, gt, le, lt
from typing import Any

from unlearner.errors import UserError, did_you_mean

MEASURES = {"leak": "<", "paraphrases": "<", "neighbours": ">"}
"""What training listens to, each a share of what the model told before, and whether it is to fall or to stay high."""
EXAMPLE = '"leak<0.1 neighbours>0.9"'
KEPT = "kept"
"""In the row of log.jsonl that ends the epoch whose weights were kept: the number of that epoch."""
_TESTS = {"<": lt, "<=": le, ">": gt, ">=": ge}
_CONDITION = re.compile(r"(\w+)\s*([<>]=?)\s*(\d*\.?\d+)(%?)(?:\s*,\s*|\s+|$)")


@dataclass(frozen=True)
class Condition:
    """`measure` is to be below, or above, `limit`, a share from 0 to 1."""

    measure: str
    test: str
    limit: float

    def met(self, value: float) -> bool:
        return bool(_TESTS[self.test](value, self.limit))

    def missed(self, value: float) -> float:
        """By how much, as a share of what there is to reach; 0 where it is reached."""
        if self.test[0] == "<":
            return max(0.0, value - self.limit) / (1 - self.limit) if self.limit < 1 else 0.0
        return max(0.0, self.limit - value) / self.limit if self.limit > 0 else 0.0


def read_conditions(text: str) -> list[Condition]:
    """`leak<0.1 neighbours>0.9`: all of them are to hold. Raises UserError for what cannot be read."""
    found: list[Condition] = []
    left = text.strip()
    while left or not found:
        match = _CONDITION.match(left)
        if match is None:
            raise UserError(f'--stop-when is not valid from "{left}" on: write conditions such as {EXAMPLE}.')
        name, test, number, percent = match.groups()
        if name not in MEASURES:
            raise UserError(f"--stop-when has no measure {name!r}: {did_you_mean(name, MEASURES)}")
        if test[0] != MEASURES[name]:
            raise UserError(f"--stop-when needs {name}{MEASURES[name]}, not {name}{test}, as in {EXAMPLE}.")
        limit = float(number) / (100 if percent else 1)
        if limit > 1:
            raise UserError(
                f"--stop-when {name}{test}{number}{percent} must lie between 0 and 1: it is relative to before."
            )
        found.append(Condition(name, test, limit))
        left = left[match.end() :]
    return found


def missed(conditions: Sequence[Condition], measured: Mapping[str, float]) -> float:
    """By how much all conditions together are missed."""
    return sum(condition.missed(measured[condition.measure]) for condition in conditions)


def met(conditions: Sequence[Condition], measured: Mapping[str, float]) -> bool:
    return all(condition.met(measured[condition.measure]) for condition in conditions)


def best(conditions: Sequence[Condition], rows: Sequence[Mapping[str, float]]) -> int:
    """The place of the row of measures that was kept: the first that meets all conditions, else the nearest; of
    equals the one of which less leaks, then the first."""

    def order(place: int) -> tuple[bool, float, float, int]:
        row = rows[place]
        told = sum(row[c.measure] for c in conditions if c.test[0] == "<")
        return not met(conditions, row), round(missed(conditions, row), 9), told, place

    return min(range(len(rows)), key=order)


def measures(measured: Mapping[str, float]) -> str:
    """leak 8%, neighbours 94%, relative to before."""
    return ", ".join([f"{name} {measured[name]:.0%}" for name in MEASURES if name in measured] + ["relative to before"])


def kept_epoch(rows: Sequence[Mapping[str, Any]]) -> int | None:
    """The epoch whose weights were kept, of a log's rows; None where nothing was listened to, or not to its end."""
    return next((row[KEPT] for row in rows if row.get(KEPT)), None)


def told(rows: Sequence[Mapping[str, Any]], text: str, epochs: float) -> str | None:
    """Of a log's rows: epoch 3 of 6 was kept: leak 8%, neighbours 94%, relative to before (meets leak<0.1)."""
    row = next((row for row in rows if row.get(KEPT)), None)
    if row is None:
        return None
    why = f"meets {text}" if met(read_conditions(text), row) else f"none met {text}; this one came closest"
    return f"epoch {row[KEPT]} of {ceil(epochs)} was kept: {measures(row)} ({why})"
