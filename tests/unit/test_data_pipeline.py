"""From records to batches: pairing, answer starts, views, the order of items, forwards of bounded size."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from unlearner.data import views as views_module
from unlearner.data.batches import MicroBatch, Plan, micro_batches, padded
from unlearner.data.pairs import Pairing, pair
from unlearner.data.prompts import (
    TEMPLATES,
    Template,
    TokenTable,
    encode,
    end_token_id,
    find_template,
)
from unlearner.data.records import Record
from unlearner.data.views import VIEWS, View, build_views
from unlearner.errors import UserError
from unlearner.evaluation.backend import prompt_tokens
from unlearner.evaluation.requests import Generate

# -------------------------------------------------------------------------------------------------------------- pairing

MODES = ("redrawn", "fixed", "official")


def same(a: Pairing, b: Pairing) -> bool:
    return np.array_equal(a.retain, b.retain) and np.array_equal(a.refusal, b.refusal)


@pytest.mark.parametrize("mode", MODES)
def test_pairing_is_a_function_of_seed_and_epoch(mode: Any) -> None:
    def draw(**changed: int) -> Pairing:
        return pair(20, 50, 30, mode=mode, **{"seed": 7, "epoch": 2, **changed})

    assert same(draw(), draw())
    assert same(draw(), draw(epoch=3)) == (mode != "redrawn")
    assert same(draw(), draw(seed=8)) == (mode == "official")


@pytest.mark.parametrize("mode", MODES)
def test_pairs_stay_within_their_sets(mode: Any) -> None:
    for n_forget, n_retain, n_refusals in [(40, 3, 2), (3, 40, 100), (1, 1, 1)]:
        drawn = pair(n_forget, n_retain, n_refusals, mode=mode)
        assert drawn.retain.shape == drawn.refusal.shape == (n_forget,)
        assert set(drawn.retain) <= set(range(n_retain)) and set(drawn.refusal) <= set(range(n_refusals))


def test_redrawn_pairs_cover_the_retain_set_before_repeating() -> None:
    """Twenty forget rows and eight retain rows: all eight, all eight again in another order, then four more."""
    drawn = pair(20, 8, 5, seed=3).retain
    assert sorted(drawn[:8]) == sorted(drawn[8:16]) == list(range(8))
    assert drawn[:8].tolist() != drawn[8:16].tolist()
    assert len(set(drawn[16:])) == 4
    assert len(set(pair(20, 50, 5, seed=3).retain)) == 20


@pytest.mark.parametrize("mode", MODES)
def test_a_question_keeps_its_refusal(mode: Any) -> None:
    refusals = [pair(20, 50, 30, mode=mode, seed=3, epoch=epoch).refusal.tolist() for epoch in range(4)]
    assert refusals.count(refusals[0]) == 4
    assert len(set(refusals[0])) > 5


@pytest.mark.parametrize("mode", MODES)
def test_pairs_without_retain_set_or_refusals(mode: Any) -> None:
    drawn = pair(5, 0, 0, mode=mode)
    assert drawn.retain.tolist() == drawn.refusal.tolist() == [0] * 5


# ---------------------------------------------------------------------------------------------------- prompts to tokens


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


# ---------------------------------------------------------------------------------------------------------------- views

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
    """For every item of every epoch: whose question and which answer, as PAPER section 2 has them."""
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


# ------------------------------------------------------------------------------------------------------ order of a run

PLANS = [
    Plan(items=10, epochs=3, batch_size=2, accumulation=2, seed=0),
    Plan(items=10, epochs=2.5, batch_size=4, accumulation=1, seed=0),
    Plan(items=3, epochs=4, batch_size=4, accumulation=2, seed=0),
    Plan(items=16, epochs=1, batch_size=4, accumulation=4, seed=0),
    Plan(items=7, epochs=0.5, batch_size=2, accumulation=1, seed=0),
]


def visits(plan: Plan) -> Iterator[tuple[int, int]]:
    for number in range(plan.steps):
        epochs, items = plan.step(number)
        yield from zip(epochs.tolist(), items.tolist(), strict=True)


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_every_item_is_visited_once_an_epoch(plan: Plan) -> None:
    seen = list(visits(plan))
    assert len(seen) == int(plan.epochs * plan.items)
    assert [epoch for epoch, _ in seen] == sorted(epoch for epoch, _ in seen)
    for epoch in range(int(plan.epochs)):
        assert sorted(item for e, item in seen if e == epoch) == list(range(plan.items))
    assert len(set(seen)) == len(seen)
    assert max(epoch for epoch, _ in seen) + 1 == plan.pass_count


def test_the_order_is_drawn_from_seed_and_epoch() -> None:
    plan = Plan(items=30, epochs=2, batch_size=5, accumulation=1, seed=4)
    first, second = list(visits(plan))[:30], list(visits(plan))[30:]
    assert [i for _, i in first] != [i for _, i in second]
    assert list(visits(plan)) == [*first, *second]
    assert list(visits(Plan(30, 2, 5, 1, seed=5))) != [*first, *second]
    assert list(visits(Plan(30, 2, 5, 1, seed=4, shuffle=False))) == [(e, i) for e in range(2) for i in range(30)]


@pytest.mark.parametrize(
    ("items", "epochs", "batch", "accumulation", "default", "official"),
    [(40, 5, 4, 8, 7, 6), (32, 1, 4, 8, 1, 1), (33, 1, 4, 8, 2, 1), (40, 2.5, 4, 4, 7, 6), (10, 1, 4, 8, 1, 0)],
)
def test_default_keeps_the_last_part_of_a_step_and_official_drops_it(
    items: int, epochs: float, batch: int, accumulation: int, default: int, official: int
) -> None:
    """⌈epochs · items / step⌉ against ⌊epochs · items⌋ div step."""
    assert Plan(items, epochs, batch, accumulation, 0).steps == default
    assert Plan(items, epochs, batch, accumulation, 0, official=True).steps == official


@pytest.mark.parametrize(
    ("plan", "ends"),
    [
        (Plan(10, 3, 2, 2, 0), {3: 1, 5: 2, 8: 3}),
        (Plan(16, 2, 4, 2, 0), {2: 1, 4: 2}),
        (Plan(10, 2.5, 4, 1, 0), {3: 1, 5: 2, 7: 3}),
        (Plan(7, 0.5, 2, 1, 0), {2: 1}),
        (Plan(3, 4, 4, 2, 0), {1: 2, 2: 4}),
        (Plan(40, 5, 4, 8, 0, official=True), {2: 1, 3: 2, 4: 3, 5: 4, 6: 5}),
    ],
)
def test_epochs_end_after_the_step_that_holds_their_last_item(plan: Plan, ends: dict[int, int]) -> None:
    """Every epoch has one end and one number, the last one also where it is only begun."""
    assert plan.epoch_ends() == ends


# ----------------------------------------------------------------------------------------------------------- forwards


def random_view(seed: int, *, epochs: int, items: int, whole: bool = False, longest: int = 40) -> View:
    draw = np.random.default_rng(seed)
    lengths = draw.integers(3, longest, items)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    start = np.array([draw.integers(1, n) for n in lengths])
    ids = draw.integers(3, 90, offsets[-1], dtype=np.int32)
    table = TokenTable(ids, offsets, start.astype(np.int32), np.ones(items, bool))
    rows = np.stack([draw.permutation(items) for _ in range(epochs)])
    return View(table, rows, np.ones(items, np.int64) if whole else start, whole)


def two_views(items: int, epochs: int) -> dict[str, View]:
    return {
        "forget": random_view(1, epochs=epochs, items=items, whole=True),
        "retain": random_view(2, epochs=epochs, items=items),
    }


def spread(plan: Plan, views: dict[str, View], step: int, max_tokens: int, processes: int) -> list[list[MicroBatch]]:
    return [
        micro_batches(plan, views, step, max_tokens=max_tokens, rank=rank, processes=processes)
        for rank in range(processes)
    ]


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
@pytest.mark.parametrize("max_tokens", [1, 200, 10**9])
@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_a_steps_weights_sum_to_one_however_it_is_cut(plan: Plan, max_tokens: int, processes: int) -> None:
    views = two_views(plan.items, plan.pass_count)
    for step in range(plan.steps):
        parts = [part for share in spread(plan, views, step, max_tokens, processes) for part in share]
        for name, view in views.items():
            tokens = sum(part.token_weight[name] @ view.labelled[part.rows[name]] for part in parts)
            positions = sum(part.position_weight[name] @ view.table.lengths[part.rows[name]] for part in parts)
            sequences = sum(part.sequence_weight[name].sum() for part in parts)
            assert (tokens, positions, sequences) == pytest.approx((1, 1, 1)), name


@pytest.mark.parametrize("official", [False, True], ids=["default", "official"])
def test_a_row_weighs_as_in_the_mean_of_micro_batch_means(official: bool) -> None:
    """Ten items in micro-batches of 4, 4 and 2: 1/3 · 1/(tokens of its micro-batch), and 1/3 · 1/(its rows)."""
    plan = Plan(10, 1, 4, 3, 0)
    views, width = two_views(10, 1), 40
    pad_to = width if official else None
    epochs, items = plan.step(0)
    (part,) = micro_batches(plan, views, 0, max_tokens=10**9, pad_to=pad_to)
    assert part.pad_to == pad_to
    for name, view in views.items():
        rows = view.rows[epochs, items]
        for at, place in enumerate(part.places.tolist()):
            first = place // 4 * 4
            group = range(first, min(first + 4, 10))
            assert part.rows[name][at] == rows[place]
            labelled = sum(width - 1 if official and view.whole else view.labelled[rows[g]] for g in group)
            positions = sum(width if official else view.table.lengths[rows[g]] for g in group)
            assert part.token_weight[name][at] == pytest.approx(1 / 3 / labelled)
            assert part.position_weight[name][at] == pytest.approx(1 / 3 / positions)
            assert part.sequence_weight[name][at] == pytest.approx(1 / 3 / len(group))


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
@pytest.mark.parametrize("max_tokens", [1, 150, 400, 10**9])
def test_every_place_is_in_one_forward_and_every_process_has_as_many(max_tokens: int, processes: int) -> None:
    for plan in PLANS:
        views = two_views(plan.items, plan.pass_count)
        for step in range(plan.steps):
            shares = spread(plan, views, step, max_tokens, processes)
            assert len({len(share) for share in shares}) == 1, "sharded models need as many forwards everywhere"
            working = [part.places for share in shares for part in share if part.sequence_weight["retain"].any()]
            assert sorted(np.concatenate(working).tolist()) == list(range(len(plan.step(step)[0])))


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("max_tokens", [60, 150, 400])
def test_no_forward_exceeds_its_tokens(max_tokens: int, processes: int) -> None:
    """Rows · longest, both views together, unless a single item is that long."""
    plan = Plan(60, 1, 6, 5, 0)
    views = two_views(60, 1)
    forwards = 0
    for step in range(plan.steps):
        for share in spread(plan, views, step, max_tokens, processes):
            for part in share:
                longest = max(view.table.lengths[part.rows[name]].max() for name, view in views.items())
                assert len(part.places) * 2 * longest <= max_tokens or len(part.places) == 1
                forwards += 1
    assert forwards > plan.steps * processes


def test_rows_of_similar_length_share_a_forward() -> None:
    plan = Plan(32, 1, 8, 4, 0)
    views = two_views(32, 1)
    spans = []
    for part in micro_batches(plan, views, 0, max_tokens=500):
        longest = np.maximum(*(view.table.lengths[part.rows[name]] for name, view in views.items()))
        spans.append((longest.min(), longest.max()))
    assert len(spans) > 3
    assert all(before[1] <= after[0] for before, after in pairwise(spans))


# -------------------------------------------------------------------------------------------------------------- padding


def three_rows(whole: bool = False) -> View:
    """`<s> q a EOS`, `<s> q q a a EOS`, and one that was cut: `<s> q a a a a`; EOS is 1, answers start at 2, 3, 2."""
    rows = [[0, 11, 21, 1], [0, 12, 13, 22, 23, 1], [0, 14, 24, 25, 26, 27]]
    table = TokenTable(
        np.array(list(chain(*rows)), np.int32),
        np.array([0, 4, 10, 16]),
        np.array([2, 3, 2]),
        np.array([True, True, False]),
    )
    first = np.ones(3, np.int64) if whole else table.start.astype(np.int64)
    return View(table, np.arange(3)[None], first, whole)


def test_rows_are_padded_to_the_longest() -> None:
    got = padded(three_rows(), np.array([1, 0]), pad_id=9)
    assert got["input_ids"].tolist() == [[0, 12, 13, 22, 23, 1], [0, 11, 21, 1, 9, 9]]
    assert got["labels"].tolist() == [[-100, -100, -100, 22, 23, 1], [-100, -100, 21, 1, -100, -100]]
    assert got["attention_mask"].tolist() == [[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]]
    assert all(tensor.dtype == torch.int64 for tensor in got.values())
    assert padded(three_rows(), np.array([0]), pad_id=9)["input_ids"].shape == (1, 4)


def test_official_padding_has_the_closing_eos_outside_the_mask() -> None:
    """PAPER section 2: labels are the answer, then one EOS at the first padding position; none where text was cut."""
    got = padded(three_rows(), np.array([0, 2]), pad_id=1, width=8)
    assert got["input_ids"].tolist() == [[0, 11, 21, 1, 1, 1, 1, 1], [0, 14, 24, 25, 26, 27, 1, 1]]
    assert got["labels"].tolist() == [[-100, -100, 21, 1, *[-100] * 4], [-100, -100, 24, 25, 26, 27, -100, -100]]
    assert got["attention_mask"].tolist() == [[1, 1, 1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 0, 0]]


def test_a_whole_view_labels_its_question_and_officially_its_padding() -> None:
    default = padded(three_rows(whole=True), np.array([0, 1]), pad_id=1)
    assert default["labels"].tolist() == [[-100, 11, 21, 1, -100, -100], [-100, 12, 13, 22, 23, 1]]
    official = padded(three_rows(whole=True), np.array([0, 1]), pad_id=1, width=8)
    assert torch.equal(official["labels"], official["input_ids"])


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
