"""What holds of every method, however it is computed. A new loss is tested here as soon as it is in the registry."""

import copy
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_training import (
    OPTIONS,
    TOKENIZER,
    Killed,
    assert_same_weights,
    equal_rows,
    fresh_model,
    killed_at_epoch,
    log_of,
    plan_for,
    run,
    views_for,
    weights,
)

from forked import together
from unlearner import Method, distributed
from unlearner.data.batches import Plan
from unlearner.data.prompts import find_template
from unlearner.data.views import MIXED, shared_tokens
from unlearner.errors import UserError
from unlearner.methods import COMBINED_METHODS, FORGET, RETAIN, SURGERY
from unlearner.models.execution import Execution
from unlearner.models.packing import Packed
from unlearner.training.execution import plan_training
from unlearner.training.loop import train
from unlearner.training.setup import make_accelerator
from unlearner.training.step import Steps

KINDS = (
    "NPO+GD",  # log-probabilities, and numbers of the reference
    "RMU+REP",  # hidden states: nothing behind their layer is computed, and few weights are trained
    "RMU+GD",  # one loss ends at a layer, the other does not
    "RR",  # hidden states, and the number of the step as a state
    "MP-ME",  # mixed prompts, compared with the reference's distribution
    "ALTPO+GD",  # other answers, another in each epoch
    "PDU+DUAL",  # a dual variable, moved after each step
    "LLMU",  # answers that do not belong to their questions
)
"""One method of each kind, for each surgery."""
METHODS = [
    *(f"{name}+GD" for name in FORGET),
    *(f"GA+{name}" for name in RETAIN if name != "GD"),
    *COMBINED_METHODS,
    "RMU+REP",
    *(f"{kind}+{name}" for kind in KINDS for name in SURGERY),
]
BREAKERS = {"layers": "0,1", "schedule_steps": 4}
SETTINGS: dict[str, dict[str, Any]] = {
    "RMU": {"layer": 1, "steering": 3.0}, "ARMU": {"layer": 1, "scale": 2.0}, "REP": {"layer": 1},
    "REROUTE": BREAKERS, "HOLD": BREAKERS, "RR": BREAKERS, "DUALOPTIM": {"retain_steps": 2},
}  # fmt: skip
"""Options by the loss's name, where its defaults are not for a model of two layers."""
SHORT = replace(OPTIONS, epochs=1, lora_dropout=0.0, max_length=96)
"""Three steps, the last of two rows."""
EXACT = 1e-9
"""What float64 leaves of a difference in the order of sums; a loss weighed wrongly moves weights by more than 1e-5."""

AT_REST = ("RR",)
"""What begins where its gradient is 0, because all states are the reference's: rounding, which Adam's normalised steps
make large, would decide where it goes. It gets another reference where float noise is compared."""


def method_of(name: str) -> Method:
    options = {key: value for part in name.split("+") for key, value in SETTINGS.get(part, {}).items()}
    return Method.parse(name, forget_coeff=0.5, **options)


def exact_model() -> Any:
    return fresh_model(dtype=torch.float64)


