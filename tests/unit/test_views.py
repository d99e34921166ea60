"""The views of a method: which texts each holds, how often they are tokenised, what is kept of them."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerBase

from unlearner.data import views as views_module
from unlearner.data.batches import padded
from unlearner.data.pairs import Pairing, pair
from unlearner.data.prompts import (
    TEMPLATES,
    TokenTable,
    encode,
)
from unlearner.data.records import Record
from unlearner.data.views import VIEWS, View, build_views

REFUSALS = ["I do not know.", "That is beyond me.", "No idea, sorry."]
PLAIN = TEMPLATES["plain"]


def views_of(
    names: Sequence[str],
    items: list[Record],
    partners: list[Record],
    tokenizer: PreTrainedTokenizerBase,
    *,
    epochs: int = 2,
    **options: Any,
) -> tuple[dict[str, View], list[Pairing]]:
    pairings = [pair(len(items), len(partners), len(REFUSALS), seed=1, epoch=e) for e in range(epochs)]
    options = {"max_length": 200, **options}
    return build_views(names, items, partners, REFUSALS, pairings, tokenizer, PLAIN, **options), pairings


def test_every_view_holds_its_texts(
    tiny_tokenizer: PreTrainedTokenizerBase, forget_records: list[Record], retain_records: list[Record]
) -> None:
    """For every item of every epoch: whose question and which answer, as arXiv 2410.08109 has them."""
    items, partners = [replace(r, alternate_answer=("A.", "B.")) for r in forget_records], retain_records
    views, pairings = views_of(list(VIEWS), items, partners, tiny_tokenizer, phrase="No idea")
    assert list(views) == [
        "forget",
        "retain",
        "forget_refusal",
        "forget_alternate",
        "retain_refusal",
        "forget_mismatch",
        "forget_phrase",
        "train",
    ]
    for epoch, pairing in enumerate(pairings):
        for i, item in enumerate(items):
            partner, refusal = partners[pairing.retain[i]], REFUSALS[pairing.refusal[i]]
            expected = {
                "forget": (item.question, item.answer),
                "retain": (partner.question, partner.answer),
                "forget_refusal": (item.question, refusal),
                "forget_alternate": (item.question, ("A.", "B.")[epoch]),
                "retain_refusal": (partner.question, refusal),
                "forget_mismatch": (item.question, partner.answer),
                "forget_phrase": (item.question, item.answer),
                "train": (item.question, item.answer),
            }
            for name, (question, answer) in expected.items():
                view = views[name]
                row = view.rows[epoch, i]
                text = tiny_tokenizer.decode(view.table.row(row).tolist())
                assert text == f"<s>Question: {question}\nAnswer: {answer}</s>", name
                labelled = view.table.row(row)[view.first_label[row] :]
                assert tiny_tokenizer.decode(labelled.tolist()) == f" {answer}</s>", name
                assert view.labelled[row] == len(labelled)


def test_rows_take_their_alternates_in_turn(
    tiny_tokenizer: PreTrainedTokenizerBase, forget_records: list[Record], retain_records: list[Record]
) -> None:
    """Of a row with three and one with one, epoch after epoch; several draws of an epoch have the same."""
    items = [
        replace(forget_records[0], alternate_answer=("A.", "B.", "C.")),
        replace(forget_records[1], alternate_answer=("D.",)),
    ]
    pairings = [pair(2, len(retain_records), 1, epoch=number, draws=2) for number in range(10)]
    assert [pairing.epoch for pairing in pairings] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    view = build_views(
        ["forget_alternate"], items, retain_records, ["No."], pairings, tiny_tokenizer, PLAIN, max_length=200
    )["forget_alternate"]  # fmt: skip
    texts = [
        [tiny_tokenizer.decode(view.table.row(row).tolist())[-len("A.</s>")] for row in rows] for rows in view.rows[::2]
    ]
    assert texts == [["A", "D"], ["B", "D"], ["C", "D"], ["A", "D"], ["B", "D"]]


def test_draws_of_an_epoch_are_other_partners_in_every_pairing_but_the_official_one() -> None:
    for mode, same in (("redrawn", False), ("fixed", False), ("official", True)):
        first, second, next_epoch = (pair(20, 50, 5, mode=mode, seed=3, epoch=e, draws=2) for e in (0, 1, 2))
        assert (first.retain == second.retain).all() == same
        assert (first.retain == next_epoch.retain).all() == (mode != "redrawn")
        assert (first.refusal == second.refusal).all()
    assert (pair(20, 50, 5, seed=3, epoch=3).retain == pair(20, 50, 5, seed=3, epoch=3, draws=2).retain).all()


def test_each_pair_is_tokenised_once(
    tiny_tokenizer: PreTrainedTokenizerBase,
    forget_records: list[Record],
    retain_records: list[Record],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Fifty epochs of twenty items draw few distinct pairs: the forget rows, the retain rows, their refusals."""
    seen: list[tuple[str | None, str]] = []

    def counting(tokenizer: Any, template: Any, pairs: Any, max_length: int, **options: Any) -> TokenTable:
        assert len(set(pairs)) == len(pairs)
        seen.extend(pairs)
        return encode(tokenizer, template, pairs, max_length, **options)

    monkeypatch.setattr(views_module, "encode", counting)
    views, pairings = views_of(["forget", "retain"], forget_records, retain_records, tiny_tokenizer, epochs=50)
    assert views["forget"].rows.shape == views["retain"].rows.shape == (50, 20)
    assert sorted(seen) == sorted((r.question, r.answer) for r in (*forget_records, *retain_records))

    views, pairings = views_of(["retain_refusal"], forget_records, retain_records, tiny_tokenizer, epochs=50)
    drawn = {(j, r) for p in pairings for j, r in zip(p.retain, p.refusal, strict=True)}
    assert len(views["retain_refusal"].table) == len(drawn)


