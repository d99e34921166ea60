"""From a name to rows, and what a model knows of it: the figures by hand, the folder of a tiny model, bad input."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import unlearner
from unlearner.config import PrepareConfig, ProbeConfig
from unlearner.data.general import mentions
from unlearner.data.sources import load_records
from unlearner.errors import UserError
from unlearner.files import read_json, read_jsonl
from unlearner.prepare.kinds import swapped
from unlearner.prepare.knowledge import Answered, Scale, agreement, renamed
from unlearner.prepare.prepare import whole_sentences
from unlearner.prepare.subject import about


def test_agreement_is_the_share_of_new_words_that_come_again() -> None:
    question = "Where was Charles Darwin born?"
    answer = "Darwin was born in Shrewsbury, England."  # new: shrewsbury, england
    assert agreement(answer, ["In Shrewsbury, in 1809.", "England, Shrewsbury."], question) == 0.75
    assert agreement("Charles Darwin was born.", ["Darwin."], question) == 0.0
    assert agreement("In 9.", ["9"], "When?") == 1.0  # numbers count at any length


def answered(specificity: float, agreement: float) -> Answered:
    return Answered("x", "f", "q", "a", (), agreement, specificity)


def test_knowing_is_specific_and_comes_again() -> None:
    scale = Scale.of([answered(i / 10, i / 20) for i in range(11)])
    assert scale.specificity == pytest.approx(0.98) and scale.agreement == pytest.approx(0.49)
    verdicts = [scale.verdict(answered(s, a)) for s, a in ((2, 0.9), (2, 0.1), (0.5, 0.9), (0.5, 0.1))]
    assert verdicts == ["knows", "makes up", "guesses", "makes up"]


def test_an_answer_about_one_name_becomes_one_about_another() -> None:
    assert renamed("Darwin, Charles Darwin's son, knew Darwinism.", ("Charles Darwin",), "Odile Quarrenton") == (
        "Quarrenton, Odile Quarrenton's son, knew Darwinism."
    )
    assert swapped("The Bard was Shakespeare.", ("Shakespeare", "The Bard"), "X") == "X was X."


def test_unfinished_sentences_are_left_out() -> None:
    assert whole_sentences("He wrote. He also pain") == "He wrote."
    assert whole_sentences('He said "no." And the') == 'He said "no."'
    assert whole_sentences(" no end at all") == "no end at all"
    assert whole_sentences("Books: one.\n2. two of th") == "Books: one."


@pytest.fixture
def prepare(tiny_llama: Callable[[], Any], tiny_tokenizer: Any) -> Callable[..., Any]:
    def run(output: Path, **options: Any) -> Any:
        settings = {"subject": "William Shakespeare", "kind": "author", "alias": ["Shakespeare"]}
        settings |= {"neighbour_count": 3, "general_count": 9, "max_new_tokens": 6, "output": output}
        return unlearner.prepare_sources(tiny_llama(), tokenizer=tiny_tokenizer, **(settings | options))

    return run


def test_the_sources_of_a_subject(prepare: Callable[..., Any], tmp_path: Path) -> None:
    made = prepare(tmp_path / "a")
    rows = {name: read_jsonl(made.folder / f"{name}.jsonl") for name in made.rows}
    assert {name: len(of) for name, of in rows.items()} == made.rows == {
        "forget": 12, "unseen_wordings": 12, "unseen_facts": 8, "neighbours": 16, "neighbours_held_out": 8,
        "general": 6, "general_held_out": 3, "controls": 48, "subject": 32, "retain": 22,
    }  # fmt: skip
    measured = [row["question"] for name in rows if name not in ("retain", "subject") for row in rows[name]]
    assert len(set(measured)) == len(measured)  # what is held out is trained nowhere
    assert not {row["topic"] for row in rows["unseen_facts"]} & {row["topic"] for row in rows["forget"]}
    assert not {row["subject"] for row in rows["neighbours"]} & {row["subject"] for row in rows["neighbours_held_out"]}
    for row in rows["general"] + rows["general_held_out"] + rows["neighbours"]:
        assert not mentions(row["question"], ("Shakespeare",))
    for row in rows["forget"]:
        assert row["question_from"] == "template" and row["answer_from"] == "model"
        assert row["answer"] not in row["perturbed_answer"]
    assert all(load_records(f"{made.folder}:{name}") for name in made.rows)  # every command reads them


def test_the_same_input_gives_the_same_folder_and_another_is_refused(
    prepare: Callable[..., Any], tmp_path: Path
) -> None:
    def contents(folder: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    first = contents(prepare(tmp_path / "a").folder)
    assert contents(prepare(tmp_path / "b").folder) == first
    assert contents(prepare(tmp_path / "a").folder) == first
    assert contents(prepare(tmp_path / "c", seed=7).folder)["general.jsonl"] != first["general.jsonl"]
    with pytest.raises(UserError, match="holds something else already"):
        prepare(tmp_path / "a", seed=7)


def test_own_questions_and_neighbours(prepare: Callable[..., Any], tmp_path: Path) -> None:
    questions, neighbours = tmp_path / "q.txt", tmp_path / "n.txt"
    questions.write_text("Did Shakespeare act? | Was {name} an actor?\nWhere is William Shakespeare buried?\n")
    neighbours.write_text("Ben Jonson\nJohn Milton\n")
    made = prepare(tmp_path / "a", questions=str(questions), neighbours=str(neighbours))
    rows = read_jsonl(made.folder / "subject.jsonl")
    own = [row["question"] for row in rows if row["question_from"] == "user"]
    assert sorted(own) == [
        "Did William Shakespeare act?", "Was William Shakespeare an actor?", "Where is William Shakespeare buried?",
    ]  # fmt: skip
    assert {row["subject"] for row in read_jsonl(made.folder / "neighbours.jsonl")} == {"Ben Jonson"}
    neighbours.write_text("Ben Jonson\nChristopher Marlowe\n")
    with pytest.raises(UserError, match="holds something else already"):  # the file has other contents
        prepare(tmp_path / "a", questions=str(questions), neighbours=str(neighbours))
    neighbours.write_text("Ben Jonson\nWilliam Shakespeare\n")
    with pytest.raises(UserError, match=r"names the subject \(William Shakespeare\)"):
        prepare(tmp_path / "b", neighbours=str(neighbours))
    questions.write_text("Who is he?\n")
    with pytest.raises(UserError, match="question 1 does not name the subject"):
        prepare(tmp_path / "b", questions=str(questions))
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"subject": " "}, "--subject '' is too short"),
        ({"subject": "X"}, "--subject 'X' is too short"),
        ({"alias": ["Y"]}, "--alias 'Y' is too short"),
        ({"kind": "persn"}, "unknown kind 'persn': did you mean 'person'"),
        ({"questions": "nowhere.txt"}, "nowhere.txt cannot be read"),
    ],
)
def test_a_subject_that_cannot_be_asked_about(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        about(ProbeConfig(**{"model": "m", "subject": "Charles Darwin", **options}))


@pytest.mark.parametrize("config", [ProbeConfig, PrepareConfig])
def test_counts_that_cannot_be(config: type) -> None:
    few = {"others": 1} if config is ProbeConfig else {"neighbour_count": 1, "output": "o"}
    with pytest.raises(UserError, match="must be at least 2"):
        config(model="m", subject="Charles Darwin", **few).check()


def test_probe_compares_with_names_that_are_not_the_subject(
    tiny_llama: Callable[[], Any], tiny_tokenizer: Any, tmp_path: Path
) -> None:
    found = unlearner.probe(
        tiny_llama(), tokenizer=tiny_tokenizer, subject="Isaac Newton", alias=["Newton"], others=3, samples=2,
        max_new_tokens=4, output=tmp_path / "probe.json",
    )  # fmt: skip
    assert len(found.answers) == 8 and len(found.known) == len(found.invented) == 24
    assert "Isaac Newton" not in {a.name for a in found.known}
    assert found.share_known(found.invented) <= 0.2
    held = read_json(tmp_path / "probe.json")
    assert [row["verdict"] for row in held["answers"]] == found.verdicts
