"""The vocabulary's Triton kernels: run by Triton's interpreter, which needs no GPU, and compiled for GPUs."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from itertools import chain, count
from typing import Any

import pytest
import torch
from torch import Tensor

from unlearner.models.anatomy import Head
from unlearner.scoring import token_scores as scoring
from unlearner.scoring.constants import EPSILON
from unlearner.scoring.token_scores import token_scores

pytest.importorskip("triton", reason="Triton is not installed (`make test` installs it)")
from unlearner.scoring import kernels

N, H, V = 7, 16, 300
SETS = (("logp",), ("mean_logp",), ("logp", "mean_logp"))
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _no_earlier_trial() -> None:
    kernels.gain.cache_clear()


def scores_and_gradients(
    kinds: Sequence[str], fused: bool, frozen: bool, dtype: torch.dtype = torch.float32, vocabulary: int = V,
    chunk_bytes: int | None = None, spread: float = 1.0, bias: bool = True, **head: Any,
) -> list[Tensor]:  # fmt: skip
    make = torch.Generator().manual_seed(3)
    hidden, weight, offset = (
        torch.randn(*shape, generator=make).to(dtype) for shape in ((N, H), (vocabulary, H), (vocabulary,))
    )
    targets = torch.randint(vocabulary, (N,), generator=make)
    targets[:2] = torch.tensor([0, vocabulary - 1])
    upstream = [torch.randn(N, generator=make) for _ in kinds]
    wanted = [(spread * hidden).requires_grad_()]
    if not frozen:
        wanted += [weight.requires_grad_(), *([offset.requires_grad_()] if bias else [])]
    scores = token_scores(
        wanted[0], Head(weight, offset if bias else None, **head), targets, kinds, chunk_bytes=chunk_bytes, fused=fused
    )
    assert [score.dtype for score in scores.values()] == [torch.float32] * len(kinds)
    total = sum((score * factor).sum() for score, factor in zip(scores.values(), upstream, strict=True))
    return [*(score.detach() for score in scores.values()), *torch.autograd.grad(total, wanted)]


@pytest.mark.parametrize("frozen", [False, True], ids=["trained head", "frozen head"])
@pytest.mark.parametrize("rows", [3, None], ids=["chunks", "one chunk"])
@pytest.mark.parametrize("kinds", SETS, ids="+".join)
def test_the_kernels_give_the_scores_and_gradients_of_the_plain_path(
    kinds: Sequence[str], rows: int | None, frozen: bool
) -> None:
    """The block is 4,096 logits: a part of one, one, one and a remainder."""
    for vocabulary in (V, 4096, 5001):
        chunk_bytes = None if rows is None else rows * vocabulary * 4
        options = {"frozen": frozen, "vocabulary": vocabulary, "chunk_bytes": chunk_bytes}
        got = scores_and_gradients(kinds, fused=True, **options)
        expected = scores_and_gradients(kinds, fused=False, **options)
        for ours, plain in zip(got, expected, strict=True):
            torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("head", [{"scale": 0.25}, {"softcap": 2.0}, {"scale": 3.0, "softcap": 5.0}], ids=str)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_scale_softcap_and_bias(head: dict[str, float], bias: bool) -> None:
    for frozen in (False, True):
        got = scores_and_gradients(SETS[2], True, frozen, bias=bias, **head)
        expected = scores_and_gradients(SETS[2], False, frozen, bias=bias, **head)
        for ours, plain in zip(got, expected, strict=True):
            torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)


def test_epsilon_matters_where_the_model_is_certain() -> None:
    got = scores_and_gradients(["mean_logp"], True, False, spread=30.0)
    expected = scores_and_gradients(["mean_logp"], False, False, spread=30.0)
    assert got[0].min() < torch.tensor(EPSILON).log() / 2, "no probability is near 0"
    for ours, plain in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kinds", SETS, ids="+".join)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_half_precision_weights_are_summed_in_float32(kinds: Sequence[str], dtype: torch.dtype) -> None:
    """Scores as exact as the logits' rounding allows; the interpreter cuts bf16 off where a GPU rounds."""
    got = scores_and_gradients(kinds, True, False, dtype)
    expected = scores_and_gradients(kinds, False, False, dtype)
    for ours, plain in zip(got[: len(kinds)], expected, strict=False):
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)
    for ours, plain in zip(got[len(kinds) :], expected[len(kinds) :], strict=True):
        assert ours.dtype == plain.dtype
        assert torch.norm((ours - plain).float()) < 0.02 * torch.norm(plain.float())


