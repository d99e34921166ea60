"""A loss of another package: hidden states of a layer, a frozen reference, tensors of its own, few trained weights.

Installed as a real distribution with entry points; used from the command line without a line changed in src/.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_training import FORGET, OPTIONS, RETAIN, TOKENIZER, fresh_model, log_of, plan_for, run, views_for, weights
from torch import Tensor

from forked import Moment, in_process, together
from unlearner import Method
from unlearner.commands.main import main
from unlearner.data.batches import padded
from unlearner.errors import UserError
from unlearner.methods import method_names
from unlearner.plugins import load_plugins

PLUGIN = Path(__file__).parents[1] / "plugin"
NAME = "RMUTEST+GD"
TRAINED = {f"model.layers.1.mlp.{name}_proj.weight" for name in ("gate", "up", "down")}
SHORT = replace(OPTIONS, lora_dropout=0.0, learning_rate=1e-3, epochs=1.9)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder that the plug-in's distribution is installed in, found by this process too."""
    source, target = (tmp_path_factory.mktemp(name) for name in ("source", "site"))
    shutil.copytree(PLUGIN, source, dirs_exist_ok=True)  # building leaves files beside the sources
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--target", str(target), str(source)], check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(target))
        load_plugins.cache_clear()
        yield target
    load_plugins.cache_clear()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The arguments of a forget run of six steps, with a model on disk."""
    folder = tmp_path_factory.mktemp("inputs")
    fresh_model().save_pretrained(folder / "model")
    TOKENIZER.save_pretrained(folder / "model")
    for name, records in (("forget", FORGET), ("retain", RETAIN)):
        rows = ({"question": r.question, "answer": r.answer} for r in records)
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = (f"--{name}={folder / name}.jsonl" for name in ("forget", "retain"))
    return [
        "forget", f"--model={folder / 'model'}", *data, "--evaluate=none", "--learning-rate=1e-3", "--epochs=3",
        "--batch-size=2", "--gradient-accumulation-steps=2", "--save-steps=2", f"--method={NAME}", "--template=plain",
    ]  # fmt: skip


def unlearner(typed: list[str], folder: Path, code: int = 0) -> str:
    """What a command says that finds the plug-in where this process does, and ends with `code`."""
    folder.mkdir(exist_ok=True)
    ended = in_process(typed, folder)
    said = (folder / "said.txt").read_text()
    assert ended == code, said
    return said


@pytest.fixture(scope="module")
def alone(installed: Path, inputs: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process from the command line."""
    folder = tmp_path_factory.mktemp("alone")
    unlearner([*inputs, f"--output={folder / 'run'}"], folder)
    return folder / "run"


def model_of(run: Path) -> dict[str, Tensor]:
    return load_file(run / "model" / "model.safetensors")


# -------------------------------------------------------------------------------------------------------- command line


def test_only_the_matrices_it_names_are_changed(alone: Path, inputs: list[str]) -> None:
    before = load_file(Path(inputs[1].partition("=")[2]) / "model.safetensors")
    after = model_of(alone)
    assert {name for name in before if not torch.equal(before[name], after[name])} == TRAINED


def test_unlearner_methods_lists_it(installed: Path) -> None:
    paths = [str(installed), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, "-m", "unlearner", "methods"]
    out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert "RMUTEST" in out and "coefficient=4.0" in out
    assert {"RMUTEST", "RMUTEST+KL"} <= set(method_names())


@pytest.mark.slow
def test_its_options_and_its_place_in_a_module_are_typed(installed: Path, inputs: list[str], tmp_path: Path) -> None:
    """`module:Name` is the same loss; options change it; unknown ones are refused."""
    named = [argument for argument in inputs if not argument.startswith("--method=")]
    named.append("--method=unlearner_test_plugin.losses:MisdirectedStates+GD")
    a, b = tmp_path / "a", tmp_path / "b"
    unlearner([*named, f"--output={a / 'run'}", "--method-options", "coefficient=4", "rate=0.1"], a)
    said = unlearner([*named, f"--output={b / 'run'}", "--method-options", "coeficient=4"], b, code=2)
    assert "did you mean 'coefficient'?" in said
    method = Method.parse(NAME, coefficient=2)
    assert asdict(method.forget) == {"layer": 1, "coefficient": 2.0, "rate": 0.1}  # type: ignore[call-overload]
    with pytest.raises(UserError, match="RMUTEST's option layer must be a whole number, not 'one'"):
        Method.parse(NAME, layer="one")


