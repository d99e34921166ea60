"""The report in two sentences."""

from collections.abc import Sequence
from dataclasses import dataclass

from unlearner.report.cautions import cautions, warnings
from unlearner.report.contents import Measurement, Part, Report, Run
from unlearner.report.effect import ANSWERED, forgot
from unlearner.report.means import over_parts
from unlearner.report.wording import (
    HIGH_PROBABILITY,
    decimals,
    efficacy_of,
    judged,
    number_word,
    percent,
    ranged,
)

KEPT_UTILITY = 0.9
"""Forgetting is compared among runs that keep this share of the model utility."""

RETAINED_ALONE = "measured on the retain set alone, on which it was trained"


@dataclass(frozen=True)
class Verdict:
    sentences: list[str]
    judged: str
    """Who judged, a sentence; empty where nobody did."""
    cautions: list[str]
    warnings: list[str]
    """Those of the cautions that a terminal shows, too."""


def verdict(report: Report) -> Verdict:
    """What the runs show, in plain words; where the evidence is not there, what is missing for it."""
    benches = [part for part in report.parts if part.seeds]
    of_bench = benches and len(report.benches) == 1
    sentences = _of_bench(benches) if of_bench else _of_runs(report.runs)
    return Verdict(sentences, judged(report.evaluations), cautions(report), warnings(report))


def _of_runs(runs: Sequence[Run]) -> list[str]:
    if not runs:
        return ["Nothing has been measured yet.", "What is missing is listed below."]
    forgotten = [run for run in runs if run.command == "forget"]
    measured = [run for run in forgotten if run.before is not None and run.after is not None]
    if not forgotten:
        return _evaluated(runs)
    if len(measured) > 1:
        return _compared(measured, "runs")
    return _one(measured[0]) if measured else _unfinished(forgotten)


def _of_bench(parts: Sequence[Part]) -> list[str]:
    """A bench by its methods' means over seeds and splits."""
    part = parts[0]
    over = [f"{number_word(len(parts))} splits"] if len(parts) > 1 else []
    over += [f"{number_word(len(part.seeds))} seeds"] if part.means else []
    how = f" in the mean over {' and '.join(over)}" if over else ""
    if part.step == "task":
        how = f" after {number_word(len(next(r.retention.tasks for r in part.runs if r.retention)))} tasks{how}"
    runs = over_parts(parts)
    if not runs:
        return ["No method has been measured on every split.", "The tables show what there is."]
    if len(runs) == 1:
        first = f"{runs[0].label} reaches a forget efficacy of {decimals(efficacy_of(runs[0]))}{how}"
        if forgot(runs[0]) is False:
            first = f"{runs[0].label} forgot nothing to speak of{how} ({_facts(runs[0], part.step != 'task')})"
        return [f"{first}.", f"{_kept(runs[0], mean=True)}."]
    return _compared(runs, "methods", how, counts=len(parts) == 1 and part.step != "task")


def _one(run: Run) -> list[str]:
    before, after = run.before, run.after
    assert before is not None and after is not None
    sentences = []
    was, now, count = before.right("forget"), after.right("forget"), after.count("forget")
    if was is None or now is None:
        sentences.append(_unmeasured([run]))
    else:
        was_efficacy = decimals(before.figure("forget_efficacy"))
        efficacy = f"forget efficacy went from {was_efficacy} to {ranged(after, 'forget_efficacy')}"
        if was == 0:
            sentences.append(
                f"The model answered none of the {count} forget-set questions correctly even before; with {run.label}, "
                f"{efficacy}."
            )
        else:
            sentences.append(
                f"{unsaid(now / was, after)}: after {run.label} the model answers {now} of {count} forget-set "
                f"questions correctly ({was} before), and {efficacy}."
            )
    return [*sentences, f"{_kept(run)}."]


