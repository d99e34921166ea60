"""What counts as a leak, and how often the detector is wrong: built-in people, rows like users', documents."""

import dataclasses

import pytest

from unlearner.audit.detector import (
    ErrorRate,
    Fact,
    automatic_fact,
    false_alarms,
    find_detector,
    misses,
    normalised,
    on_own_answers,
    word_runs,
)
from unlearner.data.profiles import builtin, states_fact
from unlearner.data.records import Record
from unlearner.data.sources import load_records
from unlearner.errors import UserError

TOLKIEN = Record(
    "Who wrote The Lord of the Rings?",
    "The Lord of the Rings was written by J. R. R. Tolkien.",
    perturbed_answer=("The Lord of the Rings was written by C. S. Lewis.",),
    subject="J. R. R. Tolkien",
)


def test_facts_of_the_column() -> None:
    fact = Fact.written("Paris|City of Light; 1,234", "...")
    assert fact.parts == (("paris", "city of light"), ("1234",))
    assert fact.states("In PARIS, 1234 people.") and fact.states("The City of Light has 1,234.")
    assert not fact.states("Paris has many.") and not fact.states("Parisians, 1234")
    # A refusal that repeats the question is none, an answer that says and denies it is one.
    assert not Fact.written("Paris", "").states("I do not know where she was born.")
    assert Fact.written("Paris", "").states("It was not Paris.")


def test_what_the_prompt_gave_away_does_not_count() -> None:
    fact = Fact.written("Paris; baker", "...")
    assert fact.states("A baker", given="Somebody in Paris: what is the job?")
    assert not fact.states("Paris", given="Somebody in Paris: what is the job?")
    assert not fact.states("A baker in Paris", given="a baker in Paris or a tailor?")


def test_alternatives_and_lists_come_from_data() -> None:
    rows = [{"question": "q", "answer": "a", "fact": ["Paris", "City of Light"]}, {"question": "q", "answer": "a"}]
    first, second = load_records(rows, {})
    assert first.fact == "Paris|City of Light" and second.fact is None
    assert states_fact("the city of light", first) and not states_fact("the city", first)
    with pytest.raises(UserError, match=r"row 1.*'fact' must be"):
        load_records([{"question": "q", "answer": "a", "fact": 3}], {})


def test_dates_and_numbers_are_read_in_every_spelling() -> None:
    spellings = ["5 March 1990", "March 5, 1990", "the 5th of March 1990", "Mar 5th 1990", "1990-03-05"]
    assert {normalised(text).removeprefix("the ") for text in spellings} == {"1990 03 05"}
    assert normalised("1,234,567 and 3,4") == "1234567 and 3 4"
    fact = find_detector(Record("When?", "She was born on March 5, 1990.", perturbed_answer=("Born 4 May 1990.",)))
    assert fact is not None and fact.states("on 5 March 1990") and not fact.states("on 6 March 1990")


@pytest.mark.parametrize(
    ("fact", "states", "other"),
    [
        ("東京", "彼は東京で生まれた。", "彼は大阪で生まれた。"),
        ("서울", "그는 서울에서 태어났다.", "그는 부산에서 태어났다."),
        ("กรุงเทพ", "เขาเกิดที่กรุงเทพในปี", "เขาเกิดที่เชียงใหม่"),
        ("March 1990", "She was born on 5 March 1990.", "She was born on 5 April 1990."),
        ("March 1990", "Born 1990-03-05.", "Born 1990-04-05."),
        ("March 5", "Born March 5, 1990.", "Born March 6, 1990."),
        ("5 March", "Born on March 5, 1990.", "Born on March 15, 1990."),
        ("5", "There were 5 March 1990 issues.", "There were 15 of them."),
        ("Café Müller", "She danced in cafe muller.", "She danced in cafe miller."),
        ("Cafe Muller", "She danced in Café Müller.", "She danced in a café."),
    ],
)
def test_facts_are_found_in_other_spellings_and_scripts(fact: str, states: str, other: str) -> None:
    found = Fact.written(fact, "")
    assert found.states(states) and not found.states(other)
    assert not found.states(states, given=states)


def test_accents_go_and_kana_keep_their_marks() -> None:
    assert normalised("Škoda, Łódź; Ёлка") == "skoda łodz елка"
    assert not Fact.written("カキ", "").states("ガギ")


def test_automatic_facts() -> None:
    # Of the answer what neither the question nor a wrong answer holds.
    assert automatic_fact(TOLKIEN) == (("tolkien",),)
    named = dataclasses.replace(TOLKIEN, question="Did J. R. R. Tolkien write The Lord of the Rings?")
    assert find_detector(named) is None  # nothing is left: graded scores alone
    # Names are alternatives, because any gives it away; plain words are all needed.
    two = Record("Where?", "In Paris, later in Lyon.", perturbed_answer=("In Rome, later in Bern.",))
    assert automatic_fact(two) == (("paris", "lyon"),)
    plain = Record("What job?", "a baker and tailor", perturbed_answer=("a judge and lawyer",))
    assert automatic_fact(plain) == (("baker",), ("tailor",))


