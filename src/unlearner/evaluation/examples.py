"""What evaluation works on: sets of records, and what the model answered about every record of a set."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from unlearner.data.records import Record
from unlearner.evaluation.requests import Cut, Generate, Request, Score, Scored, Written

Answer = Scored | tuple[Written, ...] | str
"""Of `Score`, `Generate` and `Cut`."""


@dataclass(frozen=True)
class EvalSet:
    """A named list of records and how the paper measures it (arXiv 2410.08109)."""

    name: str
    """`forget`, or one of the sets whose answers are to be kept: `retain`, `real_authors`, `world_facts`; or a
    benchmark's own."""
    records: tuple[Record, ...]
    short_answers: bool = False
    """Real Authors and World Facts: probability is normalised over the wrong answers, truth ratio uses the answer
    itself, entailment and cosine similarity use the long `original_answer`."""
    generation_is_premise: bool = False
    """Entailment asks generation → reference (forget sets, real-world sets); otherwise reference → generation."""

    documents: bool = False
    """Plain documents cut in two: the first half stands as `question` and goes to the model as it is."""
    metric: str | None = None
    """Of a benchmark's own sets: the one metric that is measured on it. Model utility goes without such a set."""
    left_out: int = 0
    """Rows beyond `eval_limit`, which are not measured."""

    @property
    def is_forget(self) -> bool:
        return self.name == "forget"


@dataclass(frozen=True, slots=True)
class Example:
    """One record with what was asked about it. NLLs are sums in nats over the labelled tokens.

    What several metrics read has a name; `scored` and `written` look up any request of a metric's own.
    """

    record: Record
    answer_nll: float | None
    """None if no metric asked for it, as for the paraphrase."""
    answer_tokens: int
    generation: str
    """The most likely answer; also empty if no metric asked for it."""
    generation_ids: tuple[int, ...]
    """The generation tokenised again by the model's own tokenizer (token entropy)."""
    paraphrase_nll: float | None = None
    paraphrase_tokens: int = 0
    perturbed_nll: tuple[float, ...] = field(default=())
    perturbed_tokens: tuple[int, ...] = field(default=())
    labelled_answer: str | None = None
    """Official mode: the answer cut to max_length, which the official ROUGE compares with."""
    answers: Mapping[Request, Answer] = field(default_factory=dict, hash=False)

    @property
    def rouge_reference(self) -> str:
        return self.record.answer if self.labelled_answer is None else self.labelled_answer

    @property
    def answer_loss(self) -> float:
        """Mean loss per token on the answer, in nats, for metrics that asked for `Score` of it."""
        assert self.answer_nll is not None
        return self.answer_nll / self.answer_tokens

    def scored(self, request: Score) -> Scored:
        answer = self.answers[request]
        assert isinstance(answer, Scored)
        return answer

    def written(self, request: Generate) -> tuple[Written, ...]:
        """`request.n` answers."""
        answer = self.answers[request]
        assert isinstance(answer, tuple)
        return answer

    def cut(self, request: Cut) -> str:
        answer = self.answers[request]
        assert isinstance(answer, str)
        return answer

    @classmethod
    def of(cls, record: Record, answers: Mapping[Request, Answer], labelled_answer: str | None = None) -> "Example":
        """The example of `record`, from the answers to what was asked about it."""

        def score(answer: str | None) -> Scored | None:
            found = None if answer is None else answers.get(Score(record.question, answer))
            assert found is None or isinstance(found, Scored)
            return found

        right, paraphrase = score(record.answer), score(record.paraphrased_answer)
        wrong = [found for answer in record.perturbed_answer if (found := score(answer)) is not None]
        written = answers.get(Generate(record.question))
        generation = written[0] if isinstance(written, tuple) else None
        return cls(
            record=record,
            answer_nll=right.nll if right else None,
            answer_tokens=right.tokens if right else 0,
            generation=generation.text if generation else "",
            generation_ids=generation.ids if generation else (),
            paraphrase_nll=paraphrase.nll if paraphrase else None,
            paraphrase_tokens=paraphrase.tokens if paraphrase else 0,
            perturbed_nll=tuple(found.nll for found in wrong),
            perturbed_tokens=tuple(found.tokens for found in wrong),
            labelled_answer=labelled_answer,
            answers=answers,
        )


def variants(record: Record) -> tuple[str, ...]:
    """The answers that can be scored: the right one, its paraphrase if there is one, the wrong ones."""
    paraphrase = () if record.paraphrased_answer is None else (record.paraphrased_answer,)
    return (record.answer, *paraphrase, *record.perturbed_answer)
