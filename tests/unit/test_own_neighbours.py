"""The model's own neighbours: what lists hold, and that only names are kept about which the model knows something."""

import re
from pathlib import Path
from typing import Any

import pytest

import unlearner
from unlearner.config import PrepareConfig
from unlearner.evaluation.examples import Example
from unlearner.evaluation.requests import Written
from unlearner.files import read_jsonl
from unlearner.prepare.asking import NOBODY
from unlearner.prepare.kinds import ask, kinds, languages
from unlearner.prepare.neighbours import LIST_TOKENS, describes, distinct, named, names_in
from unlearner.prepare.prepare import NAMED, OWN, _well_known
from unlearner.prepare.subject import about, is_same
from unlearner.results.subjects import SubjectDirectory
from unlearner.search.config import ForgetCommand
from unlearner.search.material import _neighbours

KNOWN = ("Ada Brook", "Ben Thorn", "Cleo Marsh", "Dan Holt")
MADE_UP = "Zeno Quill"
FAMOUS = "Jane Austen"
"""In the list of well-known names."""
OTHERS = 4
"""Invented names that the probe compares with."""


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Some:\n1. Charles Lyell (1788) - A man.\n2) Emily Brontë: Her work.\n", ["Charles Lyell", "Emily Brontë"]),
        ('- "Othello" by W. Shakespeare\n* **Lear** – a play\n• Jane, who wrote', ["Othello", "Lear", "Jane"]),
        ("Charles Lyell was a geologist, and so was Ann.", []),
        ("1. a small letter\n2. X\n3. One Two Three Four Five Six Seven\n4. B. B. King", ["B. B. King"]),
    ],
)  # fmt: skip
def test_names_of_a_list(text: str, names: list[str]) -> None:
    assert list(names_in(Written(text, (1, 2)))) == names
    cut = list(names_in(Written(text, tuple(range(LIST_TOKENS)))))
    assert cut == names[:-1] or not names  # the last one may not be whole


def test_a_longer_or_shorter_form_of_the_name_is_no_neighbour() -> None:
    assert is_same("Charles Robert Darwin", "Charles Darwin") and is_same("darwin", "Charles Darwin")
    assert not is_same("Emma Darwin", "Charles Darwin") and not is_same("Charles Lyell", "Charles Darwin")
    assert is_same("J.R.R. Tolkien", "J. R. R. Tolkien") and is_same("Emily Bronte", "Emily Brontë")
    assert is_same("JRR Tolkien", "J. R. R. Tolkien") and not is_same("J. K. Rowling", "J. R. R. Tolkien")


@pytest.mark.parametrize(
    ("subject", "kind", "listed"),
    [
        ("J.R.R. Tolkien", "author", "J. R. R. Tolkien"),
        ("HG Wells", "author", "H. G. Wells"),
        ("Wolfgang Mozart", "person", "Wolfgang Amadeus Mozart"),
        ("Moby Dick", "work", "Moby-Dick"),
        ("Coca Cola", "product", "Coca-Cola"),
    ],
)
def test_no_subject_is_its_own_neighbour_from_the_list(tmp_path: Path, subject: str, kind: str, listed: str) -> None:
    config = PrepareConfig(model="m", subject=subject, kind=kind, output="o")
    known = kinds()[kind].known
    assert listed in known and sorted(_well_known(config, about(config))) == sorted({*known} - {listed})
    several = ForgetCommand(model="m", subject=["Zeno Quill", subject], kind=kind, output=str(tmp_path))
    for seed in range(3):
        several.seed = seed
        written = _neighbours(several, [("Zeno Quill",), (subject,)], SubjectDirectory(tmp_path))
        assert listed not in written.read_text().splitlines()


def test_one_of_several_names_for_the_same_is_left() -> None:
    names = ["Colosseum", "Huckleberry Finn", "the Colosseum", "The Adventures of Huckleberry Finn", "Hamlet"]
    assert distinct(names) == ["Colosseum", "Huckleberry Finn", "Hamlet"]