def test_under_autocast() -> None:
    exact = scores_and_gradients(SETS[2], True, False)
    with torch.autocast("cpu", torch.bfloat16):
        got = scores_and_gradients(SETS[2], True, False)
        plain = scores_and_gradients(SETS[2], False, False)
    for ours, theirs, wide in zip(got, plain, exact, strict=True):
        assert ours.dtype == theirs.dtype == torch.float32
        assert not torch.equal(ours, wide), "no bf16 was used"
        assert torch.norm(ours - theirs) < 0.02 * torch.norm(theirs)


def test_a_mean_gives_gradients_of_one_number_and_no_positions_give_none() -> None:
    """`mean().backward()` hands down one number for all positions, expanded: not in memory as often as it is read."""
    hidden, weight = torch.randn(N, H, requires_grad=True), torch.randn(V, H)
    grads = []
    for fused in (True, False):
        token_scores(hidden, Head(weight.requires_grad_()), torch.arange(N), fused=fused)["logp"].mean().backward()
        grads.append(weight.grad)
        weight.grad = None
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-6)
    token_scores(hidden[:0], Head(weight), torch.arange(0), fused=True)["logp"].sum().backward()
    assert weight.grad is not None and not weight.grad.any()


# ---------------------------------------------------------------------------------------------- whether they are used


def test_on_a_cpu_they_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "_kernels", lambda: pytest.fail("the kernels were asked for"))
    token_scores(torch.randn(N, H), Head(torch.randn(V, H)), torch.arange(N))


def clock(monkeypatch: pytest.MonkeyPatch, ours: float, plain: float) -> None:
    """Every run of the kernels takes `ours` seconds, then every run without them `plain`."""
    rounds = kernels.TRIAL_ROUNDS
    times = chain.from_iterable((0.0, ours) if i < rounds else (0.0, plain) for i in count())
    monkeypatch.setattr(kernels, "time", type("Clock", (), {"perf_counter": lambda: next(times)}))
    monkeypatch.setattr(kernels, "TRIAL_BYTES", 2**14)
    kernels.gain.cache_clear()


@pytest.mark.parametrize("kinds", SETS, ids="+".join)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bf16"])
def test_a_trial_takes_the_faster_way(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, kinds: tuple[str, ...]
) -> None:
    before = torch.random.get_rng_state()
    for ours, plain, gain in ((1.0, 2.0, True), (2.0, 1.0, False)):
        clock(monkeypatch, ours, plain)
        with torch.inference_mode():
            assert kernels.gain(CPU, dtype, V, kinds, token_scores) is gain
    assert torch.equal(torch.random.get_rng_state(), before), "training would draw other numbers"


def test_wrong_numbers_and_failures_are_said_and_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock(monkeypatch, 1.0, 2.0)
    right = kernels.slopes
    monkeypatch.setattr(kernels, "slopes", lambda *given: 1.1 * right(*given))
    with caplog.at_level(logging.WARNING):
        assert not kernels.gain(CPU, torch.float32, V, ("logp",), token_scores)
    assert "numbers differ" in caplog.text

    def fail(*given: Any) -> Tensor:
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(kernels, "slopes", fail)
    kernels.gain.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert not kernels.gain(CPU, torch.float32, V, ("logp",), token_scores)
    assert "no such instruction" in caplog.text


def test_they_know_neither_other_scores_nor_double_precision() -> None:
    assert not kernels.gain(CPU, torch.float32, V, ("logp", "entropy"), token_scores)
    assert not kernels.gain(CPU, torch.float64, V, ("logp",), token_scores)


# -------------------------------------------------------------------------------------------------------- on real GPUs

COMPILE = """
import json, triton
from triton.backends.compiler import GPUTarget
from unlearner.scoring import kernels

sizes = {}
for kernel in (kernels._values, kernels._slopes):
    for dtype in ("bf16", "fp32"):
        flags = {"CAPPED": True, "LOGP": True, "MEAN": True, "BLOCK": kernels.BLOCK}
        types = {"products": "*" + dtype, "out": "*" + dtype, "targets": "*i64", "stride": "i64"}
        types |= dict.fromkeys(("vocabulary", "columns_here"), "i32")
        types |= dict.fromkeys(("scale", "softcap", "epsilon"), "fp32") | dict.fromkeys(flags, "constexpr")
        signature = {name: types.get(name, "*fp32") for name in kernel.arg_names}
        source = triton.compiler.ASTSource(fn=kernel, signature=signature, constexprs=flags)
        for capability in (80, 90, 100):
            target, options = GPUTarget("cuda", capability, 32), {"num_warps": kernels.WARPS}
            made = triton.compile(source, target=target, options=options)
            sizes[f"{kernel.__name__} {dtype} {capability}"] = len(made.asm["cubin"])
print(json.dumps(sizes))
"""


def test_they_compile_for_gpus_that_are_not_here() -> None:
    """To machine code for A100, H100 and B200: by Triton's own assembler, no driver needed."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    sizes = json.loads(done.stdout)
    assert len(sizes) == 12 and min(sizes.values()) > 1000
