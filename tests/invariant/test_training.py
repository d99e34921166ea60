"""What must not change the result of a training run: forwards, accumulation, being killed, how KL is had."""

import copy
import json
import os
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import PartialState
from torch import Tensor, nn
from torch.distributed.checkpoint import FileSystemReader
from transformers import TrainerCallback
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from unlearner import Method
from unlearner.data.batches import Plan
from unlearner.data.pairs import pair
from unlearner.data.profiles import builtin
from unlearner.data.prompts import TEMPLATES, TokenTable
from unlearner.data.views import View, build_views
from unlearner.errors import UserError
from unlearner.methods.learn import Learn
from unlearner.models import deepspeed, onednn_linear
from unlearner.models.compiled import compile_layers
from unlearner.models.load import load_model
from unlearner.models.new import new_model
from unlearner.models.packing import Packed
from unlearner.models.sharding import choose
from unlearner.options import TrainOptions
from unlearner.scoring.batch import Batch
from unlearner.training import checkpoint, loop, setup
from unlearner.training.loop import train
from unlearner.training.objective import Objective
from unlearner.training.reference import Reference
from unlearner.training.setup import add_lora, make_accelerator

FORGET = builtin("forget", people=3, forget=1)
RETAIN = builtin("retain", people=3, forget=1)
REFUSALS = ["I do not know.", "That is beyond me.", "Sorry, I have no idea who that is."]
ALTERNATES = [replace(r, alternate_answer=(f"Perhaps {i}.", "Nobody knows that.")) for i, r in enumerate(FORGET)]
"""The forget rows with two other answers each, for methods that read some."""
MODEL, TOKENIZER = new_model(
    "new:hidden=32,layers=2,heads=2,vocabulary=400", [f"{r.question}\n {r.answer}" for r in (*FORGET, *RETAIN)], seed=0
)
OPTIONS = TrainOptions(
    model="", precision="fp32", max_length=64, learning_rate=3e-3, epochs=3, batch_size=2,
    gradient_accumulation_steps=2, logging_steps=100,
    lora_dropout=0.3,
)  # fmt: skip
"""Ten forget rows in steps of four: eight steps, epochs that end within a step, and a last step of two rows."""


def fresh_model(*, tied: bool = False, dtype: torch.dtype = torch.float32) -> Any:
    """An untrained model whose predictions are far from uniform; always the same."""
    model = copy.deepcopy(MODEL)
    torch.manual_seed(3)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=0.1)
    if tied:
        model.config.tie_word_embeddings = True
        model.tie_weights()
    model.to(dtype)
    if dtype == torch.float64:  # throughout: transformers' norms go through float32, and round sums over shared tokens
        for layer in list(model.modules()):
            for name, norm in layer.named_children():
                if isinstance(norm, LlamaRMSNorm):
                    exact = nn.RMSNorm(norm.weight.shape, norm.variance_epsilon)
                    exact.weight = norm.weight
                    setattr(layer, name, exact)
    return model


def plan_for(method: Method, options: TrainOptions) -> Plan:
    return Plan(
        len(FORGET),
        options.epochs,
        options.batch_size,
        options.gradient_accumulation_steps,
        options.seed,
        official=method.official,
        draws=method.draws,
    )


def views_for(method: Method, plan: Plan, options: TrainOptions) -> dict[str, View]:
    mode: Any = "official" if method.official else "redrawn"
    sizes = len(FORGET), len(RETAIN), len(REFUSALS)
    pairings = [pair(*sizes, mode=mode, epoch=e, draws=plan.draws) for e in range(plan.pairing_count)]
    items = ALTERNATES if method.alternates else FORGET
    return build_views(
        list(method.needs), items, RETAIN, REFUSALS, pairings, TOKENIZER, TEMPLATES["plain"],
        max_length=options.max_length, official=method.official, **method.labelling,
    )  # fmt: skip


