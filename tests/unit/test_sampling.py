"""Sampled answers: the right distribution, and the same ones whatever the batch."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, kstest
from test_generation import END_IDS, VOCABULARY, gpt2, llama, mamba, mistral
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from forked import together
from unlearner import distributed
from unlearner.errors import UserError
from unlearner.evaluation.requests import Generate
from unlearner.evaluation.store import Store
from unlearner.models.generation import generation_pass
from unlearner.models.sampling import Sampling, draw, probabilities, uniforms

HOW = Sampling(n=3, temperature=0.9, top_p=0.95, top_k=20, seed=4)
DRAWS = 20_000


def some_prompts(count: int = 64) -> list[list[int]]:
    g = torch.Generator().manual_seed(1)
    lengths = torch.randint(2, 9, (count,), generator=g).tolist()
    return [torch.randint(0, VOCABULARY, (n,), generator=g).tolist() for n in lengths]


def job(model: Any, prompts: Sequence[list[int]], how: Sampling = HOW, **options: Any) -> Any:
    options = {"max_new_tokens": 8, "end_ids": END_IDS, "pad_id": 0, **options}
    return generation_pass(model, prompts, sampling=how, **options)


@pytest.fixture(params=[llama, gpt2, mistral, mamba])
def model(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(5)
    return request.param().eval()


def tokens_of(rows: int) -> int:
    """A budget for batches of that many prompts of `some_prompts`."""
    return rows * HOW.n * (8 + 8)


def test_batches_order_and_neighbours_change_nothing(model: Any) -> None:
    """In float32, as it is used."""
    prompts = some_prompts(16 if type(model).__name__.startswith("Mamba") else 64)
    expected = job(model, prompts, batch_tokens=tokens_of(64)).run()
    assert len({tuple(answer) for answer in expected}) > len(expected) / 2
    for size in (1, 3):
        assert job(model, prompts, batch_tokens=tokens_of(size)).run() == expected
    order = np.random.default_rng(0).permutation(len(prompts)).tolist()
    shuffled = job(model, [prompts[i] for i in order]).run()
    assert [shuffled[3 * order.index(i) + s] for i in range(len(prompts)) for s in range(3)] == expected
    assert job(model, prompts[5:7]).run() == expected[15:21]


def test_shuffled_requests_make_the_same_batches() -> None:
    prompts = some_prompts()
    assert job(llama(), prompts, batch_tokens=200).batches == job(llama(), prompts[::-1], batch_tokens=200).batches


def test_each_setting_draws_anew_and_more_samples_only_add() -> None:
    torch.manual_seed(5)
    model = llama().eval()
    (prompt,) = some_prompts(1)
    first = job(model, [prompt], Sampling(n=8)).run()
    assert job(model, [prompt], Sampling(n=3)).run() == first[:3]
    assert job(model, [prompt], Sampling(n=8, seed=1)).run() != first
    batches = [job(model, [prompt], how).batches for how in (HOW, Sampling(n=3), Sampling(n=2), Sampling(n=3, seed=1))]
    assert len({str(batch) for batch in batches}) == 4, "kept results of one are never taken for another's"


def test_top_k_one_is_the_greedy_answer(model: Any) -> None:
    prompts = some_prompts(6)
    greedy = generation_pass(model, prompts, max_new_tokens=8, end_ids=END_IDS, pad_id=0).run()
    assert job(model, prompts, Sampling(top_k=1)).run() == greedy


def test_probabilities_are_those_of_the_filters_of_transformers() -> None:
    torch.manual_seed(0)
    logits = 3 * torch.randn(40, VOCABULARY)
    for temperature in (0.3, 1.0, 1.7):
        for top_k in (0, 1, 7, 1000):
            for top_p in (0.05, 0.7, 1.0):
                scores = TemperatureLogitsWarper(temperature)(None, logits)  # type: ignore[arg-type]
                if top_k:
                    scores = TopKLogitsWarper(top_k)(None, scores)  # type: ignore[arg-type]
                if top_p < 1:
                    scores = TopPLogitsWarper(top_p)(None, scores)  # type: ignore[arg-type]
                ours = probabilities(logits, Sampling(1, temperature, top_p, top_k))
                assert torch.equal(ours > 0, scores > -torch.inf)
                torch.testing.assert_close(ours, scores.softmax(-1).double(), rtol=1e-5, atol=1e-7)


def test_frequencies_lie_within_exact_binomial_bounds() -> None:
    """Of whole requests: numbers by their keys, filters, inverse distribution function."""
    weights = torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05, 0.0])
    how = Sampling(n=DRAWS, top_p=0.9)  # the last two drop out: 0.95 is more than 0.9, without the 0.1 it is less
    expected = probabilities(weights.log()[None], how)[0]
    assert expected.tolist() == pytest.approx([0.4 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0.1 / 0.95, 0, 0])
    numbers = uniforms([how.key([7, 3], sample) for sample in range(DRAWS)], 3)
    for step in range(3):
        drawn = draw(weights.log().expand(DRAWS, -1), torch.from_numpy(numbers[:, step]), how)
        for token, share in enumerate(expected.tolist()):
            found = int((drawn == token).sum())
            if share == 0:
                assert found == 0
            else:
                assert binomtest(found, DRAWS, share).pvalue > 1e-4


def test_numbers_are_uniform_and_independent() -> None:
    numbers = uniforms([HOW.key([i, i % 7], s) for i in range(500) for s in range(4)], 10)
    assert numbers.min() >= 0 and numbers.max() < 1
    assert kstest(numbers.ravel(), "uniform").pvalue > 1e-3
    assert np.unique(numbers).size == numbers.size
    pairs = [(numbers[:, 0], numbers[:, 1]), (numbers[:-1, 0], numbers[1:, 0])]  # of two steps, of two samples
    assert all(abs(np.corrcoef(one, other)[0, 1]) < 4 / len(one) ** 0.5 for one, other in pairs)


def test_edges_of_the_distribution() -> None:
    """Never a token without probability, whatever the number."""
    logits = torch.tensor([[-torch.inf, 0.0, 0.0, -torch.inf]] * 2)
    assert draw(logits, torch.tensor([0.0, 1 - 2.0**-48], dtype=torch.float64), Sampling()).tolist() == [1, 2]


def test_killed_and_resumed(tmp_path: Path) -> None:
    torch.manual_seed(5)
    model = llama().eval()
    work = job(model, some_prompts(), batch_tokens=tokens_of(10))
    expected = work.run()

    def stop(_: str, rows: int, total: int) -> None:
        if rows > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Store(tmp_path).run([work], model, stop)
    forwards: list[int] = []
    model.register_forward_hook(lambda *_: forwards.append(1))
    model.model.register_forward_hook(lambda *_: forwards.append(1))
    assert Store(tmp_path).run([work], model) == [expected]
    resumed = len(forwards)
    work.run()
    assert 0 < resumed < len(forwards) - resumed


def _draw(folder: Path) -> None:
    distributed.join()
    torch.manual_seed(5)
    model = llama().eval()
    (found,) = Store(folder).run([job(model, some_prompts(), batch_tokens=tokens_of(10))], model)
    (folder / f"found-{distributed.rank()}.json").write_text(json.dumps(found), encoding="utf-8")


def test_two_processes_draw_what_one_draws(tmp_path: Path) -> None:
    together(2, tmp_path / "said", _draw, tmp_path)
    torch.manual_seed(5)
    expected = job(llama().eval(), some_prompts(), batch_tokens=tokens_of(10)).run()
    for rank in (0, 1):
        assert json.loads((tmp_path / f"found-{rank}.json").read_text(encoding="utf-8")) == expected
    assert all((tmp_path / name).stat().st_size for name in ("passes.jsonl", "passes-1.jsonl")), "both took part"


@pytest.mark.parametrize(
    "wrong",
    [{"n": 0}, {"n": 2}, {"temperature": -1}, {"top_p": 0}, {"top_p": 1.5}, {"top_k": -1}, {"max_new_tokens": 0}],
)
def test_requests_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        Generate("Who?", **wrong)
