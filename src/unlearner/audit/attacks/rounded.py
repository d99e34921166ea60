"""The plain question, asked of the model with its weights rounded (audit/quantise.py)."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from torch import nn

from unlearner.audit.attack import ANSWER_TOKENS, Attack, Outcome, Question, written
from unlearner.audit.quantise import quantised
from unlearner.evaluation.examples import Example
from unlearner.evaluation.requests import Generate, Request


@dataclass(frozen=True)
class Rounded(Attack):
    """`scheme` is one of `quantise.SCHEMES`."""

    name = "rounded"
    title = "Rounded weights"
    access = "weights"
    source = "Zhang et al. 2024, arXiv 2410.16454"

    scheme: str = "nf4"
    max_new_tokens: int = ANSWER_TOKENS

    @property
    def label(self) -> str:
        return self.scheme

    def requests(self, question: Question) -> Sequence[Request]:
        return [self._request(question)]

    def outcomes(self, question: Question, example: Example) -> list[Outcome]:
        return written(question, example, self._request(question))

    def applied(self, model: nn.Module) -> AbstractContextManager[None]:
        return quantised(model, self.scheme)

    def _request(self, question: Question) -> Generate:
        return Generate(question.record.question, max_new_tokens=self.max_new_tokens)