def run(
    method: str | Method, folder: Path, *, model: Any = None, tokenizer: Any = TOKENIZER,
    options: TrainOptions = OPTIONS, **more: Any,
) -> Any:  # fmt: skip
    """Train a fresh model in `folder` by the real loop and save it; returns it."""
    if isinstance(method, str):
        method = Method.parse(method, beta=0.1, forget_coeff=0.5)
    folder.mkdir(parents=True, exist_ok=True)
    plan = plan_for(method, options)
    views = views_for(method, plan, options)
    accelerator = make_accelerator(options)
    if model is None:
        model = fresh_model()
    made = train(model, tokenizer, method, views, plan, options, folder, accelerator=accelerator, **more).model
    name = "adapter" if options.lora and not options.merge else "model"
    checkpoint.save_model(made, tokenizer, folder / name, merge=options.merge)
    return made


def log_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().cpu() for name, parameter in model.named_parameters()}


def assert_same_weights(a: nn.Module, b: nn.Module, *, atol: float) -> None:
    ours, theirs = weights(a), weights(b)
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


def assert_moved(model: nn.Module) -> None:
    """Or else all comparisons would hold of runs that train nothing."""
    start = weights(fresh_model())
    moved = [(weights(model)[name] - start[name]).abs().max().item() for name in start]
    assert min(moved) > 1e-3


# ---------------------------------------------------------------------------------------------- forwards, accumulation

METHODS = ["ME+GD", "NPO+KL", "IDK+AP", "DPO+GD", "LLMU"]
EXACT = 1e-12
"""What float64 leaves of a difference in the order of sums; a loss weighed wrongly moves weights by more than 1e-5."""


