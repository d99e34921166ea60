"""Successive halving: all settings in short runs, the better third of them in longer ones, until one length is left.

After Jamieson and Talwalkar 2016 (arXiv 1502.07943). Everything here is pure: what was tried decides what is tried
next. So a search that was cut short goes on as if nothing had happened, and whoever runs the trials is free to run
those of one answer side by side.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil
from statistics import fmean, median

from unlearner.errors import UserError

ETA = 3
"""One trial in so many goes on to the next rung, which is so many times as long; the usual value, also of Hyperband."""
NEAR = 0.9
"""What reaches this share of the best comes near it."""
SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}

Score = tuple[float, ...]
"""The larger, the better."""


@dataclass(frozen=True)
class Budget:
    """How much may be tried: a number of settings, or seconds."""

    trials: int | None = None
    seconds: float | None = None

    @classmethod
    def read(cls, flag: str, text: str) -> "Budget":
        """`12` or `12 trials`; `90s`, `20m` or `1.5h`. Raises UserError, which names the option `flag`."""
        found = re.fullmatch(r"(\d+(?:\.\d+)?) *(s|m|h|trials?)?", text.strip())
        amount, unit = (float(found[1]), found[2]) if found else (0.0, None)
        if not 0 < amount < float("inf") or (unit not in SECONDS and not amount.is_integer()):
            raise UserError(f"{flag} must be a number of trials, such as 12, or a time, such as 20m, not {text!r}.")
        return cls(seconds=amount * SECONDS[unit]) if unit in SECONDS else cls(trials=int(amount))


@dataclass(frozen=True)
class Tried:
    """A setting, by its number, that was tried at a rung."""

    candidate: int
    rung: int
    score: Score | None
    """None: it failed."""
    seconds: float = 0.0


def rungs(epochs: float, eta: int = ETA) -> tuple[float, ...]:
    """Lengths of training, the last of them `epochs`, each an eta-th of the next in whole epochs, one at least."""
    count = 1
    while epochs / eta**count >= 1:
        count += 1
    return (*(float(round(epochs / eta**k)) for k in range(count - 1, 0, -1)), float(epochs))


def next_trials(
    candidates: int, lengths: Sequence[float], budget: Budget, tried: Sequence[Tried], eta: int = ETA
) -> list[tuple[int, int]]:
    """What is to be tried next, as (candidate, rung), side by side if one likes; empty at the end.

    `candidates` settings are numbered from 0 and begun in that order, at the first of the `lengths`. Of those tried at
    a rung the best 1/eta, at least one, go on to the next. A budget of trials is how many settings are begun. One of
    seconds is shared equally among rungs, what a rung leaves goes to the next, and what the last one leaves to further
    settings; a trial is begun only if it is likely to end in time, by what others took; the very first always is.
    """
    entering = list(range(candidates if budget.trials is None else min(candidates, budget.trials)))
    begun = {each.candidate for each in tried}
    for rung in range(len(lengths)):
        here = [each for each in tried if each.rung == rung]
        left = [c for c in entering if c not in {each.candidate for each in here}]
        if budget.seconds is None:
            if left:
                return [(c, rung) for c in left]
        elif left and _fits(rung, lengths, tried, budget.seconds * (rung + 1) / len(lengths)):
            return [(left[0], rung)]
        entering = [each.candidate for each in _ranked(here)][: ceil(len(here) / eta)]
    new = next((c for c in range(candidates) if c not in begun), None)
    if new is not None and budget.seconds is not None:
        spent = sum(each.seconds for each in tried)
        first = [each.seconds for each in tried if each.rung == 0]
        if spent + fmean(first) <= budget.seconds:
            return [(new, 0)]
    return []


def _fits(rung: int, lengths: Sequence[float], tried: Sequence[Tried], seconds: float) -> bool:
    """Whether a trial at a rung is likely to end while all up to that rung have taken no more than so many seconds."""
    until = [each for each in tried if each.rung <= rung]
    if not until:
        return True
    here = [each.seconds for each in until if each.rung == rung]
    expected = fmean(here or [each.seconds * lengths[rung] / lengths[each.rung] for each in until])
    return sum(each.seconds for each in until) + expected <= seconds


def best(tried: Iterable[Tried]) -> Tried | None:
    """The best trial of the highest rung that one reached; the first of equals; None if all failed."""
    ended = [each for each in tried if each.score is not None]
    top = max((each.rung for each in ended), default=0)
    return next(iter(_ranked(each for each in ended if each.rung == top)), None)


def _ranked(tried: Iterable[Tried]) -> list[Tried]:
    """Those that did not fail, the best first, of equals the one that was begun first."""
    ended = sorted((each for each in tried if each.score is not None), key=lambda each: each.candidate)
    return sorted(ended, key=lambda each: each.score or (), reverse=True)


@dataclass(frozen=True)
class Spread:
    """How much a criterion depends on the setting."""

    best: float
    median: float
    worst: float
    near: int
    """Settings that reach nine tenths of the best."""
    trials: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of one number a setting, the larger the better, none negative; at least one setting."""
        top = max(values)
        return cls(top, median(values), min(values), sum(v >= NEAR * top > 0 for v in values), len(values))


def undominated(points: Sequence[Sequence[float]]) -> list[int]:
    """The places of points that no other one equals or exceeds in every number; of equal points the first."""

    def beats(a: int, b: int) -> bool:
        return all(x >= y for x, y in zip(points[a], points[b], strict=True)) and (
            tuple(points[a]) != tuple(points[b]) or a < b
        )

    return [i for i in range(len(points)) if not any(beats(j, i) for j in range(len(points)) if j != i)]
