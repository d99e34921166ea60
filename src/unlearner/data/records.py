"""Records: the rows of a forget, retain or evaluation set."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Record:
    """One question with its answer, or one plain document (`question` is None, `answer` holds the text).

    The optional fields carry TOFU's names and meanings (Maini et al. 2024, arXiv 2401.06121).
    """

    question: str | None
    answer: str
    paraphrased_answer: str | None = None
    """The answer in other words; truth ratio compares it with the wrong answers."""
    perturbed_answer: tuple[str, ...] = ()
    """Wrong answers."""
    original_answer: str | None = None
    """The long form of a short factual answer (Real Authors, World Facts)."""
    subject: str | None = None
    """Who or what the row is about; confidence intervals resample subjects."""
    task_id: str | None = None
    """Continual unlearning: the task in which the row is to be forgotten."""
    fact: str | None = None
    """The words that a right answer must state: `;` between required parts, `|` between alternatives."""
    alternate_answer: tuple[str, ...] = ()
    """Other answers that the model might give, with other facts: what ALTPO prefers to the answer."""
    place: str | None = field(default=None, compare=False, repr=False)
    """Where it was read, for messages: "forget.jsonl, line 3". Not part of the row: equality and hashes ignore it."""
    remarks: tuple[str, ...] = field(default=(), compare=False, repr=False)
    """What was odd about it when it was read; `quality.data_warnings` reports it."""
