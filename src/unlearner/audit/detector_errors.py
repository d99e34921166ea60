"""The detector's own errors on what a model wrote that knows the forgotten subjects. Pure."""

from collections.abc import Iterator, Sequence

from unlearner.audit.attack import Question
from unlearner.audit.detector import ErrorRate, false_alarms, misses

SHIFTS = 20
"""Times that every fact is looked for in another answer: all pairs would be as many as questions squared."""

Told = Sequence[tuple[str, Question, str]]
"""Group, question and the answer to it."""


def detector_errors(told: Told) -> dict[str, ErrorRate]:
    """False alarms of the forgotten facts' detectors in answers about other forgotten subjects and about controls, and
    misses where the whole answer was written."""
    asked = [(question, text) for group, question, text in told if group == "forget"]
    controls = [(question, text) for group, question, text in told if group == "control"]
    questions = [question for question, _ in asked]
    detectors = [question.detector for question in questions]
    return {
        "false_alarms_on_others": false_alarms(detectors, _paired(questions, asked)),
        "false_alarms_on_controls": false_alarms(detectors, _paired(questions, controls)),
        "misses_before": misses(detectors, [question.record for question in questions], [text for _, text in asked]),
    }


def _paired(questions: Sequence[Question], answers: Sequence[tuple[Question, str]]) -> Iterator[tuple[int, str, str]]:
    """Each question with about `SHIFTS` answers about other subjects, from all over `answers`."""
    for shift in range(0, len(answers), max(1, len(answers) // SHIFTS)):
        for place, question in enumerate(questions):
            other, text = answers[(place + shift) % len(answers)]
            if other.subject != question.subject:
                yield place, text, ""
