"""The options of `unlearner compare`."""

from dataclasses import dataclass, field
from typing import Any

from unlearner.errors import UserError, half_character
from unlearner.options import ModelOptions, check_not_negative, check_positive

MOST_SAMPLES = 64
MOST_LETTERS = 4000
"""Of a question or answer."""


@dataclass(kw_only=True)
class CompareConfig(ModelOptions):
    """Ask the original and the unlearned model your own questions, side by side: what each answers, what it says when
    sampled, and how likely each finds every word."""

    model: str = field(metadata={"leading": True})
    """The original model: a directory or hub id; or the directory of a forget run, which knows both models. Also given
    without the flag, as the first argument."""
    after: str | None = field(default=None, metadata={"leading": True})
    """The changed model; also given without the flag, as the second argument. If you give it, a forget run's directory
    stands for the model that the run made, so that two runs can be compared."""
    ask: list[str] = field(default_factory=list)
    """Questions; by default they are read from the terminal, or from standard input, one per line. What follows ` => `
    in a line is an answer whose probability you want."""
    answer: str | None = None
    """With one question: an answer whose probability you want."""
    subject: str | None = None
    """Who or what the questions are about, for --history: an audit can then ask the same about others."""
    samples: int = 3
    """Answers sampled for each question, in addition to the most likely one."""
    temperature: float = 1.0
    """Temperature at which they are sampled."""
    max_new_tokens: int = 64
    """Longest answer, in tokens."""
    history: str | None = None
    """Keep questions and answers in this JSON-lines file, which only your user can read; new ones are appended. `audit`
    accepts it as --forget or --templates."""
    web: bool = False
    """Show a page in the browser instead, on this machine only. Needs the extra web."""
    port: int = 8765
    """Port of that page; 0 takes any free one."""

    def check(self) -> None:
        """Raises UserError for the first option that cannot be."""
        self.check_model()
        check_positive(self, "temperature", "max_new_tokens")
        check_not_negative(self, "samples")
        check_samples(self.samples)
        if not 0 <= self.port < 65536:
            raise UserError(f"--port must be a whole number from 0 to 65535, not {self.port}.")
        if self.answer is not None and len(self.ask) != 1:
            raise UserError("--answer needs exactly one question: give it with --ask.")
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
    if half := half_character(text):
        raise UserError(f"the {what} is not text in UTF-8 ({half}): write it again.")
    if len(text) > MOST_LETTERS:
        raise UserError(f"the {what} has {len(text)} characters: write at most {MOST_LETTERS}.")
