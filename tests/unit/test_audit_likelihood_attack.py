"""The attack `likelihood`: figures against plain logits, tables by hand; it tells what was taught from what was not."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from unlearner.audit.attack import Target
from unlearner.audit.attacks.likelihood import Likelihood
from unlearner.audit.likelihood import log10_samples, samples_to_extract
from unlearner.audit.likelihood_tables import likelihoods, memberships
from unlearner.audit.questions import Groups, read_groups
from unlearner.audit.ranks import in_one_wording, outcome_row
from unlearner.data.profiles import builtin
from unlearner.data.prompts import TEMPLATES
from unlearner.evaluation.backend import run_passes
from unlearner.evaluation.examples import Example
from unlearner.evaluation.requests import Request
from unlearner.options import ModelOptions


@pytest.fixture(scope="module")
def groups(forget_records, retain_records) -> Groups:
    return read_groups(forget_records, retain_records[:4], builtin("retain", people=13, forget=8))


def target_of(model: Any, tokenizer: Any, groups: Groups) -> Target:
    template = TEMPLATES["plain"]

    def answer(records: Sequence[Any], asked: Sequence[Sequence[Request]], document: bool) -> list[Example]:
        return run_passes(model, tokenizer, template, records, asked=asked)

    options = ModelOptions(model="", precision="fp32")
    return Target("unlearned", model, tokenizer, template, options, answer, dict(groups), groups.examples)


def rows_of(target: Target, attack: Likelihood) -> list[dict[str, Any]]:
    return [
        outcome_row("unlearned", each.group, each.question, "likelihood", 0) | each.about
        for each in attack.findings(target)
    ]


def test_a_row_by_plain_logits(spread_llama, tiny_tokenizer, groups) -> None:
    model = spread_llama
    found = rows_of(target_of(model, tiny_tokenizer, groups), Likelihood(names=3, gradients=True))
    assert [row["group"] for row in found] == ["forget"] * 20 + ["control"] * 50 + ["retain"] * 4
    row, record = found[0], groups.forget[0].record
    template = TEMPLATES["plain"]

    def logp(question: str, answer: str, end: str = template.end) -> tuple[torch.Tensor, int]:
        """Of every token, and how many of them are the prompt's."""
        prompt = tiny_tokenizer(template.question_part(question))["input_ids"]
        text = template.question_part(question) + template.answer_part(question, answer) + end
        ids = torch.tensor(tiny_tokenizer(text)["input_ids"])
        with torch.no_grad():
            told = model(input_ids=ids[None]).logits[0, :-1].double().log_softmax(-1)
        return told.gather(1, ids[1:, None])[:, 0], len(prompt) - 1

    told, start = logp(record.question, record.answer, tiny_tokenizer.eos_token)
    nll, count = -float(told[start:].sum()), len(told) - start
    assert row["loss"] == pytest.approx(nll / count, rel=1e-4)
    assert row["probability"] == pytest.approx(math.exp(-nll / count), rel=1e-3)
    assert row["log10_samples"] == pytest.approx(math.log10(math.log(2)) + nll / math.log(10), rel=1e-4)
    assert row["extracted"] == pytest.approx(1024 * math.exp(-nll), rel=1e-2)
    losses = []
    for text in in_one_wording(record):
        told, start = logp(record.question, text, tiny_tokenizer.eos_token)
        losses.append(-float(told[start:].mean()))
    assert row["truth_share"] == pytest.approx(1 / (1 + math.exp(losses[0] - np.mean(losses[1:]))), rel=1e-3)
    # Of what follows the name: the same words about three controls.
    people = [record.subject, *dict.fromkeys(q.subject for q in groups.control)][:4]
    totals = []
    for name in people:
        question, answer = (text.replace(record.subject, name) for text in (record.question, record.answer))
        behind = logp(question, answer[: answer.rindex(name) + len(name)], "")[0]
        totals.append(float(logp(question, answer, "")[0][len(behind) :].sum()))
    mean = np.logaddexp.reduce(totals[1:]) - math.log(3)
    assert row["prior_corrected"] == pytest.approx(totals[0] - mean, rel=1e-3, abs=1e-4)
    assert row["gradient_norm"] > 0 and "gradient_norm" not in found[-1]  # which is retained
    assert not any("prior_corrected" in each for each in found[20:])


