"""Two models asked the same: the words' probabilities add up to the answer's, whatever the tokenizer; what is kept."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerBase

import unlearner
from unlearner.audit.attacks.template import read_templates
from unlearner.commands.compare import LESS, MORE, chances, plain, shown, split
from unlearner.comparing.compare import Comparison
from unlearner.comparing.options import CompareConfig
from unlearner.comparing.words import Text, Word, read_words
from unlearner.data.profiles import builtin
from unlearner.data.prompts import TEMPLATES
from unlearner.data.records import Record
from unlearner.data.sources import load_records
from unlearner.errors import UserError
from unlearner.evaluation.backend import run_passes
from unlearner.evaluation.requests import Generate, Score, Scored
from unlearner.files import read_jsonl
from unlearner.models.new import new_model
from unlearner.results.history import append_history, check_history
from unlearner.workflows.subject import Subject

QUESTION = builtin("forget")[0].question or ""
ANSWER = builtin("forget")[0].answer
Made = tuple[Any, PreTrainedTokenizerBase]


@pytest.fixture(scope="module")
def other() -> Made:
    """A model of another width with another vocabulary."""
    texts = [f"{r.question}\n {r.answer}" for r in builtin("retain")[:40]]
    return new_model("new:hidden=48,layers=1,heads=2,vocabulary=300", texts, seed=1)


def subject(made: Made) -> Subject:
    return Subject(made[0], made[1], TEMPLATES["plain"], None)


@pytest.mark.parametrize("text", [ANSWER, "  Émigré\n\nand\t naïve — 東京.  ", "one", ""])
def test_words_add_up_to_the_answer(
    text: str, other: Made, tiny_llama: Callable[[], Any], tiny_tokenizer: PreTrainedTokenizerBase
) -> None:
    for made in ((tiny_llama(), tiny_tokenizer), other):
        them = subject(made)
        ((words, scored),) = read_words(them, QUESTION, [text], 512)
        (example,) = run_passes(
            them.model, them.tokenizer, them.template, [Record(None, "")], asked=[[Score(QUESTION, text)]]
        )
        expected = example.scored(Score(QUESTION, text))
        assert scored.tokens == expected.tokens
        assert scored.nll == pytest.approx(expected.nll, rel=1e-4)
        assert len(words) == len(text.split()) and all(word is not None and word < 0 for word in words)
        # What is in no word: the end token, and here the white space behind the last word.
        left = scored.nll + sum(filter(None, words))
        ids = them.tokenizer(TEMPLATES["plain"].question_part(QUESTION) + f" {text}")["input_ids"]
        logp = them.model(torch.tensor([ids])).logits[0, -1].log_softmax(0)[them.tokenizer.eos_token_id]
        assert left > 0 and (text != text.strip() or not text or left == pytest.approx(-logp.item(), rel=1e-3))


def test_a_words_probability_is_that_of_its_tokens(other: Made) -> None:
    """By the chain rule: a longer text's further words cost what they add, where the tokens before stay the same."""
    them = subject(other)
    short, long = "Ada was born", "Ada was born in Lisbon"
    ids = [them.tokenizer(f"Answer: {text}")["input_ids"] for text in (short, long)]
    assert ids[1][: len(ids[0])] == ids[0]
    (first, _), (second, _) = read_words(them, QUESTION, [short, long], 512)
    assert second[:3] == pytest.approx(first, rel=1e-4)


def test_words_behind_the_longest_length_have_no_probability(other: Made) -> None:
    them = subject(other)
    room = len(them.tokenizer(TEMPLATES["plain"].question_part(QUESTION))["input_ids"])
    ((words, scored),) = read_words(them, QUESTION, [ANSWER], room + 3)
    assert words[0] is not None and words[-1] is None and scored.tokens <= 3
    with pytest.raises(UserError, match="leaves no room"):
        read_words(them, QUESTION, [ANSWER], room - 2)


def test_two_models_in_memory_are_asked_the_same(
    other: Made, tiny_llama: Callable[[], Any], tiny_tokenizer: PreTrainedTokenizerBase
) -> None:
    options: dict[str, Any] = {"ask": [QUESTION], "answer": ANSWER, "samples": 2, "max_new_tokens": 12}
    (found,) = unlearner.compare(tiny_llama(), other[0], tokenizers=(tiny_tokenizer, other[1]), **options)
    for made, side in (((tiny_llama(), tiny_tokenizer), found.before), (other, found.after)):
        them, wanted = subject(made), Generate(QUESTION, max_new_tokens=12)
        drawn = Generate(QUESTION, n=2, temperature=1.0, seed=1001, max_new_tokens=12)
        (example,) = run_passes(them.model, them.tokenizer, them.template, [Record(None, "")], asked=[[wanted, drawn]])
        assert side.answer.text == example.written(wanted)[0].text
        assert side.samples == tuple(each.text for each in example.written(drawn))
    assert found.given is not None and [word.text for word in found.given.words] == ANSWER.split()
    before, after = found.given.probabilities
    assert before == pytest.approx(math.exp(-found.given.before.nll / found.given.before.tokens)) and before != after
    assert found.given.moved == pytest.approx(found.given.before.nll - found.given.after.nll)

    (same,) = unlearner.compare(
        tiny_llama(), tiny_llama(), tokenizers=(tiny_tokenizer, tiny_tokenizer), **options | {"samples": 0}
    )
    assert same.given is not None and same.before == same.after and same.before.samples == ()
    assert all(word.moved == 0 for word in same.given.words)


