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


def test_a_row_without_a_subject_is_told_by_whole_sentences() -> None:
    """Without subjects an answer is another's where it is the reference answer of another question."""
    rows = [{**each, "subject": None} for each in KEPT]
    other = row("Where was Torva born?", BORN, "Well. it was in Bruges, that Ada Poe was born!", None)
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
    assert (found.count, found.asked) == (8, len(WRITTEN))
    assert found.told() == "3 repeat themselves, 2 tell of somebody else, 5 are no sentences"
    assert faults_of(Measurement({}, [{**each, "generation": None} for each in rows])) is None