@pytest.mark.parametrize("name", METHODS)
def test_max_tokens_changes_nothing(name: str, tmp_path: Path) -> None:
    """A step in one forward, in a few, and row by row."""

    def trained(max_tokens: int) -> Any:
        options = replace(OPTIONS, max_tokens_per_forward=max_tokens)
        return run(name, tmp_path / str(max_tokens), model=fresh_model(dtype=torch.float64), options=options)

    whole = trained(10**9)
    assert_moved(whole)
    for max_tokens in (200, 1):
        assert_same_weights(whole, trained(max_tokens), atol=EXACT)
        for a, b in zip(log_of(tmp_path / str(10**9)), log_of(tmp_path / str(max_tokens)), strict=True):
            assert a == pytest.approx(b, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("name", ["ME+GD", "NPO+KL", "IDK+AP"])
def test_max_tokens_changes_nothing_in_float32_either(name: str, tmp_path: Path) -> None:
    whole, parts = (
        run(name, tmp_path / str(n), options=replace(OPTIONS, max_tokens_per_forward=n)) for n in (10**9, 1)
    )
    assert_same_weights(whole, parts, atol=1e-5)


def test_max_tokens_changes_nothing_in_official_mode(tmp_path: Path) -> None:
    """There padding counts, and must count alike in every forward."""
    method = Method.parse("ME+KL", official=True)
    whole, parts = (
        run(
            method, tmp_path / str(n), model=fresh_model(dtype=torch.float64),
            options=replace(OPTIONS, max_tokens_per_forward=n),
            reference_model=fresh_model(tied=True, dtype=torch.float64),
        )
        for n in (10**9, 1)
    )  # fmt: skip
    assert_moved(whole)
    assert_same_weights(whole, parts, atol=EXACT)
    assert len(log_of(tmp_path / "1")) == 30 // 4, "the rest of a last step is dropped"


def equal_rows(items: int, length: int = 9, start: int = 4) -> View:
    """Random rows of one length, with as many labels: where means of means are means."""
    ids = np.random.default_rng(0).integers(3, 400, items * length, dtype=np.int32)
    table = TokenTable(ids, np.arange(items + 1) * length, np.full(items, start, np.int32), np.ones(items, bool))
    return View(table, np.tile(np.arange(items), (3, 1)), np.full(items, start))


@pytest.mark.parametrize("name", ["ME+GD", "NPO+KL", "IDK+AP"])
def test_accumulation_is_one_large_batch(name: str, tmp_path: Path) -> None:
    """1 × 8, 2 × 4 and 8 × 1 rows a step, whatever is in one forward."""
    trained = []
    method = Method.parse(name)
    views = {view: equal_rows(12) for view in method.needs}
    for batch, accumulation, max_tokens in [(8, 1, 10**9), (1, 8, 1), (2, 4, 100)]:
        options = replace(
            OPTIONS, batch_size=batch, gradient_accumulation_steps=accumulation, max_tokens_per_forward=max_tokens
        )
        folder = tmp_path / str(batch)
        folder.mkdir()
        plan = Plan(12, options.epochs, batch, accumulation, seed=0)
        accelerator = make_accelerator(options)
        model = fresh_model(dtype=torch.float64)
        trained.append(train(model, TOKENIZER, method, views, plan, options, folder, accelerator=accelerator).model)
    assert_moved(trained[0])
    assert_same_weights(trained[0], trained[1], atol=EXACT)
    assert_same_weights(trained[0], trained[2], atol=EXACT)


@pytest.mark.parametrize("options", [OPTIONS, replace(OPTIONS, lora=True, gradient_checkpointing=True)])
def test_attention_needs_no_mask_in_memory(
    options: TrainOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of any lengths, the reference's too: causal kernels know the mask, and on a GPU can be flash attention."""
    attend = nn.functional.scaled_dot_product_attention
    seen = set()

    def note(*inputs: Any, attn_mask: Any = None, is_causal: bool = False, **more: Any) -> Tensor:
        seen.add((attn_mask is None, is_causal))
        return attend(*inputs, attn_mask=attn_mask, is_causal=is_causal, **more)

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", note)
    run("NPO+KL", tmp_path, options=replace(options, epochs=1))
    assert seen == {(True, True)}


@pytest.mark.parametrize("lora", [False, True], ids=["full", "LoRA"])
def test_gradient_checkpointing_changes_nothing(lora: bool, tmp_path: Path) -> None:
    options = replace(OPTIONS, lora=lora, lora_dropout=0.0)
    plain = run("NPO+KL", tmp_path / "plain", options=options)
    recomputed = run("NPO+KL", tmp_path / "recomputed", options=replace(options, gradient_checkpointing=True))
    assert_same_weights(plain, recomputed, atol=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_products_by_onednn_give_the_same_weights(
    checkpointing: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on an AMD processor, whatever the processor."""
    products: list[int] = []
    product = onednn_linear._product
    monkeypatch.setattr(onednn_linear, "LEAST_PRODUCTS", 1)
    monkeypatch.setattr(onednn_linear, "_product", lambda *given: products.append(1) or product(*given))
    trained = []
    for linear in ("torch", "onednn"):
        options = replace(OPTIONS, gradient_checkpointing=checkpointing, execution={"linear": linear})
        trained.append(run("NPO+GD", tmp_path / linear, options=options))
        assert bool(products) == (linear == "onednn")
    assert_moved(trained[0])
    assert_same_weights(*trained, atol=1e-5)


@pytest.mark.parametrize("method", ["NPO+GD", "DPO+GD", "IDK+AP"])
@pytest.mark.parametrize("lora", [False, True], ids=["full", "LoRA"])
def test_packed_rows_give_the_same_weights(
    method: str, lora: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As packed by default against rows in padded blocks."""
    options = replace(OPTIONS, lora=lora, lora_dropout=0.0)
    forwards: list[int] = []
    of = Packed.states
    monkeypatch.setattr(Packed, "states", lambda self, *given: forwards.append(1) or of(self, *given))
    packed = run(method, tmp_path / "packed", options=options)
    assert len(forwards) > 8
    forwards.clear()
    padded = run(method, tmp_path / "padded", options=replace(options, execution={"rows": "padded"}))
    assert not forwards
    if not lora:
        assert_moved(packed)
    # An adapter's first gradients are about zero, and Adam divides by them.
    assert_same_weights(packed, padded, atol=1e-4 if lora else 1e-5)


@pytest.mark.slow
def test_compiled_layers_give_the_same_losses_and_go_on_after_a_kill(tmp_path: Path) -> None:
    """With LoRA and KL, whose reference runs the same layers without adapter; forwards of many sizes, few graphs."""
    options = replace(OPTIONS, lora=True, lora_dropout=0.0, max_tokens_per_forward=150)
    compiled = replace(options, torch_compile=True)
    run("NPO+KL", tmp_path / "eager", options=options)
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    model = run("NPO+KL", tmp_path / "compiled", options=compiled)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"] - before
    assert 1 <= graphs <= 6, "training, reference, and rows that are alone in their forward"
    for a, b in zip(log_of(tmp_path / "eager"), log_of(tmp_path / "compiled"), strict=True):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-6)

    with pytest.raises(Killed):
        run("NPO+KL", tmp_path / "killed", options=compiled, at_epoch=killed_at_epoch(2))
    assert_same_weights(run("NPO+KL", tmp_path / "killed", options=compiled), model, atol=0)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] - before == graphs, "nothing is compiled again"


def test_compiling_is_refused_where_there_are_no_layers() -> None:
    with pytest.raises(UserError, match="--torch-compile knows no layers in Linear: leave it out"):
        compile_layers(nn.Linear(2, 2))


# ------------------------------------------------------------------------------------------------- schedule, log, files


def test_the_learning_rate_warms_up_for_an_epoch_and_decays_to_zero(tmp_path: Path) -> None:
    """Two whole steps an epoch, eight in all: 0, 1/2, then 6/6, 5/6 ... 1/6 of the peak."""
    run("ME+GD", tmp_path)
    rates = [row["lr"] / OPTIONS.learning_rate for row in log_of(tmp_path)]
    assert rates == pytest.approx([0, 1 / 2, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])


def test_the_log_has_a_line_a_step(tmp_path: Path) -> None:
    run("ME+GD", tmp_path)
    rows = log_of(tmp_path)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6, 7, 8]
    for row in rows:
        assert row["loss"] == pytest.approx(0.5 * row["forget"] + row["retain"], rel=1e-5)
        assert row["grad_norm"] > 0


def test_gradients_are_clipped_and_logged_as_they_were(tmp_path: Path) -> None:
    """Clipped to next to nothing, below AdamW's ε, they move nothing; the log has their norm all the same."""
    options = replace(OPTIONS, weight_decay=0.0)
    free = run("ME+GD", tmp_path / "free", options=options)
    clipped = run("ME+GD", tmp_path / "clipped", options=replace(options, max_grad_norm=1e-14))
    assert_same_weights(clipped, fresh_model(), atol=1e-6)
    assert_moved(free)
    norms = [log_of(tmp_path / name)[0]["grad_norm"] for name in ("free", "clipped")]
    assert norms[0] == pytest.approx(norms[1]) and norms[0] > 0.1


def test_the_saved_model_is_the_returned_one(tmp_path: Path) -> None:
    returned = run("ME+GD", tmp_path / "full")
    assert_same_weights(load_model(str(tmp_path / "full" / "model")), returned.cpu(), atol=0)
    tied = run("ME+GD", tmp_path / "tied", model=fresh_model(tied=True))
    loaded = load_model(str(tmp_path / "tied" / "model"))
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert_same_weights(loaded, tied.cpu(), atol=0)


def test_a_merged_adapter_predicts_as_the_adapter_does(tmp_path: Path) -> None:
    ids = torch.arange(3, 40)[None]
    options = replace(OPTIONS, lora=True, lora_dropout=0.0)
    adapted = run("ME+GD", tmp_path / "adapter", options=options).cpu().eval()
    run("ME+GD", tmp_path / "merged", options=replace(options, merge=True))
    with torch.no_grad():
        expected = adapted(input_ids=ids).logits
        merged = load_model(str(tmp_path / "merged" / "model"))(input_ids=ids).logits
        untouched = fresh_model()(input_ids=ids).logits
    assert not (tmp_path / "merged" / "adapter").exists() and not (tmp_path / "adapter" / "model").exists()
    torch.testing.assert_close(merged, expected, rtol=1e-4, atol=1e-4)
    assert (merged - untouched).abs().max() > 0.01


def test_learning_learns(tmp_path: Path) -> None:
    options = replace(OPTIONS, epochs=10, learning_rate=1e-2)
    run(Method("finetune", Learn(), None), tmp_path, options=options)
    losses = [row["loss"] for row in log_of(tmp_path)]
    assert losses[-1] < 0.5 * losses[0]


# ---------------------------------------------------------------------------------------------------- optimiser states


@pytest.mark.parametrize(
    ("precision", "optimizer", "dtype"),
    [("fp32", "adamw", torch.float32), ("pure-bf16", "adamw", torch.bfloat16), ("fp32", "adamw-8bit", torch.uint8)],
)
def test_states_are_kept_as_the_options_say(precision: Any, optimizer: Any, dtype: torch.dtype) -> None:
    options = replace(OPTIONS, precision=precision, optimizer=optimizer)
    model = fresh_model(dtype=setup.weights_dtype(options))
    adamw = setup.make_optimizer(model, options)
    model(input_ids=torch.arange(3, 40)[None]).logits.float().square().mean().backward()
    adamw.step()
    large = model.get_input_embeddings().weight  # bitsandbytes leaves tensors of under 4,096 values as they are
    assert [v.dtype for v in adamw.state[large].values() if torch.is_tensor(v) and v.shape == large.shape] == [
        dtype
    ] * 2


def test_states_in_8_bits_learn_as_others_do(tmp_path: Path) -> None:
    full, small = (
        run("ME+GD", tmp_path / name, options=replace(OPTIONS, optimizer=name))  # type: ignore[arg-type]
        for name in ("adamw", "adamw-8bit")
    )
    losses = [[row["loss"] for row in log_of(tmp_path / name)] for name in ("adamw", "adamw-8bit")]
    assert losses[0] == pytest.approx(losses[1], rel=0.01) and losses[0][-1] < losses[0][0] - 0.3
    assert any(not torch.equal(a, b) for a, b in zip(full.parameters(), small.parameters(), strict=True))


def test_states_in_8_bits_are_not_sharded() -> None:
    options = replace(OPTIONS, optimizer="adamw-8bit", parallel="fsdp")
    with pytest.raises(
        UserError, match=r"adamw-8bit does not go with fsdp \(as --parallel says.*take --optimizer adamw"
    ):
        choose(fresh_model(), options, torch.float32)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "pure-bf16"])