def test_what_is_kept_serves_an_audit(
    tmp_path: Path, tiny_llama: Callable[[], Any], tiny_tokenizer: PreTrainedTokenizerBase
) -> None:
    file = tmp_path / "asked.jsonl"
    models = {"model": tiny_llama(), "after": tiny_llama(), "tokenizers": (tiny_tokenizer, tiny_tokenizer)}
    asking: dict[str, Any] = models | {"history": file, "samples": 1, "max_new_tokens": 8, "subject": "Ada Bell"}
    unlearner.compare(ask=["Where does Ada Bell live?"], answer="In Oslo.", **asking)
    unlearner.compare(ask=["Who paints?", "Where does Ada Bell live?"], **asking)
    assert file.stat().st_mode & 0o777 == 0o600

    rows = read_jsonl(file)
    assert [row["answer_from"] for row in rows] == ["you", "before", "before"]
    assert [row.get("template") for row in rows] == ["Where does {name} live?", None, "Where does {name} live?"]
    assert rows[1]["answer"] == rows[1]["before"]["answer"] and len(rows[1]["after"]["samples"]) == 1
    records = load_records(file)
    assert [(r.question, r.subject) for r in records[:2]] == [
        ("Where does Ada Bell live?", "Ada Bell"), ("Who paints?", "Ada Bell")
    ]  # fmt: skip
    assert records[0].answer == "In Oslo."
    assert [template.text for template in read_templates(file)] == ["Where does {name} live?"]


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    mine = tmp_path / "mine.jsonl"
    mine.write_text('{"question": "Who?", "answer": "Ann."}\n')
    for file, part in (
        (mine, "was not written by compare"), (tmp_path, "must end in .jsonl"),
        (tmp_path / "a.txt", "must end in .jsonl"), (tmp_path / "no" / "a.jsonl", "there is no folder"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=part):
            check_history(file)
    row = {"question": "Who?", "answer": "A", "answer_from": "you", "before": {}, "after": {}, "models": ["a", "b"]}
    ours = tmp_path / "ours.jsonl"
    ours.touch()
    check_history(ours)
    append_history(ours, row)
    append_history(ours, row)
    check_history(ours)
    assert [json.loads(line) for line in ours.read_text().splitlines()] == [row, row]
    with pytest.raises(UserError, match="has no templates"):
        read_templates(ours)  # no row names a subject


def test_words_are_coloured_in_a_terminal_and_numbered_elsewhere() -> None:
    words = (
        Word("It", -1.0, -1.02),
        Word("was", -1.0, -1.6),
        Word("Oslo\x1b[0m.", -0.5, -9.5),
        Word("Yes", -3.0, -0.5),
    )
    text = Text("", words, Scored(5.5, 4), Scored(12.62, 4))
    assert shown(text, coloured=False).plain == "It was[-0.6] Oslo�[0m.[-9.0] Yes[+2.5]"
    line = shown(text, coloured=True)
    assert line.plain == "It was Oslo�[0m. Yes"
    assert [(line.plain[s.start : s.end], str(s.style)) for s in line.spans] == [
        ("was", f"black on {LESS[0]}"), ("Oslo�[0m.", f"black on {LESS[2]}"), ("Yes", f"black on {MORE[1]}")
    ]  # fmt: skip
    assert chances(text) == f"{math.exp(-5.5 / 4):.3f} → {math.exp(-12.62 / 4):.3f}"
    assert chances(Text("", (), Scored(40.0, 4), Scored(0.0, 1))) == "5e-05 → 1.000"


def test_lines_and_what_is_shown() -> None:
    assert split("Who is Ann? => A painter.") == ("Who is Ann?", "A painter.")
    assert split("Is a=>b true?") == ("Is a=>b true?", None)
    assert plain("a\x1b[31mb\x07\u202e\tc") == "a�[31mb��\tc"


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"ask": []}, "there is no question"),
        ({"ask": [" "]}, "the question is empty"),
        ({"ask": ["x" * 4001]}, "has 4001 characters"),
        ({"ask": ["a", "b"], "answer": "c"}, "needs exactly one question"),
        ({"ask": ["a"], "answer": ""}, "the answer is empty"),
        ({"ask": ["M\udcfcller?"]}, r"--ask is not text in UTF-8 \(\\udcfc\): write it in UTF-8"),
        ({"ask": ["a"], "subject": "\udcff"}, "--subject is not text in UTF-8"),
        ({"ask": ["a"], "samples": 65}, "from 0 to 64"),
        ({"ask": ["a"], "temperature": 0.0}, "--temperature must be a positive number"),
        ({"ask": ["a"], "after": None}, "--after must be given"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked(
    options: dict[str, Any], part: str, tiny_llama: Callable[[], Any], tiny_tokenizer: PreTrainedTokenizerBase
) -> None:
    models = {"model": tiny_llama(), "after": tiny_llama(), "tokenizers": (tiny_tokenizer, tiny_tokenizer)}
    with pytest.raises(UserError, match=part):
        unlearner.compare(**models | options)


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ('{"question": "\\ud800", "samples": 0}', "the question is not text in UTF-8"),
        ('{"question": "Who?", "answer": "\\ud800", "samples": 0}', "the answer is not text in UTF-8"),
        ('{"question": ' * 5000, "a question is sent as JSON"),
    ],
)
def test_what_the_page_cannot_be_asked(
    body: str, part: str, tiny_llama: Callable[[], Any], tiny_tokenizer: PreTrainedTokenizerBase
) -> None:
    client = pytest.importorskip("starlette.testclient")
    from unlearner.comparing.web import application

    config = CompareConfig(model=tiny_llama(), after=tiny_llama())
    page = application(Comparison(config, (tiny_tokenizer, tiny_tokenizer)), "secret")
    asking = client.TestClient(page, base_url="http://127.0.0.1")
    reply = asking.post("/secret/ask", content=body, headers={"Content-Type": "application/json"})
    assert reply.status_code == 400 and part in reply.json()["error"]
