"""Weights rounded to 4 or 8 bits, in plain PyTorch on any device: does what was unlearned come back?

An update smaller than half a step leaves the weight in its bucket, and the rounded model is the one before (Zhang et
al. 2024, arXiv 2410.16454). nf4, fp4 and int8 are bitsandbytes' own arithmetic, equal to its dequantised weights to the
bit; its int8 layers also round activations, and 4-bit ones may round their scales again (`use_double_quant`): left out.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers.pytorch_utils import Conv1D

from unlearner.errors import UserError, did_you_mean
from unlearner.models.anatomy import bare

BLOCK = 64
"""Weights that share a scale in nf4 and fp4, counted row by row."""
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""Quantiles of the normal distribution (Dettmers et al. 2023, arXiv 2305.14314)."""
FP4 = (-12.0, -8.0, -6.0, -4.0, -3.0, -2.0, -0.0625, 0.0, 0.0, 0.0625, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)
"""Times 1/12. What `BitsAndBytesConfig(load_in_4bit=True)` takes by default."""
SCHEMES = ("int8", "nf4", "fp4", "rtn8-g128", "rtn4-g128", "rtn4-g64")
"""What is offered; rtn (round to nearest) takes 4 or 8 bits and groups of any size."""


class Quantised(NamedTuple):
    """A weight (rows, columns) rounded."""

    codes: Tensor
    """Of the weight's shape: the bucket of each number."""
    values: Tensor
    """What the buckets stand for, float32."""


def quantise(weight: Tensor, scheme: str) -> Quantised:
    """Round `weight` by one of `SCHEMES` or rtnBITS-gGROUP. Raises UserError for another scheme.

    - nf4, fp4: blocks of 64 numbers in a row, scaled by the largest, then to the nearest of 16 values
    - int8: each row scaled by its largest, w' = round(127 w/s)·s/127
    - rtnB-gG: symmetric round to nearest, groups of G within a row, s = max|w|/(2^(B−1) − 1)
    """
    weight = weight.detach().float()
    rounding = re.fullmatch(r"rtn([48])-g([1-9]\d*)", scheme)
    if rounding:
        return _by_group(weight, int(rounding[1]), int(rounding[2]))
    if scheme == "int8":
        return _by_row(weight)
    if scheme in ("nf4", "fp4"):
        return _by_block(weight, scheme)
    raise UserError(f"unknown quantisation {scheme!r}: {did_you_mean(scheme, SCHEMES)}")


def _by_block(weight: Tensor, scheme: str) -> Quantised:
    values = torch.tensor(NF4 if scheme == "nf4" else FP4, device=weight.device)
    values = values / values.abs().max()
    flat = weight.reshape(-1)
    short = -len(flat) % BLOCK
    blocks = pad(flat, (0, short)).view(-1, BLOCK)
    largest = blocks.abs().amax(1, keepdim=True)
    floor = largest.clamp(min=1e-38)
    scaled = blocks * (1.0 / floor)
    if short:  # bitsandbytes divides in the last block, where it is short, and multiplies by the inverse elsewhere
        scaled[-1] = blocks[-1] / floor[-1]
        largest[-1] = floor[-1]
    codes = torch.bucketize(scaled.clamp(-1, 1), (values[:-1] + values[1:]) / 2)
    if scheme == "fp4":
        codes[codes == 8] = 7  # the two zeros
    rounded = values[codes] * largest
    return Quantised(*(part.view(-1)[: len(flat)].view(weight.shape) for part in (codes, rounded)))


def _by_row(weight: Tensor) -> Quantised:
    largest = weight.abs().amax(1, keepdim=True)
    codes = torch.round(weight * (127.0 / largest)).nan_to_num_(0)  # a row of zeros
    return Quantised(codes.to(torch.int8), codes * largest * (1 / 127))


def _by_group(weight: Tensor, bits: int, group: int) -> Quantised:
    rows, columns = weight.shape
    group = min(group, columns)
    groups = pad(weight, (0, -columns % group)).view(rows, -1, group)
    most = 2 ** (bits - 1) - 1
    # By a tensor: on a GPU PyTorch multiplies by the inverse of a number, which rounds otherwise.
    step = groups.abs().amax(2, keepdim=True) / groups.new_tensor(most)
    codes = torch.round(groups / step).nan_to_num_(0).clamp_(-most - 1, most)
    return Quantised(
        codes.to(torch.int8).view(rows, -1)[:, :columns].contiguous(),
        (codes * step).view(rows, -1)[:, :columns].contiguous(),
    )


def rounded_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers that are rounded, by name: every linear one (GPT-2's Conv1D is one) but the output embedding, as in
    transformers.

    Raises UserError for a model with an adapter, which is another model before it is merged, or without such layers.
    """
    if hasattr(model, "peft_config"):
        raise UserError("a model with an unmerged adapter cannot be rounded as it will be served: merge the adapter.")
    head = bare(model).get_output_embeddings()
    layers: dict[str, nn.Module] = {
        n: m for n, m in model.named_modules() if isinstance(m, nn.Linear | Conv1D) and m is not head
    }
    if not layers:
        raise UserError(f"{type(bare(model)).__name__} has no linear layers to round.")
    return layers


def _matrix(layer: nn.Module) -> Tensor:
    """Its weight, a row an output: Conv1D holds it the other way round. In-place changes reach the layer."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.T if isinstance(layer, Conv1D) else weight


@contextmanager
def quantised(model: nn.Module, scheme: str) -> Iterator[None]:
    """Inside, the model's linear layers hold their rounded weights; afterwards their own again, to the bit."""
    with torch.no_grad():
        weights = [_matrix(layer) for layer in rounded_layers(model).values()]
        own = [weight.clone() for weight in weights]
    try:
        with torch.no_grad():
            for weight in weights:
                weight.copy_(quantise(weight, scheme).values)
        yield
    finally:
        with torch.no_grad():
            for weight, before in zip(weights, own, strict=True):
                weight.copy_(before)


def unchanged_codes(model: nn.Module, before: nn.Module, scheme: str) -> dict[str, float]:
    """The share of weights that fall into the same bucket in both models, by layer of the transformer: how much of the
    unlearning does not survive rounding. 1: none of it does. Raises UserError for models that are not alike."""
    ours, theirs = ({n: _matrix(m).detach() for n, m in rounded_layers(each).items()} for each in (model, before))
    if {n: weight.shape for n, weight in ours.items()} != {n: weight.shape for n, weight in theirs.items()}:
        raise UserError(
            f"the model ({type(bare(model)).__name__}) and the one before ({type(bare(before)).__name__}) have "
            "different layers: give the model that unlearning started from."
        )
    same: dict[str, int] = {}
    of: dict[str, int] = {}
    for name, weight in ours.items():
        place = match[1] if (match := re.match(r"(.*?\.\d+)\.", name)) else name
        other = theirs[name].to(weight.device)
        equal = quantise(weight, scheme).codes == quantise(other, scheme).codes
        same[place] = same.get(place, 0) + int(equal.sum())
        of[place] = of.get(place, 0) + equal.numel()
    return {place: same[place] / of[place] for place in of}
