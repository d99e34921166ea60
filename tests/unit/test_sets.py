"""From sources to evaluation sets."""

import pytest

from unlearner.config import EvalSources
from unlearner.data.records import Record
from unlearner.evaluation.sets import load_sets
from unlearner.options import EvalOptions


def questions(n: int) -> list[Record]:
    return [Record(f"question {i}?", f"answer {i}") for i in range(n)]


def test_sets_to_be_kept_are_cut_to_their_first_rows_and_the_forget_set_is_not() -> None:
    forget, retain = load_sets(EvalOptions(eval_limit=3), EvalSources(), forget=questions(5), retain=questions(5))
    assert [len(forget.records), len(retain.records)] == [5, 3]
    assert forget.generation_is_premise and not retain.generation_is_premise


def test_real_world_entailment_asks_whether_the_generation_entails_the_reference() -> None:
    (retain,) = load_sets(EvalOptions(entailment="real-world"), EvalSources(), retain=questions(1))
    assert retain.generation_is_premise


def test_short_answer_sets_come_from_their_sources() -> None:
    (facts,) = load_sets(EvalOptions(), EvalSources(world_facts="builtin:world_facts"))
    assert facts.name == "world_facts" and facts.short_answers and len(facts.records) > 50


@pytest.mark.parametrize(
    ("text", "given", "continued"),
    [
        ("one two three four", "one two three", " four"),
        ("unbroken", "unbr", "oken"),
        ("word ", "wo", "rd "),
    ],
)
def test_a_document_is_cut_in_two_before_a_word(text: str, given: str, continued: str) -> None:
    (forget,) = load_sets(EvalOptions(), EvalSources(), forget=[Record(None, text)])
    assert forget.documents
    assert (forget.records[0].question, forget.records[0].answer) == (given, continued)


def test_beside_questions_plain_texts_are_left_out(capfd: pytest.CaptureFixture[str]) -> None:
    (forget,) = load_sets(EvalOptions(), EvalSources(), forget=[*questions(2), Record(None, "a text of its own")])
    assert not forget.documents and len(forget.records) == 2
    assert "1 plain texts of the set forget, which has questions, are not evaluated" in capfd.readouterr().err