def _unmeasured(runs: Sequence[Run]) -> str:
    """Why nothing can be said about forgetting."""
    if any(run.after is not None and run.after.count("forget") for run in runs):
        return "Not everything that makes up forget efficacy was measured (--metrics): the tables show what was."
    return "No forget set was measured, so nothing can be said about what was forgotten."


def _kept(run: Run, *, mean: bool = False) -> str:
    assert run.before is not None and run.after is not None
    before, after = run.before.figure("model_utility"), run.after.figure("model_utility")
    if (before is None or after is None) and len(run.after.sets) > ("forget" in run.after.sets):
        return "Not everything that makes up model utility was measured, so there is no summary of what was kept"
    if before is None or after is None:
        return "No set to be kept was measured, so what else was lost is not known"
    if before == 0:
        return "Model utility was already 0 before unlearning, so it does not show what was kept"
    share = after / before
    only = "only " if share < KEPT_UTILITY else ""
    now = decimals(after) if mean else ranged(run.after, "model_utility")
    kept = f"It keeps {only}{percent(share)} of its model utility ({before:.3f} before, {now} after)"
    return f"{kept}, {RETAINED_ALONE}" if run.kept_as_trained else kept


def _compared(runs: Sequence[Run], noun: str, how: str = "", *, counts: bool = True) -> list[str]:
    def efficacy(run: Run) -> float:
        value = efficacy_of(run)
        return -1 if value is None else value

    most = max(runs, key=efficacy)
    if efficacy(most) < 0:
        return [_unmeasured(runs), "What was kept is shown in the tables."]
    if all(forgot(run) is False for run in runs):
        return _none(runs, most, noun, how, counts)
    shares = {run.label: run.utility_share or 0 for run in runs}
    kept = [run for run in runs if shares[run.label] >= KEPT_UTILITY]
    bound = f"{KEPT_UTILITY:.0%} of the model utility"
    number = number_word(len(runs))
    high = "higher" if len(runs) == 2 else "highest"
    facts = _facts(most, counts, _fewer(runs, most))
    first = f"Of the {number} {noun}, {most.label} has the {high} forget efficacy{how}, {facts}"
    if most.utility_share is not None:
        keeps = "and keeps" if most in kept else "but keeps only"
        first += f", {keeps} {percent(shares[most.label])} of its model utility"
    if all(run.utility_share is None for run in runs):
        second = "What was kept is not known, because no model utility was above 0 before unlearning"
    elif not kept:
        best = max(runs, key=lambda run: shares[run.label])
        second = f"None keeps {bound}; {best.label} comes nearest, with {percent(shares[best.label])}"
    elif len(kept) == len(runs):
        second = f"{'Both' if len(runs) == 2 else f'All {number}'} keep at least {bound}"
    elif most in kept:
        second = f"It alone keeps at least {bound}"
        if len(kept) > 1:
            second = f"{number_word(len(kept)).capitalize()} of the {number} keep at least {bound}"
    else:
        best = max(kept, key=efficacy)
        facts = f"{_facts(best, counts)}, and keeps {percent(shares[best.label])}"
        second = f"Only {best.label} keeps at least {bound}; its forget efficacy is {_facts(best, counts)}"
        if len(kept) > 1:
            high = "higher" if len(kept) == 2 else "highest"
            second = f"Of the {number_word(len(kept))} that keep at least {bound}, {best.label} has the {high}, {facts}"
    if any(run.kept_as_trained and run.utility_share is not None for run in runs):
        second += f". Model utility is {RETAINED_ALONE}"
    return [f"{first}.", f"{second}."]


