"""Whether a run forgot anything: by more than chance explains, and by more than a trifle."""

from unlearner.report.contents import Run
from unlearner.report.wording import decimals, efficacy_of

LEAST_RISE = 0.05
"""A smaller rise of forget efficacy is a trifle, however certain it is."""
ANSWERED = 0.9
"""Hardly anything is forgotten where more than this share of the correct answers is left."""
FEW_STEPS = 20


def rose(run: Run) -> bool | None:
    """Whether forget efficacy rose: the intervals before and after lie apart. None where it is not known."""
    if run.before is None or run.after is None:
        return None
    was, now = run.before.figure("forget_efficacy"), run.after.figure("forget_efficacy")
    if was is None or now is None:
        return None
    old, new = run.before.interval("forget_efficacy"), run.after.interval("forget_efficacy")
    return now - was >= LEAST_RISE and (new or (now, now))[0] > (old or (was, was))[1]


def forgot(run: Run) -> bool | None:
    """Whether forget efficacy rose, and not nearly all is still answered. None where it is not known."""
    risen = rose(run)
    if not risen or run.retention is not None:  # before, it is the first task's questions that were counted
        return risen
    assert run.before is not None and run.after is not None
    was, now = run.before.right("forget"), run.after.right("forget")
    return not was or now is None or now <= ANSWERED * was


def steps(run: Run) -> int | None:
    """Optimiser steps, as far as the log tells."""
    found = [row["step"] for row in run.log if isinstance(row.get("step"), int)]
    return max(found, default=None)


def rate(run: Run) -> float | None:
    """The learning rate, under its name of today or of earlier runs."""
    value = run.config.get("learning_rate", run.config.get("lr"))
    return float(value) if isinstance(value, int | float) else None


def advice(run: Run) -> str:
    """What to change about a run that forgot nothing: a sentence with its options."""
    was = decimals(run.before.figure("forget_efficacy")) if run.before else "unknown"
    told = f"{run.label} had no effect beyond chance (forget efficacy {was} before"
    told += f", {decimals(efficacy_of(run))} after)"
    made, used = steps(run), rate(run)
    more = "raise --epochs or lower --gradient-accumulation-steps"
    if made is not None and made < FEW_STEPS:
        told += f" in only {made} step{'s' * (made != 1)} of training: {more}, for more steps, or raise"
    else:
        told += f": {more}, or raise"
    return f"{told} --learning-rate{f' (it was {used:g})' if used else ''}."
