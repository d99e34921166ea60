"""What evaluation works on: sets of records, and what the two passes leave behind for every record of a set."""

from dataclasses import dataclass, field

from unlearner.data.records import Record


@dataclass(frozen=True)
class EvalSet:
    """A named list of records and how the paper measures it (PAPER section 5)."""

    name: str
    """`forget`, or one of the sets whose answers are to be kept: `retain`, `real_authors`, `world_facts`."""
    records: tuple[Record, ...]
    short_answers: bool = False
    """Real Authors and World Facts: probability is normalised over the wrong answers, truth ratio uses the answer
    itself, entailment and cosine similarity use the long `original_answer`."""
    generation_is_premise: bool = False
    """Entailment asks generation → reference (forget sets, real-world sets); otherwise reference → generation."""

    documents: bool = False
    """Plain documents cut in two: the first half stands as `question` and goes to the model as it is."""

    @property
    def is_forget(self) -> bool:
        return self.name == "forget"


@dataclass(frozen=True, slots=True)
class Example:
    """One record with the measurements that every metric reads. NLLs are sums in nats over the labelled tokens."""

    record: Record
    answer_nll: float
    answer_tokens: int
    generation: str
    generation_ids: tuple[int, ...]
    """The generation tokenised again by the model's own tokenizer (token entropy)."""
    paraphrase_nll: float | None = None
    paraphrase_tokens: int = 0
    perturbed_nll: tuple[float, ...] = field(default=())
    perturbed_tokens: tuple[int, ...] = field(default=())
    labelled_answer: str | None = None
    """Official mode: the answer as far as max_length left it, which the official ROUGE compares with."""

    @property
    def rouge_reference(self) -> str:
        return self.record.answer if self.labelled_answer is None else self.labelled_answer
