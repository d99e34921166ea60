"""From records to what an audit asks: forgotten subjects, controls that nobody ever saw, subjects that are retained."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from unlearner.audit.attack import Question
from unlearner.audit.detector import ErrorRate, find_detector, on_own_answers, word_runs
from unlearner.console import note
from unlearner.data.records import Record
from unlearner.data.sources import load_records
from unlearner.errors import UserError
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
class Groups:
    """The questions of an audit by group."""

    forget: list[Question]
    control: list[Question]
    retain: list[Question]
    neighbour: list[Question]
    """What was neither forgotten nor kept by training: are others still told about?"""
    examples: list[Record]
    """Retained rows that are not asked about, or all where there are no others."""

    def __iter__(self) -> Iterator[tuple[str, list[Question]]]:
        yield from (("forget", self.forget), ("control", self.control), ("retain", self.retain))
        yield "neighbour", self.neighbour

    @property
    def without_fact(self) -> int:
        """Forget rows in which nothing is only their own: they are asked nothing."""
        return sum(question.detector is None for question in self.forget)

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
    trained = {(record.question, record.answer) for record in (*forget, *retain)}
    if both := sum((record.question, record.answer) in trained for record in controls):
        raise UserError(
            f"--controls has {both} rows of the forget or retain set: give rows about subjects that were never trained."
        )
    known = {record.subject for record in (*forget, *retain)} - {None}
    if shared := known & {record.subject for record in controls}:
        raise UserError(f"--controls asks about {min(filter(None, shared))}, who is in the forget or retain set.")
    kept = frozenset(run for record in retain if record.question is None for run in word_runs(record.answer))
    examples = [record for record in retain if record.question is not None]
    asked, further = retain[:RETAINED_ROWS], examples[RETAINED_ROWS:]
    groups = Groups(
        questions_about(forget, examples, kept), questions_about(controls, examples, kept),
        questions_about(asked, further or examples, frozenset()),
        # Beside what was to be forgotten: a refusal that is not meant for them may spread to them.
        questions_about(_held_out(neighbours, trained), [r for r in forget if r.question is not None], frozenset()),
        further or examples,
    )  # fmt: skip
    if groups.without_fact == len(forget):
        raise UserError(
            "no row of the forget set has a fact: give a column `fact`, or wrong answers (perturbed_answer)."
        )
    subjects = len({question.subject for question in groups.control if question.detector is not None})
    if subjects < LEAST_CONTROLS:
        raise UserError(
            f"--controls has {subjects} subjects with facts: an audit compares with {LEAST_CONTROLS} at least."
        )
    return groups


def _held_out(sources: Sequence[Sequence[Record]], trained: set[tuple[str | None, str]]) -> list[Record]:
    """The first rows of each source that no row of the other sets is, a share of `NEIGHBOURS` each."""
    share = NEIGHBOURS // max(1, len(sources))
    held = [[row for row in rows if (row.question, row.answer) not in trained] for rows in sources]
    if sources and not any(held):
        raise UserError("--neighbours has only rows of the forget or retain set: give questions that were not trained.")
    if dropped := sum(map(len, sources)) - sum(map(len, held)):
        note(f"{dropped} rows of --neighbours are in the forget or retain set, so they are not asked")
    return [replace(row, task_id=None) for rows in held for row in rows[:share]]


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
            "an audit compares with subjects that were never trained: give --controls (forget: --audit-controls), a "
            "source with questions of the same kind about others."
        )
    from unlearner.data.profiles import builtin

    options = {name: int(value) for name, value in re.findall(r"(people|seed)=(\d+)", spec[1])}
    people = options.get("people", 24)
    rows = builtin("retain", people=people + BUILTIN_CONTROLS, forget=people, seed=options.get("seed", 0))
    return [replace(row, task_id=None) for row in rows]
