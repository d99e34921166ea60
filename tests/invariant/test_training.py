"""What must not change the result of a training run: forwards, accumulation, being killed, how KL is had."""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from unlearner import Method
from unlearner.data.batches import Plan, micro_batches
from unlearner.data.pairs import pair
from unlearner.data.profiles import builtin
from unlearner.data.prompts import TEMPLATES, Template, TokenTable
from unlearner.data.views import View, build_views
from unlearner.errors import UserError
from unlearner.methods.learn import Learn
from unlearner.models import deepspeed, onednn_linear
from unlearner.models.compiled import compile_layers
from unlearner.models.load import load_model
from unlearner.models.new import new_model
from unlearner.models.packing import Packed, packing
from unlearner.models.sharding import choose
from unlearner.options import TrainOptions
from unlearner.scoring.views import reads_labels_only, score_views
from unlearner.training import checkpoint, setup
from unlearner.training.loop import Measured, train
from unlearner.training.setup import make_accelerator
from unlearner.training.step import assemble

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


def views_for(
    method: Method, plan: Plan, options: TrainOptions, template: Template = TEMPLATES["plain"]
) -> dict[str, View]:
    mode: Any = "official" if method.official else "redrawn"
    sizes = len(FORGET), len(RETAIN), len(REFUSALS)
    pairings = [pair(*sizes, mode=mode, epoch=e, draws=plan.draws) for e in range(plan.pairing_count)]
    items = ALTERNATES if method.alternates else FORGET
    return build_views(
        list(method.needs), items, RETAIN, REFUSALS, pairings, TOKENIZER, template,
        max_length=options.max_length, official=method.official, **method.labelling,
    )  # fmt: skip


def run(
    method: str | Method, folder: Path, *, model: Any = None, tokenizer: Any = TOKENIZER,
    template: Template = TEMPLATES["plain"], options: TrainOptions = OPTIONS, **more: Any,
) -> Any:  # fmt: skip
    """Train a fresh model in `folder` by the real loop and save it; returns it."""
    if isinstance(method, str):
        method = Method.parse(method, beta=0.1, forget_coeff=0.5)
    folder.mkdir(parents=True, exist_ok=True)
    plan = plan_for(method, options)
    views = views_for(method, plan, options, template)
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


@pytest.mark.parametrize("prefix", [0, 3])
def test_tokens_that_predict_no_label_are_not_computed(prefix: int) -> None:
    """The last of each row; of rows without a label all but one behind what is shared. The scores are the same."""
    method = Method.parse("ME+GD")
    plan = plan_for(method, OPTIONS)
    views = views_for(method, plan, OPTIONS)
    views["retain"].first_label[:] = 10**6  # no labels
    for view in views.values():
        for row in range(len(view.table)):
            view.table.row(row)[:prefix] = 7
    model = fresh_model(dtype=torch.float64)
    (part,) = micro_batches(plan, views, 0, max_tokens=10**6)
    found, tokens = [], []
    with packing(model):
        for labels_only in (False, True):
            batch = assemble(part, views, 1, {}, official=False, packed=True, prefix=prefix, labels_only=labels_only)
            tokens.append(batch.input_ids.shape[1] - prefix)
            scores = score_views(model, batch, method.needs)
            found.append([scores["forget"].mean_logp, scores["retain"].logp])
    lengths = [views["retain"].table.lengths[row] - prefix for row in part.rows["retain"]]
    assert tokens[0] - tokens[1] == len(part.places) + sum(lengths) - len(lengths)
    assert found[0][0].numel() > 0 == found[0][1].numel()
    torch.testing.assert_close(found[1], found[0], rtol=1e-12, atol=1e-12)


def test_only_scores_of_labels_let_tokens_be_left_out() -> None:
    assert reads_labels_only({"forget": ("mean_logp",), "retain": ("logp",)}, {})
    assert reads_labels_only({"forget": ("logp",)}, {"forget": ("entropy",)})
    for needs in ({"forget": ("logp",), "retain": ("kl",)}, {"forget": (2,), "retain": ("logp",)}, {"forget": ()}):
        assert not reads_labels_only(needs, {})
    assert not reads_labels_only({"forget": ("logp",)}, {"retain": (1,)})


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
    with pytest.raises(UserError, match="--torch-compile finds no layers in Linear: leave it out"):
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
        UserError, match=r"adamw-8bit does not work with fsdp \(as --parallel says.*use --optimizer adamw"
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


def killed_at_epoch(number: int) -> Callable[[nn.Module, int], Measured]:
    def at_epoch(model: nn.Module, epoch: int) -> Measured:
        if epoch == number:
            raise Killed
        return Measured({}, enough=False)

    return at_epoch


# ------------------------------------------------------------------------------------------------ found, not yet mended


def test_officially_padding_is_eos(tmp_path: Path) -> None:
    """arXiv 2410.08109; it matters where padding counts, and not all tokenizers pad with EOS."""
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
