"""The same question to two models: their answers, samples, and how likely both find every word of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any

from unlearner import distributed
from unlearner.audit.from_run import finished_run
from unlearner.comparing.options import CompareConfig, check_samples, check_text
from unlearner.comparing.words import WORD, Text, Word, read_words
from unlearner.errors import UserError
from unlearner.evaluation.requests import Generate
from unlearner.prepare.asking import Asked
from unlearner.prepare.kinds import swapped
from unlearner.results.history import append_history, check_history
from unlearner.workflows.builtin import resolve_model
from unlearner.workflows.subject import Subject

TAKEN = ("template", "precision", "trust_remote_code")
"""Options that come from the run, unless they are given."""


@dataclass(frozen=True)
class Side:
    """What one model said."""

    answer: Text
    """The likeliest one."""
    samples: tuple[str, ...]


@dataclass(frozen=True)
class Compared:
    """A question, and what both models say to it."""

    question: str
    before: Side
    after: Side
    given: Text | None
    """The answer whose probability was asked for."""


class Comparison:
    """Both models, ready to be asked. Raises UserError where one cannot be loaded.

    `config.model` and `config.after` may be objects in memory; `tokenizers` are then theirs.
    """

    def __init__(self, config: CompareConfig, tokenizers: Sequence[Any] = (None, None)) -> None:
        config.check()
        if distributed.count() > 1:
            raise UserError("compare works in one process: start the command without torchrun.")
        self.history = None if config.history is None else Path(config.history)
        if self.history is not None:
            check_history(self.history)
        self.config = config = with_run(config)
        self.lock = Lock()
        """One question at a time: passes change a model while they compute."""
        sides = [
            (replace(config, model=resolve_model(model)), tokenizer)
            for model, tokenizer in zip((config.model, config.after), tokenizers, strict=True)
        ]
        for options, tokenizer in sides:
            Subject.of(options, tokenizer)  # what is missing is told before the other one is loaded
        self.asked = [Asked(options, tokenizer) for options, tokenizer in sides]

    @property
    def names(self) -> tuple[str, str]:
        """Of the models, as they were given."""
        given = zip((self.config.model, self.config.after), self.asked, strict=True)
        before, after = (model if isinstance(model, str) else asked.subject.name for model, asked in given)
        return before, after

    def ask(self, question: str, answer: str | None = None, samples: int | None = None) -> Compared:
        """What both models say. `answer` is one whose probability is wanted, `samples` the number of drawn answers, by
        default the config's. Raises UserError for a question, answer or number that cannot be."""
        number = self.config.samples if samples is None else samples
        check_samples(number)
        check_text(question, "question")
        if answer is not None:
            check_text(answer, "answer")
        with self.lock:
            found = self._ask(question.strip(), None if answer is None else answer.strip(), number)
            if self.history is not None:
                append_history(self.history, self._row(found))
        return found

    def _ask(self, question: str, answer: str | None, samples: int) -> Compared:
        config = self.config
        greedy = Generate(question, max_new_tokens=config.max_new_tokens)
        drawn = replace(greedy, n=max(1, samples), temperature=config.temperature, seed=config.seed)
        said = [asked.answers([greedy, drawn] if samples else [greedy], None) for asked in self.asked]
        answers = [each.written(greedy)[0].text for each in said]
        texts = list(dict.fromkeys([*answers, *([] if answer is None else [answer])]))
        reads = [read_words(asked.subject, question, texts, config.max_length) for asked in self.asked]
        seen = {}
        for text, (logps, whole), (logps_after, whole_after) in zip(texts, *reads, strict=True):
            words = tuple(map(Word, WORD.findall(text), logps, logps_after))
            seen[text] = Text(text, words, whole, whole_after)
        before, after = (
            Side(seen[text], tuple(w.text for w in each.written(drawn)) if samples else ())
            for text, each in zip(answers, said, strict=True)
        )
        return Compared(question, before, after, None if answer is None else seen[answer])

    def _row(self, found: Compared) -> dict[str, Any]:
        """A row of the history."""
        right = found.before.answer if found.given is None else found.given
        row: dict[str, Any] = {
            "question": found.question, "answer": right.text, "answer_from": "before" if found.given is None else "you",
        }  # fmt: skip
        if self.config.subject is not None:
            row["subject"] = self.config.subject
            template = swapped(found.question, (self.config.subject,), "{name}")
            row |= {"template": template} if template != found.question else {}
        before, after = (
            {"answer": side.answer.text, "samples": list(side.samples)} for side in (found.before, found.after)
        )
        likely = dict(zip(("before", "after"), (round(p, 6) for p in right.probabilities), strict=True))
        return row | {"before": before, "after": after, "probability": likely, "models": list(self.names)}


def with_run(config: CompareConfig) -> CompareConfig:
    """The config with both models by their own names, those of a run's directory among them. Raises UserError."""
    run = finished_run(config.model)
    if config.after is not None:
        other = finished_run(config.after)
        return replace(
            config, model=config.model if run is None else run.made, after=config.after if other is None else other.made
        )
    if run is None:
        raise UserError(
            f"--after must be given, unless the model is the directory of a forget run: {config.model} is not."
        )
    default = CompareConfig(model="")
    taken = {
        name: run.config[name]
        for name in TAKEN
        if run.config.get(name) is not None and getattr(config, name) == getattr(default, name)
    }
    return replace(config, model=run.config["model"], after=run.made, **taken)


def compare(config: CompareConfig, *, tokenizers: Sequence[Any] = (None, None)) -> list[Compared]:
    """Ask all of `config.ask`. Raises UserError."""
    if not config.ask:
        raise UserError("there is no question: give ask.")
    comparison = Comparison(config, tokenizers)
    return [comparison.ask(question, config.answer) for question in config.ask]