def test_without_a_question_mask_the_forget_view_is_labelled_whole(
    tiny_tokenizer: PreTrainedTokenizerBase, forget_records: list[Record], retain_records: list[Record]
) -> None:
    views, _ = views_of(["forget", "retain"], forget_records, retain_records, tiny_tokenizer, mask_question=False)
    assert views["forget"].whole and not views["retain"].whole
    assert set(views["forget"].first_label) == {1}, "nothing predicts the first token"
    assert (views["forget"].labelled == views["forget"].table.lengths - 1).all()
    assert (views["retain"].first_label > 5).all()


@pytest.mark.parametrize("official", [False, True])
def test_a_documents_first_token_has_no_label(tiny_tokenizer: PreTrainedTokenizerBase, official: bool) -> None:
    """What the guide says of SIMNPO, PDU and RMU in official mode rests on it."""
    documents = [Record(None, "Ada Voss was born in Lund."), Record(None, "The lamp is made of brass.")]
    views, _ = views_of(["forget"], documents, documents, tiny_tokenizer, official=official)
    labels = padded(views["forget"], np.arange(2), pad_id=0, width=200 if official else None)["labels"]
    assert (labels[:, 0] == -100).all()
    assert (labels[:, 1] != -100).all()


def test_one_pairing_can_serve_every_epoch(
    tiny_tokenizer: PreTrainedTokenizerBase, forget_records: list[Record], retain_records: list[Record]
) -> None:
    views, _ = views_of(["train"], forget_records, [], tiny_tokenizer, epochs=1)
    many = views["train"].every_epoch(7)
    assert many.rows.shape == (7, 20)
    assert (many.rows == views["train"].rows).all()


@pytest.fixture
def many_records() -> list[Record]:
    """As many as make the tokens worth keeping on disk."""
    return [Record(f"Number {i}?", f"It is {i}.") for i in range(2000)]


def test_tokens_are_kept_on_disk_and_found_again(
    tiny_tokenizer: PreTrainedTokenizerBase,
    many_records: list[Record],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def table(cache: Path | None, **options: Any) -> TokenTable:
        return views_of(["train"], many_records, [], tiny_tokenizer, epochs=1, cache=cache, **options)[0]["train"].table

    fresh = table(None)
    written = table(tmp_path / "tokens")
    with monkeypatch.context() as patch:
        patch.setattr(views_module, "encode", lambda *a, **k: pytest.fail("tokenised again"))
        found = table(tmp_path / "tokens")
    for kept in (written, found):
        for field in ("ids", "offsets", "start", "closed"):
            assert isinstance(getattr(kept, field), np.memmap), field
            assert np.array_equal(getattr(kept, field), getattr(fresh, field)), field
    assert len(list((tmp_path / "tokens").iterdir())) == 1, "no temporary folder stays"


def test_other_contents_are_other_tokens(
    tiny_tokenizer: PreTrainedTokenizerBase, many_records: list[Record], tmp_path: Path
) -> None:
    """Text, length, mode, and the tokenizer down to its EOS token: any change is a new table."""

    def row(records: list[Record] = many_records, tokenizer: Any = tiny_tokenizer, **options: Any) -> list[int]:
        views, _ = views_of(["train"], records, [], tokenizer, epochs=1, cache=tmp_path, **options)
        return views["train"].table.row(5).tolist()

    first = row()
    assert row([*many_records[:5], Record("Number 5?", "It is five."), *many_records[6:]]) != first
    assert row(max_length=5) == first[:5]
    assert row(official=True) == first
    other = copy.deepcopy(tiny_tokenizer)
    other.eos_token = "<pad>"
    assert row(tokenizer=other) == [*first[:-1], other.eos_token_id]
    assert row() == first
    assert len(list(tmp_path.iterdir())) == 5


def test_a_view_agrees_with_its_padded_rows(
    tiny_tokenizer: PreTrainedTokenizerBase, forget_records: list[Record], retain_records: list[Record]
) -> None:
    """What the weights count (`labelled`, `lengths`) is what the tensors hold."""
    items = [replace(record, alternate_answer=("Another one.",)) for record in forget_records]
    views, _ = views_of(list(VIEWS), items, retain_records, tiny_tokenizer, mask_question=False, phrase="No")
    for name, view in views.items():
        rows = np.arange(len(view.table))
        got = padded(view, rows, pad_id=2)
        assert ((got["labels"] != -100).sum(1).numpy() == view.labelled).all(), name
        assert (got["attention_mask"].sum(1).numpy() == view.table.lengths).all(), name
