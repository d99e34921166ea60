"""Our greedy loop against transformers' own, token for token."""

from typing import Any

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from unlearner.modeling import generation
from unlearner.modeling.generation import generate, length_batches

VOCABULARY = 50
END_IDS = {3, 11, 17, 29, 41}
STEPS = 24


def llama() -> Any:
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.3,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def gpt2() -> Any:
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCABULARY, n_positions=64, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3)
    )


def mistral() -> Any:
    """Sliding attention over fewer tokens than prompt and answer have."""
    config = MistralConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.3, sliding_window=8,
    )  # fmt: skip
    return MistralForCausalLM(config)


def mamba() -> Any:
    """Keeps no keys and values: transformers' own loop does it."""
    config = MambaConfig(
        vocab_size=VOCABULARY, hidden_size=32, state_size=4, num_hidden_layers=2, initializer_range=0.3
    )
    return MambaForCausalLM(config)


@pytest.fixture(params=[llama, gpt2, mistral])
def model(request: pytest.FixtureRequest) -> Any:
    """Random weights, in float64 so that no rounding decides between two tokens."""
    torch.manual_seed(5)
    return request.param().double().eval()


@pytest.fixture
def prompts() -> list[list[int]]:
    g = torch.Generator().manual_seed(1)
    lengths = torch.randint(2, 12, (17,), generator=g).tolist()
    return [torch.randint(0, VOCABULARY, (n,), generator=g).tolist() for n in lengths]


def expected(model: Any, prompts: list[list[int]], steps: int = STEPS) -> list[list[int]]:
    """transformers, one prompt at a time: no padding."""
    answers = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        new = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=steps, do_sample=False,
            eos_token_id=sorted(END_IDS), pad_token_id=0,
        )[0, len(prompt) :].tolist()  # fmt: skip
        answers.append(new[:-1] if new[-1] in END_IDS else new)
    return answers


def ours(model: Any, prompts: list[list[int]], **options: Any) -> list[list[int]]:
    return generate(model, prompts, **{"max_new_tokens": STEPS, "end_ids": END_IDS, "pad_id": 0, **options})


def test_equals_transformers(model: Any, prompts: list[list[int]]) -> None:
    answers = expected(model, prompts)
    lengths = [len(answer) for answer in answers]
    assert min(lengths) < STEPS // 2 and max(lengths) == STEPS, "the case must have early ends and none at all"
    assert ours(model, prompts) == answers


def test_batches_and_order_change_nothing(model: Any, prompts: list[list[int]]) -> None:
    whole = ours(model, prompts)
    for batch_tokens in (1, 100, 250):
        assert ours(model, prompts, batch_tokens=batch_tokens) == whole
    assert ours(model, prompts[::-1]) == whole[::-1]


def test_without_standard_cache(prompts: list[list[int]]) -> None:
    torch.manual_seed(5)
    model = mamba().double().eval()
    assert generation.row_cache(model) is None
    assert ours(model, prompts[:6]) == expected(model, prompts[:6])


def test_finished_rows_leave(prompts: list[list[int]]) -> None:
    torch.manual_seed(5)
    model = llama().double().eval()
    rows: list[int] = []
    model.model.register_forward_pre_hook(lambda _, __, kw: rows.append(len(kw["input_ids"])), with_kwargs=True)
    answers = ours(model, prompts)
    assert rows[0] == len(prompts)
    assert rows == sorted(rows, reverse=True)
    for step, present in enumerate(rows):
        running = sum(len(answer) >= step for answer in answers)
        assert running <= present <= max(running / (1 - generation.LEAVE_SHARE), running + 1)


def test_stops_when_all_have_ended() -> None:
    torch.manual_seed(5)
    model = llama().double().eval()
    calls: list[int] = []
    model.model.register_forward_hook(lambda *_: calls.append(1))
    assert ours(model, [[1, 2], [4]], end_ids=range(VOCABULARY)) == [[], []]
    assert len(calls) == 1


def test_total_length(prompts: list[list[int]]) -> None:
    """Official: the longest prompt of each batch, in the order given, settles how many tokens the others get."""
    torch.manual_seed(5)
    model = llama().double().eval()
    total, size = 14, 4
    answers = ours(model, prompts, total_length=total, batch_size=size)
    for first in range(0, len(prompts), size):
        batch = prompts[first : first + size]
        steps = total - max(map(len, batch))
        assert answers[first : first + size] == expected(model, batch, steps)
    assert ours(model, [[1] * 20, [2]], total_length=total) == [[], []]


def test_progress_and_remember(prompts: list[list[int]]) -> None:
    torch.manual_seed(5)
    model = llama().double().eval()
    seen: list[tuple[int, int]] = []
    kept: dict[str, list[list[int]]] = {}

    def remember(batches: list[list[list[int]]], compute: Any, cost: Any, done: Any) -> list[list[list[int]]]:
        for i, batch in enumerate(batches):
            kept[str(batch)] = kept.get(str(batch)) or compute(i)
            assert cost(i) > sum(map(len, batch))
            done(i)
        return [kept[str(batch)] for batch in batches]

    first = ours(model, prompts, batch_tokens=200, remember=remember, progress=lambda *at: seen.append(at))
    assert len(seen) == len(kept) > 2
    assert seen[-1] == (len(prompts), len(prompts))
    model.model.register_forward_pre_hook(lambda *_: pytest.fail("nothing is left to compute"))
    assert ours(model, prompts, batch_tokens=200, remember=remember) == first


def test_length_batches() -> None:
    assert length_batches([3, 9, 4, 5, 9], 18) == [[1, 4], [3, 2, 0]]
    assert length_batches([30, 2], 10) == [[0], [1]]
    assert length_batches([], 10) == []
