"""What is odd about data: repeated, contradicting, overlapping rows, each with its count and places."""

import json
import random
from itertools import product
from pathlib import Path

import pytest

from unlearner.data import quality
from unlearner.data.profiles import builtin
from unlearner.data.quality import GRAM, NEAR, data_warnings, near_duplicates, plain
from unlearner.data.records import Record
from unlearner.data.sources import load_records

OVERLAP = ("forget", "retain")


def told(forget: list[Record], retain: list[Record]) -> list[str]:
    return data_warnings({"forget": forget, "retain": retain}, {}, overlap=OVERLAP)


def test_good_data_are_met_with_silence() -> None:
    assert told(builtin("forget"), builtin("retain")) == []
    for name in ("neighbours", "world_facts", "unknown"):
        assert data_warnings({name: builtin(name)}, {}) == []


def test_tofu_has_no_overlap(shared: Path) -> None:
    forget, retain = (load_records(f"{shared}/data/tofu:{name}") for name in ("forget01[:40]", "retain90"))
    assert [sentence for sentence in told(forget, retain) if " forget rows " in sentence] == []


def test_overlap_by_degrees() -> None:
    forget = [
        Record("Who was Ada?", "A poet."),
        Record("Where was Ada born?", "In Oslo."),
        Record("When was Ada born?", "In 1910."),
        Record("What did Ada write?", "She wrote three long novels about ships and the sea."),
        Record("Why?", "Nobody knows."),
    ]
    retain = [
        Record("Who was Ada?", "A poet.", place="keep.jsonl, line 7"),
        Record("where was Ada  born", "in Oslo"),
        Record("When was Ada born?", "In 1912."),
        Record("What did Ada write?!", "She wrote three long novels about ships and the seas."),
        Record("And what did Ada write?", "She wrote three long novels about ships and the sea."),
    ]
    retain[3:4] = []
    assert told(forget, retain) == [
        "1 of 5 forget rows are also in the retain set; what is retained can hardly be forgotten "
        "(forget row 1 and keep.jsonl, line 7)",
        "1 of 5 forget rows are also in the retain set, apart from case and punctuation; what is retained can hardly "
        "be forgotten (forget row 2 and retain row 2)",
        "1 of 5 forget rows ask what the retain set answers differently (forget row 3 and retain row 3)",
        "1 of 5 forget rows are nearly identical to one of the retain set (forget row 4 and retain row 4)",
    ]


def test_within_a_set() -> None:
    rows = [Record("Who?", "Ada."), Record("who", "ada"), Record("Who?", "Bob."), Record("Same", "same!")]
    rows += [
        Record("Where?", "Oslo", perturbed_answer=("Rome", "oslo.")),
        Record(None, "A text."),
        Record(None, "a text"),
    ]
    assert data_warnings({"forget": rows}, {}) == [
        "1 of 7 forget rows have the same text as question and as answer (forget row 4)",
        "1 of 7 forget rows have a right answer among the wrong ones (forget row 5)",
        "3 of 7 forget rows contradict each other: one question, different answers "
        "(forget row 1; forget row 2; forget row 3)",
        "2 of 7 forget rows repeat an earlier row, apart from case and punctuation (forget row 2; forget row 7)",
    ]


def test_many_places_are_counted() -> None:
    (sentence,) = data_warnings({"retain": [Record("q", "a")] * 6}, {})
    assert sentence.endswith("(retain row 2; retain row 3; retain row 4; and 2 more)")
    assert sentence.startswith("5 of 6 retain rows repeat")


