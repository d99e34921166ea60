"""The parts of a causal language model: its transformer, and the output embedding that turns states into logits.

H hidden size, V vocabulary size.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from unlearner.errors import UserError
from unlearner.models.onednn_linear import linear


def bare(model: nn.Module) -> Any:
    """The transformers model inside a PEFT wrapper, or the model itself."""
    wrapped: Any = model
    return wrapped.get_base_model() if hasattr(model, "get_base_model") else model


def backbone(model: nn.Module) -> nn.Module:
    """The transformer below the output embedding; returns `last_hidden_state` (B, T, H)."""
    inner = bare(model)
    body = inner.base_model
    if body is inner:
        raise UserError(f"{type(inner).__name__} has no body below its output embedding: not a causal language model.")
    return body


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The transformer's layers, in order. Raises UserError for a model that has no list of them."""
    count = bare(model).config.get_text_config().num_hidden_layers
    lists = (m for m in backbone(model).modules() if isinstance(m, nn.ModuleList) and len(m) == count)
    if (found := next(lists, None)) is None:
        raise UserError(f"{type(bare(model)).__name__} has no list of layers to read states from.")
    return found


MLP_NAMES = (
    "gate_proj", "up_proj", "down_proj",  # Llama and its many relatives
    "gate_up_proj",  # Phi-3, GLM
    "c_fc", "c_proj",  # GPT-2, GPT-Neo, StarCoder
    "dense_h_to_4h", "dense_4h_to_h",  # GPT-NeoX, BLOOM, Falcon
    "fc1", "fc2",  # Phi
)  # fmt: skip
"""What model families call the matrices of a layer's `mlp`."""


def mlp_matrices(model: nn.Module) -> dict[str, nn.Parameter]:
    """The matrices of every layer's MLP by their names in the model, in order; as the family stores them, (out, in) or
    (in, out). Raises UserError for a family whose MLP is called otherwise, or consists of experts."""
    names = {id(parameter): name for name, parameter in bare(model).named_parameters()}
    found: dict[str, nn.Parameter] = {}
    for number, layer in enumerate(decoder_layers(model)):
        parts = (getattr(getattr(layer, "mlp", None), name, None) for name in MLP_NAMES)
        matrices = [part.weight for part in parts if part is not None]
        if not matrices:
            raise UserError(
                f"{type(bare(model)).__name__} (model type {bare(model).config.model_type!r}) has no MLP matrices in "
                f"layer {number} that are known here: this family of models is not supported."
            )
        found |= {names[id(matrix)]: matrix for matrix in matrices}
    return found


class DeepEnough(Exception):
    """Ends a forward pass behind the deepest layer that is read."""


def check_layers(model: nn.Module, layers: Sequence[int], reader: str = "") -> None:
    """Raises UserError for a layer that is not there, with the name of who reads it."""
    who = f"{reader}: " if reader else ""
    for number in layers:
        if not 0 <= number < (count := len(decoder_layers(model))):
            raise UserError(
                f"{who}layer {number} does not exist: the model has layers 0 to {count - 1}; choose one of "
                "them with --method-options."
            )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """No dropout inside; afterwards the model's mode is what it was."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


@contextmanager
def captured(model: nn.Module, layers: Sequence[int], *, stop: bool = False) -> Iterator[dict[int, list[Tensor]]]:
    """While entered, what each of `layers` gives in every forward pass, (B, T, H), with gradient.

    Layer 0 is the first; it gives the residual stream behind it. With `stop` a forward pass ends behind the deepest of
    them, by raising DeepEnough. Raises UserError for a layer that is not there.
    """
    states: dict[int, list[Tensor]] = {number: [] for number in layers}
    hooks = []
    try:
        check_layers(model, layers)
        modules: Any = decoder_layers(model) if layers else []
        for number in layers:

            def keep(_: Any, __: Any, out: Any, number: int = number) -> None:
                states[number].append(out[0] if isinstance(out, tuple) else out)
                if stop and number == max(layers):
                    raise DeepEnough

            hooks.append(modules[number].register_forward_hook(keep))
        yield states
    finally:
        for hook in hooks:
            hook.remove()


@dataclass(frozen=True)
class Head:
    """The output embedding: logits = softcap(scale · (hidden @ weight.T + bias))."""

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    @classmethod
    def of(cls, model: nn.Module) -> Self:
        """Read from a transformers causal LM, tied or not. Raises UserError if it is not a linear layer."""
        inner = bare(model)
        layer = inner.get_output_embeddings()
        if not isinstance(layer, nn.Linear):
            raise UserError(
                f"{type(inner).__name__}'s output embedding is {type(layer).__name__}, not a linear layer: "
                "this model cannot be scored."
            )
        config = inner.config.get_text_config()
        scale = 1.0
        for name, inverse in (("logit_scale", False), ("lm_head_multiplier", False), ("logits_scaling", True)):
            value = getattr(config, name, None)  # Cohere, Falcon-H1, Granite
            if value is not None:
                scale *= 1.0 / value if inverse else value
        return cls(layer.weight, layer.bias, scale, getattr(config, "final_logit_softcapping", None))

    @property
    def vocabulary(self) -> int:
        return self.weight.shape[0]

    def to(self, dtype: torch.dtype) -> Self:
        return replace(self, weight=self.weight.to(dtype), bias=None if self.bias is None else self.bias.to(dtype))

    def part(self, columns: slice) -> Self:
        """The head of a part of the vocabulary."""
        return replace(self, weight=self.weight[columns], bias=None if self.bias is None else self.bias[columns])

    def products(self, hidden: Tensor) -> Tensor:
        """(N, H) → (N, V) in the weight's type: the logits before scale and cap."""
        return linear(hidden.to(self.weight.dtype), self.weight, self.bias)

    def logits(self, hidden: Tensor) -> Tensor:
        """(N, H) → (N, V), at least float32."""
        z = self.products(hidden)
        z = z.to(torch.promote_types(z.dtype, torch.float32))
        if self.scale != 1.0:
            z = z * self.scale
        return z if self.softcap is None else self.softcap * torch.tanh(z / self.softcap)


@torch.inference_mode()
def check_head(model: nn.Module) -> None:
    """Refuse a model whose logits are not what `Head` computes: better here, by name, than wrong numbers later."""
    inner = bare(model)
    device = inner.get_input_embeddings().weight.device
    ids = torch.arange(4, device=device)[None]
    hidden = backbone(model)(input_ids=ids, use_cache=False).last_hidden_state[0]
    theirs = inner(input_ids=ids, use_cache=False).logits[0].float()
    ours = Head.of(model).logits(hidden).float()
    if theirs.shape != ours.shape or not torch.allclose(ours, theirs, rtol=2e-2, atol=2e-2 * float(theirs.abs().max())):
        raise UserError(
            f"{type(inner).__name__} (model type {inner.config.model_type!r}) computes its logits in a way that is "
            "not known here: this model is not supported."
        )
