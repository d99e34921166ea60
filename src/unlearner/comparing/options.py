"""The options of `unlearner compare`."""

from dataclasses import dataclass, field
from typing import Any

from unlearner.errors import UserError
from unlearner.options import ModelOptions, check_not_negative, check_positive

MOST_SAMPLES = 64
MOST_LETTERS = 4000
"""Of a question or answer."""


@dataclass(kw_only=True)
class CompareConfig(ModelOptions):
    """Put your own questions to the model before and the model after, side by side: what each answers, what it
    says when it is sampled, and how likely every word is to both."""

    model: str = field(metadata={"leading": True})
    """The model before: a directory or hub id; or the directory of a forget run, which knows both models. Also given
    without the flag, as the first word."""
    after: str | None = field(default=None, metadata={"leading": True})
    """The model after; also given without the flag, as the second word. Beside it, a forget run's directory stands for
    the model that the run made, so that two runs can be compared."""
    ask: list[str] = field(default_factory=list)
    """Questions; without them they are read from the terminal, or from standard input, one a line. What follows ` => `
    in a line is an answer whose probability is wanted."""
    answer: str | None = None
    """With one question: an answer whose probability is wanted."""
    subject: str | None = None
    """Whom or what the questions are about, for --history: an audit can then ask the same of others."""
    samples: int = 3
    """Answers drawn for each question, beside the likeliest one."""
    temperature: float = 1.0
    """How widely they are drawn."""
    max_new_tokens: int = 64
    """Longest answer, in tokens."""
    history: str | None = None
    """Keep questions and answers in this JSON-lines file, which your user alone can read; more are added to it. `audit`
    takes it as --forget or --templates."""
    web: bool = False
    """Show a page in the browser instead, for this machine alone. Needs the extra web."""
    port: int = 8765
    """Where that page is; 0 takes any that is free."""

    def check(self) -> None:
        """Raises UserError for the first option that cannot be."""
        self.check_model()
        check_positive(self, "temperature", "max_new_tokens")
        check_not_negative(self, "samples")
        check_samples(self.samples)
        if not 0 <= self.port < 65536:
            raise UserError(f"--port must be a whole number from 0 to 65535, not {self.port}.")
        if self.answer is not None and len(self.ask) != 1:
            raise UserError("--answer goes with one question: give it with --ask.")
        if self.web and self.ask:
            raise UserError("--ask is for the terminal and --web for the browser: leave one out.")
        for question in self.ask:
            check_text(question, "question")
        if self.answer is not None:
            check_text(self.answer, "answer")


def check_samples(number: Any) -> None:
    """Raises UserError for a number of samples that cannot be."""
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= MOST_SAMPLES:
        raise UserError(f"--samples must be a whole number from 0 to {MOST_SAMPLES}, not {number!r}.")


def check_text(text: Any, what: str) -> None:
    """Raises UserError for what is no question, or no answer."""
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"the {what} is empty: write one.")
    if len(text) > MOST_LETTERS:
        raise UserError(f"the {what} has {len(text)} letters: write at most {MOST_LETTERS}.")
