"""How fast a model answers, is sampled from and is trained, so that an audit can say beforehand how long it takes."""

import time
from functools import partial

from unlearner import distributed
from unlearner.audit.attack import ANSWER_TOKENS, Target
from unlearner.audit.attacks.relearning import Relearning
from unlearner.audit.plan import SAMPLES, UNIT, Speed, chosen_attacks
from unlearner.audit.questions import Groups
from unlearner.config import AuditConfig
from unlearner.evaluation.requests import Generate

TIMED, FEW = 64, 8
"""Questions that are answered, and answered in samples."""


def measured(config: AuditConfig, groups: Groups, target: Target) -> Speed:
    """By a few plain questions, samples and steps of training, of which nothing is kept."""
    asked = [q for q in (*groups.forget, *groups.control) if q.detector is not None]
    questions = [question for question in asked if question.document == asked[0].document][:TIMED]

    def seconds(count: int, n: int = 1) -> float:
        chosen = questions[:count]
        how = partial(Generate, n=n, temperature=float(n > 1), max_new_tokens=ANSWER_TOKENS)
        requests = [[how(q.record.question)] for q in chosen]
        began = time.monotonic()
        target.answer([question.record for question in chosen], requests, chosen[0].document)
        return (time.monotonic() - began) / len(chosen)

    seconds(FEW)  # the first answers take longer
    greedy = seconds(TIMED)
    sample, training, row = greedy, 0.0, 0.0
    counts = {group: len(questions) for group, questions in groups}
    prices = [attack.cost(counts) for attack in chosen_attacks(config)]
    if any(price.samples for price in prices):
        sample = max(0.0, seconds(FEW, SAMPLES["quick"]) - greedy) / (SAMPLES["quick"] - 1)
    if any(price.rows or price.trainings for price in prices):
        training, row = Relearning().seconds(target)
    return distributed.agreed(Speed(greedy, sample, UNIT.scored * greedy, row, training))
