"""Outcome rows: what every one says of its question, and those of the rank test."""

import random
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np

from unlearner.audit.attack import Answerer, Question
from unlearner.audit.detector import normalised
from unlearner.audit.outcomes import RANK
from unlearner.audit.statistics import rank_among
from unlearner.data.records import Record
from unlearner.evaluation.requests import Score
from unlearner.results.records import sha256

Row = dict[str, Any]


def question_id(question: Question) -> str:
    return sha256([question.subject, question.record.question, question.record.answer])[:16]


def topic_of(question: Question) -> str:
    """An id of what is asked, whoever is meant: the same for questions that differ in the subject's name alone."""
    name = set(normalised(question.subject).split())
    asked = ["" if word in name else word for word in normalised(question.record.question or "").split()]
    return sha256([word for word, _ in groupby(asked)])[:8]


def outcome_row(model: str, group: str, question: Question, attack: str, sample: int) -> Row:
    return {
        "model": model, "group": group, "subject": question.subject, "question": question_id(question),
        "topic": topic_of(question), "attack": attack, "sample": sample,
    }  # fmt: skip


def rank_rows(model: str, asked: Sequence[tuple[str, Question]], answer: Answerer, seed: int) -> list[Row]:
    """The rank of every truth among its row's wrong answers."""
    rows = []
    for group, question, losses in decoy_losses(asked, answer):
        truth, *others = (-loss for loss in losses)
        row = outcome_row(model, group, question, RANK, 0)
        rng = np.random.default_rng(random.Random(f"{seed}:{row['question']}").getrandbits(64))
        del row["sample"]
        rows.append(row | {"rank": rank_among(truth, others, rng), "decoys": len(others)})
    return rows


def decoy_losses(
    asked: Sequence[tuple[str, Question]], answer: Answerer
) -> list[tuple[str, Question, tuple[float, ...]]]:
    """Of each row with wrong answers: its group, and the mean loss per token, in nats, of the truth and then of the
    wrong answers, which share its wording."""
    fit = [(g, q) for g, q in asked if decoys(q)]
    if not fit:
        return []
    wanted = [decoys(q) for _, q in fit]
    examples = answer([q.record for _, q in fit], wanted, False)
    found = []
    for (group, question), scores, example in zip(fit, wanted, examples, strict=True):
        scored = [example.scored(score) for score in scores]
        found.append((group, question, tuple(each.nll / each.tokens for each in scored)))
    return found


def decoys(question: Question) -> list[Score]:
    """What is scored: the truth and the wrong answers; nothing of a row without such."""
    if question.document or not question.record.perturbed_answer:
        return []
    return [Score(question.record.question, text) for text in in_one_wording(question.record)]


def in_one_wording(record: Record) -> tuple[str, ...]:
    """The truth, then every wrong value in the same words: in the answer's, which were trained, where the row's fact
    shows what the values are; else in those of the paraphrase, which the wrong answers share."""
    fact, paraphrase = record.fact, record.paraphrased_answer
    if fact and paraphrase and record.answer.count(fact) == paraphrase.count(fact) == 1:
        before, after = paraphrase.split(fact)
        if all(wrong.startswith(before) and wrong.endswith(after) for wrong in record.perturbed_answer):
            values = [wrong[len(before) : len(wrong) - len(after)] for wrong in record.perturbed_answer]
            return (record.answer, *(record.answer.replace(fact, value) for value in values))
    return (paraphrase or record.answer, *record.perturbed_answer)
