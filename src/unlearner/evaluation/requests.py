"""What metrics ask of a model: continuations to score, answers to write. Equal contents are equal requests."""

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

from unlearner.errors import UserError, did_you_mean
from unlearner.models.sampling import Sampling

TOKEN_STATISTICS = ("logp", "is_argmax", "rank", "expected_logp", "variance_logp")
"""What a `Score` may ask for each labelled token: its log-probability in nats, 1 where no token is likelier and else 0,
how many tokens are likelier, and mean and variance of log p under the model's own distribution there."""


@dataclass(frozen=True, slots=True)
class Score:
    """How likely is `continuation` as the answer to `prompt`? Both are plain text; the template joins them."""

    prompt: str | None
    continuation: str
    open: bool = False
    """The text may go on: no end token is scored, nothing is cut at max_length, and every token's score is returned."""
    is_argmax: bool = False
    """Also return which of the scored tokens are the most likely at their position."""
    statistics: tuple[str, ...] = ()
    """Also return these of `TOKEN_STATISTICS` for each labelled token, computed in the same pass."""

    def __post_init__(self) -> None:
        if isinstance(self.statistics, str):
            raise UserError(f"statistics must be a tuple of names, such as ({self.statistics!r},).")
        object.__setattr__(self, "statistics", tuple(self.statistics))
        for name in self.statistics:
            if name not in TOKEN_STATISTICS:
                raise UserError(f"unknown statistic {name!r} of a token: {did_you_mean(name, TOKEN_STATISTICS)}")

    def __repr__(self) -> str:
        """Kept answers are found by it: without statistics as it was before there were any."""
        names = ["prompt", "continuation", "open", "is_argmax", *(["statistics"] if self.statistics else [])]
        return f"Score({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"


@dataclass(frozen=True, slots=True)
class Generate:
    """What does the model answer to `prompt`, once its answer has begun with `prefix`?

    At temperature 0 the one likeliest answer, token by token; above it, `n` answers drawn by `temperature`, `top_p`,
    `top_k` (0: all tokens) and `seed`. `max_new_tokens` is `--max-new-tokens` unless given. What was written is cut
    before the first text of `stop` in it, then before the second, and so on. Raises UserError for invalid values.
    """

    prompt: str | None
    prefix: str = ""
    n: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    max_new_tokens: int | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.n < 1 or (self.n > 1 and self.temperature == 0):
            raise UserError(f"n={self.n} answers to a prompt: give at least 1, and for several a temperature above 0.")
        if not (0 <= self.temperature < math.inf and 0 < self.top_p <= 1 and self.top_k >= 0):
            raise UserError(
                f"temperature={self.temperature}, top_p={self.top_p}, top_k={self.top_k}: temperature and top_k must "
                "not be negative, nor temperature infinite; top_p must be above 0 and at most 1."
            )
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise UserError(f"max_new_tokens must be at least 1, not {self.max_new_tokens}.")

    @property
    def sampling(self) -> Sampling | None:
        """None for the likeliest answer."""
        if self.temperature == 0:
            return None
        return Sampling(self.n, self.temperature, self.top_p, self.top_k, self.seed)


@dataclass(frozen=True, slots=True)
class Cut:
    """`text` as far as the first `tokens` tokens of the model's tokenizer reach, special ones such as `<s>` counted."""

    text: str
    tokens: int


Request = Score | Generate | Cut


@dataclass(frozen=True, slots=True)
class Scored:
    """The answer to `Score`."""

    nll: float
    """Sum of the negative log-likelihood over the labelled tokens, in nats."""
    tokens: int
    """Labelled tokens: the continuation's and the end token."""
    logp: tuple[float, ...] = ()
    """Of an open score: the log-probability of each token, in nats."""
    is_argmax: tuple[bool, ...] = ()
    """If requested: for each labelled token, whether the model finds no other token more likely."""
    statistics: Mapping[str, tuple[float, ...]] = field(default_factory=dict, hash=False)
    """By name, the statistics that were requested: one number for each labelled token."""


@dataclass(frozen=True, slots=True)
class Written:
    """One answer to `Generate`, without its `prefix`."""

    text: str
    ids: tuple[int, ...]
    """The text tokenised again by the model's own tokenizer, without special tokens."""


def batch_kind(request: Request) -> Hashable:
    """Requests of one kind share their batches."""
    if isinstance(request, Score):
        return "open answers" if request.open else "answers"
    if isinstance(request, Cut):
        return "cuts"
    return request.sampling, request.max_new_tokens, request.prefix != ""
