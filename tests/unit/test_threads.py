"""Two batches at a time on a CPU: the same results as one at a time, and only where nothing can go wrong."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from unlearner.data.prompts import TEMPLATES
from unlearner.data.records import Record
from unlearner.evaluation import passes
from unlearner.evaluation.backend import run_passes
from unlearner.evaluation.judges import load_judges
from unlearner.evaluation.store import Store
from unlearner.models import batch_jobs
from unlearner.models.batch_jobs import twin, two_at_a_time


@pytest.fixture(autouse=True)
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def llama(**options: Any) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=600, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        initializer_range=0.3, **options,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def test_order_and_threads() -> None:
    """Results in order; each batch on half of the batch_jobs, of which two run; afterwards all is as before."""
    running, most, lock, halves = 0, 0, threading.Lock(), set()

    def compute(batch: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        halves.add(torch.get_num_threads())
        time.sleep(0.02 if batch % 2 else 0.04)
        with lock:
            running -= 1
        return batch * batch

    with two_at_a_time(llama(), 6) as run:
        assert list(run(compute, range(6))) == [0, 1, 4, 9, 16, 25]
    assert (most, halves) == (2, {2})
    assert torch.get_num_threads() == 4
    assert torch.ones(1).add(1).item() == 2


def test_error_ends_it() -> None:
    seen: list[int] = []

    def compute(batch: int) -> None:
        seen.append(batch)
        time.sleep(0.02)
        if batch == 1:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), two_at_a_time(llama(), 50) as run:
        list(run(compute, range(50)))
    assert len(seen) < 10
    assert torch.get_num_threads() == 4


def test_autocast_goes_along() -> None:
    layer = nn.Linear(4, 4)

    def compute(_: int) -> torch.dtype:
        return layer(torch.ones(1, 4)).dtype

    with two_at_a_time(llama(), 2) as run:
        with torch.autocast("cpu", torch.bfloat16):
            assert set(run(compute, range(2))) == {torch.bfloat16}
            with torch.autocast("cpu", enabled=False):
                assert set(run(compute, range(2))) == {torch.float32}
        assert set(run(compute, range(2))) == {torch.float32}


class Foreign(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def hooked() -> Any:
    model = llama()
    model.model.register_forward_hook(lambda *_: None)
    return model


def rope(kind: str) -> Any:
    return llama(rope_parameters={"rope_type": kind, "rope_theta": 10_000.0, "factor": 2.0})


@pytest.mark.parametrize(
    ("model", "fits"),
    [
        (llama, True),
        (lambda: get_peft_model(llama(), LoraConfig(target_modules=["q_proj"])), True),
        (lambda: rope("linear"), True),
        (lambda: rope("dynamic"), False),
        (hooked, False),
        (lambda: nn.Sequential(llama(), Foreign()), False),
        (lambda: nn.Sequential(llama(), nn.Linear(2**13, 2**12)), False),
        (lambda: llama().to("meta"), False),
    ],
    ids=["llama", "adapter", "linear rope", "dynamic rope", "hooks", "other code", "large", "elsewhere"],
)
def test_where_it_is_safe(model: Any, fits: bool) -> None:
    with two_at_a_time(model(), 2) as run:
        assert (run is not map) == fits


def test_nothing_to_share() -> None:
    with two_at_a_time(llama(), 1) as run:
        assert run is map
    torch.set_num_threads(1)
    with two_at_a_time(llama(), 2) as run:
        assert run is map


def test_twin_shares_weights(tmp_path: Path) -> None:
    model = load_judges("offline", device="cpu", cache=tmp_path).embedder._model
    other = twin(model)
    assert [p.data_ptr() for p in other.parameters()] == [p.data_ptr() for p in model.parameters()]
    assert other.tokenizer is not model.tokenizer
    assert not {id(module) for module in other.modules()} & {id(module) for module in model.modules()}


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes everything run one at a time from there on."""
    return lambda: monkeypatch.setattr(batch_jobs, "_fits", lambda model: False)


def test_embeddings(tmp_path: Path, alone: Any) -> None:
    texts = [f"Person {i} wrote {'very ' * (i % 40)}long books about the number {i * i}." for i in range(300)]
    together = load_judges("offline", device="cpu", cache=tmp_path / "two").embedder.embed(texts)
    again = load_judges("offline", device="cpu", cache=tmp_path / "again").embedder.embed(texts)
    assert np.array_equal(together, again)
    alone()
    apart = load_judges("offline", device="cpu", cache=tmp_path / "one").embedder.embed(texts)
    assert together == pytest.approx(apart, abs=1e-6)


@pytest.mark.parametrize("adapter", [False, True])
def test_passes(
    adapter: bool, tiny_tokenizer: PreTrainedTokenizerFast, alone: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Many small batches of both passes at once give what one after the other gives, also from what was kept."""
    monkeypatch.setattr(passes, "ROUND", 2)
    model = llama()
    if adapter:
        model = get_peft_model(model, LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False)).eval()
    rows = tuple(
        Record(
            f"What is {i} and {'more of ' * (i % 5)}it?", f"It is {i * i}.",
            perturbed_answer=(f"It is {i}.", "No one knows it."),
        )
        for i in range(24)
    )  # fmt: skip
    seen: list[tuple[str, int, int]] = []

    def measure(store: Store | None = None) -> Any:
        seen.clear()
        return run_passes(
            model, tiny_tokenizer, TEMPLATES["plain"], rows, max_new_tokens=12, batch_tokens=60, generation_tokens=90,
            store=store, progress=lambda *at: seen.append(at),
        )  # fmt: skip

    together = measure(Store(tmp_path))
    assert seen[-1][1:] == (24, 24) and {name for name, *_ in seen} == {"answers", "generation"}
    assert [at for at in seen if at[0] == "answers"] == [("answers", n, 24) for n in range(2, 25, 2)]
    for _ in range(3):
        assert measure() == together
    kept = tmp_path / "passes.jsonl"
    lines = kept.read_text(encoding="utf-8").splitlines(keepends=True)
    kept.write_text("".join(lines[: len(lines) // 3]), encoding="utf-8")
    assert measure(Store(tmp_path)) == together
    alone()
    for one, other in zip(measure(), together, strict=True):
        assert one.generation == other.generation
        assert one.answer_nll == pytest.approx(other.answer_nll, rel=1e-5)
        assert one.perturbed_nll == pytest.approx(other.perturbed_nll, rel=1e-5)
