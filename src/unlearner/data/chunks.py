"""Documents longer than a row of training, cut into rows: all of them is trained, not their beginning alone."""

from collections.abc import Iterable
from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from unlearner.data.records import Record

SPARE = 8
"""Tokens of text that a piece has beyond its row. A row that is full ends without an end token, as in the middle of a
document it has to, also where a piece by itself makes fewer tokens than it did in the whole."""
SLACK = 2
"""Tokens by which a piece is shorter than its row, in case it makes more."""


def chunked(
    records: Iterable[Record], tokenizer: PreTrainedTokenizerBase, max_length: int, *, official: bool = False
) -> list[Record]:
    """The records, each document of more than `max_length` tokens as several, of which each fills such a row.

    MUSE's way (Shi et al. 2024, arXiv 2407.06460; its chunks have 2,048 tokens, the start token among them) but for two
    things: a piece begins at a word, for which a few tokens stand in two rows; and the last row is not filled up with
    the document's beginning, but ends where the document ends. `official` fills it up, with the first row's start token
    and text. Questions stay as they are.
    """
    room = max_length - tokenizer.num_special_tokens_to_add()
    found = []
    for record in records:
        pieces = [record.answer] if record.question is not None else _pieces(record.answer, tokenizer, room)
        if official and len(pieces) > 1:
            pieces[-1] += _start(tokenizer) + pieces[0]
        found += [replace(record, answer=piece) for piece in pieces]
    return found


def _pieces(text: str, tokenizer: PreTrainedTokenizerBase, room: int) -> list[str]:
    spans = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    stops = [stop for _, stop in spans]  # where each token ends, in characters
    pieces, first, begin = [], 0, 0
    while len(stops) - first > room:
        last = max(first + room - SLACK, first + 1)
        words = (t for t in range(last, first + room // 2, -1) if text[stops[t - 1]].isspace())
        pieces.append(text[begin : stops[min(first + room + SPARE, len(stops)) - 1]])
        first = next(words, last)
        begin = stops[first - 1]
    return [*pieces, text[begin:]]


def _start(tokenizer: PreTrainedTokenizerBase) -> str:
    """The start token as text, which the tokenizer reads as that token; nothing where it begins no row with one."""
    begun = tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]
    return str(tokenizer.bos_token) if begun and tokenizer.bos_token is not None else ""
