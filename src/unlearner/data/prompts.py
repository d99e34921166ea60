"""From a question and an answer to tokens: prompt templates, and where the answer begins (arXiv 2410.08109)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from unlearner.errors import UserError, did_you_mean

SENTINEL = "\x02question\x03"


@dataclass(frozen=True)
class Template:
    """How a question and its answer become one string.

    `prompt` is the text before the answer, `{question}` in it; `separator` stands between prompt and answer and counts
    as answer (so that byte-pair tokens such as " Paris" stay whole); `end` follows the answer, None for the tokenizer's
    EOS token; `special_tokens` says whether the tokenizer adds its own, such as `<s>`.
    """

    name: str
    prompt: str
    separator: str = ""
    end: str | None = None
    special_tokens: bool = True

    def question_part(self, question: str | None) -> str:
        return "" if question is None else self.prompt.replace("{question}", question)

    def places(self, question: str) -> tuple[int, int]:
        """Where question and answer begin in the whole text, in characters."""
        return self.prompt.index("{question}"), len(self.question_part(question)) + len(self.separator)

    def answer_part(self, question: str | None, answer: str) -> str:
        return answer if question is None else self.separator + answer


TEMPLATES = {
    "plain": Template("plain", "Question: {question}\nAnswer:", separator=" "),
    # The two strings of the official code, tokenised as one string each.
    "llama2": Template("llama2", "[INST] {question} [/INST]"),
    "llama3": Template(
        "llama3",
        "<|start_header_id|>user<|end_header_id|>\n\n{question}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
}


DOCUMENT = Template("document", "{question}")
"""For plain text: what is given, and its continuation right behind it."""


def find_template(name: str, tokenizer: PreTrainedTokenizerBase) -> Template:
    """The template called `name`: `auto` (the model's chat template if it has one, else plain), `chat`, or one of
    `TEMPLATES`. Raises UserError for any other name, or for `chat` where the tokenizer has no chat template."""
    has_chat = getattr(tokenizer, "chat_template", None) is not None
    if name == "auto":
        name = "chat" if has_chat else "plain"
    if name == "chat":
        if not has_chat:
            raise UserError("the model's tokenizer has no chat template: choose --template plain, llama2 or llama3.")
        return _chat_template(tokenizer)
    if name not in TEMPLATES:
        raise UserError(f"unknown template {name!r}: {did_you_mean(name, ['auto', 'chat', *TEMPLATES])}")
    return TEMPLATES[name]


def _chat_template(tokenizer: PreTrainedTokenizerBase) -> Template:
    # Rendered once with a stand-in question: thousands of rows need no Jinja, and one run sees one prompt even where a
    # template prints today's date (Llama 3.1 takes `date_string`).
    user = {"role": "user", "content": SENTINEL}
    answer = SENTINEL.upper()
    options: dict[str, Any] = {"tokenize": False, "date_string": "26 Jul 2024"}
    try:
        prompt = str(tokenizer.apply_chat_template([user], add_generation_prompt=True, **options))
        whole = str(tokenizer.apply_chat_template([user, {"role": "assistant", "content": answer}], **options))
    except Exception as error:  # a template is a program, and can fail in any way
        raise UserError(
            f"the model's chat template refuses a question with its answer ({error}): choose --template plain."
        ) from error
    if SENTINEL not in prompt or answer not in whole:
        raise UserError("the model's chat template changes the question's text: choose --template plain.")
    end = whole[whole.index(answer) + len(answer) :].strip()
    return Template("chat", prompt.replace(SENTINEL, "{question}"), end=end or None, special_tokens=False)


@dataclass(frozen=True)
class TokenTable:
    """Tokenised rows, flat: row i is `ids[offsets[i]:offsets[i+1]]`, its answer starts `start[i]` tokens in.

    `closed[i]` tells whether the row ends with its end-of-answer tokens (False where max_length cut it).
    """

    ids: np.ndarray
    offsets: np.ndarray
    start: np.ndarray
    closed: np.ndarray

    def __len__(self) -> int:
        return len(self.start)

    def row(self, i: int) -> np.ndarray:
        """Token ids of row i, shape (tokens,)."""
        return self.ids[self.offsets[i] : self.offsets[i + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of every row, shape (rows,)."""
        return np.diff(self.offsets)


def encode(
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    pairs: Sequence[tuple[str | None, str]],
    max_length: int,
    *,
    official: bool = False,
) -> TokenTable:
    """Tokenise (question, answer) pairs, each as one string, cut at `max_length` tokens.

    The answer starts at the first token that holds a character of the answer: a token that straddles question and
    answer belongs to the answer, or the model would never be asked for its first letters. `official=True` counts the
    tokens of the question part alone, as the official code does, which can differ by such a token.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(
            f"{type(tokenizer).__name__} gives no character offsets: convert the model's tokenizer to tokenizer.json."
        )
    end = (
        [tokenizer.eos_token_id]
        if template.end is None
        else tokenizer(template.end, add_special_tokens=False)["input_ids"]
    )
    questions = [template.question_part(q) for q, _ in pairs]
    texts = [part + template.answer_part(q, a) for part, (q, a) in zip(questions, pairs, strict=True)]
    ids: list[int] = []
    offsets = np.zeros(len(pairs) + 1, dtype=np.int64)
    start = np.zeros(len(pairs), dtype=np.int32)
    closed = np.zeros(len(pairs), dtype=bool)
    block = 4096  # bounds the Python lists that the tokenizer returns
    for first in range(0, len(pairs), block):
        chosen = slice(first, first + block)
        out = tokenizer(
            texts[chosen],
            add_special_tokens=template.special_tokens,
            return_offsets_mapping=not official,
            return_attention_mask=False,
        )
        if official:
            alone = tokenizer(questions[chosen], add_special_tokens=template.special_tokens)["input_ids"]
            starts = [len(tokens) for tokens in alone]
        else:
            starts = [
                next((t for t, (_, stop) in enumerate(spans) if stop > len(question)), len(spans))
                for question, spans in zip(questions[chosen], out["offset_mapping"], strict=True)
            ]
        for i, (row, answer_start) in enumerate(zip(out["input_ids"], starts, strict=True), start=first):
            closed[i] = len(row) < max_length
            if closed[i]:
                row = row + end
            ids.extend(row[:max_length])
            offsets[i + 1] = len(ids)
            start[i] = min(answer_start, max_length, len(row))
    return TokenTable(np.array(ids, dtype=np.int32), offsets, start, closed)


def mark(
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    pairs: Sequence[tuple[str | None, str]],
    places: Sequence[Sequence[tuple[int, int]]],
    table: TokenTable,
) -> np.ndarray:
    """Which tokens of `table`, made of `pairs` by `encode`, hold a character of these places (begin, end) of the whole
    text, or come right behind: bool, flat as `table.ids`."""
    marked = np.zeros(len(table.ids), dtype=bool)
    for i, ((question, answer), spans) in enumerate(zip(pairs, places, strict=True)):
        text = template.question_part(question) + template.answer_part(question, answer)
        offsets = tokenizer(text, add_special_tokens=template.special_tokens, return_offsets_mapping=True)
        row = marked[table.offsets[i] : table.offsets[i + 1]]
        for token, (first, stop) in enumerate(offsets["offset_mapping"]):
            if any(first < end and stop > begin for begin, end in spans):
                row[token : token + 2] = True
    return marked


def end_token_id(tokenizer: PreTrainedTokenizerBase, template: Template) -> int:
    """The token at which an answer under `template` ends."""
    if template.end is None:
        return int(tokenizer.eos_token_id)
    return int(tokenizer(template.end, add_special_tokens=False)["input_ids"][0])
