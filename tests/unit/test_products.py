"""Linear layers by oneDNN: the same values and gradients, and only where they are meant to be."""

from collections.abc import Iterator
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from unlearner.evaluation.judges import load_judges
from unlearner.models import onednn_linear
from unlearner.models.onednn_linear import fast_products, linear

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")


@pytest.fixture(autouse=True)
def by_onednn(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, ...]]]:
    """Whatever the processor and the size, MKL counts as slow; the sizes (positions, K, N) of products are noted."""
    noted: list[tuple[int, ...]] = []
    product = onednn_linear._product

    def watched(x: Tensor, weight: Tensor, *others: Tensor | None) -> Tensor:
        noted.append((x.numel() // x.shape[-1], x.shape[-1], weight.shape[0]))
        return product(x, weight, *others)

    monkeypatch.setattr(onednn_linear, "mkl_is_slow", lambda: True)
    monkeypatch.setattr(onednn_linear, "LEAST_PRODUCTS", 1)
    monkeypatch.setattr(onednn_linear, "_product", watched)
    yield noted


@pytest.mark.parametrize("shape", [(300, 48), (4, 75, 48), (2, 3, 50, 48)])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("trained", ["all", "input", "weight"])
def test_values_and_gradients_are_those_of_a_linear_layer(
    shape: tuple[int, ...], biased: bool, transposed: bool, trained: str, by_onednn: list[tuple[int, ...]]
) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator)
    if transposed:
        x = x.transpose(0, -1).contiguous().transpose(0, -1)
    weight, bias = torch.randn(20, 48, generator=generator), torch.randn(20, generator=generator)
    upstream = torch.randn(*shape[:-1], 20, generator=generator)
    found = []
    for dtype in (torch.float64, torch.float32):
        leaves = [t.to(dtype) for t in (x, weight, *([bias] if biased else []))]
        wanted = {"all": leaves, "input": leaves[:1], "weight": leaves[1:2]}[trained]
        for leaf in wanted:
            leaf.requires_grad_()
        out = linear(*leaves)
        out.backward(upstream.to(dtype))
        found.append([out.detach(), *(leaf.grad for leaf in wanted)])
    forward, to_input, to_weight = (300, 48, 20), (300, 20, 48), (20, 300, 48)
    gradients = {"all": [to_input, to_weight], "input": [to_input], "weight": [to_weight]}[trained]
    assert by_onednn == [forward, *gradients], "float64 stays as it is"
    for exact, fast in zip(*found, strict=True):
        torch.testing.assert_close(fast.double(), exact, rtol=1e-5, atol=1e-4)


def test_only_large_float32_products_are_onednns(
    by_onednn: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, weight = torch.randn(10, 16), torch.randn(8, 16)
    linear(x.bfloat16(), weight.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight).dtype == torch.bfloat16
    monkeypatch.setattr(onednn_linear, "LEAST_PRODUCTS", 10 * 16 * 8 + 1)
    linear(x, weight)
    assert by_onednn == []
    monkeypatch.setattr(onednn_linear, "LEAST_PRODUCTS", 10 * 16 * 8)
    linear(x, weight)
    monkeypatch.setattr(onednn_linear, "mkl_is_slow", lambda: False)
    linear(x, weight)
    assert by_onednn == [(10, 16, 8)]


def test_a_models_linear_layers_are_onednns_inside_and_its_own_outside(by_onednn: list[tuple[int, ...]]) -> None:
    class Own(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(2 * x)

    model = nn.Sequential(nn.Linear(4, 4), Own(4, 4))
    x = torch.randn(3, 4)
    expected, names = model(x), list(model.state_dict())
    with fast_products(model, None):
        torch.testing.assert_close(model(x), expected)
        assert by_onednn == [(3, 4, 4)], "a layer with a forward of its own keeps it"
        with fast_products(model[0]):
            model(x)
        model(x)
        assert len(by_onednn) == 3, "entered twice, left once"
        assert list(model.state_dict()) == names
        twin = deepcopy(model)
        with torch.no_grad():
            model[0].weight.zero_()
        torch.testing.assert_close(twin(x), expected)
    count = len(by_onednn)
    model(x)
    assert len(by_onednn) == count and not any("forward" in vars(module) for module in model.modules())


def test_embeddings_are_the_plain_ones(
    tmp_path, by_onednn: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In blocks of like lengths and by oneDNN, against one text at a time without."""
    texts = [" ".join(["The author writes of her city."] * n) for n in (1, 1, 2, 5, 9, 40)]
    vectors = load_judges("offline", cache=tmp_path).embedder.embed(texts)
    assert by_onednn
    monkeypatch.setattr(onednn_linear, "mkl_is_slow", lambda: False)
    for text, vector in zip(texts, vectors, strict=True):
        alone = load_judges("offline", cache=tmp_path / str(len(text))).embedder.embed([text])[0]
        assert vector == pytest.approx(alone, abs=2e-6)
