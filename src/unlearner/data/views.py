"""The views of a training item, tokenised once for the whole run (arXiv 2410.08109)."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from unlearner.data.pairs import Pairing
from unlearner.data.prompts import DOCUMENT, Template, TokenTable, encode, mark
from unlearner.data.records import Record
from unlearner.errors import UserError
from unlearner.files import atomic_directory

VIEWS: dict[str, tuple[str, str]] = {
    "forget": ("item", "item"),
    "retain": ("partner", "partner"),
    "forget_refusal": ("item", "refusal"),
    "forget_alternate": ("item", "alternate"),
    "retain_refusal": ("partner", "refusal"),
    "forget_mismatch": ("item", "partner"),
    "forget_phrase": ("item", "item"),
    "train": ("item", "item"),
}
"""Each view's (question of, answer of). An item is a forget row (or a row to learn), its partner a retain row. In
`forget_phrase` the answer is read, and a phrase is to be predicted in its place."""

MIXED: dict[str, tuple[bool, bool]] = {
    "forget_retain": (True, False),
    "retain_forget": (False, False),
    "refusal_retain": (True, True),
    "retain_then_refusal": (False, True),
}
"""Views that ask both questions of an item and its partner in one prompt: (forget row first, it is refused)."""


@dataclass(frozen=True)
class View:
    """One view of all items in all epochs: item i of epoch e is row `rows[e, i]` of the table."""

    table: TokenTable
    rows: np.ndarray
    first_label: np.ndarray
    """(table rows,) the first labelled token of each row; at least 1, because nothing predicts a row's first token."""
    whole: bool = False
    """Every token is labelled, the question's too; in official mode also the padding."""
    phrase: tuple[int, ...] = ()
    """What is to be predicted in place of the labelled tokens, over and over."""
    everywhere: bool = False
    """In official mode the loss has every position count as labelled (`Loss.official_everywhere`)."""
    marked: np.ndarray | None = None
    """(tokens of the table,) which of them belong to what is to be forgotten, in views that mix two items."""

    def every_epoch(self, epochs: int) -> "View":
        """The view of one epoch, seen in each of `epochs`."""
        return replace(self, rows=np.broadcast_to(self.rows[:1], (epochs, self.rows.shape[1])))

    @property
    def labelled(self) -> np.ndarray:
        """(table rows,) labelled tokens of each row."""
        return self.table.lengths - self.first_label


def build_views(
    names: Sequence[str],
    items: Sequence[Record],
    partners: Sequence[Record],
    refusals: Sequence[str],
    pairings: Sequence[Pairing],
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    *,
    max_length: int,
    mask_question: bool = True,
    skip: int = 0,
    phrase: str = "",
    everywhere: bool = False,
    official: bool = False,
    cache: Path | None = None,
) -> dict[str, View]:
    """Tokenise the views `names`, one pairing per epoch; each distinct (question, answer) once.

    Of the forget view the first `skip` labels are left out, the last of a row never; `everywhere` is that view's. The
    view forget_phrase predicts `phrase`. With `cache`, a folder, the tokens are kept there as memory-mapped arrays and
    found again by their content. Raises UserError for a phrase without tokens.
    """
    views = {}
    replies = {
        "item": [record.answer for record in items],
        "partner": [record.answer for record in partners],
        "refusal": refusals,
        "alternate": [text for record in items for text in record.alternate_answer],
    }
    for name in names:
        if name in MIXED:
            views[name] = _mixed(name, items, partners, refusals, pairings, tokenizer, template, max_length, official)
            continue
        asks, answers = VIEWS[name]
        keys = np.stack(
            [np.stack([_index(part, p, items) for part in (asks, answers)], axis=-1) for p in pairings]
        )  # (epochs, items, 2)
        flat = keys.reshape(-1, 2)
        # One integer a pair: np.unique over rows would sort structured values, many times slower.
        code, inverse = np.unique(flat[:, 0] * (int(flat[:, 1].max(initial=0)) + 1) + flat[:, 1], return_inverse=True)
        first = np.zeros(len(code), dtype=np.int64)
        first[inverse[::-1]] = np.arange(len(flat))[::-1]
        askers = {"item": items, "partner": partners}[asks]
        texts = [(askers[q].question, replies[answers][a]) for q, a in flat[first].tolist()]
        documents = all(question is None for question, _ in texts)
        table = _cached_encode(tokenizer, DOCUMENT if documents else template, texts, max_length, official, cache)
        whole = name == "forget" and not mask_question
        start = np.zeros(len(table), np.int64) if whole else table.start.astype(np.int64)
        first_label = np.maximum(start, 1)
        if name == "forget" and skip:
            skipped = np.maximum(start + skip, 1) if official else np.minimum(first_label + skip, table.lengths - 1)
            first_label = np.maximum(first_label, np.minimum(skipped, table.lengths))
        views[name] = View(
            table, inverse.reshape(len(pairings), len(items)), first_label, whole,
            _phrase(tokenizer, phrase) if name == "forget_phrase" else (),
            everywhere and official and name == "forget",
        )  # fmt: skip
    return views


