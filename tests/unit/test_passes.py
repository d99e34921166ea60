"""The two passes: prefix sharing against one plain forward per answer, padding, resuming."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, processors, trainers
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
)

from unlearner.data.prompts import TEMPLATES, encode
from unlearner.data.records import Record
from unlearner.errors import UserError
from unlearner.evaluation import passes
from unlearner.evaluation.backend import everyday, run_passes
from unlearner.evaluation.examples import Example, variants
from unlearner.evaluation.passes import common_prefix, scoring_pass
from unlearner.evaluation.requests import Score
from unlearner.evaluation.store import Store
from unlearner.models.batch_jobs import BatchJob
from unlearner.models.execution import Execution, using
from unlearner.models.generation import generation_pass

LLAMA2 = TEMPLATES["llama2"]
PEOPLE = ["Ada Weiss", "Bruno Okafor", "Clara Lindqvist-Moreau", "Dev", "Emre Yıldız", "Fatou Diallo"]
PLACES = ["Lisbon", "Kyoto, Japan", "a village near Tartu", "Quito", "Oslo", "New Orleans, Louisiana"]


def records(count: int = 6) -> tuple[Record, ...]:
    """Questions and answers of many lengths; some records without paraphrase or wrong answers."""
    rows = []
    for i in range(count):
        person, place = PEOPLE[i % 6], PLACES[i % 6]
        wrong = tuple(f"{person} was born in {PLACES[(i + k) % 6]}" for k in range(1, 1 + i % 4))
        question = f"Where was {person} born?" + " Please be exact." * (i // 6 + i % 3)
        rows.append(Record(question, f"{person} was born in {place}.", f"It was in {place}." if i % 3 else None, wrong))
    return tuple(rows)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-pair tokens that know no word boundaries; one of them is "]It", of a prompt and its answer."""
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    texts = [LLAMA2.question_part(r.question) + answer for r in records() for answer in variants(r)]
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=150, special_tokens=special, max_token_length=4, show_progress=False)
    core.train_from_iterator([*texts, *["]It"] * 100], trainer)
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


