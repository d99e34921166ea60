"""What only a GPU can show: the kernels for the vocabulary, packed rows by `varlen_attn`, and the numbers of a CPU."""

import copy
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from unlearner.audit.quantise import SCHEMES, quantise
from unlearner.data.profiles import builtin
from unlearner.models.generation import generation_pass
from unlearner.models.new import new_model
from unlearner.models.packing import packing
from unlearner.models.sampling import Sampling

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
MODEL = "new:hidden=128,layers=8,heads=2,vocabulary=400"
FORGET = [{k: v for k, v in asdict(r).items() if v} for r in builtin("forget", people=3, forget=1)]
RETAIN = [{k: v for k, v in asdict(r).items() if v} for r in builtin("retain", people=3, forget=1)]

KERNELS = """
import torch
from unlearner.models.anatomy import Head
from unlearner.scoring.token_scores import token_scores

for dtype, rtol in ((torch.float32, 1e-4), (torch.bfloat16, 2e-2)):
    for vocabulary in (300, 4096, 49_152):
        for kinds in (("logp",), ("mean_logp",), ("logp", "mean_logp")):
            make = torch.Generator("cuda").manual_seed(3)
            hidden, weight, slopes = (
                torch.randn(*shape, generator=make, device="cuda") for shape in ((65, 64), (vocabulary, 64), (2, 65))
            )
            targets = torch.randint(vocabulary, (65,), generator=make, device="cuda")
            found = []
            for fused in (True, False):
                h, w = ((x / scale).to(dtype).requires_grad_() for x, scale in ((hidden, 1), (weight, 8)))
                scores = token_scores(h, Head(w), targets, kinds, chunk_bytes=2**22, fused=fused).values()
                total = sum((score * slope).sum() for score, slope in zip(scores, slopes))
                found.append([*scores, *torch.autograd.grad(total, (h, w))])
            for ours, plain in zip(*found, strict=True):
                assert float((ours.float() - plain.float()).norm()) <= rtol * float(plain.float().norm())
"""


def made() -> tuple[Any, Any]:
    return new_model(MODEL, [f"{row['question']}\n {row['answer']}" for row in (*FORGET, *RETAIN)], seed=0)


def test_the_kernels_give_the_numbers_of_the_plain_path() -> None:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", KERNELS], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]


def test_rows_are_packed_in_bf16() -> None:
    """`packing` itself compares a packed row with the same row alone."""
    model = made()[0].to("cuda", torch.bfloat16)
    with packing(model) as able:
        assert able


@pytest.mark.parametrize("scheme", SCHEMES)
def test_rounded_weights_are_a_cpus_to_the_bit(scheme: str) -> None:
    for shape in ((16, 64), (7, 50), (128, 192)):
        for dtype in (torch.float32, torch.bfloat16):
            weight = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 0.05).to(dtype)
            here, there = quantise(weight, scheme), quantise(weight.cuda(), scheme)
            assert torch.equal(here.codes, there.codes.cpu()) and torch.equal(here.values, there.values.cpu())


def test_samples_do_not_depend_on_the_batch() -> None:
    model = made()[0].eval().cuda()
    prompts = [[3 + i, 9, 11 + i % 5, 4][: 2 + i % 3] for i in range(24)]
    options: dict[str, Any] = {"max_new_tokens": 8, "end_ids": [1], "pad_id": 0, "sampling": Sampling(n=3, seed=4)}
    whole = generation_pass(model, prompts, **options).run()
    assert len(set(map(tuple, whole))) > len(whole) / 2
    assert generation_pass(model, prompts, batch_tokens=1, **options).run() == whole


RUN = """
import json, sys
import torch, unlearner
model, method, precision, out = sys.argv[1:]
rows = json.load(open(out + ".rows"))
run = unlearner.forget(
    model, forget=rows["forget"], retain=rows["retain"], method=method, output=out, learning_rate=1e-3, epochs=2,
    batch_size=2, gradient_accumulation_steps=2, precision=precision, max_length=64, evaluate="none",
    execution={"scores": "torch"},  # left out, the faster one, which may be another the next time
)
"""


def ran(folder: Path, name: str, model: Path, method: str, precision: str, **environment: str) -> list[dict[str, Any]]:
    """The log of a run in a process of its own, with the model's figures as last line."""
    out = folder / name
    Path(f"{out}.rows").write_text(json.dumps({"forget": FORGET, "retain": RETAIN}))
    kept = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", RUN, str(model), method, precision, str(out)]
    done = subprocess.run(command, capture_output=True, text=True, env=kept | environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("method", ["ME+GD", "NPO+KL", "IDK+AP", "UNDIAL+GD", "RMU+REP"])
def test_a_run_has_a_cpus_losses(method: str, tmp_path: Path) -> None:
    model, tokenizer = made()
    copy.deepcopy(model).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    here = ran(tmp_path, "gpu", tmp_path / "model", method, "fp32")
    there = ran(tmp_path, "cpu", tmp_path / "model", method, "fp32", CUDA_VISIBLE_DEVICES="")
    again = ran(tmp_path, "again", tmp_path / "model", method, "fp32")
    half = ran(tmp_path, "half", tmp_path / "model", method, "bf16")
    losses = [[line["loss"] for line in log if "loss" in line] for log in (here, there, again, half)]
    assert losses[0] and losses[0] == pytest.approx(losses[2], rel=1e-4), "sums in another order, now and then"
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert losses[0] == pytest.approx(losses[3], rel=5e-2)
