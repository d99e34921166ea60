"""Both passes against one evaluation by the official code (shared/parity/evaluation.json)."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from unlearner.data.prompts import TEMPLATES
from unlearner.data.records import Record
from unlearner.evaluation.backend import run_passes
from unlearner.evaluation.examples import Example

SETS = {
    "retain_perturbed": ("retain_perturbed.json", "eval_log.json"),
    "real_authors_perturbed": ("real_authors_perturbed.json", "eval_real_author_wo_options.json"),
    "world_facts_perturbed": ("world_facts_perturbed.json", "eval_real_world_wo_options.json"),
    "forget_perturbed": ("forget01_perturbed.json", "eval_log_forget.json"),
}


def close(value: float) -> Any:
    return pytest.approx(value, rel=1e-4)


@pytest.fixture(scope="module", params=SETS)
def measured(shared: Path, request: pytest.FixtureRequest) -> tuple[list[Example], dict[str, list[Any]]]:
    """Our examples of one set, and what the official code logged for them."""
    file, log = SETS[request.param]
    official = json.loads((shared / "parity/evaluation.json").read_text(encoding="utf-8"))
    lines = (shared / "data/tofu" / file).read_text(encoding="utf-8").splitlines()
    by_question = {row["question"]: row for row in map(json.loads, filter(None, lines))}
    records = tuple(
        Record(
            question,
            by_question[question]["answer"],
            by_question[question].get("paraphrased_answer"),
            tuple(by_question[question]["perturbed_answer"]),
        )
        for question in official["rows"][request.param]
    )
    model = AutoModelForCausalLM.from_pretrained(shared / "parity/model")
    tokenizer = AutoTokenizer.from_pretrained(shared / "parity/model")
    settings = official["settings"]
    examples = run_passes(
        model,
        tokenizer,
        TEMPLATES["llama2"],
        records,
        max_length=settings["generation_max_length"],
        batch_size=settings["batch_size"],
        official=True,
    )
    return examples, official["logs"][log]


def test_answers(measured: tuple[list[Example], dict[str, list[Any]]]) -> None:
    examples, log = measured
    assert [e.answer_tokens for e in examples] == log["num_token_gt"]
    assert [e.answer_nll for e in examples] == close(log["gt_loss"])
    assert [e.answer_nll / e.answer_tokens for e in examples] == close(log["avg_gt_loss"])


def test_wrong_answers(measured: tuple[list[Example], dict[str, list[Any]]]) -> None:
    examples, log = measured
    assert [list(e.perturbed_tokens) for e in examples] == log["num_token_perturb"]
    for e, losses, means in zip(examples, log["perturb_loss"], log["average_perturb_loss"], strict=True):
        assert list(e.perturbed_nll) == close(losses)
        assert [nll / n for nll, n in zip(e.perturbed_nll, e.perturbed_tokens, strict=True)] == close(means)


def test_paraphrases(measured: tuple[list[Example], dict[str, list[Any]]]) -> None:
    """Where a set has no paraphrases, the official code takes the answer itself."""
    examples, log = measured
    nll = [e.answer_nll if e.paraphrase_nll is None else e.paraphrase_nll for e in examples]
    tokens = [e.answer_tokens if e.paraphrase_nll is None else e.paraphrase_tokens for e in examples]
    assert tokens == log["num_token_paraphrased"]
    assert nll == close(log["paraphrased_loss"])
    assert [a / b for a, b in zip(nll, tokens, strict=True)] == close(log["avg_paraphrased_loss"])


def test_generations(measured: tuple[list[Example], dict[str, list[Any]]]) -> None:
    examples, log = measured
    assert [e.generation for e in examples] == [logged[1].strip() for logged in log["generated_text"]]
    assert [entropy(e.generation_ids) for e in examples] == close(log["token_entropy"])


def test_rouge_compares_with_the_answer_as_far_as_it_was_read(
    measured: tuple[list[Example], dict[str, list[Any]]],
) -> None:
    examples, log = measured
    assert [e.rouge_reference for e in examples] == [logged[2].strip() for logged in log["generated_text"]]


def entropy(ids: tuple[int, ...]) -> float:
    counts = Counter(ids).values()
    return -sum(n / len(ids) * math.log2(n / len(ids)) for n in counts) / math.log2(len(ids)) if len(ids) > 1 else 0.0