def _phrase(tokenizer: PreTrainedTokenizerBase, phrase: str) -> tuple[int, ...]:
    ids = tokenizer(phrase, add_special_tokens=False)["input_ids"]
    if not ids:
        raise UserError("the option phrase has no token: give some text.")
    return tuple(ids)


def _mixed(
    name: str,
    items: Sequence[Record],
    partners: Sequence[Record],
    refusals: Sequence[str],
    pairings: Sequence[Pairing],
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    max_length: int,
    official: bool,
) -> View:
    """A view of `MIXED`. Where the forget row is answered, its question and answer are marked, and all is labelled."""
    first, refused = MIXED[name]
    numbers: dict[tuple[int, int, int], int] = {}
    rows = np.zeros((len(pairings), len(items)), dtype=np.int64)
    for epoch, pairing in enumerate(pairings):
        for i, (partner, refusal) in enumerate(zip(pairing.retain.tolist(), pairing.refusal.tolist(), strict=True)):
            rows[epoch, i] = numbers.setdefault((i, partner, refusal if refused else 0), len(numbers))
    pairs, places = [], []
    for i, partner, refusal in numbers:
        item, kept = items[i], partners[partner]
        question, asked = joined(str(item.question), str(kept.question), first)
        answer, replied = joined(refusals[refusal] if refused else item.answer, kept.answer, first)
        starts = template.places(question)
        pairs.append((question, answer))
        places.append(
            [(start + begin, start + end) for start, (begin, end) in zip(starts, (asked, replied), strict=True)]
        )
    table = encode(tokenizer, template, pairs, max_length, official=official)
    if refused:
        return View(table, rows, np.maximum(table.start.astype(np.int64), 1))
    marked = mark(tokenizer, template, pairs, places, table)
    return View(table, rows, np.ones(len(table), np.int64), whole=True, marked=marked)


def joined(forget: str, retain: str, first: bool) -> tuple[str, tuple[int, int]]:
    """Two texts as the two points of a list, and where that of the forget row stands in it. The official code writes a
    space after the number of the retain row's only."""
    before = "1." if first else f"1. {retain}\n2."
    return f"{before}{forget}" + (f"\n2. {retain}" if first else ""), (len(before), len(before) + len(forget))


def shared_tokens(views: Iterable[View]) -> tuple[int, float]:
    """With how many tokens all rows of `views` begin, more behind them, and what share of all tokens these make up."""
    tables = [view.table for view in views]
    if not all(len(table) for table in tables) or not tables:
        return 0, 0.0
    most = min(int(table.lengths.min()) for table in tables) - 1
    first, count = tables[0].row(0), 0
    while count < most and all((t.ids[t.offsets[:-1] + count] == first[count]).all() for t in tables):
        count += 1
    return count, count * sum(len(t) for t in tables) / sum(len(t.ids) for t in tables)


def _index(part: str, pairing: Pairing, items: Sequence[Record]) -> np.ndarray:
    """(items,) which of the rows or replies of this kind each item has."""
    if part == "alternate":
        counts = np.array([len(record.alternate_answer) for record in items])
        return np.cumsum(counts) - counts + pairing.epoch % counts
    return {"item": np.arange(len(items)), "partner": pairing.retain, "refusal": pairing.refusal}[part]


def _cached_encode(
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    texts: list[tuple[str | None, str]],
    max_length: int,
    official: bool,
    cache: Path | None,
) -> TokenTable:
    if cache is None or len(texts) < 2000:  # tokenised faster than looked up
        return encode(tokenizer, template, texts, max_length, official=official)
    digest = hashlib.sha256(repr((template, max_length, official, tokenizer.eos_token_id)).encode())
    digest.update(tokenizer.backend_tokenizer.to_str().encode())
    for question, answer in texts:
        digest.update(f"{question!r}\0{answer!r}\0".encode())
    home = cache / digest.hexdigest()[:32]
    fields = ("ids", "offsets", "start", "closed")
    if not home.is_dir():
        table = encode(tokenizer, template, texts, max_length, official=official)
        with atomic_directory(home) as folder:
            for field in fields:
                np.save(folder / f"{field}.npy", getattr(table, field))
    return TokenTable(*(np.load(home / f"{field}.npy", mmap_mode="r") for field in fields))
