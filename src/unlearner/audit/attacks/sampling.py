"""Sampling: what greedy decoding hides, many samples tell (leak@k, arXiv 2511.04934)."""

from collections.abc import Sequence
from dataclasses import dataclass

from unlearner.audit.attack import ANSWER_TOKENS, Attack, Outcome, Question, written
from unlearner.audit.outcomes import SAMPLED
from unlearner.errors import UserError
from unlearner.evaluation.examples import Example
from unlearner.evaluation.requests import Generate, Request

DECODER = ("temperature", "top_p", "top_k")
"""Options that tell one decoder from another."""


@dataclass(frozen=True)
class Sampling(Attack):
    """`n` samples of each question at `temperature`, from all tokens unless `top_p` or `top_k` says fewer.

    The defaults have the largest support, so nothing that the model could say is cut off. Sample j is the same for any
    n above j, in any batch, on any number of processes. An audit may have several, each with another decoder, such as
    the one that will be served. Raises UserError for a decoder that cannot be.
    """

    name = SAMPLED
    title = "Sampled answers"
    access = "sampled"
    source = "leak@k, arXiv 2511.04934; Scholten et al. 2024, arXiv 2410.03523"

    n: int = 16
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    max_new_tokens: int = ANSWER_TOKENS

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise UserError(f"temperature={self.temperature}: sampling needs one above 0; for 0 use `plain`.")
        self._asked("")

    @property
    def label(self) -> str:
        """`sampling`, and how it draws where that is not the default: `sampling:temperature=0.7,top_p=0.9`."""
        told = [f"{name}={value}" for name in DECODER if (value := getattr(self, name)) != getattr(Sampling, name)]
        return f"{self.name}:{','.join(told)}" if told else self.name

    @property
    def samples(self) -> int:
        return self.n

    def request(self, question: Question) -> Generate:
        return self._asked(question.record.question)

    def _asked(self, prompt: str | None) -> Generate:
        return Generate(
            prompt, n=self.n, temperature=self.temperature, top_p=self.top_p, top_k=self.top_k,
            seed=self.seed, max_new_tokens=self.max_new_tokens,
        )  # fmt: skip

    def requests(self, question: Question) -> Sequence[Request]:
        return [self.request(question)]

    def outcomes(self, question: Question, example: Example) -> list[Outcome]:
        return written(question, example, self.request(question))