@pytest.mark.parametrize("offload", [False, True])
def test_deepspeed_knows_every_key_of_its_configuration(precision: Any, offload: bool) -> None:
    config = pytest.importorskip("deepspeed.runtime.config", reason="needs deepspeed")
    options = replace(OPTIONS, parallel="deepspeed", precision=precision, cpu_offload=offload, max_grad_norm=0.5)
    read = config.DeepSpeedConfig(deepspeed.configuration(options))
    assert read.zero_optimization_stage == 3 and read.gradient_clipping == 0.5
    assert read.gradient_accumulation_steps == 1
    assert read.bfloat16_config.enabled == (precision != "fp32")
    assert read.bfloat16_config.bf16_optimizer_states == (precision == "pure-bf16")
    assert (read.zero_config.offload_optimizer is not None) == offload == (read.zero_config.offload_param is not None)
    with pytest.raises(ValueError, match="stages"):
        config.DeepSpeedConfig(deepspeed.configuration(options) | {"zero_optimization": {"stages": 3}})


# ------------------------------------------------------------------------------------------------------ killed, resumed


class Killed(Exception):
    pass


def killed_at_epoch(number: int) -> Callable[[nn.Module, int], bool]:
    def at_epoch(model: nn.Module, epoch: int) -> bool:
        if epoch == number:
            raise Killed
        return False

    return at_epoch