@pytest.fixture(scope="module")
def bare_tokenizer(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The same without a start token, as in GPT-2."""
    core = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    core.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", eos_token="</s>")


def make(kind: str, dtype: torch.dtype = torch.float64) -> Any:
    """A tiny model with random weights."""
    torch.manual_seed(0)
    small = {"vocab_size": 150, "hidden_size": 32, "initializer_range": 0.2, "eos_token_id": 2}
    llama = small | {
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    model: Any = {
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**llama)),
        "mistral": lambda: MistralForCausalLM(MistralConfig(**llama, sliding_window=16)),
        "gpt2": lambda: GPT2LMHeadModel(
            GPT2Config(vocab_size=150, n_embd=32, n_layer=2, n_head=4, initializer_range=0.2, eos_token_id=2)
        ),
        "bloom": lambda: BloomForCausalLM(BloomConfig(**small, n_layer=2, n_head=4)),
        "mamba": lambda: MambaForCausalLM(MambaConfig(**small, state_size=4, num_hidden_layers=2)),
    }[kind]()
    return model.to(dtype).eval()


@torch.no_grad()
def plain_nll(model: Any, table: Any) -> list[float]:
    """One unpadded row at a time through the whole model."""
    out = []
    for i in range(len(table)):
        ids = torch.tensor(table.row(i).astype(np.int64))[None]
        logp = model(input_ids=ids, use_cache=False).logits[0, :-1].log_softmax(-1)
        first = max(int(table.start[i]), 1)
        out.append(-logp[torch.arange(first - 1, ids.shape[1] - 1), ids[0, first:]].sum().item())
    return out


def tokenised(
    tokenizer: PreTrainedTokenizerFast, rows: Sequence[Record], max_length: int = 200
) -> tuple[Any, list[int]]:
    pairs = [(record.question, answer) for record in rows for answer in variants(record)]
    return encode(tokenizer, LLAMA2, pairs, max_length), [len(variants(record)) for record in rows]


@pytest.mark.parametrize("kind", ["llama", "mistral", "gpt2", "bloom", "mamba"])
@pytest.mark.parametrize("share", [True, False])
def test_scores_equal_plain_forward(kind: str, share: bool, tokenizer: PreTrainedTokenizerFast) -> None:
    table, sizes = tokenised(tokenizer, records())
    narrow = kind in ("bloom", "mamba")  # float32 inside, whatever the model's type
    model = make(kind, torch.float32 if narrow else torch.float64)
    nll = scoring_pass(model, table, sizes, share=share).run()
    assert nll.tolist() == pytest.approx(plain_nll(model, table), rel=1e-5 if narrow else 1e-10)


@pytest.mark.parametrize("variants_of", ["all", "one"])
@pytest.mark.parametrize("kind", ["llama", "mistral", "gpt2", "bloom"])
def test_what_all_questions_begin_with_is_encoded_once(
    kind: str, variants_of: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Where there are rows of one answer, too; with windows, or without positions, as before."""
    pairs = [(f"Be brief. Be kind. {r.question}", a) for r in records() for a in variants(r)]
    sizes = [len(variants(r)) for r in records()] if variants_of == "all" else [1] * len(pairs)
    table = encode(tokenizer, LLAMA2, pairs, 200)
    narrow = kind == "bloom"
    model = make(kind, torch.float32 if narrow else torch.float64)
    expected = pytest.approx(plain_nll(model, table), rel=1e-5 if narrow else 1e-10)
    first: list[tuple[int, ...]] = []
    model.base_model.register_forward_pre_hook(
        lambda _, __, kw: first.append(tuple(kw["input_ids"].shape)), with_kwargs=True
    )
    assert scoring_pass(model, table, sizes).run().tolist() == expected
    shared = common_prefix(table, np.arange(len(table)))
    assert ((1, shared) in first) == (kind in ("llama", "gpt2")) and shared > 4
    first.clear()
    with using(Execution(prefix="repeated")):
        assert scoring_pass(model, table, sizes).run().tolist() == expected
    assert (1, shared) not in first


def test_sharing_in_float32(tokenizer: PreTrainedTokenizerFast) -> None:
    table, sizes = tokenised(tokenizer, records())
    model = make("llama", torch.float32)
    shared, plain = (scoring_pass(model, table, sizes, share=share).run() for share in (True, False))
    assert shared.tolist() == pytest.approx(plain.tolist(), rel=1e-5)


def test_sharing_encodes_questions_once(tokenizer: PreTrainedTokenizerFast) -> None:
    table, sizes = tokenised(tokenizer, records())
    tokens = {}
    for share in (True, False):
        model = make("llama")
        shapes: list[int] = []
        model.model.register_forward_pre_hook(
            lambda _, __, kw, shapes=shapes: shapes.append(kw["input_ids"].numel()), with_kwargs=True
        )
        scoring_pass(model, table, sizes, share=share, batch_tokens=64).run()
        tokens[share] = sum(shapes)
    assert tokens[True] < 0.8 * tokens[False]


@pytest.mark.parametrize("batch_tokens", [1, 70, 300])
@pytest.mark.parametrize("groups", [1, 4])
def test_batches_change_nothing(
    batch_tokens: int, groups: int, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, sizes = tokenised(tokenizer, records())
    model = make("llama")
    whole = scoring_pass(model, table, sizes).run()
    monkeypatch.setattr(passes, "ROUND", groups)
    assert scoring_pass(model, table, sizes, batch_tokens=batch_tokens).run().tolist() == pytest.approx(
        whole, rel=1e-10
    )


def test_straddling_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    """A token with the prompt's last and the answer's first letters is scored and no part of what rows share."""
    table, sizes = tokenised(tokenizer, records())
    right, paraphrase = sum(sizes[:4]), sum(sizes[:4]) + 1
    assert tokenizer.convert_ids_to_tokens(int(table.row(paraphrase)[table.start[paraphrase]])) == "]It"
    prefix = common_prefix(table, np.array([right, paraphrase]))
    assert 0 < prefix < table.start[paraphrase]
    assert (table.row(right)[:prefix] == table.row(paraphrase)[:prefix]).all()


def test_common_prefix(tokenizer: PreTrainedTokenizerFast) -> None:
    """Not into the answers even where these begin alike; nothing to share for a single row."""
    same = Record("Where was Dev born?", "Dev was born in Oslo", None, ("Dev was born in Quito",))
    table, _ = tokenised(tokenizer, [same])
    assert common_prefix(table, np.arange(2)) == table.start[0] - 1
    assert common_prefix(table, np.arange(1)) == 0


def test_examples(tokenizer: PreTrainedTokenizerFast) -> None:
    """Every measurement stands with the record and the answer it belongs to."""
    model = make("llama")
    rows = records()
    examples = run_passes(model, tokenizer, LLAMA2, rows, max_new_tokens=8)
    table, _ = tokenised(tokenizer, rows)
    nll = iter(plain_nll(model, table))
    counts = iter((table.lengths - table.start).tolist())
    for record, example in zip(rows, examples, strict=True):
        assert example.record is record
        assert (example.answer_nll, example.answer_tokens) == (pytest.approx(next(nll)), next(counts))
        if record.paraphrased_answer is None:
            assert (example.paraphrase_nll, example.paraphrase_tokens) == (None, 0)
        else:
            assert (example.paraphrase_nll, example.paraphrase_tokens) == (pytest.approx(next(nll)), next(counts))
        assert example.perturbed_nll == pytest.approx([next(nll) for _ in record.perturbed_answer])
        assert list(example.perturbed_tokens) == [next(counts) for _ in record.perturbed_answer]
        prompt = tokenizer(LLAMA2.question_part(record.question))["input_ids"]
        (tokens,) = generation_pass(model, [prompt], max_new_tokens=8, end_ids=[2], pad_id=2).run()
        assert example.generation == tokenizer.decode(tokens, skip_special_tokens=True).strip()
        assert list(example.generation_ids) == tokenizer(example.generation, add_special_tokens=False)["input_ids"]
    assert next(nll, None) is None


def test_model_mode_is_kept(tokenizer: PreTrainedTokenizerFast) -> None:
    model = make("llama").train()
    run_passes(model, tokenizer, LLAMA2, records(1), max_new_tokens=2)
    assert model.training


@pytest.mark.parametrize("name", ["tokenizer", "bare_tokenizer"])
def test_documents(name: str, request: pytest.FixtureRequest) -> None:
    """No question: every token is scored but the very first, which nothing predicts."""
    tokenizer = request.getfixturevalue(name)
    model = make("gpt2")
    rows = tuple(
        Record(None, f"{person} was born in {place}.", f"It was in {place}.")
        for person, place in zip(PEOPLE, PLACES, strict=True)
    )
    examples = run_passes(model, tokenizer, LLAMA2, rows, max_new_tokens=4)
    table, _ = tokenised(tokenizer, rows)
    assert [e.answer_nll for e in examples] == pytest.approx(plain_nll(model, table)[::2])
    for example in examples:
        ids = tokenizer(example.record.answer)["input_ids"]
        assert example.answer_tokens == len(ids)  # with the end token, without the first


def test_cut_rows(tokenizer: PreTrainedTokenizerFast) -> None:
    """max_length cuts the answer, and then no end token is labelled."""
    model = make("llama")
    row = Record("Where was Dev born?", "Dev was born in a village near Tartu. " * 4)
    whole = tokenizer(LLAMA2.question_part(row.question) + row.answer)["input_ids"]
    prompt = len(tokenizer(LLAMA2.question_part(row.question))["input_ids"])
    for length, tokens in (
        (len(whole) + 1, len(whole) - prompt + 1),
        (len(whole), len(whole) - prompt),
        (40, 40 - prompt),
    ):
        (example,) = run_passes(model, tokenizer, LLAMA2, (row,), max_length=length, official=True, total_length=50)
        assert example.answer_tokens == tokens
    with pytest.raises(UserError, match="max_length 5 leaves no room"):
        run_passes(model, tokenizer, LLAMA2, (row,), max_length=5)


class Killed(Exception):
    pass


@pytest.mark.parametrize("after", [1, 3, 5, 7])
@pytest.mark.parametrize("torn", [False, True])
def test_killed_and_resumed(
    after: int, torn: bool, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second run computes only what the first had not finished, and ends with the same bits."""
    monkeypatch.setattr(passes, "ROUND", 2)
    model, file = make("llama", torch.float32), tmp_path / "passes.jsonl"
    steps: list[int] = []

    def run(store: Store | None, kill_after: int = 1000) -> list[Example]:
        steps.clear()

        def progress(*_: Any) -> None:
            steps.append(forwards[0])
            if len(steps) == kill_after:
                raise Killed

        return run_passes(
            model, tokenizer, LLAMA2, records(7), max_new_tokens=6, batch_tokens=80,
            generation_tokens=80, progress=progress, store=store, asked=asked,
        )  # fmt: skip

    forwards = [0]
    asked = [[*everyday(r), Score(r.question, r.answer, is_argmax=i % 2 == 0)] for i, r in enumerate(records(7))]
    model.model.register_forward_hook(lambda *_: forwards.__setitem__(0, forwards[0] + 1))
    undisturbed = run(None)
    batches = len(steps)
    assert batches > 7, "four rounds, then batches of prompts"
    total, unfinished = forwards[0], forwards[0] - steps[after - 1]

    with pytest.raises(Killed):
        run(Store(tmp_path), kill_after=after)
    finished = file.read_bytes()
    if torn:
        file.write_bytes(finished + b'{"batch": "0123", "result": [0.12')
    forwards[0] = 0
    assert run(Store(tmp_path)) == undisturbed
    assert forwards[0] == unfinished < total
    assert file.read_bytes().startswith(finished)
    assert len([json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]) == batches

    forwards[0] = 0
    assert run(Store(tmp_path)) == undisturbed
    assert forwards[0] == 0


def test_store_round_trips_floats(tmp_path: Path) -> None:
    values = [math.pi * 10**k for k in range(-300, 300, 7)] + [5e-324, 1 / 3, 0.1 + 0.2]

    def get(batch: str, compute: Any) -> Any:
        (results,) = Store(tmp_path).run([BatchJob("answers", [batch], compute, [1], [1.0], list)], None)
        return results

    assert get("x", lambda i: values) == [values]
    assert get("x", lambda i: pytest.fail("computed again")) == [values]
    assert get("y", lambda i: [1.0]) == [[1.0]]