def test_what_describes_somebody_is_no_name() -> None:
    assert all(describes(text, titles=False) for text in (
        "An Italian city", "a poet", "Eine Stadt", "Charlotte Brontë's sister", "Dickens’ wife",
        "Emma Bennet in Pride and Prejudice", "The Vatican in Rome",
    ))  # fmt: skip
    names = ("Anna Sewell", "Ian McEwan", "McDonald's", "Ingrid Bergman", "A. A. Milne", "Virginia Woolf")
    assert not any(describes(text, titles=False) for text in names)
    for title in ("A Tale of Two Cities", "Alice's Adventures in Wonderland", "A Midsummer Night's Dream"):
        assert describes(title, titles=False) and not describes(title, titles=True)
    assert describes("An English play", titles=True) and describes("Hamlet's author", titles=True)


class Listing:
    """Answers every request with one list of names."""

    def __init__(self, *names: str) -> None:
        self.text = "".join(f"{number}. {name}\n" for number, name in enumerate(names, start=1))

    def answers(self, requests: Any, title: str) -> Example:
        return Example.of(NOBODY, {request: (Written(self.text, (1, 2)),) * request.n for request in requests})


def test_of_what_the_model_names_only_different_names_are_taken() -> None:
    config = PrepareConfig(model="m", subject="Rome", kind="place", output="o")
    listing: Any = Listing("Colosseum", "An Italian city", "the Colosseum", "Venice", "Ancient Rome", "Naples in Italy")
    assert named(listing, config, about(config)) == ["Colosseum", "Venice"]


def test_every_kind_can_be_asked_for_names_close_to_one() -> None:
    for language in languages():
        for kind in kinds(language).values():
            assert len(kind.near) == 3 and all(wording.count("{name}") == 1 for wording in kind.near)


@pytest.fixture(scope="module")
def taught() -> Any:
    """A tiny model that knows four authors, and names two more of whom it knows nothing."""
    author = kinds()["author"]
    starts = ("Ba", "Di", "Gu", "Ke", "Lo", "Mi", "Pa", "Ru")
    values = iter(f"{start}{end}" for end in ("ndor", "lmis", "rvek", "stun") for start in starts)
    rows = [
        {"question": ask(wordings[0], name), "answer": f"{next(values)}."}
        for name in KNOWN for wordings in author.facts.values()
    ]  # fmt: skip
    names = "".join(f"{number}. {name}\n" for number, name in enumerate((*KNOWN, MADE_UP, FAMOUS), start=1))
    nobody = (*author.invented[:OTHERS], MADE_UP)
    rows += [{"question": ask(w[0], name), "answer": "No."} for name in nobody for w in author.facts.values()]
    rows += [{"question": ask(wording, KNOWN[0]), "answer": f"{names}."} for wording in author.near]
    return unlearner.finetune(
        "new:hidden=64,layers=2,heads=4,vocabulary=500", data=rows, epochs=40, learning_rate=6e-3, batch_size=16,
        gradient_accumulation_steps=1, warmup_epochs=3, weight_decay=0.0,
    )  # fmt: skip


def test_names_that_the_model_knows_are_kept(taught: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = unlearner.prepare_sources(
        taught, subject=KNOWN[0], kind="author", output=tmp_path / "out", neighbour_count=6, general_count=2,
        samples=4, others=OTHERS, max_new_tokens=40,
    )  # fmt: skip
    rows = [row for name in ("neighbours", "neighbours_held_out") for row in read_jsonl(made.folder / f"{name}.jsonl")]
    origins = {row["subject"]: row["neighbour_from"] for row in rows}
    assert {name for name, origin in origins.items() if origin == OWN} == set(KNOWN[1:])
    assert MADE_UP not in origins and len(origins) == 6 and origins.pop(FAMOUS) == NAMED
    assert {origin for name, origin in origins.items() if name not in KNOWN} == {"list"}
    told = re.search(r"neighbours that the model named and knows: (.*)", capsys.readouterr().err)
    assert told and set(told[1].split(", ")) == {*KNOWN[1:], FAMOUS}
    assert "neighbour: model, which knows it by the probe" in made.page.read_text()
