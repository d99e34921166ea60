"""From records to what an audit asks: forgotten subjects, controls that nobody ever saw, subjects that are retained."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from unlearner.audit.attack import ANSWER_TOKENS, Question
from unlearner.audit.detector import ErrorRate, find_detector, on_own_answers, word_runs
from unlearner.console import note
from unlearner.data.quality import MOST, near_duplicates, plain
from unlearner.data.records import Record
from unlearner.data.sources import load_records
from unlearner.errors import UserError, plural
from unlearner.evaluation.sets import cut_in_two

LEAST_CONTROLS = 3
"""Fewer can tell nothing."""
BUILTIN_CONTROLS = 40
"""So many that two leaking subjects of four are told from chance: a p-value is at least 1/(controls + 1)."""
RETAINED_ROWS = 40
"""Rows of the retain set that are asked about: is the model still able to tell anything?"""
NEIGHBOURS = 60
"""Rows about neighbours that are asked, of every source the first ones."""


@dataclass(frozen=True)
class Limits:
    """How much is asked."""

    questions: int | None = None
    """About one forgotten subject, or control; None: all there are."""
    retained: float = 1.0
    """Share of what is retained, and of neighbours, that is asked about in samples and templates; plainly all is."""
    tokens: int = ANSWER_TOKENS
    """Of an answer, where an attack does not ask for another length."""


@dataclass(frozen=True)
class Groups:
    """The questions of an audit by group."""

    forget: list[Question]
    control: list[Question]
    retain: list[Question]
    neighbour: list[Question]
    """What was neither forgotten nor kept by training: are others still told about?"""
    examples: list[Record]
    """Retained rows that are not asked about, or all where there are no others."""
    not_asked: int = 0
    """Questions about what was to be forgotten that are left out."""
    retained: float = 1.0
    """As in `Limits`."""

    def __iter__(self) -> Iterator[tuple[str, list[Question]]]:
        yield from (("forget", self.forget), ("control", self.control), ("retain", self.retain))
        yield "neighbour", self.neighbour

    def within(self, limits: Limits) -> "Groups":
        """No more of them than a budget asks. Controls are asked as many questions as the forgotten, so that rounds
        are alike."""
        forget, control = (
            questions if limits.questions is None else spread(questions, limits.questions)
            for questions in (self.forget, self.control)
        )
        out = len(self.forget) - len(forget)
        return replace(self, forget=forget, control=control, not_asked=out, retained=limits.retained)

    @property
    def without_fact(self) -> int:
        """Forget rows in which nothing is only their own: they are asked nothing."""
        return sum(question.detector is None for question in self.forget)

    def too_few_controls(self, alpha: float) -> str | None:
        """Where a single subject that leaks could not be told from chance, whatever it leaks: so."""
        controls, people = (
            len({question.subject for question in questions if question.detector is not None})
            for questions in (self.control, self.forget)
        )
        needed = math.ceil(people / alpha - 1e-9) - 1
        if controls >= needed:
            return None
        one = "the only subject" if people == 1 else f"only one of {people} subjects"
        return (
            f"with {plural(controls, 'control')}, a leak of {one} cannot be told from chance at level {alpha:g}: "
            f"that needs {needed} controls"
        )

    def detector_errors(self) -> dict[str, ErrorRate]:
        """How often the detector is wrong on the data's own wrong answers and paraphrases."""
        detectors, records = [q.detector for q in self.forget], [q.record for q in self.forget]
        false_alarms, misses = on_own_answers(detectors, records)
        return {"false_alarms": false_alarms, "misses": misses}


def read_groups(
    forget: Sequence[Record],
    retain: Sequence[Record],
    controls: Sequence[Record],
    neighbours: Sequence[Sequence[Record]] = (),
) -> Groups:
    """The questions about each. Raises UserError where no row of the forget set has a fact, where controls occur in the
    other sets, or where there are too few of them; and where all neighbours were trained on."""
    forget, controls = _once(forget, "the forget set"), _once(controls, "--controls")
    retain = _once(retain, "the retain set")
    trained = Trained(*forget, *retain)
    if both := sum(trained.has(record) for record in controls):
        raise UserError(
            f"--controls has {plural(both, 'row')} of the forget or retain set: give rows about subjects that were "
            "never trained on."
        )
    if near := trained.near(controls):
        note(f"nearly identical to a row of the forget or retain set: {plural(len(near), 'row')} of --controls; check "
             "that they are about other subjects")  # fmt: skip
    known = {record.subject for record in (*forget, *retain)} - {None}
    if shared := known & {record.subject for record in controls}:
        raise UserError(f"--controls asks about {min(filter(None, shared))}, who is in the forget or retain set.")
    kept = frozenset(run for record in retain if record.question is None for run in word_runs(record.answer))
    examples = [record for record in retain if record.question is not None]
    to_forget = [record for record in forget if record.question is not None]
    asked, further = retain[:RETAINED_ROWS], examples[RETAINED_ROWS:]
    groups = Groups(
        questions_about(forget, examples, kept), questions_about(controls, examples, kept),
        # Beside what was to be forgotten: a refusal that is not meant for them may spread to them.
        questions_about(asked, to_forget, frozenset()),
        questions_about(_held_out(neighbours, trained), to_forget, frozenset()),
        further or examples,
    )  # fmt: skip
    if groups.without_fact == len(forget):
        raise UserError(
            "no row of the forget set has a fact to look for: add a column `fact`, or wrong answers (perturbed_answer)."
        )
    subjects = len({question.subject for question in groups.control if question.detector is not None})
    if subjects < LEAST_CONTROLS:
        raise UserError(
            f"--controls has {plural(subjects, 'subject')} with facts: an audit needs at least {LEAST_CONTROLS}."
        )
    return groups