@pytest.mark.slow
def test_a_bench_has_it_in_a_cell(installed: Path, inputs: list[str], tmp_path: Path) -> None:
    """Beside one of our own methods: the cell is the run that `forget` makes of the same options."""
    kept = [argument for argument in inputs[1:] if not argument.startswith(("--evaluate", "--method"))]
    quick = ["--judge=offline", "--max-new-tokens=4", "--seeds=1001", f"--output={tmp_path / 'bench'}"]
    out = unlearner(["bench", *kept, "--methods", NAME, "GA+GD", *quick], tmp_path)
    assert NAME in out and "GA+GD" in out
    cell = tmp_path / "bench/cells" / NAME / "forget/seed-1001"
    alone = tmp_path / "alone"
    unlearner([*inputs, f"--output={alone}", "--seed=1001"], tmp_path)
    for name, expected in model_of(alone).items():
        torch.testing.assert_close(model_of(cell)[name], expected, rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_make_what_one_makes(
    parallel: str, installed: Path, inputs: list[str], alone: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    together(2, tmp_path / "said", main, [*inputs, f"--output={output}", f"--parallel={parallel}"])
    made = model_of(output)
    for name, expected in model_of(alone).items():
        torch.testing.assert_close(made[name], expected, rtol=0, atol=2e-5, msg=lambda m, n=name: f"{n}: {m}")
    for ours, theirs in zip(log_of(output), log_of(alone), strict=True):
        assert ours["forget"] == pytest.approx(theirs["forget"], rel=1e-4)


@pytest.mark.slow
def test_killed_and_repeated_it_leaves_the_same_bits(
    installed: Path, inputs: list[str], alone: Path, tmp_path: Path
) -> None:
    """Its control vector and its dual variable too: the losses of later steps depend on them."""
    output = tmp_path / "run"
    typed = [*inputs, f"--output={output}"]
    assert in_process(typed, tmp_path, Moment("os.rename", "checkpoints/step-000004")) == -signal.SIGKILL
    assert any((output / "checkpoints").glob("step-*")) and not (output / "model").exists()
    unlearner(typed, tmp_path)
    for name in ("log.jsonl", "model/model.safetensors"):
        assert (output / name).read_bytes() == (alone / name).read_bytes(), name


# ------------------------------------------------------------------------------------------------------------- numbers


def plain(model: Any, reference: Any, views: dict[str, dict[str, Tensor]], state: dict[str, Tensor]) -> Tensor:
    """The formula as it stands in the loss's docstring, on all hidden states of the full model."""

    def states(of: Any, view: str) -> Tensor:
        ids, mask = views[view]["input_ids"], views[view]["attention_mask"]
        with_hook: list[Tensor] = []
        hook = of.model.layers[1].register_forward_hook(lambda _, __, out: with_hook.append(out))
        of(input_ids=ids, attention_mask=mask)
        hook.remove()
        return with_hook[0][mask.bool()]

    away = (states(model, "forget") - state["control"]).pow(2).mean()
    near = (states(model, "retain") - states(reference, "retain").detach()).pow(2).mean()
    return away + state["weight"] * near


def rows_of(method: Method) -> dict[str, dict[str, Tensor]]:
    """Four rows of each view, padded."""
    views = views_for(method, plan_for(method, SHORT), SHORT)
    return {name: padded(view, view.rows[0, :4], TOKENIZER.eos_token_id) for name, view in views.items()}


def test_the_loss_is_the_formula_on_the_full_model(installed: Path) -> None:
    method = Method.parse(NAME)
    plan = plan_for(method, SHORT)
    made = {
        name: padded(view, view.rows[0, :4], TOKENIZER.eos_token_id)
        for name, view in views_for(method, plan, SHORT).items()
    }
    model, reference = fresh_model(), fresh_model()
    torch.manual_seed(3)
    for name, parameter in model.named_parameters():
        if name in TRAINED:
            torch.nn.init.normal_(parameter, std=0.3)
    state = {"control": torch.randn(model.config.hidden_size), "weight": torch.tensor(0.7)}
    ours = method.losses(model, made, reference=reference, states={"RMUTEST": state}).forget
    expected = plain(model, reference, made, state)
    torch.testing.assert_close(ours, expected)
    chosen = [p for name, p in model.named_parameters() if name in TRAINED]
    for a, b in zip(torch.autograd.grad(ours, chosen), torch.autograd.grad(expected, chosen), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert not model.model.layers[1]._forward_hooks


def same(a: Any, b: Any, atol: float = 2e-5) -> None:
    ours, theirs = weights(a), weights(b)
    assert any(not torch.equal(ours[name], weights(fresh_model())[name]) for name in TRAINED)
    for name, expected in theirs.items():
        torch.testing.assert_close(ours[name], expected, rtol=0, atol=atol)


def test_micro_batches_and_padding_change_nothing(installed: Path, tmp_path: Path) -> None:
    packed = run(NAME, tmp_path / "packed", options=SHORT)
    same(packed, run(NAME, tmp_path / "small", options=replace(SHORT, max_tokens_per_forward=120)))
    for rows in ("by-length", "padded"):
        same(packed, run(NAME, tmp_path / rows, options=replace(SHORT, execution={"rows": rows})))


def test_a_copy_of_the_whole_model_is_the_same_reference(installed: Path, tmp_path: Path) -> None:
    """In place of copies of the three matrices, put in for each forward of the reference; with LoRA of its adapter."""
    same(
        run(NAME, tmp_path / "parts", options=SHORT),
        run(NAME, tmp_path / "copy", options=SHORT, reference_model=fresh_model()),
    )
    lora = replace(SHORT, lora=True)
    adapted, other = (
        run(NAME, tmp_path / name, options=lora, reference_model=reference)
        for name, reference in (("adapter", None), ("adapter and copy", fresh_model()))
    )
    ours, theirs = weights(adapted), weights(other)
    moved = {name for name in ours if "lora_B" in name and ours[name].any()}  # an adapter begins with zeros there
    assert len(moved) == 3 and all("layers.1.mlp" in name for name in moved)
    adapters = {name for name in ours if "lora_" in name}
    assert len(adapters) > len(moved) and adapters == {name for name in theirs if "lora_" in name}
    for name in adapters:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=2e-5)


def test_gradient_checkpointing_changes_nothing(installed: Path, tmp_path: Path) -> None:
    same(
        run(NAME, tmp_path / "plain", options=SHORT),
        run(NAME, tmp_path / "checkpointing", options=replace(SHORT, gradient_checkpointing=True)),
    )


# ------------------------------------------------------------------------------------------------------------- surgery


def test_a_surgery_of_another_package(installed: Path, tmp_path: Path) -> None:
    """By its entry point's name with every pair, and by its place; its option and its number in the log are its own."""
    options = replace(SHORT, max_grad_norm=1e-12, weight_decay=0.0)
    run(Method.parse("NPO+GD+equaltest", share=1.0), tmp_path / "name", options=options)
    rows = log_of(tmp_path / "name")
    assert all(0 < row["grad_norm"] <= 2.0001 and row["forget_norm"] > 0 for row in rows), "two unit vectors"
    place = "unlearner_test_plugin.surgeries:Equal"
    method = Method.parse(f"IDK+AP+{place}", share=0.0)
    run(method, tmp_path / "place", options=options)
    assert [row["grad_norm"] for row in log_of(tmp_path / "place")] == pytest.approx([1.0] * len(rows), rel=1e-5)


# -------------------------------------------------------------------------------------------------------------- errors


def test_a_layer_that_is_not_there_is_named(installed: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"RMUTEST\+GD trains only parameters named layers\\\.9"):
        run(Method.parse(NAME, layer=9), tmp_path, options=SHORT)
    method = Method.parse(NAME, layer=9)
    made = {
        name: padded(view, view.rows[0, :2], 1)
        for name, view in views_for(method, plan_for(method, SHORT), SHORT).items()
    }
    with pytest.raises(UserError, match="layer 9 does not exist: the model has layers 0 to 1"):
        method.losses(fresh_model(), made, reference=fresh_model())


def test_compiled_layers_are_refused(installed: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--torch-compile does not work with RMUTEST\+GD, which reads hidden states"):
        run(NAME, tmp_path, options=replace(SHORT, torch_compile=True))


def test_a_plug_in_that_breaks_is_named_and_breaks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken_plugin.py").write_text("import nothing_of_this_name\n")
    info = tmp_path / "broken_plugin-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-plugin\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[unlearner.methods]\nbroken = broken_plugin:Loss\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    load_plugins.cache_clear()
    try:
        assert Method.parse("NPO+GD").name == "NPO+GD"
        for name in ("nothing_of_this_name:X", "unlearner.errors:Nothing", "unlearner.errors:UserError"):
            with pytest.raises(UserError, match=name.partition(":")[0]):
                Method.parse(name)
    finally:
        load_plugins.cache_clear()
    said = " ".join(capfd.readouterr().err.split())
    assert said.count("the plug-in broken (broken_plugin:Loss, unlearner.methods) is left out") == 1
    assert "nothing_of_this_name" in said