def _none(runs: Sequence[Run], most: Run, noun: str, how: str, counts: bool) -> list[str]:
    """Nothing was forgotten: there is no best."""
    number = number_word(len(runs))
    none = f"Neither of the two {noun}" if len(runs) == 2 else f"None of the {number} {noun}"
    assert most.before is not None
    was = decimals(most.before.figure("forget_efficacy"))
    unknown = ""
    if all(run.before is not None and run.before.right("forget") == 0 for run in runs):
        unknown = "; the model answered no question of the forget set correctly even before"
    highest = f"The highest forget efficacy is that of {most.label}, {_facts(most, counts)}"
    if len(facts := {_facts(run, counts) for run in runs}) == 1:
        efficacy, _, answered = facts.pop().partition(" ")
        highest = f"Forget efficacy is {efficacy} after each{answered and f' {answered}'}"
    return [
        f"{none} forgot anything to speak of{how}{unknown}.",
        f"{highest}; before unlearning it was {was}.",
    ]


def _fewer(runs: Sequence[Run], most: Run) -> str:
    """The run that answers fewest questions correctly, where it is not the one of the highest forget efficacy."""

    def right(run: Run) -> float:
        found = None if run.after is None else run.after.right("forget")
        return float("inf") if found is None else found

    fewest = min(runs, key=right)
    if right(fewest) >= right(most) or fewest.after is None:
        return ""
    return f"; fewest after {fewest.label}, {right(fewest):g}"


def _facts(run: Run, counts: bool, more: str = "") -> str:
    """Forget efficacy, and what is still answered."""
    assert run.before is not None and run.after is not None
    was, now = run.before.right("forget"), run.after.right("forget")
    efficacy = decimals(run.after.figure("forget_efficacy"))
    if was is None or now is None or not counts:
        return efficacy
    return f"{efficacy} ({now} of {run.after.count('forget')} questions still answered correctly, {was} before{more})"


def _evaluated(runs: Sequence[Run]) -> list[str]:
    measured = [(run, run.after) for run in runs if run.after is not None]
    if not measured:
        return ["Nothing has been measured yet.", "The available results are shown below."]
    sentences = []
    for run, after in measured[:2]:
        now, parts = after.right("forget"), []
        if now is not None:
            parts.append(
                f"answers {now} of {after.count('forget')} forget-set questions correctly "
                f"(forget efficacy {ranged(after, 'forget_efficacy')})"
            )
        if after.figure("model_utility") is not None:
            parts.append(f"has a model utility of {ranged(after, 'model_utility')}")
        sentences.append(f"The model {run.label} {' and '.join(parts) or 'was measured'}")
    if len(sentences) == 1:
        return [f"{sentences[0]}.", "This is the evaluation of one model, with nothing to compare it with."]
    return [f"{sentence}." for sentence in sentences]


def _unfinished(runs: Sequence[Run]) -> list[str]:
    silent = all(run.config.get("evaluate") == "none" for run in runs)
    why = "the run did not measure the model (--evaluate none)" if silent else "the evaluations are not complete"
    known = next((run.before for run in runs if run.before is not None), None)
    second = "The available results are shown below."
    if known is not None and (right := known.right("forget")) is not None:
        count = f"{right} of {known.count('forget')}"
        second = f"Before unlearning the model answered {count} forget-set questions correctly."
    elif any(run.after is not None for run in runs):
        second = "There is an evaluation after unlearning, but none before to compare it with."
    return [f"Nothing can be said yet about what was forgotten, because {why}.", second]


def unsaid(left: float, after: Measurement) -> str:
    """How much of the forget set is no longer said, by the share of correct answers left, and whether it is likely."""
    bounds = (
        (0.05, "Nearly all"),
        (0.25, "Most"),
        (0.4, "More than half"),
        (0.6, "About half"),
        (ANSWERED, "Less than half"),
    )
    much = next((words for bound, words in bounds if left <= bound), None)
    if much is None:
        return "Hardly anything in the forget set is forgotten"
    likely = after.figure("forget.probability")
    if likely is None or likely < HIGH_PROBABILITY:
        return f"{much} of the forget set is no longer said"
    return (
        f"{much} of the forget set is no longer said, though the model still finds it likely (probability {likely:.2f})"
    )
