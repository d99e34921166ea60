"""What `forget --subject` found beside its run: held-out questions before and after, and the trials of --search.

Both lie beside the run's directory, in held-out.json and trials.jsonl (`results/subjects.py`).
"""

from collections.abc import Mapping
from typing import Any

from unlearner.report.contents import Searched, clean
from unlearner.results.layout import RunDirectory
from unlearner.results.subjects import SubjectDirectory, label
from unlearner.search.halving import undominated

ASKED = ("Set", "Counted", "Facts before", "After", "Of before")
TRIED = ("Setting", "Leak", "Neighbours", "General", "Minutes", "No other is better")
WHAT = {
    "unseen_wordings": "other wordings", "forget": "trained questions", "unseen_facts": "other facts",
    "unseen_aliases": "by another name", "neighbours_held_out": "neighbours", "general_held_out": "general knowledge",
}  # fmt: skip
DAMAGED = "The results on held-out questions, or those of the search's trials, are damaged and cannot be shown."


def read_searched(run: RunDirectory, missing: list[str]) -> Searched | None:
    """What was found with this run; None where it does not belong to a name. What is damaged is told in `missing`."""
    place = SubjectDirectory(run.path.absolute().parent)
    if not place.held_out.is_file():
        return None
    try:
        held, trials = place.read_held_out(), place.read_trials()
        if held["run"] != run.path.absolute().name:  # of an earlier search in the same directory
            return None
        return Searched(_sentence(held), [_asked(each) for each in held.get("sets", [])], _tried(trials), len(trials))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        missing.append(DAMAGED)
        return None


def _sentence(held: Mapping[str, Any]) -> str:
    aim = held["aim"]
    reached = "The aim is reached" if held["reached"] else "The aim is not reached"
    return (
        f"{reached}: relative to before, sampled leak on unseen wordings at most {aim['leak']:.0%}, neighbours at "
        f"least {aim['neighbours']:.0%}, general knowledge at least {aim['general']:.0%}."
    )


def _asked(each: Mapping[str, Any]) -> list[str]:
    before, after = each["before"], each["after"]
    share = after / before if before and after is not None else None
    shown = ["–" if rate is None else f"{rate:.0%}" for rate in (before, after, share)]
    return [clean(WHAT.get(each["name"], str(each["name"]))), f"{each['counted']} of {each['questions']}", *shown]


def _tried(trials: list[dict[str, Any]]) -> list[list[str]]:
    """The trials that came to an end, those that forget most first; then those that failed."""
    ended = [trial for trial in trials if trial["found"] is not None]
    found = [trial["found"] for trial in ended]
    best = undominated([(-each["leak"], each["neighbours"], each["general"]) for each in found])
    lines = []
    for place in sorted(range(len(ended)), key=lambda place: found[place]["leak"]):
        figures = [f"{found[place][key]:.0%}" for key in ("leak", "neighbours", "general")]
        mark = "yes" if place in best else ""
        lines.append([_setting(ended[place]), *figures, f"{ended[place]['seconds'] / 60:.1f}", mark])
    failed = [trial for trial in trials if trial["found"] is None]
    return lines + [[_setting(trial), "–", "–", "–", f"{trial['seconds'] / 60:.1f}", "failed"] for trial in failed]


def _setting(trial: Mapping[str, Any]) -> str:
    return clean(label(trial["setting"], trial["epochs"]))