def test_samples_without_overflow() -> None:
    for nll in (0.1, 3.0, 29.9, 30.1, 600.0):
        assert log10_samples(nll) == pytest.approx(math.log10(samples_to_extract(nll)), abs=1e-12)
    assert log10_samples(1e4) == pytest.approx(4342.786, abs=0.01)


def test_membership_tells_a_taught_model_from_an_untaught_one(tiny_llama, tiny_tokenizer, groups) -> None:
    model = tiny_llama()
    untaught = memberships(rows_of(target_of(model, tiny_tokenizer, groups), Likelihood(names=1)))["unlearned"]
    scores = ("min_k@0.2", "min_k@0.4", "min_k_plus_plus@0.2", "min_k_plus_plus@0.4")
    assert all(0.4 < untaught[score]["auc"] < 0.6 and untaught[score]["p_value"] > 0.2 for score in scores)
    template = TEMPLATES["plain"]
    texts = [
        template.question_part(q.record.question) + template.answer_part(q.record.question, q.record.answer)
        for q in groups.forget
    ]
    batch = tiny_tokenizer(texts, return_tensors="pt", padding=True)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        model(input_ids=batch["input_ids"], labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    rows = rows_of(target_of(model, tiny_tokenizer, groups), Likelihood(names=2))
    taught = memberships(rows)["unlearned"]
    assert all(taught[score]["auc"] > 0.95 and taught[score]["tpr"] > 0.8 for score in (*scores, "loss"))
    means = likelihoods(rows)
    forget, control = means["unlearned.forget"], means["unlearned.control"]
    assert forget["probability"]["mean"] > 2 * control["probability"]["mean"]
    assert forget["prior_corrected"]["mean"] > 1 and forget["prior_corrected"]["of"] == 2


def row(model: str, group: str, subject: str, question: str, **figures: float) -> dict[str, Any]:
    about = {"model": model, "group": group, "subject": subject, "question": question, "attack": "likelihood"}
    return {**about, "sample": 0, **figures}


def test_tables_by_hand() -> None:
    rows = []
    for model, losses in (("unlearned", (1.0, 2.0, 3.0)), ("before", (0.5, 1.0, 1.5)), ("retrained", (1.0, 5.0, 5.0))):
        for place, loss in enumerate(losses):
            rows.append(row(model, "forget", "ab"[place > 1], str(place), loss=loss, probability=0.5))
        for place, loss in enumerate((2.0, 4.0)):
            rows.append(row(model, "control", f"c{place}", f"c{place}", loss=loss, probability=place))
    means = likelihoods(rows)
    # The subjects' means are 1.5 and 3; t of one degree of freedom is 12.7062. No loss is below 0.
    assert means["unlearned.forget"]["loss"] == pytest.approx(
        {"mean": 2.25, "low": 0.0, "high": 2.25 + 12.7062 * 0.75, "of": 2}, abs=1e-3
    )
    assert means["unlearned.control"]["probability"] == {"mean": 0.5, "low": 0.0, "high": 1.0, "of": 2}  # a share
    assert likelihoods(rows[:2])["unlearned.forget"]["loss"] == {"mean": 1.5, "low": None, "high": None, "of": 1}
    found = memberships(rows)
    loss = found["unlearned"]["loss"]
    # Pairs with control > forget: (1,2), (1,4), (2,4), (3,4), and a tie: 4.5 of 6. Retrained (1,2), (1,4): 2 of 6.
    assert (loss["auc"], found["retrained"]["loss"]["auc"]) == pytest.approx((0.75, 1 / 3))
    assert loss["privleak"] == pytest.approx(100 * (1 / 3 - 0.75) / (2 / 3)) and loss["low"] is None
    # Less the retrained model's: 0, −3, −2 against 0, 0.
    assert found["unlearned"]["reference"]["auc"] == pytest.approx((0.5 + 1 + 1) / 3)
    assert "reference" not in found["retrained"] and "privleak" not in found["before"]["loss"]
    without = memberships([each for each in rows if each["model"] != "retrained"])
    # Less that of the model before: .5, 1, 1.5 against 0, 0.
    assert without["unlearned"]["reference"]["auc"] == 0 and "reference" not in without["before"]
    assert "privleak" not in without["unlearned"]["loss"]
    assert likelihoods([]) == memberships([]) == {}