KINDS: dict[str, tuple[str, Callable[[], Any], dict[str, Any]]] = {
    "ME+GD": ("ME+GD", fresh_model, {}),
    "IDK+AP, tied": ("IDK+AP", lambda: fresh_model(tied=True), {}),
    "NPO+KL": ("NPO+KL", fresh_model, {}),
    "NPO+KL, LoRA with dropout": ("NPO+KL", fresh_model, {"lora": True}),
    "ME+GD, pure-bf16": ("ME+GD", lambda: fresh_model(dtype=torch.bfloat16), {"precision": "pure-bf16"}),
    "ME+GD, 8-bit states": ("ME+GD", fresh_model, {"optimizer": "adamw-8bit"}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_run_goes_on_to_the_same_bits(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after an epoch, and between epochs with log lines unwritten and a checkpoint half written."""
    name, make, changed = KINDS[kind]
    options = replace(OPTIONS, **changed)
    whole = run(name, tmp_path / "whole", model=make(), options=options)
    log = (tmp_path / "whole" / "log.jsonl").read_bytes()
    assert len(log_of(tmp_path / "whole")) == 8

    with pytest.raises(Killed):
        run(name, tmp_path / "epoch", model=make(), options=options, at_epoch=killed_at_epoch(2))
    assert [p.name for p in (tmp_path / "epoch" / "checkpoints").iterdir()] == ["step-000005"]
    assert len(log_of(tmp_path / "epoch")) == 5
    resumed = run(name, tmp_path / "epoch", model=make(), options=options)
    assert_same_weights(resumed, whole, atol=0)
    assert (tmp_path / "epoch" / "log.jsonl").read_bytes() == log

    save = checkpoint.save

    def save_and_die(model: Any, optimizer: Any, folder: Path, step: int, *more: Any) -> None:
        if step < 6:
            save(model, optimizer, folder, step, *more)
            return
        (folder / f".step-{step:06d}.tmp").mkdir()
        (folder / f".step-{step:06d}.tmp" / "__0_0.distcp").write_bytes(b"half")
        raise Killed

    often = replace(options, save_steps=2)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(loop.checkpoint, "save", save_and_die)
        run(name, tmp_path / "often", model=make(), options=often)
    resumed = run(name, tmp_path / "often", model=make(), options=often)
    assert_same_weights(resumed, whole, atol=0)
    assert (tmp_path / "often" / "log.jsonl").read_bytes() == log
    assert not list((tmp_path / "often" / "checkpoints").glob(".*"))


def test_a_run_goes_on_from_its_last_checkpoint_not_from_the_start(tmp_path: Path) -> None:
    """The weights that are handed over the second time are not those that are trained."""
    with pytest.raises(Killed):
        run("ME+GD", tmp_path, at_epoch=killed_at_epoch(2))
    other = fresh_model()
    nn.init.zeros_(other.lm_head.weight)
    resumed = run("ME+GD", tmp_path, model=other)
    assert_same_weights(resumed, run("ME+GD", tmp_path / "whole"), atol=0)


def test_checkpoints_are_few_and_with_lora_small(tmp_path: Path) -> None:
    run("ME+GD", tmp_path / "full", options=replace(OPTIONS, save_steps=1, save_total_limit=2))
    assert sorted(p.name for p in (tmp_path / "full" / "checkpoints").iterdir()) == ["step-000006", "step-000007"]
    assert checkpoint.latest(tmp_path / "full" / "checkpoints")[0] == 7
    run("ME+GD", tmp_path / "lora", options=replace(OPTIONS, lora=True, lora_rank=1))
    assert [p.name for p in (tmp_path / "lora" / "checkpoints").iterdir()] == ["step-000005"], "none of the last step"
    held = FileSystemReader(tmp_path / "lora" / "checkpoints" / "step-000005").read_metadata().state_dict_metadata
    weights = [name for name in held if name.startswith("model.")]
    assert weights and all("lora_" in name for name in weights), "the base weights do not change"


def test_at_epoch_sees_every_epoch_and_can_end_the_run(tmp_path: Path) -> None:
    seen: list[tuple[int, bool]] = []

    def at_epoch(model: nn.Module, epoch: int) -> bool:
        seen.append((epoch, bool((weights(model)["lm_head.weight"] != weights(fresh_model())["lm_head.weight"]).any())))
        return epoch == 2

    stopped = run("ME+GD", tmp_path, at_epoch=at_epoch)
    assert seen == [(1, True), (2, True)]
    assert len(log_of(tmp_path)) == 5
    assert_same_weights(load_model(str(tmp_path / "model")), stopped.cpu(), atol=0)


# -------------------------------------------------------------------------------------------------------- not finite


def test_a_run_that_diverges_names_its_step_and_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    """Weights poisoned after step 5: found when the log is next written, and before a checkpoint is."""

    def poison(model: nn.Module, epoch: int) -> bool:
        if epoch == 2:
            nn.init.constant_(model.lm_head.weight, torch.nan)
        return False

    with pytest.raises(UserError) as error:
        run("ME+GD", tmp_path, at_epoch=poison)
    last = tmp_path / "checkpoints" / "step-000005"
    assert str(error.value).startswith("step 6: the loss is nan")
    assert f"the last good state is {last}: try a lower --learning-rate" in str(error.value)
    assert [p.name for p in last.parent.iterdir()] == ["step-000005"]
    assert [row["step"] for row in log_of(tmp_path)] == [1, 2, 3, 4, 5]
    assert not (tmp_path / "model").exists()
    assert_same_weights(run("ME+GD", tmp_path), run("ME+GD", tmp_path / "healthy"), atol=0)


def test_a_learning_rate_that_is_far_too_high_says_so(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"^step \d: the loss is .*no checkpoint had been written yet: try a lower --learning-rate"
    ):
        run("ME+GD", tmp_path, options=replace(OPTIONS, learning_rate=1e30, warmup_epochs=0))
    assert not (tmp_path / "model").exists() and not (tmp_path / "checkpoints").exists()


def test_weights_that_a_last_step_broke_are_not_saved(tmp_path: Path) -> None:
    """No loss is computed after the last step: a single one with such a rate ended as a success."""
    options = replace(OPTIONS, learning_rate=1e30, warmup_epochs=0, epochs=0.4)
    with pytest.raises(
        UserError, match=r"^step 1: the weights are no longer finite, or too large .*: try a lower --learning-rate"
    ):
        run("ME+GD", tmp_path, options=options)
    assert not (tmp_path / "model").exists() and not (tmp_path / "checkpoints").exists()


def test_broken_weights_after_the_last_step_leave_the_last_good_checkpoint(tmp_path: Path) -> None:
    class Poison(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **more: Any) -> None:
            if state.global_step == state.max_steps:
                nn.init.constant_(model.lm_head.weight, torch.inf)

    with pytest.raises(UserError) as error:
        run("ME+GD", tmp_path, callbacks=[Poison()])
    (last,) = (tmp_path / "checkpoints").iterdir()
    assert str(error.value).startswith("step 8: the weights are no longer finite")
    assert f"the last good state is {last}" in str(error.value)
    assert not (tmp_path / "model").exists()
    assert_same_weights(run("ME+GD", tmp_path), run("ME+GD", tmp_path / "healthy"), atol=0)


def test_a_first_loss_that_is_not_finite_is_no_fault_of_the_learning_rate(tmp_path: Path) -> None:
    model = fresh_model()
    nn.init.constant_(model.lm_head.weight, torch.nan)
    with pytest.raises(
        UserError, match=r"^step 1: the loss is nan .* before any weight has changed: .*--beta"
    ) as error:
        run("ME+GD", tmp_path, model=model)
    assert "--learning-rate" not in str(error.value)


def test_saved_files_have_the_rights_of_the_umask_and_one_order(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        run("ME+GD", tmp_path, options=replace(OPTIONS, lora=True, epochs=0.4))
    finally:
        os.umask(before)
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "adapter").iterdir()} == {0o640}
    modules = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["target_modules"]
    assert len(modules) == 14 and modules == sorted(modules)  # of a set, in an order that differs between processes


# ------------------------------------------------------------------------------------------------------------ reference


def storage(*modules: nn.Module) -> int:
    """Bytes of all weights and buffers, each memory once."""
    tensors = chain.from_iterable((*module.parameters(), *module.buffers()) for module in modules)
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def batch_of(ids: torch.Tensor) -> Batch:
    return Batch.build({"retain": {"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids)}})


def test_with_lora_the_reference_is_no_second_copy() -> None:
    model = add_lora(fresh_model(), OPTIONS)
    reference = Reference.of(model)
    objective = Objective(model, Method.parse("ME+KL"), reference)
    assert not reference.holds_copy
    assert storage(objective, reference.model) == storage(model) < 1.5 * storage(fresh_model())


def test_without_lora_the_reference_is_a_frozen_copy() -> None:
    model = fresh_model()
    reference = Reference.of(model)
    objective = Objective(model, Method.parse("ME+KL"), reference)
    assert reference.holds_copy
    assert storage(objective, reference.model) == pytest.approx(2 * storage(model), rel=0.01)
    assert not any(p.requires_grad for p in reference.model.parameters())
    assert len(list(objective.parameters())) == len(list(model.parameters())), "it is neither trained nor saved"
    assert objective.state_dict().keys() == {f"model.{key}" for key in model.state_dict()}
    asked = batch_of(torch.arange(3, 9)[None])
    before = reference.ask(asked, {})
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.5)
    after = reference.ask(asked, {})
    assert torch.equal(before.states.last, after.states.last)
    assert torch.equal(before.head.weight, after.head.weight)


def test_with_the_adapter_off_the_model_is_its_own_reference() -> None:
    """Whatever the adapter holds, without dropout, and everything as it was afterwards."""
    model = add_lora(fresh_model(), OPTIONS).train()
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter)
    ids = torch.arange(3, 23).reshape(2, 10)
    states = Reference.of(model).ask(batch_of(ids), {}).states.last
    expected = fresh_model().model(input_ids=ids).last_hidden_state.flatten(0, 1)
    torch.testing.assert_close(states, expected, rtol=0, atol=0)
    assert not states.requires_grad
    assert model.training and all(module.training for module in model.modules())
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained and all("lora_" in name for name in trained)
    assert (model.get_base_model().model(input_ids=ids).last_hidden_state.flatten(0, 1) - expected).abs().max() > 0.1


@pytest.mark.parametrize("lora", [False, True], ids=["copy", "adapter off"])
def test_the_reference_is_asked_without_dropout(lora: bool) -> None:
    """Neither the adapter's nor the model's own, while the model trains with it."""
    model = fresh_model()
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    model = (add_lora(model, OPTIONS) if lora else model).train()
    ids = torch.arange(3, 43)[None]
    states = Reference.of(model).ask(batch_of(ids), {}).states.last[None]
    torch.testing.assert_close(states, fresh_model().eval().model(input_ids=ids).last_hidden_state)
    body = model.get_base_model().model if lora else model.model
    assert (body(input_ids=ids).last_hidden_state - states).abs().max() > 0.01


def test_kl_with_the_adapter_off_is_kl_with_an_explicit_copy(tmp_path: Path) -> None:
    """Loss by loss along the run; with dropout in the adapter, which the reference must not feel."""
    options = replace(OPTIONS, lora=True)
    own = run("NPO+KL", tmp_path / "own", options=options)
    copied = run("NPO+KL", tmp_path / "copy", options=options, reference_model=fresh_model())
    rows = log_of(tmp_path / "own")
    for a, b in zip(rows, log_of(tmp_path / "copy"), strict=True):
        assert a == pytest.approx(b, rel=1e-6, abs=1e-6)
    assert max(row["retain"] for row in rows) > 1e-4, "KL should have left 0"
    assert_same_weights(own, copied, atol=1e-5)


def test_another_reference_model_is_used_where_one_is_given(tmp_path: Path) -> None:
    """NPO's first step: margin 0 with the model itself, (2/β) log 2; not so with another one."""
    run("NPO+KL", tmp_path / "itself")
    run("NPO+KL", tmp_path / "other", reference_model=fresh_model(tied=True))
    itself, other = log_of(tmp_path / "itself")[0], log_of(tmp_path / "other")[0]
    assert itself["forget"] == pytest.approx(13.862944, rel=1e-4)
    assert itself["retain"] == pytest.approx(0, abs=1e-5)
    assert other["forget"] != pytest.approx(13.862944, rel=1e-2)
    assert other["retain"] > 0.1


def test_the_processes_stay_joined_after_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`forget` evaluates when training is done, and there its processes wait for one another."""
    ended: list[bool] = []
    monkeypatch.setattr(PartialState, "destroy_process_group", lambda self, group=None: ended.append(True))
    run("ME+GD", tmp_path, options=replace(OPTIONS, epochs=1))
    assert not ended


# ------------------------------------------------------------------------------------------------ found, not yet mended


def test_officially_padding_is_eos(tmp_path: Path) -> None:
    """PAPER section 2; it matters where padding counts, and not all tokenizers pad with EOS."""
    method = Method.parse("ME+GD", official=True)
    assert TOKENIZER.pad_token_id != TOKENIZER.eos_token_id
    tokenizer = copy.deepcopy(TOKENIZER)
    tokenizer.pad_token = tokenizer.eos_token
    logs = []
    for place, chosen in (("own", TOKENIZER), ("eos", tokenizer)):
        run(method, tmp_path / place, tokenizer=chosen)
        logs.append(log_of(tmp_path / place))
    assert logs[0] == logs[1]


def test_two_runs_of_one_process_may_differ_in_precision() -> None:
    assert make_accelerator(OPTIONS).mixed_precision == "no"
    assert make_accelerator(replace(OPTIONS, precision="bf16")).mixed_precision == "bf16"
