"""`--torch-compile`: every layer of a model compiled by itself, and only while it trains.

Not the whole model: transformers decides about the attention mask before the layers, and when it is traced it always
writes the mask out in full (its `find_packed_sequence_indices`), so that attention would lose the causal kernels that
need none. All layers are the same code: it is compiled once, with sizes left open, and serves rows of any number and
length.
"""

from typing import Any

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from unlearner.errors import UserError
from unlearner.models.anatomy import bare


def compile_layers(model: nn.Module) -> None:
    """Compile the layers in place: names of weights and checkpoints stay as they are.

    Raises UserError for a model without layers of transformers' kind.
    """
    layers = _layers(model)
    if not layers:
        raise UserError(f"--torch-compile finds no layers in {type(bare(model)).__name__}: leave it out.")
    for layer in layers:
        layer.compile(dynamic=True)


def restore_layers(model: nn.Module) -> None:
    """Undo `compile_layers`: evaluation, with its caches, would compile again for every layer."""
    for layer in _layers(model):
        layer._compiled_call_impl = None


def _layers(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
