"""The bank of general knowledge: large and varied enough, one answer to a question, three others that are wrong."""

from collections import Counter

import pytest

from unlearner.data.general import general_knowledge, mentions
from unlearner.data.sources import load_records
from unlearner.prepare.kinds import kinds

RECORDS = general_knowledge()


def test_at_least_400_questions_over_at_least_20_fields() -> None:
    fields = Counter(record.subject for record in RECORDS)
    assert len({record.question for record in RECORDS}) == len(RECORDS) >= 400
    assert len(fields) >= 20 and min(fields.values()) >= 15


def test_no_question_gives_its_answer_away_and_no_wrong_answer_is_right() -> None:
    for record in RECORDS:
        assert record.question and record.question.endswith("?") and not mentions(record.question, (record.answer,))
        assert len(set(record.perturbed_answer)) == 3
        for wrong in record.perturbed_answer:
            assert not mentions(wrong, (record.answer,)) and not mentions(record.question, (wrong,))


def test_spot_check() -> None:
    """Written down a second time, so that a slip in the list shows."""
    answers = {record.question: record.answer for record in RECORDS}
    assert answers["Which city is the capital of Canada?"] == "Ottawa"
    assert answers["Which chemical element has the symbol Fe?"] == "iron"
    assert answers["Who composed The Four Seasons?"] == "Antonio Vivaldi"
    assert answers["In which year was Magna Carta sealed?"] == "1215"
    assert answers["What is 12 times 12?"] == "144"


def test_it_is_a_source_like_any_other() -> None:
    assert load_records("builtin:general_knowledge[:3]") == list(RECORDS[:3])


@pytest.mark.parametrize("kind", kinds().values(), ids=kinds())
def test_a_kind_has_facts_in_several_wordings_and_names_on_both_sides(kind) -> None:
    wordings = [w for of_fact in kind.facts.values() for w in of_fact]
    assert len(kind.facts) >= 8 and all(len(of_fact) >= 4 for of_fact in kind.facts.values())
    assert len(set(wordings)) == len(wordings) and all(w.count("{name}") == 1 for w in wordings)
    assert len(set(kind.known)) == len(set(kind.invented)) == 20 and not set(kind.known) & set(kind.invented)
