"""What `bench --tune` found, as the tables show it: the best setting of each method, and how much depends on it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

TUNING = ("method", "best setting", "MU", "FE", "best", "median", "worst", "near", "settings")
TUNING_NOTE = (
    "Tuning: MU and FE of the best setting, on the seed of the trials. Then the criterion over all settings, in runs "
    "of one length: forget efficacy, or 0 where less than 90% of model utility is kept; how many settings come near "
    "the best (nine tenths of it), of how many that were tried and how many the grid has."
)


def tuning_lines(tuning: Mapping[str, Any], split: str) -> list[list[str]]:
    """A line for each method, from tuning.json."""
    lines = []
    for method, splits in tuning.items():
        held = splits.get(split, {})
        if "spread" not in held:
            continue
        chosen, spread, reached = held["chosen"], held["spread"], held["reached"] or {}
        setting = "none" if chosen is None else " ".join(f"{n}={_plain(v)}" for n, v in chosen.items())
        figures = [reached.get("model_utility"), reached.get("forget_efficacy")]
        if spread is None:
            lines.append([method, setting, *("–" for _ in TUNING[2:])])
            continue
        figures += [spread["best"], spread["median"], spread["worst"]]
        lines.append([
            method, setting, *("–" if f is None else f"{f:.3f}" for f in figures), str(spread["near"]),
            f"{spread['trials']} of {held['grid']}",
        ])  # fmt: skip
    return lines


def tuning_sentences(tuning: Mapping[str, Any], splits: Sequence[str]) -> list[str]:
    """About methods that stand or fall with their setting."""
    held: Iterable[Any] = (tuning[method].get(split, {}) for split in splits for method in tuning)
    return [str(sentence) for each in held if (sentence := each.get("sentence"))]


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
