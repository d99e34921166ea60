"""World facts: each with one answer, three others, and a sentence that states it."""

import json
import re
from pathlib import Path

import pytest

from unlearner.data.profiles import builtin, states_fact
from unlearner.data.records import Record
from unlearner.data.world_facts import world_facts


@pytest.fixture(scope="module")
def facts() -> list[Record]:
    return world_facts()


def plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def test_about_sixty_different_questions(facts: list[Record]):
    assert 55 <= len(facts) <= 70
    assert len({record.question for record in facts}) == len(facts)


def test_builtin_serves_them_whatever_the_options(facts: list[Record]):
    assert builtin("world_facts", people=2, forget=1, seed=8) == facts


def test_the_sentence_states_the_answer_and_the_question_does_not(facts: list[Record]):
    for record in facts:
        assert record.question and record.original_answer
        assert record.question.endswith("?") and record.original_answer.endswith(".")
        assert record.fact == record.answer
        assert states_fact(record.original_answer, record)
        assert record.answer.lower() not in record.question.lower()


def test_wrong_answers_differ_and_state_nothing_right(facts: list[Record]):
    for record in facts:
        assert len({wrong.lower() for wrong in record.perturbed_answer}) == len(record.perturbed_answer) == 3
        for wrong in record.perturbed_answer:
            assert record.answer.lower() not in wrong.lower()
            assert wrong.lower() not in record.answer.lower()
            assert wrong.lower() not in (record.original_answer or "").lower()


def test_answers_are_short_and_about_nobody(facts: list[Record]):
    for record in facts:
        assert len(record.answer.split()) <= 3
        assert record.subject is None and record.task_id is None and record.paraphrased_answer is None


def test_capitals_and_numbers_spot_check(facts: list[Record]):
    """Written down a second time, so that a slip in the list shows."""
    answers = {record.question: record.answer for record in facts}
    assert answers["Which city is the capital of Norway?"] == "Oslo"
    assert answers["Which river flows through London?"] == "Thames"
    assert answers["How many days does a leap year have?"] == "366"
    assert answers["How many legs does a spider have?"] == "eight"
    assert answers["In which year did the Second World War end?"] == "1945"
    assert answers["Who painted Guernica?"] == "Pablo Picasso"


def test_wording_is_our_own(facts: list[Record], shared: Path):
    lines = (shared / "data/tofu/world_facts_perturbed.json").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines if line.strip()]
    theirs = {plain(row[key]) for row in rows for key in ("question", "original_answer")}
    assert len(rows) > 100
    assert not [
        record for record in facts if {plain(record.question or ""), plain(record.original_answer or "")} & theirs
    ]