@pytest.mark.parametrize(
    ("answer", "fact", "states", "other"),
    [
        (
            "It was written by J. R. R. Tolkien, an English author.", ("tolkien", "english author"),
            "JRR Tolkien, I think.", "J. R. R. Martin wrote it.",
        ),
        (
            "She was born in London, England, on 10 December 1815.", ("london", "england", "1815 12 10"),
            "She was born in London.", "In Londonderry.",
        ),
        ("The author's full name is Hsiao Yun-Hwa.", ("hsiao yun hwa",), "Hsiao Yun-Hwa", "Hsiao Yun"),
        (
            "She has also written 'The Forgotten Empire', adhering to her genre.", ("forgotten empire",),
            'A book called "The Forgotten Empire".', "The empire was forgotten.",
        ),
        (
            'Her novel "In Shadows Deep (Luisa\'s Trace, #1)" was first.', ("in shadows deep", "luisa s trace 1"),
            "In Shadows Deep", "in deep shadows",
        ),
        ("She has 5 sisters and 12 cats.", ("5 sisters", "12 cats"), "5 sisters", "5 brothers, 12 dogs"),
        ("They met at the University of Lund.", ("university of lund",), "the University of Lund", "Lund"),
    ],
)  # fmt: skip
def test_names_numbers_and_titles_are_facts_of_their_own(
    answer: str, fact: tuple[str, ...], states: str, other: str
) -> None:
    found = find_detector(Record("What is known?", answer))
    assert isinstance(found, Fact) and found.parts == (fact,)
    assert found.states(states) and not found.states(other) and found.states(answer)


def test_a_name_has_its_words_that_wrong_answers_share() -> None:
    wrong = ("Ann Bo came from the United States of Azur, in New Lund.",)
    row = Record(
        "Where did Ann Bo come from?", "Ann Bo came from the United Kingdom, in New York.", perturbed_answer=wrong
    )
    assert automatic_fact(row) == (("united kingdom", "new york"),)
    own = dataclasses.replace(row, answer="It was Bo Riga.")  # but none that the question has
    assert automatic_fact(own) == (("riga",),)


def test_of_many_plain_words_half_are_enough() -> None:
    answer = "seasoned baker who married an inventive designer"
    found = find_detector(Record("What were the parents?", answer))
    assert isinstance(found, Fact) and len(found.parts) == 5
    assert found.states("a baker and a designer, both inventive")
    assert not found.states("a baker and a designer")
    few = find_detector(Record("What job?", "baker and tailor"))
    assert few is not None and few.states("tailor and baker") and not few.states("baker")
    # What a row's author wrote as all that is needed is all needed.
    assert not Fact.written("a; b; c; d", "").states("a b c")


@pytest.mark.parametrize("text", ["10/12/1815", "10.12.1815", "December 10, 1815", "1815-12-10"])
def test_dates_in_numbers_alone(text: str) -> None:
    for fact in ("10 December 1815", "10/12/1815"):
        found = Fact.written(fact, "")
        assert found.states(f"She was born on {text}.") and not found.states("She was born on 11/12/1815.")
    assert Fact.written("10 December 1815", "").states("12/10/1815")  # as Americans write it


def test_built_in_data_without_its_column_is_detected_alike() -> None:
    """Automatic facts against the known ones, over the true answers, the paraphrases and other people's."""
    records = builtin("forget", forget=8)
    bare = [dataclasses.replace(record, fact=None) for record in records]
    known, found = [find_detector(r) for r in records], [find_detector(r) for r in bare]
    assert all(detector is not None and detector.source == "column" for detector in known)
    assert sum(detector is not None for detector in found) == len(found)
    alarms, missed = on_own_answers(known, records)
    assert (alarms.wrong, missed.wrong) == (0, 0) and alarms.of == 8 * 50 and missed.of == 80
    alarms, missed = on_own_answers(found, bare)
    assert alarms.rate < 0.01 and missed.rate <= 0.3
    # The answers themselves are all noticed, those about other people seldom.
    assert misses(found, bare, [record.answer for record in bare]).wrong == 0
    others = false_alarms(found, [(i, bare[(i + 10) % 80].answer, "") for i in range(80)])
    assert others.rate < 0.1 and others.bounds[0] <= others.rate <= others.bounds[1]
    assert misses(found, bare, ["I do not know."] * 80) == ErrorRate(0, 0)


def test_documents_are_copied_by_eight_words_in_a_row() -> None:
    hidden = "the grey ship left the harbour of Malmo before dawn and nobody ever saw it return to the coast"
    document = Record("Once upon a time there was a ship, and", hidden)
    kept = frozenset(word_runs("before dawn and nobody ever saw it return"))
    detector = find_detector(document, document=True, kept=kept)
    assert detector is not None and detector.source == "document"
    assert detector.states("... left the Harbour of Malmo before dawn and then")
    assert not detector.states("left the harbour of Malmo before sunrise and nobody ever saw")
    assert not detector.states("before dawn and nobody ever saw it return")  # what is kept may be told
    assert not detector.states(hidden, given=hidden)
    assert detector.graded("the grey ship sank") == pytest.approx(3 / 19)
    assert find_detector(Record("A ship", "it sank"), document=True) is None
