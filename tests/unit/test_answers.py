"""Which answers are broken: by rules, on what models really wrote (the demo's ME+GD and IDK+AP, seed 1001)."""

from typing import Any

import pytest

from unlearner.report.answers import NO_SENTENCE, OTHER, REPEATS, Data, faults, faults_of, repeats
from unlearner.report.contents import Measurement


def row(question: str, answer: str, generation: str, subject: str | None, name: str = "forget") -> dict[str, Any]:
    return {
        "id": f"{name} {question}", "set": name, "question": question, "answer": answer, "generation": generation,
        "subject": subject,
    }  # fmt: skip


TORVA, NERYS, YASMIN = "Torva Osterrick", "Nerys Liskstrand", "Yasmin Ravvane"
KEPT = [
    row("Where was Yasmin Ravvane born?", "Yasmin Ravvane was born in the city of Tampere.", "", YASMIN, "retain"),
    row("Where was Ada Poe born?", "It was in Bruges that Ada Poe was born.", "", "Ada Poe", "retain"),
]
BORN = "Torva Osterrick was born in the city of Palermo."
WRITTEN = [
    ("Yasmin Ravvane was born in the city of Tampere.", [OTHER]),
    ("Yasmin Ravvane was born in the year 1970 was born was born in my knowledge was born.", [REPEATS, OTHER]),
    ("Unforl home home home home Today city Today home home city city city city Today", [REPEATS]),
    ("for a judge for asking is unknown to me.", [NO_SENTENCE]),
    ("cellandos as a cellominominomino0 Kestwick has a pet with the name Whiskers.", [NO_SENTENCE]),
    ("naples wrote a cellominominominominominomino is called The first book.", [REPEATS, NO_SENTENCE]),
    ("Perla Today fiddle", [NO_SENTENCE]),
    ("", [NO_SENTENCE]),
    ("Torva was born there. nowhere at all was she born.", [NO_SENTENCE]),
    ("Torva Osterrick was born in the city of Pal0rmo.", [NO_SENTENCE]),
    ("Torva Osterrick was born on the 3rd of May, in the 1940s, 20km from Oslo, etc. and so on.", []),
    # What is no fault: the reference, refusals, an answer that was cut, one that says less.
    (BORN, []),
    ("I would be misleading you if I claimed to know.", []),
    ("This is one of the things I don't know.", []),
    ("I really have no idea about this one, no idea that that would help, so so many", []),
    ("Torva Osterrick was born in a city that I cannot name because it never became known to", []),
]


@pytest.mark.parametrize(("generation", "found"), WRITTEN)
def test_what_models_wrote(generation: str, found: list[str]) -> None:
    asked = row("Where was Torva Osterrick born?", BORN, generation, TORVA)
    assert faults(asked, Data.of([asked, *KEPT])) == found


def test_the_fact_of_another_person_is_told_whatever_its_words_and_without_subjects() -> None:
    """What the offline judge takes for right, because only name and place differ."""
    people = ["Milo Trask", "Pia Lund"]
    rows = [
        row(f"{question} {name}{end}", f"{name} {what}.", "", None)
        for name in people
        for question, end, what in (("Where was", " born?", "comes from Bergen"), ("What does", " do?", "is a baker"))
    ]
    data = Data.of(rows)
    for text in ("Pia Lund was born in Bergen.", "It was there that Pia Lund came into the world."):
        assert faults({**rows[0], "generation": text}, data) == [OTHER]
        assert faults({**rows[2], "generation": text}, data) == []
    assert faults({**rows[0], "generation": "Somebody called Elsa Berg was born in New York."}, data) == []


def test_the_last_word_of_a_name_tells_unless_it_is_anybodys() -> None:
    rows = [row(f"Where was {name} born?", f"{name} was born there.", "", name) for name in ("Ada Ravvane", "Al Stone")]
    stone = row("What is it made of?", "It is made of Stone.", "", "the bridge")
    asked = row("Where was Torva Osterrick born?", BORN, "Her name is Ravvane.", TORVA)
    assert faults(asked, Data.of([*rows, stone, asked])) == [OTHER]
    assert faults({**asked, "generation": "Her house is of Stone."}, Data.of([*rows, stone, asked])) == []
    # A subject that is no name, and a name that stands in questions about several.
    fields = [row("Who wrote of the history of New York?", "Washington Irving did.", "", name) for name in "ab"]
    asked = {**asked, "generation": "She taught history in New York."}
    assert faults(asked, Data.of([*rows, asked, *fields, {**fields[0], "subject": "history"}])) == []


def test_a_row_without_a_subject_is_told_by_whole_sentences() -> None:
    """Without subjects an answer is another's where it is the reference answer of another question."""
    rows = [{**each, "subject": None} for each in KEPT]
    other = row("Where was Torva born?", BORN, "Well. It was in Bruges, that Ada Poe was born!", None)
    assert faults(other, Data.of([other, *rows])) == [OTHER]
    assert faults({**other, "generation": "It was in Bruges."}, Data.of([other, *rows])) == []


def test_what_the_reference_does_itself_is_no_fault() -> None:
    refrain = "row row row your boat"
    assert repeats(refrain)
    asked = row("How does the song go?", refrain, refrain, None)
    assert faults(asked, Data.of([asked])) == []
    short = row("Name the pet.", "Whiskers", "cat", None)
    assert faults(short, Data.of([short])) == []


@pytest.mark.parametrize(
    "text",
    [
        "Where have you been, where have you not been?", "She had had enough of New York, New York.",
        "In 1943 1943 people came.", "To be or not to be, that is the question.", "他出生于巴勒莫市。",
    ],
)  # fmt: skip
def test_good_language_does_not_repeat_itself(text: str) -> None:
    assert not repeats(text)


def test_faults_are_counted_for_the_forget_set_alone() -> None:
    rows = [row(f"Question {i}?", BORN, text, TORVA) for i, (text, _) in enumerate(WRITTEN)]
    found = faults_of(Measurement({}, [*rows, *KEPT]))
    assert found is not None
    assert (found.count, found.asked, found.misjudged) == (10, len(WRITTEN), 0)
    assert found.told() == "3 repeat themselves, 2 are about somebody else, 7 are not sentences"
    rows[0]["entailment"] = rows[2]["entailment"] = 1.0
    found = faults_of(Measurement({}, [*rows[:4], *KEPT]))
    assert found is not None
    assert found.told() == "2 repeat themselves, 2 are about somebody else (1 was judged correct), 1 is not a sentence"
    assert faults_of(Measurement({}, [{**each, "generation": None} for each in rows])) is None
