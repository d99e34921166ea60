"""The parts of a causal language model: its transformer, and the output embedding that turns states into logits.

H hidden size, V vocabulary size.
"""

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
