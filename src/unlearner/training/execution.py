"""Decides how a run computes, once, before its first step, and has it computed that way.

Trials tell what a model and a device can do and what is faster. The main process decides for all. What was decided is
kept in run.json, with the step from which it holds: a run that is continued computes as it began, where it can.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from unlearner import distributed
from unlearner.config import EvaluateConfig
from unlearner.data.views import View, shared_tokens
from unlearner.errors import UserError
from unlearner.methods import Method
from unlearner.models.anatomy import bare
from unlearner.models.compiled import compile_layers, restore_layers
from unlearner.models.execution import WORTH_SHARING, Execution, using
from unlearner.models.load import uses_bf16
from unlearner.models.onednn_linear import fast_products, has_onednn, mkl_is_slow
from unlearner.models.packing import packing, shares_prefix
from unlearner.models.sharding import is_sharded
from unlearner.options import TrainOptions
from unlearner.results.layout import RunDirectory
from unlearner.results.run import keep_execution, kept_execution
from unlearner.scoring.batch import FORWARD_TOKENS
from unlearner.scoring.constants import FUSED
from unlearner.scoring.token_scores import kernels_gain
from unlearner.training import checkpoint
from unlearner.training.reference import Reference


def plan_training(
    models: Sequence[Any],
    method: Method,
    options: TrainOptions,
    parallel: str,
    accelerator: Accelerator,
    folder: Path | None,
    views: Collection[View] = (),
) -> Execution:
    """The plan of a run that trains; of `models` the first is trained, and all are to be packed.

    `folder` is the run's directory; `views` are those whose rows are trained on. Raises UserError where
    `options.execution` asks for what cannot be here.
    """
    kinds: set[str | int] = {kind for of_view in method.needs.values() for kind in of_view}
    # KL and JS near the reference are small, and their gradients show how attention sums: always padded.
    exact = method.official or method.compares
    rows, prefix, count = ["padded"], ["repeated"], 0
    if not (exact or accelerator.num_processes > 1 or parallel != "ddp"):  # sharded processes need as many forwards
        rows.insert(0 if accelerator.device.type in FORWARD_TOKENS else 1, "by-length")
    if options.execution.get("rows", "packed") == "packed" and not (
        exact or options.torch_compile or parallel == "deepspeed"
    ):
        with packing_all(models, accelerator) as able:
            if not distributed.any_of(not able):
                rows.insert(0, "packed")
                count, share = shared_tokens(views)
                if count and not distributed.any_of(not _all_share(models, accelerator)):
                    prefix.insert(0 if share >= WORTH_SHARING else 1, "shared")
    return _settled(
        models[0], options, accelerator.device, rows, tuple(kind for kind in FUSED if kind in kinds), folder,
        prefix, count, compiled=options.torch_compile, parallel=parallel,
    )  # fmt: skip


def plan_evaluation(model: Any, options: EvaluateConfig, folder: Path | None, *, official: bool) -> Execution:
    """The plan of a run that only measures. Raises UserError as `plan_training`."""
    rows = ["padded"] if official else ["by-length"]
    sharded = "fsdp" if is_sharded(model) else "ddp"
    prefix = ["repeated"] if official else ["shared", "repeated"]
    return _settled(model, options, model.device, rows, ("logp",), folder, prefix, parallel=sharded)


def _settled(
    model: Any,
    options: TrainOptions | EvaluateConfig,
    device: torch.device,
    rows: list[str],
    kinds: tuple[str, ...],
    folder: Path | None,
    prefix: Sequence[str] = ("repeated",),
    prefix_tokens: int = 0,
    **layout: Any,
) -> Execution:
    """One for all processes: what was asked for, else what the run was begun with, else the first that can be."""
    begun = None if folder is None else distributed.agreed(kept_execution(folder))
    if begun is not None:  # by a version that chose less
        begun = {**asdict(Execution()), **begun}
    dtype = torch.bfloat16 if uses_bf16(options.precision) else model.get_input_embeddings().weight.dtype
    vocabulary = bare(model).config.get_text_config().vocab_size
    scores = ["torch"]
    if device.type == "cuda" and find_spec("triton") is not None:
        faster = begun is None and bool(kinds) and kernels_gain(device, dtype, vocabulary, kinds)
        scores = ["triton", "torch"] if faster else ["torch", "triton"]
    linear = ["torch"]
    if device.type == "cpu" and has_onednn():
        linear.insert(0 if mkl_is_slow() else 1, "onednn")
    can = {"rows": rows, "prefix": prefix, "scores": scores, "linear": linear}
    chosen: dict[str, Any] = {n: _one_of(n, choices, options.execution, begun or {}) for n, choices in can.items()}
    chosen["prefix_tokens"] = prefix_tokens if chosen["prefix"] == "shared" else 0
    chosen |= {**layout, "processes": distributed.count(), "threads": torch.get_num_threads()}
    plan = distributed.agreed(Execution(**chosen))
    return _kept(plan, begun, folder)


def sharing(plan: Execution, views: Collection[View], folder: Path | None) -> Execution:
    """`plan`, where more views are trained on than were known when it was made: with the tokens that all share."""
    count = shared_tokens(views)[0] if plan.prefix == "shared" else 0
    return _kept(replace(plan, prefix="shared" if count else "repeated", prefix_tokens=count), asdict(plan), folder)


def _kept(plan: Execution, before: Mapping[str, Any] | None, folder: Path | None) -> Execution:
    """`plan`, kept in the run's directory if it has one and was another one before."""
    if folder is not None and asdict(plan) != before:
        newest = checkpoint.latest(RunDirectory(folder).checkpoints)
        keep_execution(folder, {"step": newest[0] if newest else 0, **asdict(plan)})
    return plan


