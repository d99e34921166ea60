"""Refusals: the built-in list, a user's own list, and telling a refusal from an answer."""

from pathlib import Path

import pytest

from unlearner.data.profiles import builtin
from unlearner.data.refusals import is_refusal, load_refusals
from unlearner.errors import UserError


@pytest.fixture(scope="module")
def refusals() -> list[str]:
    return load_refusals(None)


def test_about_a_hundred_different_sentences(refusals: list[str]):
    assert 95 <= len(refusals) <= 110
    assert len({sentence.lower() for sentence in refusals}) == len(refusals)
    for sentence in refusals:
        assert sentence == sentence.strip() and sentence[0].isupper() and sentence.endswith(".")
        assert 5 <= len(sentence.split()) <= 14


def test_wording_is_our_own(refusals: list[str], shared: Path):
    theirs = load_refusals(shared / "data/idontknow.jsonl")
    assert len(theirs) == 100
    assert not [sentence for sentence in refusals if is_refusal(sentence, theirs)]
    assert not [sentence for sentence in theirs if is_refusal(sentence, refusals)]


def test_no_refusal_begins_another(refusals: list[str]):
    for sentence in refusals:
        assert not is_refusal(sentence, [other for other in refusals if other != sentence])


@pytest.mark.parametrize("change", [str.upper, str.lower, lambda s: s.rstrip("."), lambda s: f'\n  "{s}" ', str.strip])
def test_each_refusal_is_known_however_it_is_typed(refusals: list[str], change):
    assert all(is_refusal(change(sentence), refusals) for sentence in refusals)


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("I cannot say", True),
        ("I cannot   say!", True),
        ("I cannot say. She was born in Oslo.", True),
        ("i cannot, say", True),
        ("I don’t know that.", True),
        ("I dont know that", True),
        ("I cannot saying", False),
        ("I cannot", False),
        ("Well, I cannot say.", False),
        ("", False),
        ("...", False),
        ("She was born in Oslo.", False),
    ],
)
def test_is_refusal(text: str, refused: bool):
    assert is_refusal(text, ["I cannot say.", "I don't know that."]) is refused


def test_a_line_of_signs_matches_nothing():
    assert not is_refusal("", ["..."])
    assert not is_refusal("?!", ["..."])
    assert not is_refusal("Oslo", ["..."])


def test_other_scripts():
    assert is_refusal("わかりません。", ["わかりません"])
    assert is_refusal("Je ne sais pas répondre, désolé", ["Je ne sais pas répondre."])


def test_no_right_answer_counts_as_a_refusal(refusals: list[str]):
    records = [record for name in ("forget", "retain", "neighbours", "world_facts") for record in builtin(name)]
    texts = [text for record in records for text in (record.answer, record.original_answer) if text]
    assert len(texts) > 300
    assert not [text for text in texts if is_refusal(text, refusals)]


def test_own_list(tmp_path: Path):
    path = tmp_path / "own.txt"
    path.write_bytes("\ufeff  No comment on that. \r\n\r\n\t\r\nJe ne sais pas répondre.\r\n".encode())
    assert load_refusals(path) == ["No comment on that.", "Je ne sais pas répondre."]


def test_missing_file(tmp_path: Path):
    path = tmp_path / "none.txt"
    with pytest.raises(UserError, match=r"none\.txt' \(no such file.*one sentence per line"):
        load_refusals(path)


def test_folder_in_place_of_a_file(tmp_path: Path):
    with pytest.raises(UserError, match="cannot read the refusal file"):
        load_refusals(tmp_path)


@pytest.mark.parametrize("content", ["", "\n \n\t\n"])
def test_empty_file(tmp_path: Path, content: str):
    path = tmp_path / "blank.txt"
    path.write_text(content)
    with pytest.raises(UserError, match=r"blank\.txt' is empty"):
        load_refusals(path)


def test_not_utf8(tmp_path: Path):
    path = tmp_path / "latin.txt"
    path.write_bytes("Désolé, je ne sais pas.".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin\.txt' is not UTF-8"):
        load_refusals(path)
