"""Three steps of the official code (shared/parity/trajectories.json), with the pieces of the training loop.

Measured with a constant learning rate, without warm-up or decay; all 100 lines of the refusal file take part.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from unlearner import Method
from unlearner.data.batches import Plan, micro_batches
from unlearner.data.pairs import pair
from unlearner.data.prompts import TEMPLATES
from unlearner.data.refusals import load_refusals
from unlearner.data.sources import load_records, select_task
from unlearner.data.views import View, build_views
from unlearner.options import TrainOptions
from unlearner.training.objective import Objective
from unlearner.training.reference import Reference, reference_nll
from unlearner.training.setup import make_accelerator
from unlearner.training.step import assemble

MAX_LENGTH = 160
PLAN = Plan(items=24, epochs=1, batch_size=4, accumulation=2, seed=0, shuffle=False, official=True)
METHODS = ["ME+GD", "IDK+AP", "NPO+GD", "DPO+KL"]


def official_views(shared: Path, method: Method, tokenizer: Any) -> dict[str, View]:
    forget = select_task(load_records(shared / "data" / "tofu" / "forget01.json"), 1)[:24]
    retain = load_records(shared / "data" / "tofu" / "retain90.json")[70:130]
    refusals = load_refusals(shared / "data" / "idontknow.jsonl")
    assert (len(forget), len(retain), len(refusals)) == (24, 60, 100)
    pairing = pair(24, 60, 100, mode="official")
    return build_views(
        list(method.needs), forget, retain, refusals, [pairing], tokenizer, TEMPLATES["llama2"],
        max_length=MAX_LENGTH, mask_question=method.mask_question, official=True,
    )  # fmt: skip


@pytest.mark.parametrize("max_tokens", [10**9, 3 * MAX_LENGTH], ids=["one forward", "many forwards"])
@pytest.mark.parametrize("name", METHODS)
def test_three_steps_are_the_official_ones(shared: Path, name: str, max_tokens: int) -> None:
    official = json.loads((shared / "parity" / "trajectories.json").read_text())
    assert sorted(official) == sorted(METHODS)
    expected = official[name]
    model = AutoModelForCausalLM.from_pretrained(shared / "parity" / "model").train()
    reference = AutoModelForCausalLM.from_pretrained(shared / "parity" / "reference_model").eval()
    tokenizer = AutoTokenizer.from_pretrained(shared / "parity" / "model")
    method = Method.parse(
        name, beta=expected["beta"], forget_coeff=expected["forget_coeff"],
        retain_coeff=expected["regularization_coeff"], official=True,
    )  # fmt: skip
    assert method.mask_question == expected["question_tokens_masked"]

    views = official_views(shared, method, tokenizer)
    accelerator = make_accelerator(TrainOptions(model="", precision="fp32"))
    model.to(accelerator.device)
    reference.to(accelerator.device)
    known = {
        view: reference_nll(reference, views[view], tokenizer.eos_token_id, MAX_LENGTH, max_tokens, accelerator)
        for view in method.reference_nll
    }
    objective = Objective(model, method, Reference(reference) if method.asked else None)
    optimizer = torch.optim.AdamW(model.parameters(), lr=expected["lr"], weight_decay=expected["weight_decay"])
    assert len(expected["steps"]) == PLAN.steps == 3
    for number, step in enumerate(expected["steps"]):
        losses = torch.zeros(3, device=accelerator.device)
        for part in micro_batches(PLAN, views, number, max_tokens=max_tokens, pad_to=MAX_LENGTH):
            batch = assemble(part, views, tokenizer.eos_token_id, known, official=True).to(accelerator.device)
            values = objective(batch)
            values[0].backward()
            losses += values.detach()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), expected["clip"])
        optimizer.step()
        optimizer.zero_grad()
        assert losses[1].item() == pytest.approx(step["forget_loss"], rel=1e-4), number
        assert losses[2].item() == pytest.approx(step["regularization_loss"], rel=1e-4), number
        assert norm.item() == pytest.approx(step["grad_norm_before_clip"], rel=1e-3), number
