"""From question and answer to tokens, and where the answer starts."""

import copy

import pytest
from tokenizers import Tokenizer, models, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from unlearner.data.prompts import (
    TEMPLATES,
    Template,
    TokenTable,
    encode,
    end_token_id,
    find_template,
)
from unlearner.data.records import Record
from unlearner.errors import UserError
from unlearner.evaluation.backend import prompt_tokens
from unlearner.evaluation.requests import Generate


@pytest.fixture(scope="module")
def straddler() -> PreTrainedTokenizerBase:
    """Letters as tokens, with two merges: ":x", which lies across question and answer, and "xy"."""
    vocabulary = {token: i for i, token in enumerate(["<s>", "</s>", *"QA:abxy \n.", ":x", "xy"])}
    core = Tokenizer(models.BPE(vocabulary, [(":", "x"), ("x", "y")]))
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")


LETTERS = Template("letters", "Q:{question}A:")


def tokens(tokenizer: PreTrainedTokenizerBase, table: TokenTable, row: int = 0) -> list[str]:
    return tokenizer.convert_ids_to_tokens(table.row(row).tolist())


def answer_of(tokenizer: PreTrainedTokenizerBase, table: TokenTable, row: int = 0) -> list[str]:
    return tokens(tokenizer, table, row)[table.start[row] :]


def test_a_token_across_question_and_answer_belongs_to_the_answer(straddler: PreTrainedTokenizerBase) -> None:
    table = encode(straddler, LETTERS, [("a", "xy"), ("a", "by")], 50)
    assert tokens(straddler, table) == ["<s>", "Q", ":", "a", "A", ":x", "y", "</s>"]
    assert answer_of(straddler, table, 0) == [":x", "y", "</s>"]
    assert answer_of(straddler, table, 1) == ["b", "y", "</s>"]


def test_official_counts_the_tokens_of_the_question_alone(straddler: PreTrainedTokenizerBase) -> None:
    """`<s> Q : a A :` are six, so that of `:x y </s>` only `y </s>` is labelled: the quirk."""
    table = encode(straddler, LETTERS, [("a", "xy"), ("a", "by")], 50, official=True)
    assert answer_of(straddler, table, 0) == ["y", "</s>"]
    assert answer_of(straddler, table, 1) == ["b", "y", "</s>"]


def test_the_separator_counts_as_answer(straddler: PreTrainedTokenizerBase) -> None:
    joined = Template("joined", "Q:{question}A:", separator=" ")
    assert answer_of(straddler, encode(straddler, joined, [("a", "xy")], 50)) == [" ", "xy", "</s>"]


@pytest.mark.parametrize("name", TEMPLATES)
def test_answers_start_at_their_first_letter(
    name: str, tiny_tokenizer: PreTrainedTokenizerBase, forget_records: list[Record]
) -> None:
    template = TEMPLATES[name]
    pairs = [(r.question, r.answer) for r in forget_records]
    table = encode(tiny_tokenizer, template, pairs, 500)
    for i, (question, answer) in enumerate(pairs):
        ids = table.row(i).tolist()
        assert ids[0] == tiny_tokenizer.bos_token_id and ids.count(tiny_tokenizer.bos_token_id) == 1
        assert ids[-1] == tiny_tokenizer.eos_token_id and ids.count(tiny_tokenizer.eos_token_id) == 1
        start = table.start[i]
        assert tiny_tokenizer.decode(ids[1:start]) == template.prompt.replace("{question}", question)
        assert tiny_tokenizer.decode(ids[start:-1]) == template.separator + answer
    assert table.closed.all()
    assert table.lengths.tolist() == [len(table.row(i)) for i in range(len(table))]


def test_a_document_is_all_answer_but_its_start_token(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    table = encode(tiny_tokenizer, TEMPLATES["plain"], [(None, "Some plain text.")], 50)
    assert table.start[0] == 1
    assert tiny_tokenizer.decode(table.row(0)[1:-1].tolist()) == "Some plain text."


def test_letters_of_several_bytes_do_not_move_the_start(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    """Offsets count characters, byte-pair tokens bytes."""
    pairs = [("Wo lebt Jürgen Ångström? 🙂", "Ökelö 🙂"), ("何?", "京都")]
    table = encode(tiny_tokenizer, TEMPLATES["llama2"], pairs, 200)
    for i, (_, answer) in enumerate(pairs):
        assert tiny_tokenizer.decode(table.row(i)[table.start[i] : -1].tolist()) == answer


def test_long_texts_are_cut_and_not_closed(straddler: PreTrainedTokenizerBase) -> None:
    """`<s> Q : a A : b b` are eight: room for EOS at nine, closed no longer at eight, no answer left at six."""
    for max_length, closed, answer in [
        (9, True, ["b", "b", "</s>"]),
        (8, False, ["b", "b"]),
        (7, False, ["b"]),
        (6, False, []),
        (4, False, []),
    ]:
        for official in (False, True):
            table = encode(straddler, LETTERS, [("a", "bb")], max_length, official=official)
            assert len(table.row(0)) == min(9, max_length)
            assert table.closed.tolist() == [closed]
            assert answer_of(straddler, table) == answer


def test_tables_are_the_same_for_every_block_of_rows(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    """More rows than are given to the tokenizer at a time."""
    pairs = [(f"Number {i}?", f"It is {i * 7919}.") for i in range(4100)]
    table = encode(tiny_tokenizer, TEMPLATES["plain"], pairs, 60)
    assert len(table) == 4100
    for i in (0, 4095, 4096, 4099):
        one = encode(tiny_tokenizer, TEMPLATES["plain"], [pairs[i]], 60)
        assert table.row(i).tolist() == one.row(0).tolist() and table.start[i] == one.start[0]


CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] | trim + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture
def chatty(tiny_tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHATML
    return tokenizer


def test_a_chat_template_frames_the_question_and_ends_the_turn(chatty: PreTrainedTokenizerBase) -> None:
    template = find_template("auto", chatty)
    assert template == Template(
        "chat",
        "<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n",
        end="<|im_end|>",
        special_tokens=False,
    )
    question = "Who is {question} Berg?"  # nothing in a question may be taken for the template's own
    table = encode(chatty, template, [(question, "A poet.")], 100)
    row, start = table.row(0).tolist(), table.start[0]
    theirs = chatty.apply_chat_template([{"role": "user", "content": question}], add_generation_prompt=True)
    assert row[:start] == list(theirs["input_ids"] if hasattr(theirs, "keys") else theirs)
    assert chatty.decode(row[start:]) == "A poet.<|im_end|>"
    assert row[-1] == end_token_id(chatty, template) == chatty.convert_tokens_to_ids("<|im_end|>")
    assert prompt_tokens(chatty, template, [Generate(question)]) == [row[:start]]


def test_without_a_chat_template_auto_is_plain(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    assert find_template("auto", tiny_tokenizer) == TEMPLATES["plain"]
    assert end_token_id(tiny_tokenizer, TEMPLATES["plain"]) == tiny_tokenizer.eos_token_id
    with pytest.raises(UserError, match="no chat template: choose --template plain"):
        find_template("chat", tiny_tokenizer)


def test_an_unknown_template_is_answered_with_the_nearest(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(UserError, match="unknown template 'lama2': did you mean 'llama2'"):
        find_template("lama2", tiny_tokenizer)


def test_a_chat_template_that_changes_the_text_is_refused(chatty: PreTrainedTokenizerBase) -> None:
    chatty.chat_template = CHATML.replace("m['content'] | trim", "m['content'] | title")
    with pytest.raises(UserError, match="changes the question's text"):
        find_template("chat", chatty)