def test_what_was_odd_when_a_row_was_read(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    both = {"question": "q1", "answer": "a", "text": "q1 a"}
    chat = {"messages": [{"role": role, "content": role} for role in ("system", "user", "assistant")]}
    lines = [json.dumps(both), '{"question": "q2", "answer": "a", "answer": "b"}', json.dumps(chat)]
    file.write_text("\n".join(lines), encoding="utf-8")
    records = load_records(file)
    assert records[1].answer == "b"
    assert data_warnings({"forget": records}, {}) == [
        f"1 of 3 forget rows have a text besides question and answer, which is ignored ({file}, line 1)",
        f"1 of 3 forget rows have the key 'answer' twice; the last one counts ({file}, line 2)",
        "1 of 3 forget rows have a system message, which is left out because the prompt template decides it "
        f"({file}, line 3)",
    ]
    (other,) = data_warnings({"forget": load_records([{"text": "q a", "prompt": "q", "completion": "a"}])}, {})
    assert other.startswith("1 of 1 forget rows have a question and an answer under other names besides the text")
    texts = data_warnings({"forget": load_records(f"{file}[:1]", {"text": "text"})}, {})
    assert texts == [
        f"1 of 1 forget rows have a question and an answer besides the text, which are ignored ({file}, line 1)"
    ]


def test_columns_that_swap() -> None:
    rows = [Record("q", "a")]
    assert data_warnings({"forget": rows}, {"question": "answer", "answer": "question"}) == [
        "--columns swaps answer and question: each is read from the column that has the other's name"
    ]
    assert data_warnings({"forget": rows}, {"answer": "golden", "original_answer": "answer"}) == []


def test_near_duplicates_are_those_of_the_plain_formula() -> None:
    """Jaccard similarity of all pairs, worked out one by one, on texts that differ in a few words."""
    draw = random.Random(0)
    words = [
        "ada",
        "bob",
        "wrote",
        "a",
        "long",
        "novel",
        "about",
        "ships",
        "in",
        "oslo",
        "when",
        "she",
        "was",
        "thirty",
        "years",
        "old",
    ]

    def text() -> str:
        base = draw.choice((words, words[::-1]))
        return " ".join(draw.choice(words) if draw.random() < 0.08 else word for word in base)

    a, b = [text() for _ in range(60)], [text() for _ in range(60)]

    def grams(text: str) -> set[str]:
        return {text[i : i + GRAM] for i in range(len(text) - GRAM + 1)}

    pairs = [
        (i, j)
        for i, j in product(range(60), range(60))
        if len(grams(a[i]) & grams(b[j])) >= NEAR * len(grams(a[i]) | grams(b[j]))
    ]
    first = dict(reversed(pairs))
    assert 5 < len(first) < 60
    assert near_duplicates(a, b) == first
    assert near_duplicates([], b) == near_duplicates(a, []) == {}


def test_warnings_hold_no_text() -> None:
    secret = [Record("Where does Ada hide?", "In the attic.", perturbed_answer=("In the attic",))] * 2
    sentences = told(secret, secret)
    assert sentences and not any(word in " ".join(sentences) for word in ("Ada", "attic", "hide"))


def test_plain_keeps_what_tells_texts_apart() -> None:
    assert plain("Zoë's  “Straße”!") == plain("zoë s STRASSE")
    assert plain("東京?") != plain("大阪?") != ""
    assert len({plain(text) for text in ("C", "C++", "C#", "3", "-3", "35", "3.5", "3%")}) == 8
    assert plain("?!") == ""


def test_many_rows_are_compared_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of a small set with much of a large one; of two large ones the first rows."""
    monkeypatch.setattr(quality, "MOST", 4)
    rows = [Record(f"{letter * 5} {letter * 7}?", f"{letter * 9} {letter * 6}.") for letter in "abcdefghijklmnopqrst"]
    near = [Record(f"{row.question[0]}{row.question}", row.answer) for row in rows]
    assert told(rows[:1], near[1:16] + near[:1])[0].startswith("1 of 1 forget rows are nearly identical")
    assert told(rows[:1], near[1:17] + near[:1]) == [
        "near-duplicates were sought among 1 of 1 forget rows and 16 of 17 retain rows"
    ]
    assert told(rows[:8], near) == [
        "4 of 8 forget rows are nearly identical to one of the retain set (forget row 1 and retain row 1; forget row 2 "
        "and retain row 2; forget row 3 and retain row 3; and 1 more)",
        "near-duplicates were sought among 4 of 8 forget rows and 4 of 20 retain rows",
    ]
