"""Questions for which an attack's own words leave no room are not asked: an audit does not end for one long prompt."""

from collections.abc import Callable, Sequence

from unlearner.audit.attack import Question, Target
from unlearner.console import note
from unlearner.errors import plural
from unlearner.evaluation.backend import have_room
from unlearner.evaluation.requests import Request, Score
from unlearner.workflows.subject import Subject

Asked = tuple[str, Question]
"""A question and its group."""


def with_room(
    label: str,
    requests: Callable[[Question], Sequence[Request] | None],
    asked: Sequence[Asked],
    subject: Subject | Target,
    max_length: int,
) -> list[Asked]:
    """Those whose answers can be scored within `max_length` tokens behind what `requests` says; told where some are
    left out."""
    scores = [
        (place, request)
        for place, (_, question) in enumerate(asked)
        if not question.document
        for request in requests(question) or ()
        if isinstance(request, Score) and not request.open
    ]
    if not scores:
        return list(asked)
    room = have_room(subject.tokenizer, subject.template, [request for _, request in scores], max_length)
    long = {place for (place, _), fits in zip(scores, room, strict=True) if not fits}
    if long:
        note(f"{label}: too long for --max-length {max_length}, and not asked: {plural(len(long), 'question')}")
    return [each for place, each in enumerate(asked) if place not in long]
