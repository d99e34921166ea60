"""Training on an accelerator: tokens a second, share of the device's measured ceiling, peak memory; ours and baseline.

    python -m benchmarks.gpu --shape 1b
    python -m benchmarks.gpu --shape 8b --tuning full --optimizer adamw adamw-8bit
    python -m benchmarks.gpu --shape tiny                  # the smallest shape, on a CPU

Needs no data: models with random weights are made on the device, rows are random tokens of TOFU's lengths. A *cell* is
one method computed one way, in a process of its own; one that runs out of memory is reported, and the rest goes on.
Counted as work are, for both ways alike, the real tokens of all views and the labelled positions at the vocabulary
(and KL's reference): forward and backward once. Padding, and a reference run in every step, are work that need not be.
"""

import argparse
import copy
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import baseline, loss_memory
from benchmarks.shapes import SHAPES, Shape
from benchmarks.timing import machine
from unlearner.config import ForgetConfig
from unlearner.data.batches import Plan, micro_batches
from unlearner.data.prompts import TokenTable
from unlearner.data.views import View
from unlearner.methods import Method
from unlearner.models.anatomy import Head
from unlearner.models.onednn_linear import linear
from unlearner.scoring.token_scores import CHUNK_BYTES, token_scores
from unlearner.training import execution, setup
from unlearner.training.objective import Objective
from unlearner.training.reference import reference_nll, step_reference
from unlearner.training.step import assemble

METHODS = ("ME+GD", "NPO+GD", "NPO+KL", "DPO+GD", "IDK+AP")
MAX_LENGTH = 500
WARM_UP = 2
EOS = 2


def on_gpu() -> bool:
    return torch.cuda.is_available()


def device() -> torch.device:
    return torch.device("cuda" if on_gpu() else "cpu")


def wait() -> None:
    if on_gpu():
        torch.cuda.synchronize()


# ---------------------------------------------------------------------------------------------------------------- cells


