"""Rounded weights: bitsandbytes' own to the bit, the shares of unchanged codes, and weights put back."""

import copy

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from unlearner.audit.quantise import SCHEMES, quantise, quantised, rounded_layers, unchanged_codes
from unlearner.errors import UserError

SHAPES = [(16, 64), (7, 50), (3, 33), (128, 192)]


def weights(shape: tuple[int, int], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))) * 0.05
    weight[0] = 0  # blocks and rows of nothing
    return weight.to(dtype)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equal_to_bitsandbytes_to_the_bit(shape, dtype) -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    weight = weights(shape, dtype)
    for scheme in ("nf4", "fp4"):
        packed, state = functional.quantize_4bit(weight, quant_type=scheme, blocksize=64)
        theirs = functional.dequantize_4bit(packed, state)
        assert torch.equal(quantise(weight, scheme).values.to(dtype), theirs), scheme
    weight = weight[1:]  # of a row of zeros it makes NaN
    codes, largest, _ = functional.int8_vectorwise_quant(weight)
    ours = quantise(weight, "int8")
    assert torch.equal(ours.codes, codes)
    assert torch.equal(ours.values, functional.int8_vectorwise_dequant(codes, largest))


def test_round_to_nearest_by_hand() -> None:
    # The largest is 7: steps of 1; ties to the even number.
    weight = torch.tensor([[7.0, -3.4, 2.5, 0.2], [0.0, 0.0, 0.0, 0.0]])
    found = quantise(weight, "rtn4-g4")
    assert found.codes.tolist() == [[7, -3, 2, 0], [0, 0, 0, 0]] and found.values.tolist() == found.codes.tolist()
    # Groups of two within a row, the last one short.
    found = quantise(torch.tensor([[7.0, 1.0, 14.0, -14.0, 3.0]]), "rtn4-g2")
    assert found.codes.tolist() == [[7, 1, 7, -7, 7]]
    assert found.values[0].tolist() == pytest.approx([7, 1, 14, -14, 3])
    assert quantise(torch.tensor([[127.0, 63.4]]), "rtn8-g128").codes.tolist() == [[127, 63]]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_error_is_at_most_half_a_step(scheme: str) -> None:
    weight = weights((128, 192))
    largest = weight.abs().max()
    gap = {"int8": 1 / 127, "rtn8-g128": 1 / 127, "nf4": 0.304, "fp4": 1 / 3}.get(scheme, 1 / 7)
    assert (quantise(weight, scheme).values - weight).abs().max() <= largest * gap / 2 + 1e-7


def test_updates_that_survive_rounding() -> None:
    weight = torch.randn(400, 640, generator=torch.Generator().manual_seed(0))
    shares = {}
    for size in (1e-3, 1e-2, 1e-1):
        moved = weight + size * weight.std() * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
        for scheme in ("rtn4-g64", "rtn8-g64"):
            same = quantise(weight, scheme).codes == quantise(moved, scheme).codes
            shares[scheme, size] = float(same.float().mean())
    # Published shares, 99.7 / 97.6 / 77% of int4 codes, 96 / 60 / 9% of int8 codes.
    assert [shares["rtn4-g64", s] for s in (1e-3, 1e-2, 1e-1)] == pytest.approx([0.997, 0.976, 0.77], abs=0.02)
    assert [shares["rtn8-g64", s] for s in (1e-3, 1e-2, 1e-1)] == pytest.approx([0.96, 0.60, 0.09], abs=0.04)


def test_a_model_is_rounded_inside_and_its_own_afterwards(tiny_llama) -> None:
    model = tiny_llama()
    before = copy.deepcopy(model.state_dict())
    layers = rounded_layers(model)
    assert len(layers) == 2 * 7 and not any(layer is model.lm_head for layer in layers.values())
    with pytest.raises(RuntimeError, match="stop"), quantised(model, "nf4"):
        for name, layer in layers.items():
            assert torch.equal(layer.weight, quantise(before[f"{name}.weight"], "nf4").values)
        assert torch.equal(model.lm_head.weight, before["lm_head.weight"])
        raise RuntimeError("stop")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_unchanged_codes_by_layer(tiny_llama) -> None:
    model, before = tiny_llama(), tiny_llama()
    with torch.no_grad():
        for name, layer in rounded_layers(model).items():
            if ".layers.1." in name:
                layer.weight += 0.3 * layer.weight.std() * torch.randn_like(layer.weight)
    found = unchanged_codes(model, before, "rtn4-g64")
    assert list(found) == ["model.layers.0", "model.layers.1"]
    assert found["model.layers.0"] == 1 and 0.2 < found["model.layers.1"] < 0.8


def test_what_cannot_be_rounded_is_told(tiny_llama) -> None:
    with pytest.raises(UserError, match="did you mean 'nf4'"):
        quantise(torch.ones(2, 2), "nf3")
    model = tiny_llama()
    other = copy.deepcopy(model)
    other.model.layers[0].mlp.up_proj = nn.Linear(32, 8)
    with pytest.raises(UserError, match="different layers"):
        unchanged_codes(model, other, "nf4")
    with pytest.raises(UserError, match="has no linear layers to round"):
        rounded_layers(Embedded())


class Embedded(nn.Module):
    """A model without a linear layer."""

    def get_output_embeddings(self) -> None:
        return None


def test_gpt2_holds_its_weights_the_other_way_round(tiny_tokenizer) -> None:
    made = GPT2Config(vocab_size=len(tiny_tokenizer), n_embd=16, n_layer=2, n_head=2, n_positions=64)
    model = GPT2LMHeadModel(made)
    before = copy.deepcopy(model.state_dict())
    assert len(rounded_layers(model)) == 2 * 4
    with quantised(model, "rtn4-g64"):
        for name in rounded_layers(model):
            rounded = quantise(before[f"{name}.weight"].T, "rtn4-g64").values
            assert torch.equal(model.get_submodule(name).weight, rounded.T), name
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert set(unchanged_codes(model, model, "nf4").values()) == {1.0}
