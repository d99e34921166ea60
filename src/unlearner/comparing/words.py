"""How likely a model finds every word of an answer. Not every token: tokenizers may differ."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unlearner.audit.likelihood import token_rows
from unlearner.data.prompts import encode
from unlearner.errors import UserError
from unlearner.evaluation.passes import labelled_tokens
from unlearner.evaluation.requests import Scored
from unlearner.scoring.constants import IGNORE
from unlearner.workflows.subject import Subject

WORD = re.compile(r"\S+")


@dataclass(frozen=True)
class Word:
    """A word and its log-probability after all that stands before it, in nats; None behind `max_length`."""

    text: str
    before: float | None
    after: float | None

    @property
    def moved(self) -> float:
        """By how many nats it became likelier, negative for less likely; 0 where that is not known."""
        return 0.0 if self.before is None or self.after is None else self.after - self.before


@dataclass(frozen=True)
class Text:
    """An answer as both models see it. `before` and `after` are sums over all tokens, the end token among them."""

    text: str
    words: tuple[Word, ...]
    before: Scored
    after: Scored

    @property
    def probabilities(self) -> tuple[float, float]:
        """Of both models, a token: the geometric mean, which is the metric `probability`."""
        return probability(self.before), probability(self.after)

    @property
    def moved(self) -> float:
        """By how many nats the whole answer became likelier, which does not depend on tokenizers."""
        return self.before.nll - self.after.nll


def probability(scored: Scored) -> float:
    """exp(−NLL/T), 0 to 1."""
    return math.exp(-scored.nll / scored.tokens)


def read_words(
    subject: Subject, question: str, texts: Sequence[str], max_length: int
) -> list[tuple[list[float | None], Scored]]:
    """For each text as the answer to `question`: the log-probability of its words, in nats, and the whole score.

    A token belongs to the word in which its first letter stands. Raises UserError where `max_length` leaves no room.
    """
    template = subject.template
    table = encode(subject.tokenizer, template, [(question, text) for text in texts], max_length)
    if labelled_tokens(table).min() <= 0:
        raise UserError(f"--max-length {max_length} leaves no room for an answer: raise it, or ask a shorter question.")
    width, starts = int(table.lengths.max()), np.maximum(table.start, 1)
    view = {
        "input_ids": np.zeros((len(texts), width), dtype=np.int64),
        "attention_mask": np.zeros((len(texts), width), dtype=np.int64),
        "labels": np.full((len(texts), width), IGNORE, dtype=np.int64),
    }
    for i, length in enumerate(table.lengths):
        view["input_ids"][i, :length] = table.row(i)
        view["attention_mask"][i, :length] = 1
        view["labels"][i, starts[i] : length] = table.row(i)[starts[i] :]
    rows = token_rows(subject.model, view, kinds=("logp",))
    begins = template.places(question)[1]
    found = []
    for i, (text, row) in enumerate(zip(texts, rows, strict=True)):
        whole = template.question_part(question) + template.answer_part(question, text)
        spans = subject.tokenizer(
            whole, add_special_tokens=template.special_tokens, return_offsets_mapping=True
        )["offset_mapping"]  # fmt: skip
        places = [(match.start() + begins, match.end() + begins) for match in WORD.finditer(text)]
        sums: list[float | None] = [None] * len(places)
        for (first, stop), logp in zip(spans[starts[i] :], row.logp.tolist(), strict=False):
            # A token of white space alone belongs to the word that follows.
            letter = next((place for place in range(first, stop) if not whole[place].isspace()), stop)
            word = next((n for n, (_, end) in enumerate(places) if letter < end), None)
            if stop > first and word is not None:
                sums[word] = (sums[word] or 0.0) + logp
        found.append((sums, Scored(float(-row.logp.sum()), len(row.logp))))
    return found