class Trained:
    """Rows that were trained on, known again though case, punctuation or single words are others."""

    def __init__(self, *records: Record) -> None:
        self.asked = {_asked(record) for record in records}
        self.texts = [_text(record) for record in records[:MOST]]

    def has(self, record: Record) -> bool:
        """Whether the question, or the document, is one of them."""
        return _asked(record) in self.asked

    def near(self, records: Sequence[Record]) -> set[int]:
        """Places of those that are nearly the same, with their answers."""
        return set(near_duplicates([_text(record) for record in records[:MOST]], self.texts))


def _asked(record: Record) -> str:
    text = record.answer if record.question is None else record.question
    return plain(text) or text


def _text(record: Record) -> str:
    return f"{plain(record.question)} {plain(record.answer)}".strip()


def _once(records: Sequence[Record], name: str) -> list[Record]:
    """Without rows that are there already: a question that is asked twice is not twice the evidence."""
    first: dict[tuple[str | None, ...], Record] = {}
    for record in records:
        first.setdefault((record.subject, record.question, record.answer), record)
    kept = list(first.values())
    if dropped := len(records) - len(kept):
        note(f"duplicates in {name}, which are asked once: {plural(dropped, 'row')}")
    return kept


def spread(questions: Sequence[Question], most: int) -> list[Question]:
    """Of each subject's questions with a fact at most so many, evenly spread over its rows; all those without one."""
    places: dict[str, list[int]] = {}
    for place, question in enumerate(questions):
        if question.detector is not None:
            places.setdefault(question.subject, []).append(place)
    counts = {subject: min(most, len(those)) for subject, those in places.items()}
    chosen = {those[i * len(those) // counts[s]] for s, those in places.items() for i in range(counts[s])}
    return [q for place, q in enumerate(questions) if q.detector is None or place in chosen]


def _held_out(sources: Sequence[Sequence[Record]], trained: Trained) -> list[Record]:
    """The first rows of each source that no row of the other sets is, a share of `NEIGHBOURS` each."""
    found = [untrained(rows, trained) for rows in sources]
    if sources and not any(found):
        raise UserError(
            "--neighbours has only rows of the forget or retain set: give questions that were not trained on."
        )
    if dropped := sum(map(len, sources)) - sum(map(len, found)):
        note(f"not asked, because they are in the forget or retain set: {plural(dropped, 'row')} of --neighbours")
    held = [rows for rows in found if rows]
    share = NEIGHBOURS // max(1, len(held))
    return [replace(row, task_id=None) for rows in held for row in rows[:share]]


def untrained(records: Sequence[Record], trained: Trained) -> list[Record]:
    """Those of which no row that was trained on is the same, or nearly."""
    near = trained.near(records)
    return [row for place, row in enumerate(records) if place not in near and not trained.has(row)]


def questions_about(
    records: Sequence[Record], examples: Sequence[Record] = (), kept: frozenset[str] = frozenset()
) -> list[Question]:
    """What is asked about each row, `examples` about others beside it; `kept` are the runs of words that may be told of
    a document."""
    found = []
    for place, record in enumerate(records):
        document = record.question is None
        asked = cut_in_two(record) if document else record
        others = [] if record.subject is None else [r for r in records if r.subject == record.subject and r != record]
        mine = [other for other in examples if record.subject is None or other.subject != record.subject]
        start = place % max(1, len(mine) - 2)
        found.append(
            Question(
                subject=record.subject or f"row {place + 1}", record=asked,
                detector=find_detector(asked, document=document, kept=kept), others=tuple(others[:3]),
                retained=tuple(mine[start : start + 3]), document=document,
            )
        )  # fmt: skip
    return found


def read_controls(source: Any, forget: Any, columns: dict[str, str]) -> list[Record]:
    """The rows of `--controls`; by default further people where the built-in ones are forgotten. Raises UserError."""
    if source is not None:
        return load_records(source, columns)
    spec = re.fullmatch(r"builtin:forget((?::[^\[]*)?)(\[.*\])?", forget) if isinstance(forget, str) else None
    if spec is None:
        raise UserError(
            "an audit needs controls, subjects that were never trained on: give --controls (with forget: "
            "--audit-controls), a source of the same kind of questions about others."
        )
    from unlearner.data.profiles import builtin

    options = {name: int(value) for name, value in re.findall(r"(people|seed)=(\d+)", spec[1])}
    people = options.get("people", 24)
    rows = builtin("retain", people=people + BUILTIN_CONTROLS, forget=people, seed=options.get("seed", 0))
    return [replace(row, task_id=None) for row in rows]