def _one_of(name: str, choices: Sequence[str], asked: Mapping[str, str], begun: Mapping[str, Any]) -> str:
    wanted = asked.get(name)
    if wanted is not None and wanted not in choices:
        raise UserError(
            f"--execution {name} {wanted} is not possible here: choose {' or '.join(choices)}, or leave it out."
        )
    return wanted or (begun[name] if begun.get(name) in choices else choices[0])


def forward_tokens(plan: Execution, device: torch.device) -> int | None:
    """What a further forward costs in tokens, for `Batch.build`; None where all rows go through one."""
    return FORWARD_TOKENS.get(device.type, FORWARD_TOKENS["cpu"]) if plan.rows == "by-length" else None


def all_models(model: Any, reference: Reference | None) -> list[Any]:
    """The model and the copy that is its reference, if there is one."""
    return [model, reference.model] if reference is not None and reference.holds_copy else [model]


@contextmanager
def executing(plan: Execution, models: Sequence[Any], accelerator: Accelerator) -> Iterator[None]:
    """While entered, `models`, the first of which is trained, compute by `plan`. What is changed in them is undone."""
    with ExitStack() as stack:
        stack.enter_context(using(plan))
        if plan.compiled:
            compile_layers(models[0])
            stack.callback(restore_layers, models[0])
        else:
            stack.enter_context(fast_products(*models))
        if plan.rows == "packed" and not stack.enter_context(packing_all(models, accelerator)):
            raise RuntimeError("the model could be packed when the run began, and cannot any more")
        yield


@contextmanager
def packing_all(models: Sequence[Any], accelerator: Accelerator) -> Iterator[bool]:
    """`packing` of all of them: whether they can be packed."""
    with ExitStack() as stack:
        able = [stack.enter_context(packing(bare(each), _passing(each, accelerator))) for each in models]
        yield all(able)


def _all_share(models: Sequence[Any], accelerator: Accelerator) -> bool:
    """`shares_prefix` of all of them."""
    able = []
    for each in models:
        with _passing(each, accelerator):
            able.append(shares_prefix(bare(each)))
    return all(able)


def _passing(model: Any, accelerator: Accelerator) -> AbstractContextManager[None]:
    """The context of a model's forward passes."""
    return nullcontext() if is_sharded(model) else accelerator.autocast()