def run_cell(cell: dict[str, Any]) -> dict[str, Any]:
    """Seconds of each step, tokens and operations of a step, peak memory: of one cell, in this process."""
    shape = SHAPES[cell["shape"]]
    options = ForgetConfig(
        model="", forget="", output="", learning_rate=1e-5, precision=cell["precision"], optimizer=cell["optimizer"],
        lora=cell["tuning"] == "lora", gradient_checkpointing=cell["checkpointing"], torch_compile=cell["compile"],
        max_tokens_per_forward=cell["max_tokens"], gradient_accumulation_steps=cell["rows"] // 4,
    )  # fmt: skip
    torch.manual_seed(0)
    method = Method.parse(cell["method"], forget_coeff=0.1 if cell["method"].startswith("ME") else 1.0)
    plan = Plan(cell["rows"] * (WARM_UP + cell["steps"]), 1, options.batch_size, cell["rows"] // 4, seed=0)
    views = {name: random_view(name, plan.items, shape, method) for name in method.needs}
    accelerator = setup.make_accelerator(options)
    if options.lora:
        import peft  # noqa: F401  # libraries are no part of the peak
    before = 0 if on_gpu() else loss_memory.resident("VmRSS")
    if not on_gpu():
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    model = shape.make(dtype=setup.weights_dtype(options), device=device()).train()
    if options.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    steps = {"ours": ours, "baseline": plain}[cell["way"]]
    seconds, losses = [], []
    for step in steps(model, method, views, plan, options, accelerator):
        wait()
        start = time.perf_counter()
        loss = step()
        wait()
        seconds.append(time.perf_counter() - start)
        losses.append(float(loss))
    assert all(np.isfinite(losses)), losses
    peak = torch.cuda.max_memory_allocated() if on_gpu() else loss_memory.resident("VmHWM") - before
    work = [step_work(shape, method, views, plan, step, options.lora) for step in range(WARM_UP, plan.steps)]
    tokens, operations = (sum(each) / len(work) for each in zip(*work, strict=True))
    median = statistics.median(seconds[WARM_UP:])
    return {
        "seconds": seconds, "losses": losses, "peak_bytes": peak, "tokens_a_step": tokens,
        "operations_a_step": operations, "tokens_per_second": tokens / median,
        "operations_per_second": operations / median,
    }  # fmt: skip


def ours(
    model: Any, method: Method, views: dict[str, View], plan: Plan, options: ForgetConfig, accelerator: Any
) -> Iterator[Callable[[], Tensor]]:
    """The steps as `training/step.py` takes them."""
    if options.lora:
        model = setup.add_lora(model, options)
    reference = step_reference(model, method, None)
    known = {
        name: reference_nll(model, views[name], EOS, None, options.max_tokens_per_forward, accelerator)
        for name in method.reference_nll
    }
    objective = Objective(model, method, reference)
    wrapped, optimizer = accelerator.prepare(objective, setup.make_optimizer(objective, options))
    wrapped.train()
    models = execution.all_models(model, reference)
    how = execution.plan_training(models, method, options, "ddp", accelerator, None, list(views.values()))

    def step(number: int) -> Tensor:
        total = torch.zeros((), device=device())
        for part in micro_batches(plan, views, number, max_tokens=options.max_tokens_per_forward):
            batch = assemble(
                part,
                views,
                EOS,
                known,
                official=False,
                reference=method.asked,
                forward_tokens=execution.forward_tokens(how, accelerator.device),
                packed=how.rows == "packed",
                prefix=how.prefix_tokens,
            )
            values = wrapped(batch.to(accelerator.device))
            accelerator.backward(values[0])
            total += values[0].detach()
        accelerator.clip_grad_norm_(wrapped.parameters(), options.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return total

    with execution.executing(how, models, accelerator):
        for number in range(plan.steps):
            yield partial(step, number)


def plain(
    model: Any, method: Method, views: dict[str, View], plan: Plan, options: ForgetConfig, accelerator: Any
) -> Iterator[Callable[[], Tensor]]:
    """The steps as `benchmarks/baseline.py` takes them: padded rows, a forward a view, full logits in float32."""
    name = method.name
    reference = copy.deepcopy(model).requires_grad_(False).eval() if name in baseline.WITH_REFERENCE else None
    if options.lora:
        model = setup.add_lora(model, options)
    objective = nn.ModuleList([model])
    optimizer = setup.make_optimizer(objective, options)

    def step(number: int) -> Tensor:
        _, items = plan.step(number)
        groups = [items[i : i + plan.batch_size] for i in range(0, len(items), plan.batch_size)]
        total = torch.zeros((), device=device())
        for group in groups:
            batch = {
                view: baseline.stack([padded_row(views[view], int(views[view].rows[0, item])) for item in group])
                for view in baseline.VIEWS[name]
            }
            batch = {view: {k: v.to(device()) for k, v in tensors.items()} for view, tensors in batch.items()}
            with accelerator.autocast():
                forget, retain = baseline.losses(name, model, batch, reference)
            loss = (method.forget_coeff * forget + retain) / len(groups)
            loss.backward()
            total += loss.detach()
        nn.utils.clip_grad_norm_(objective.parameters(), options.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        return total

    for number in range(plan.steps):
        yield partial(step, number)


# -------------------------------------------------------------------------------------------------------- data and work


def random_view(name: str, items: int, shape: Shape, method: Method) -> View:
    """Random tokens, as long as TOFU's rows are for Llama's tokenizers: questions 15–35 tokens with the template,
    answers 20–80, refusals 5–15."""
    random = np.random.default_rng([len(name), 7])
    question = random.integers(15, 36, items)
    answer = random.integers(5, 16, items) if name.endswith("refusal") else random.integers(20, 81, items)
    offsets = np.concatenate([[0], np.cumsum(question + answer)])
    ids = random.integers(3, shape.vocabulary, offsets[-1], dtype=np.int32)
    table = TokenTable(ids, offsets, question.astype(np.int32), np.ones(items, bool))
    whole = name == "forget" and not method.mask_question
    return View(table, np.arange(items)[None], np.ones(items, np.int64) if whole else question, whole)


def padded_row(view: View, row: int) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, labels and mask of one row, each (MAX_LENGTH,)."""
    tokens = torch.from_numpy(view.table.row(row).astype(np.int64))
    ids = torch.full((MAX_LENGTH,), EOS)
    ids[: len(tokens)] = tokens
    labels, mask = torch.full_like(ids, -100), torch.zeros_like(ids)
    labels[view.first_label[row] : len(tokens)] = tokens[view.first_label[row] :]
    mask[: len(tokens)] = 1
    return ids, labels, mask


def step_work(
    shape: Shape, method: Method, views: dict[str, View], plan: Plan, step: int, lora: bool
) -> tuple[int, float]:
    """Real tokens of a step, and the operations that its losses and gradients need.

    A backward pass costs two forwards; with LoRA one, for no gradient of the frozen weights is needed.
    """
    _, items = plan.step(step)
    tokens, operations = 0, 0.0
    for name, view in views.items():
        rows = view.rows[0, items]
        lengths = view.table.lengths[rows].tolist()
        kl = name in method.asked
        scored = sum(lengths) if kl else int(view.labelled[rows].sum())
        forward = shape.forward_flops(lengths, scored)
        tokens += sum(lengths)
        operations += (2 if lora else 3) * forward + (forward if kl else 0.0)
    return tokens, operations


# ---------------------------------------------------------------------------------------- the ceiling, the vocabulary


def ceiling(dtype: torch.dtype) -> float:
    """Operations a second of the best square matrix product in `dtype`: what this device can do at all."""
    best = 0.0
    for n in (4096, 8192, 16384) if on_gpu() else (1024, 2048):
        a, b = (torch.randn(n, n, device=device(), dtype=dtype) for _ in range(2))
        for product in (torch.mm, linear):  # the library that PyTorch asks, and the one that we do
            for _ in range(2):
                product(a, b)
            wait()
            start, rounds = time.perf_counter(), 10 if on_gpu() else 4
            for _ in range(rounds):
                product(a, b)
            wait()
            best = max(best, 2 * n**3 * rounds / (time.perf_counter() - start))
    del a, b
    if on_gpu():
        torch.cuda.empty_cache()  # the cells' processes need the memory
    return best


def vocabulary(shape: Shape, dtype: torch.dtype, tokens: int, rounds: int) -> list[dict[str, Any]]:
    """Seconds and peak memory of loss and gradient at the vocabulary: all logits at once, and in chunks; on a GPU the
    chunks by PyTorch's operators and by the kernels."""
    found = []
    sizes = [2**20 * n for n in ((64, 128, 256, 512, 1024, 2048) if on_gpu() else (4, 16, 64, 256))]
    ways: list[tuple[str, int | None, bool]] = [("plain", None, False)]
    for fused in (False, True) if on_gpu() else (False,):
        ways += [(f"{size >> 20} MiB {'kernels' if fused else 'chunks'}", size, fused) for size in sizes]
    for kind in loss_memory.KINDS:
        for name, chunk, fused in ways:
            try:
                made = _vocabulary(shape, dtype, tokens, rounds, kind, chunk, fused)
                found.append({"kind": kind, "way": name, **made})
            except torch.OutOfMemoryError:
                found.append({"kind": kind, "way": name, "error": "out of memory"})
                torch.cuda.empty_cache()
            print(f"  {show_vocabulary(found[-1])}", flush=True)
    return found


def _vocabulary(
    shape: Shape, dtype: torch.dtype, tokens: int, rounds: int, kind: str, chunk: int | None, fused: bool
) -> dict[str, Any]:
    hidden = torch.randn(tokens, shape.hidden, device=device(), dtype=dtype, requires_grad=True)
    weight = (torch.randn(shape.vocabulary, shape.hidden, device=device(), dtype=dtype) * 0.02).requires_grad_()
    targets = torch.randint(shape.vocabulary, (tokens,), device=device())
    seconds = []
    for _ in range(rounds + 1):
        hidden.grad = weight.grad = None
        if on_gpu():
            torch.cuda.reset_peak_memory_stats()
        wait()
        start = time.perf_counter()
        if chunk is None:
            scores = loss_memory.plain(hidden, weight, targets, kind)
        else:
            scores = token_scores(hidden, Head(weight), targets, [kind], chunk_bytes=chunk, fused=fused)[kind]
        scores.mean().backward()
        wait()
        seconds.append(time.perf_counter() - start)
    made = {"seconds": statistics.median(seconds[1:])}
    return made | {"peak_bytes": torch.cuda.max_memory_allocated()} if on_gpu() else made


def show_vocabulary(row: dict[str, Any]) -> str:
    memory = f"  peak {row['peak_bytes'] / 2**30:6.2f} GiB" if "peak_bytes" in row else ""
    return f"{row['kind']:9} {row['way']:18} " + (row.get("error") or f"{1e3 * row['seconds']:9.2f} ms{memory}")


# -------------------------------------------------------------------------------------------------------------- command


def in_a_process_of_its_own(cell: dict[str, Any]) -> dict[str, Any]:
    """What `run_cell` found, or `error`: a cell that is out of memory takes nothing else with it."""
    command = [sys.executable, "-m", __spec__.name, "--cell", json.dumps(cell)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0:
        return dict(json.loads(done.stdout.splitlines()[-1]))
    lines = done.stderr.strip().splitlines() or [f"ended by signal {-done.returncode}"]
    out_of_memory = done.returncode == -9 or "OutOfMemoryError" in done.stderr
    return {"error": "out of memory" if out_of_memory else lines[-1]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], prog="python -m benchmarks.gpu")
    parser.add_argument("--shape", choices=list(SHAPES), default="1b" if on_gpu() else "tiny")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--tuning", nargs="+", default=["full", "lora"], choices=["full", "lora"])
    parser.add_argument("--optimizer", nargs="+", default=["adamw"], choices=["adamw", "adamw-8bit"])
    parser.add_argument("--precision", default="pure-bf16" if on_gpu() else "fp32", help="pure-bf16, bf16 or fp32")
    parser.add_argument("--ways", nargs="+", default=["ours", "baseline"], choices=["ours", "baseline"])
    parser.add_argument("--rows", type=int, default=32, help="rows of a step")
    parser.add_argument("--steps", type=int, default=5, help="steps that are timed, after two that are not")
    parser.add_argument("--max-tokens", type=int, default=16384, help="padded tokens of one forward")
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations in the backward pass")
    parser.add_argument("--compile", action="store_true", help="our way with compiled layers")
    parser.add_argument("--scored", type=int, default=2048, help="positions in the measurement of the vocabulary part")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder of the results")
    parser.add_argument("--cell", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell is not None:
        print(json.dumps(run_cell(options.cell)))
        return
    shape, dtype = SHAPES[options.shape], torch.float32 if options.precision == "fp32" else torch.bfloat16
    where = torch.cuda.get_device_name() if on_gpu() else "CPU, no accelerator"
    print(f"{options.shape}-shaped, {shape.parameters / 1e6:,.1f} M parameters, {options.precision}, on {where}")
    tops = ceiling(dtype)
    print(f"matrix products: {tops / 1e12:.3f} TFLOP/s at most\n", flush=True)
    result: dict[str, Any] = {
        "device": where, "machine": machine(), "shape": options.shape, "parameters": shape.parameters,
        "precision": options.precision, "matrix_product_operations_per_second": tops,
        "settings": {k: getattr(options, k) for k in ("rows", "steps", "max_tokens", "checkpointing", "compile")},
    }  # fmt: skip
    cells = []
    print(f"{'method':8}{'tuning':8}{'optimizer':12}{'way':10}{'tokens/s':>10}{'MFU':>8}{'peak GiB':>10}", flush=True)
    for tuning in options.tuning:
        for optimizer in options.optimizer:
            for method in options.methods:
                for way in options.ways:
                    cell = {
                        "method": method, "tuning": tuning, "optimizer": optimizer, "way": way,
                        "shape": options.shape, "precision": options.precision, "rows": options.rows,
                        "steps": options.steps, "max_tokens": options.max_tokens,
                        "checkpointing": options.checkpointing, "compile": options.compile and way == "ours",
                    }  # fmt: skip
                    made = in_a_process_of_its_own(cell)
                    if "error" not in made:
                        made["mfu"] = made["operations_per_second"] / tops
                    cells.append({**cell, **made})
                    about = f"{method:8}{tuning:8}{optimizer:12}{way:10}"
                    print(about + (f"  {made['error']}" if "error" in made else _figures(made)), flush=True)
    print(f"\nthe vocabulary part, {options.scored} positions (chunks by default: {CHUNK_BYTES})", flush=True)
    result |= {"cells": cells, "vocabulary": vocabulary(shape, dtype, options.scored, options.steps)}
    options.output.mkdir(parents=True, exist_ok=True)
    place = where.replace(" ", "-") if on_gpu() else "CPU"
    path = options.output / f"{result['machine']['date']}-gpu-{options.shape}-{place}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"\nwritten to {path}")


def _figures(made: dict[str, Any]) -> str:
    return f"{made['tokens_per_second']:10,.0f}{made['mfu']:8.1%}{made['peak_bytes'] / 2**30:10.2f}"


if __name__ == "__main__":
    main()