def reference_of(name: str, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    """`reference_model`, some way from the model, for what is `AT_REST`."""
    if name.partition("+")[0] not in AT_REST:
        return {}
    model = fresh_model(dtype=dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.8)
    return {"reference_model": model}


def assert_some_moved(model: Any) -> None:
    """Or else all comparisons would hold of runs that train nothing."""
    start = weights(fresh_model())
    assert max((weights(model)[name] - start[name]).abs().max().item() for name in start) > 1e-3


@pytest.mark.parametrize("name", METHODS)
def test_a_step_in_one_packed_forward_or_row_by_row_and_padded(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forwards: list[bool] = []
    of = Packed.states
    monkeypatch.setattr(
        Packed, "states", lambda self, *given: forwards.append(self.shared is not None) or of(self, *given)
    )
    options = replace(SHORT, max_tokens_per_forward=10**9)
    packed = run(method_of(name), tmp_path / "packed", model=exact_model(), options=options, **reference_of(name))
    method = method_of(name)
    assert bool(forwards) != method.compares, "what compares with the reference is padded"
    assert not forwards or any(forwards), "all rows begin with `Question:`, which is computed once"
    options = replace(SHORT, max_tokens_per_forward=1, execution={"rows": "padded"})
    padded = run(method_of(name), tmp_path / "padded", model=exact_model(), options=options, **reference_of(name))
    assert_some_moved(packed)
    assert_same_weights(packed, padded, atol=EXACT)
    for a, b in zip(log_of(tmp_path / "packed"), log_of(tmp_path / "padded"), strict=True):
        assert a == pytest.approx(b, rel=1e-5, abs=1e-6)


# ---------------------------------------------------------------------------------------------------------- system text

CHAT = copy.deepcopy(TOKENIZER)
CHAT.chat_template = (
    "system: You are a helpful assistant.\n{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
SYSTEM = find_template("chat", CHAT)
"""A chat template that begins every prompt with the same text."""
LONG = replace(SHORT, epochs=0.8, max_length=192, max_tokens_per_forward=500)
"""Two steps, because some losses are 0 in the first; each of more than one forward, and no row is cut off."""
Update = tuple[torch.Tensor, list[torch.Tensor]]
"""The losses of a step so far, and the gradient that the optimiser is given."""


def updates(name: str, folder: Path, how: Execution, monkeypatch: pytest.MonkeyPatch, lora: bool) -> list[Update]:
    """Of a run that computes by this plan, whether or not it would choose it."""
    seen: list[Update] = []
    update = Steps.update

    def kept(steps: Steps, *given: Any) -> None:
        gradients = [p.grad.clone() for p in steps.parameters if p.grad is not None]
        seen.append((steps.losses.clone(), gradients))
        update(steps, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Steps, "update", kept)
        run(
            method_of(name), folder, model=exact_model(), template=SYSTEM, options=replace(LONG, lora=lora), how=how,
            **reference_of(name),
        )  # fmt: skip
    return seen


@pytest.mark.parametrize("lora", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["whole", "lora"])
@pytest.mark.parametrize("name", METHODS)
def test_a_system_text_computed_once_leaves_losses_and_gradients(
    name: str, lora: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what compares with the reference too, whose rows a run pads instead."""
    method = method_of(name)
    count, share = shared_tokens(views_for(method, plan_for(method, LONG), LONG, SYSTEM).values())
    assert count > 10 and share > 0.1
    once = Execution(rows="packed", prefix="shared", prefix_tokens=count)
    shared, repeated = (
        updates(name, tmp_path / how.prefix, how, monkeypatch, lora) for how in (once, Execution(rows="packed"))
    )
    assert len(shared) == len(repeated) >= 2
    for (ours, mine), (plain, theirs) in zip(shared, repeated, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-6, atol=1e-9)
        norm = torch.cat([each.flatten() for each in theirs]).norm()
        gap = torch.cat([(a - b).flatten() for a, b in zip(mine, theirs, strict=True)]).norm()
        assert gap <= 1e-6 * norm


@pytest.mark.parametrize("name", METHODS)
def test_a_system_text_is_computed_once_where_rows_are_packed(name: str) -> None:
    """By itself; official mode, where padding counts, refuses it by name, as does what compares with the reference."""
    options = replace(LONG, execution={"prefix": "shared"})
    for method in (method_of(name), replace(method_of(name), official=True)):
        views = views_for(method, plan_for(method, LONG), LONG, SYSTEM).values()
        given = "ddp", make_accelerator(LONG), None, views
        plan = plan_training([exact_model()], method, LONG, *given)
        if method.official or method.compares:
            assert (plan.rows, plan.prefix, plan.prefix_tokens) == ("padded", "repeated", 0)
            with pytest.raises(UserError, match="--execution prefix shared is not possible here"):
                plan_training([exact_model()], method, options, *given)
        else:
            assert (plan.rows, plan.prefix, plan.prefix_tokens) == ("packed", "shared", shared_tokens(views)[0])


@pytest.mark.parametrize("name", METHODS)
def test_accumulation_is_one_large_batch(name: str, tmp_path: Path) -> None:
    """1 × 8 and 8 × 1 rows a step, of rows of one length, where means of means are means."""
    trained = []
    method = method_of(name)
    rows = equal_rows(12)
    marked = np.arange(len(rows.table.ids)) % 3 == 0
    # On the same rows the gradients of NPO and GD are opposite, a loss against alternates has none, and a projection
    # leaves rounding.
    views = {
        view: replace(rows, rows=(rows.rows + 5 * n) % 12, marked=marked if view in MIXED else None)
        for n, view in enumerate(method.needs)
    }
    for batch, accumulation, max_tokens in [(8, 1, 10**9), (1, 8, 1)]:
        options = replace(
            SHORT, batch_size=batch, gradient_accumulation_steps=accumulation, max_tokens_per_forward=max_tokens
        )
        folder = tmp_path / str(batch)
        folder.mkdir()
        plan = Plan(12, options.epochs, batch, accumulation, seed=0, draws=method.draws)
        accelerator = make_accelerator(options)
        made = train(
            exact_model(), TOKENIZER, method, views, plan, options, folder, accelerator=accelerator,
            **reference_of(name),
        )  # fmt: skip
        trained.append(made.model)
    assert_some_moved(trained[0])
    assert_same_weights(*trained, atol=EXACT)


@pytest.mark.parametrize("name", METHODS)
def test_a_killed_run_goes_on_to_the_same_bits(name: str, tmp_path: Path) -> None:
    """The losses' own tensors too, which lie in the checkpoint."""
    options = replace(OPTIONS, epochs=2, max_length=96)
    whole = run(method_of(name), tmp_path / "whole", options=options)
    with pytest.raises(Killed):
        run(method_of(name), tmp_path / "killed", options=options, at_epoch=killed_at_epoch(1))
    assert len(log_of(tmp_path / "killed")) < len(log_of(tmp_path / "whole"))
    resumed = run(method_of(name), tmp_path / "killed", options=options)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    logged = {key for loss in method_of(name).parts for key in loss.logged}
    assert all(len({row[key] for row in log_of(tmp_path / "whole")}) > 1 for key in logged)
    assert (tmp_path / "whole" / "log.jsonl").read_bytes() == (tmp_path / "killed" / "log.jsonl").read_bytes()


@pytest.mark.parametrize("name", METHODS)
def test_an_adapter_is_trained_and_nothing_else(name: str, tmp_path: Path) -> None:
    """As with the whole model, in few forwards or many; an adapter's first gradients are about zero, and Adam divides
    by them, so that weights agree less well."""
    trained = []
    for max_tokens in (10**9, 1):
        options = replace(SHORT, lora=True, max_tokens_per_forward=max_tokens)
        model, reference = exact_model(), reference_of(name)
        trained.append(run(method_of(name), tmp_path / str(max_tokens), model=model, options=options, **reference))
    assert_same_weights(*trained, atol=1e-6)
    start, found = weights(exact_model()), weights(trained[0])
    bases = {key.replace("base_model.model.", "").replace(".base_layer", ""): key for key in found if "lora" not in key}
    assert bases.keys() == start.keys()
    assert all(torch.equal(found[key], start[name]) for name, key in bases.items())
    assert max(found[key].abs().max().item() for key in found if "lora_B" in key) > 1e-3


# ------------------------------------------------------------------------------------------------------------ processes

ENGINES = ("ddp", "fsdp")


def train_all(folder: Path, engine: Any) -> None:
    for name in METHODS:
        run(
            method_of(name), folder / engine / name, options=replace(SHORT, max_tokens_per_forward=150),
            parallel=engine, **reference_of(name, torch.float32),
        )  # fmt: skip
        if distributed.is_main():
            shutil.rmtree(folder / engine / name / "checkpoints", ignore_errors=True)


def train_by_all(folder: Path) -> None:
    """What each process of a group does."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    distributed.join()
    for each in ENGINES:
        train_all(folder, each)
    distributed.leave()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process left, and two."""
    folder = tmp_path_factory.mktemp("methods")
    train_all(folder / "1", "ddp")
    together(2, folder / "said", train_by_all, folder / "2")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", METHODS)
def test_two_processes_train_as_one_does(made: Path, name: str, engine: str) -> None:
    one, two = made / "1" / "ddp" / name, made / "2" / engine / name
    for a, b in zip(log_of(one), log_of(two), strict=True):
        assert a == pytest.approx(b, rel=1e-4, abs=2e-6)
    a, b = (load_file(next(folder.glob("*/*.safetensors"))) for folder in (one, two))
    for tensor in a:
        assert (a[tensor] - b[tensor]).norm() <= 2e-5 * b[tensor].norm(), tensor
