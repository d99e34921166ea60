"""What a user should know about the data before training, and what cannot be trained at all: counted, not guessed."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedTokenizerBase

from unlearner.console import warn
from unlearner.data.batches import Plan
from unlearner.data.views import View
from unlearner.errors import UserError, plural
from unlearner.methods import Method
from unlearner.models.anatomy import bare, check_layers
from unlearner.models.load import check_fits, load_model
from unlearner.options import TrainOptions
from unlearner.random_state import own_random_state
from unlearner.scoring.views import layers_of
from unlearner.training.reference import check_trains
from unlearner.training.setup import add_lora, weights_dtype


def load_to_train(config: TrainOptions) -> Any:
    """The model that training starts from; an adapter is merged into its base model. Raises UserError."""
    # A new adapter takes its first values in the base model's type: that has to be there.
    model = load_model(
        config.model, dtype=weights_dtype(config), trust_remote_code=config.trust_remote_code, lazy=not config.lora
    )
    if not hasattr(model, "peft_config"):
        return model
    if config.lora and not config.merge:
        raise UserError(
            f"{config.model} is an adapter already, and a second one cannot be saved on top of it: add --merge, or "
            "train without --lora."
        )
    return model.merge_and_unload().requires_grad_(True)  # peft had frozen them


def warn_truncated(views: Mapping[str, View], max_length: int, *, chunked: bool = False) -> None:
    """Say how many rows of each view were cut at max_length; not of documents that go on in the next row."""
    if chunked:
        return
    for name, view in views.items():
        cut = int((~view.table.closed).sum())
        if cut:
            warn(
                f"{cut} of {len(view.table)} {name} rows are longer than --max-length {max_length} tokens and were cut"
            )


def check_training_fits(
    model: Any, tokenizer: PreTrainedTokenizerBase, views: Mapping[str, View], pad_to: int = 0, shift: int = 0
) -> None:
    """Raises UserError for texts, padded to `pad_to` tokens, that the model has no embeddings for; forget rows take
    `shift` positions more than they have tokens."""
    tables = [view.table for view in views.values()]
    lengths = (int(view.table.lengths.max()) + shift * (name == "forget") for name, view in views.items())
    longest = max(pad_to, *lengths)
    check_fits(model, tokenizer, max(int(table.ids.max()) for table in tables), longest, "lower --max-length")


def is_finite(model: nn.Module) -> bool:
    """Whether this process' part of every trained weight is finite, and so small that float32 holds its square."""
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.is_floating_point():
            part: Any = getattr(parameter, "ds_tensor", parameter)  # DeepSpeed's part of it
            part = part.to_local() if isinstance(part, DTensor) else part
            if not bool(torch.isfinite(part.detach().float().square().sum())):
                return False
    return True


def check_steps(plan: Plan) -> None:
    """Raises UserError for a plan without a single step."""
    if plan.steps < 1:
        official = (
            "; official mode drops what does not fill a whole step: lower --gradient-accumulation-steps"
            if plan.official
            else ""
        )
        raise UserError(
            f"--epochs {plan.epochs:g} of {plural(plan.items, 'row')} does not fill one step of "
            f"{plural(plan.step_items, 'row')}: raise --epochs{official}."
        )


def check_parts(model: Any, method: Method, *, lora: bool) -> None:
    """Raises UserError for a layer that the method reads and the model lacks, for a method that would train nothing,
    and for losses' own tensors that do not fit the model."""
    check_layers(model, sorted({*layers_of(method.needs), *layers_of(method.asked)}), method.name)
    if method.trains and not lora:  # an adapter's weights are not there yet
        check_trains(method, [name for name, _ in model.named_parameters()])
    method.setup(bare(model).config.get_text_config(), seed=0)


def check_adapter(model: Any, method: Method, options: TrainOptions, peft_config: Any = None) -> None:
    """Raises UserError where the adapter that is to come has none of what the method trains."""
    if method.trains and options.lora:
        check_trains(method, _adapted(model, options, peft_config))


def _adapted(model: Any, options: TrainOptions, peft_config: Any) -> list[str]:
    """The names of what the adapter's training changes. The model, and random numbers to come, are left as they are."""
    grad = {parameter: parameter.requires_grad for parameter in model.parameters()}
    if not hasattr(model, "peft_config"):
        shared: dict[int, Any] = {id(each): each for each in (*model.parameters(), *model.buffers())}
        with own_random_state():
            model = add_lora(copy.deepcopy(model, shared), options, copy.deepcopy(peft_config))
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    for parameter, wanted in grad.items():  # peft had frozen them
        parameter.requires_grad_(wanted)
    return names


def check_surgery(method: Method, options: TrainOptions) -> None:
    """Raises UserError for a surgery with DeepSpeed, which keeps gradients to itself."""
    if method.surgery is not None and options.parallel == "deepspeed":
        raise UserError(
            f"{method.surgery.name} does not work with --parallel deepspeed, which does its own steps: use "
            "--parallel fsdp or ddp."
        )


def check_compiles(method: Method) -> None:
    """Raises UserError for hidden states of layers, which compiled layers do not hand out."""
    if layers_of(method.needs):
        raise UserError(
            f"--torch-compile does not work with {method.name}, which reads hidden states of layers: leave it out."
        )


def check_room(views: Mapping[str, View], max_length: int) -> None:
    """Raises UserError for rows so long that nothing of their answers would be trained."""
    for name, view in views.items():
        empty = view.labelled < 1
        without = int(empty.sum())
        if without and bool(view.table.closed[empty].all()):  # no row was cut: first labels were left out
            raise UserError(
                f"the first labels that the loss leaves out are all there are in {without} of {len(view.table)} "
                f"{name} rows: lower --method-options ignore_first=, or leave out such rows."
            )
        if without:
            raise UserError(
                f"--max-length {max_length} leaves no token of the answer in {without} of {len(view.table)} {name} "
                "rows: raise it, or leave out such rows."
            )
