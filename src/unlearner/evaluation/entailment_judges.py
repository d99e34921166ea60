"""Judges of entailment: does a generation agree with its row's reference answer?"""

from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from unlearner.data.records import Record
from unlearner.errors import UserError
from unlearner.evaluation.embeddings import Embedder, computing
from unlearner.evaluation.examples import EvalSet, Example
from unlearner.evaluation.judge_files import fetch

PAPER_JUDGE = "sileod/deberta-v3-base-tasksource-nli"
OFFLINE_JUDGE = "offline"


class EntailmentJudge(Protocol):
    """Says of every generation whether it agrees with its row's reference answer."""

    name: str

    def entailed(self, examples: Sequence[Example], eval_set: EvalSet) -> list[bool]: ...

    def texts(self, examples: Sequence[Example]) -> list[str]:
        """The texts whose embeddings it will need."""
        ...


class NliJudge:
    """A natural language inference model: entailed iff its likeliest label for (premise, hypothesis) is entailment."""

    def __init__(self, name: str, directory: Path, device: str | None = None) -> None:
        self.name = name
        self._directory = directory
        self._device = device

    def entailed(self, examples: Sequence[Example], eval_set: EvalSet) -> list[bool]:
        pairs = [
            {"text": premise, "text_pair": hypothesis}
            for premise, hypothesis in (premise_and_hypothesis(example, eval_set) for example in examples)
        ]
        longest_first = sorted(range(len(pairs)), key=lambda i: -sum(map(len, pairs[i].values())))
        classify, max_length = self._model
        with computing(classify.model):
            results = classify([pairs[i] for i in longest_first], batch_size=32, truncation=True, max_length=max_length)
        verdicts = [False] * len(pairs)
        for i, result in zip(longest_first, results, strict=True):
            verdicts[i] = result["label"] in self.labels
        return verdicts

    def texts(self, examples: Sequence[Example]) -> list[str]:
        return []

    @cached_property
    def labels(self) -> set[str]:
        """The model's labels that mean entailment. Raises UserError where there is none: before anything is judged."""
        from transformers import AutoConfig

        try:
            names = AutoConfig.from_pretrained(self._directory, local_files_only=True).id2label.values()
        except (OSError, ValueError) as error:
            raise UserError(f"{self.name} does not load as a text classification model: {error}") from error
        labels = {label for label in names if _means_entailment(label)}
        if not labels:
            raise UserError(
                f"{self.name} is not an NLI model: none of its labels ({', '.join(names)}) is called entailment."
            )
        return labels

    @cached_property
    def _model(self) -> tuple[Any, int]:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

        try:
            model = AutoModelForSequenceClassification.from_pretrained(
                self._directory, use_safetensors=True, local_files_only=True
            )
            tokenizer = AutoTokenizer.from_pretrained(self._directory, local_files_only=True)
        except (OSError, ValueError) as error:
            raise UserError(f"{self.name} does not load as a text classification model: {error}") from error
        classify = pipeline("text-classification", model=model, tokenizer=tokenizer, device=self._device)
        return classify, min(512, model.config.max_position_embeddings)


def premise_and_hypothesis(example: Example, eval_set: EvalSet) -> tuple[str, str]:
    """What an NLI model is asked (arXiv 2410.08109): the long reference answer for sets of short answers."""
    record = example.record
    reference = record.original_answer or record.answer if eval_set.short_answers else record.answer
    generation = example.generation
    return (generation, reference) if eval_set.generation_is_premise else (reference, generation)


class OfflineJudge:
    """Entailment without an NLI model, from the row's own right and wrong answers.

    Entailed iff the generation is closer in embedding (cosine) to one of the right answers, `answer`,
    `paraphrased_answer` or `original_answer`, than to every wrong one, and states the row's `fact` where it has one
    (built-in data). A row without wrong answers asks for a cosine of at least `LEAST_COSINE` with a right one instead.
    `benchmarks/judge_agreement.py` measures how often that is the truth: clearly less often where a row
    has no `fact`.
    """

    LEAST_COSINE = 0.8
    """On TOFU's retain_perturbed, 95% of the paraphrases reach it, and 2% of the answers to a neighbouring question."""

    name = OFFLINE_JUDGE

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    def entailed(self, examples: Sequence[Example], eval_set: EvalSet) -> list[bool]:
        texts = self.texts(examples)
        vectors = dict(zip(texts, self._embedder.embed(texts).astype(np.float64), strict=True))
        return [self._entailed(example, vectors) for example in examples]

    def texts(self, examples: Sequence[Example]) -> list[str]:
        return sorted({t for e in examples for t in (e.generation, *_right(e.record), *e.record.perturbed_answer)})

    def _entailed(self, example: Example, vectors: Mapping[str, np.ndarray]) -> bool:
        record = example.record
        generation = vectors[example.generation]
        closest = max(float(generation @ vectors[text]) for text in _right(record))
        wrong = max((float(generation @ vectors[text]) for text in record.perturbed_answer), default=None)
        if closest < self.LEAST_COSINE if wrong is None else closest <= wrong:
            return False
        if record.fact is None:
            return True
        from unlearner.data.profiles import states_fact

        return states_fact(example.generation, record)


def _right(record: Record) -> list[str]:
    return [text for text in (record.answer, record.paraphrased_answer, record.original_answer) if text]


@cache
def load_nli_judge(name: str, device: str | None) -> NliJudge:
    judge = NliJudge(name, fetch(name), device)
    assert judge.labels  # read now: a model that does not fit is refused before a run begins
    return judge


def _means_entailment(label: str) -> bool:
    # Two-way models call their other label "not_entailment".
    return "entail" in label.lower() and not label.lower().startswith(("not", "non"))
