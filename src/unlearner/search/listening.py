"""`--stop-when`: what a model in training still tells of what it is to forget, and of what it is to keep."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from torch import nn

from unlearner.audit.attack import Question
from unlearner.config import ForgetConfig
from unlearner.data.records import Record
from unlearner.data.sources import load_records
from unlearner.errors import UserError, plural
from unlearner.evaluation.sets import load_forget
from unlearner.search.held_out import Before, HeldOut, with_facts
from unlearner.stopping import Condition, read_conditions
from unlearner.workflows.inputs import Inputs
from unlearner.workflows.subject import Subject

ROWS = 60
"""Questions of each measure, spread over its rows: it is asked after every epoch."""
SAMPLES = 8
ANSWER_TOKENS = 64
LACKS = {
    "leak": "has no row with a fact to look for: give a column `fact`, or wrong answers (perturbed_answer)",
    "paraphrases": "has nothing to ask: give --forget-eval with questions worded differently from those of --forget, "
    "and with facts",
    "neighbours": "has nothing to ask: give --real-authors, --world-facts or --retain-eval with rows that are not in "
    "--retain, and with facts",
}


class Listening:
    """The measures that the conditions of `config.stop_when` name. Raises UserError for one that has no data."""

    def __init__(self, config: ForgetConfig, inputs: Inputs, subject: Subject) -> None:
        assert config.stop_when is not None
        self.conditions: Sequence[Condition] = read_conditions(config.stop_when)
        self.text, self.subject = config.stop_when, subject
        names = dict.fromkeys(condition.measure for condition in self.conditions)
        asked = _asked(config, inputs)
        questions = {name: _spread(with_facts(asked[name])) for name in names}
        if lacking := [name for name, found in questions.items() if not found]:
            raise UserError(f"--stop-when {lacking[0]} {LACKS[lacking[0]]}.")
        self.held_out = HeldOut(
            questions, SAMPLES, min(config.max_new_tokens, ANSWER_TOKENS), config.max_length, config.seed, ("leak",)
        )
        self.before = Before({}, {})

    @property
    def records(self) -> list[Record]:
        """All that is asked."""
        return [question.record for questions in self.held_out.questions.values() for question in questions]

    def begin(self) -> None:
        """Ask the model before it is trained. Raises UserError where it tells nothing even then."""
        self.before = self.held_out.before(self.subject)
        rates, questions = self.before.rates, self.held_out.questions
        if silent := [name for name in rates if self.before.share(name, rates) is None]:
            raise UserError(
                f"--stop-when {silent[0]} cannot be measured: of {plural(len(questions[silent[0]]), 'question')} the "
                "model answers none even before training: leave it out, or give other rows."
            )

    def measure(self, model: nn.Module) -> dict[str, float]:
        """Each measure as a share of before."""
        now = self.held_out.rates(replace(self.subject, model=model), self.before.counted)
        found = {name: self.before.share(name, now) for name in now}
        return {name: round(value, 6) for name, value in found.items() if value is not None}


def _asked(config: ForgetConfig, inputs: Inputs) -> dict[str, list[Record]]:
    """The rows of every measure."""
    columns = config.eval_columns or config.columns
    trained = {row.question or row.answer for row in (*inputs.forget, *inputs.retain)}

    def untrained(rows: list[Record]) -> list[Record]:
        return [row for row in rows if (row.question or row.answer) not in trained]

    given: Any = config.forget_eval
    forget = load_forget(given, columns, config.task) if given is not None else inputs.forget
    sources = (config.retain_eval, config.real_authors, config.world_facts)
    kept = chain.from_iterable(load_records(source, columns) for source in sources if source is not None)
    return {"leak": forget, "paraphrases": untrained(forget), "neighbours": untrained(list(kept))}


def _spread(questions: list[Question]) -> list[Question]:
    count = min(len(questions), ROWS)
    return [questions[place * len(questions) // count] for place in range(count)]
