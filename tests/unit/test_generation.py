"""Our greedy loop against transformers' own, token for token."""

import copy
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
from transformers.cache_utils import DynamicLayer

from unlearner.models import generation
from unlearner.models.execution import Execution, using
from unlearner.models.generation import generation_pass, length_batches

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
    options = {"max_new_tokens": STEPS, "end_ids": END_IDS, "pad_id": 0, **options}
    return generation_pass(model, prompts, **options).run()


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


def test_what_all_prompts_begin_with_is_encoded_once(model: Any, prompts: list[list[int]]) -> None:
    system = [7, 3, 11, 5, 2, 9]
    prompts = [[*system, *prompt] for prompt in prompts]
    answers = expected(model, prompts)
    shapes: list[tuple[int, ...]] = []
    hook = model.base_model.register_forward_pre_hook(
        lambda _, __, kw: shapes.append(tuple(kw["input_ids"].shape)), with_kwargs=True
    )
    assert ours(model, prompts) == answers
    assert ((1, 6) in shapes) == generation.goes_by_position(model)
    shapes.clear()
    with using(Execution(prefix="repeated")):
        assert ours(model, prompts) == answers
    assert (1, 6) not in shapes
    hook.remove()
    assert ours(model, [system, [*system, 4]]) == expected(model, [system, [*system, 4]]), "a token is left to begin at"


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


def test_describes_its_batches(prompts: list[list[int]]) -> None:
    """All that a result depends on, and how long it takes: by these, results are kept and work is shared out."""
    torch.manual_seed(5)
    model = llama().double().eval()
    options: dict[str, Any] = {"max_new_tokens": STEPS, "end_ids": END_IDS, "pad_id": 0, "batch_tokens": 200}
    work = generation_pass(model, prompts, **options)
    assert len(work.batches) > 2
    assert sum(work.rows) == len(prompts)
    assert sorted(prompt for batch in work.batches for prompt in batch[1]) == sorted(prompts)
    for batch, cost in zip(work.batches, work.costs, strict=True):
        assert cost == sum(map(len, batch[1])) + STEPS * len(batch[1])
    for changed in ({"max_new_tokens": 5}, {"end_ids": {3}}, {"total_length": 20}):
        other = generation_pass(model, prompts, **options | changed)
        assert not [batch for batch in other.batches if batch in work.batches]
    answers = [work.compute(i) for i in range(len(work.batches))]
    assert work.join(answers) == ours(model, prompts)


def test_roomy_layer() -> None:
    """It holds what transformers' own layer holds, and copies nothing while there is room."""
    torch.manual_seed(0)
    plain, roomy, room = DynamicLayer(), generation.RoomyLayer(), generation.RoomyLayer.ROOM

    def update(rows: int, tokens: int) -> int:
        keys, values = torch.randn(2, rows, 2, tokens, 4)
        for ours, theirs in zip(roomy.update(keys, values), plain.update(keys, values), strict=True):
            assert torch.equal(ours, theirs)
        assert roomy.get_seq_length() == plain.get_seq_length()
        return roomy.keys.data_ptr()

    update(3, 5)
    (place,) = {update(3, 1) for _ in range(room)}
    assert update(3, 1) != place
    before = roomy.keys.clone()
    other = copy.copy(roomy)
    for layer in (plain, roomy):
        layer.reorder_cache(torch.tensor([2, 0]))
    for _ in range(2 * room):
        update(2, 1)
    assert torch.equal(other.keys, before), "a selection leaves what it was made of"
    update(2, 7)
    update(2, 1)


def test_length_batches() -> None:
    assert length_batches([3, 9, 4, 5, 9], 18) == [[1, 4], [3, 2, 0]]
    assert length_batches([30, 2], 10) == [[0], [1]]
    assert length_batches([], 10) == []
