"""Linear layers as convolutions: the same values and gradients, and only where they are meant to be."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear

from unlearner.evaluation.judges import load_judges
from unlearner.modeling import products
from unlearner.modeling.products import LEAST_POSITIONS, fast_products

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def convolutions(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Whatever the processor, MKL counts as slow; the positions of every convolution are noted."""
    noted: list[int] = []
    convolution = products._convolution

    def watched(x: Tensor, *others: Tensor | None) -> Tensor:
        noted.append(x.numel() // x.shape[-1])
        return convolution(x, *others)

    monkeypatch.setattr(products, "_mkl_is_slow", lambda: True)
    monkeypatch.setattr(products, "_convolution", watched)
    yield noted


@pytest.mark.parametrize("shape", [(300, 48), (4, 75, 48)])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
def test_values_and_gradients_are_those_of_a_linear_layer(
    shape: tuple[int, ...], biased: bool, transposed: bool, convolutions: list[int]
) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator)
    if transposed:  # strides that no convolution knows
        x = x.transpose(0, -1).contiguous().transpose(0, -1)
    weight, bias = torch.randn(20, 48, generator=generator), torch.randn(20, generator=generator)
    upstream = torch.randn(*shape[:-1], 20, generator=generator)
    found = []
    for dtype in (torch.float64, torch.float32):
        leaves = [t.to(dtype).requires_grad_() for t in (x, weight, *([bias] if biased else []))]
        with fast_products(CPU):
            out = linear(*leaves)
            out.backward(upstream.to(dtype))
        found.append([out.detach(), *(leaf.grad for leaf in leaves)])
    assert convolutions == [300], "float64 stays as it is"
    for exact, fast in zip(*found, strict=True):
        torch.testing.assert_close(fast.double(), exact, rtol=1e-5, atol=1e-4)


def test_only_many_float32_positions_and_layers_of_moderate_size_are_convolutions(
    convolutions: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, weight = torch.randn(LEAST_POSITIONS, 16), torch.randn(8, 16)
    with fast_products(CPU):
        linear(x[1:], weight)
        linear(x.bfloat16(), weight.bfloat16())
        with torch.autocast("cpu", torch.bfloat16):
            assert linear(x, weight).dtype == torch.bfloat16
        monkeypatch.setattr(products, "MOST_WEIGHTS", weight.numel() - 1)
        linear(x, weight)
        assert convolutions == []
        monkeypatch.setattr(products, "MOST_WEIGHTS", weight.numel())
        linear(x, weight)
    linear(x, weight)
    assert convolutions == [LEAST_POSITIONS], "none outside"


def test_embeddings_are_the_plain_ones(tmp_path, convolutions: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """In blocks of like lengths and with convolutions, against one text at a time without."""
    texts = [" ".join(["The author writes of her city."] * n) for n in (1, 1, 2, 5, 9, 40)]
    vectors = load_judges("offline", cache=tmp_path).embedder.embed(texts)
    assert convolutions
    monkeypatch.setattr(products, "_mkl_is_slow", lambda: False)
    for text, vector in zip(texts, vectors, strict=True):
        alone = load_judges("offline", cache=tmp_path / str(len(text))).embedder.embed([text])[0]
        assert vector == pytest.approx(alone, abs=2e-6)
