"""Steps and learning rate: the paper's at its sizes and by its presets, fitted below, never where one is given."""

from dataclasses import replace
from pathlib import Path

import pytest

from unlearner.config import ForgetConfig
from unlearner.data.batches import Plan
from unlearner.errors import UserError
from unlearner.keywords import config_of
from unlearner.models.load import parameter_count
from unlearner.models.new import new_model
from unlearner.scenarios.fit import LEAST_STEPS, Size
from unlearner.workflows.inputs import size_of
from unlearner.workflows.presets import is_fitted, with_preset

CONFIG = ForgetConfig(model="", forget="", output="")
TINY = Size(20, 1_000_000)


def chosen(config: ForgetConfig, size: Size | None) -> tuple[float | None, float | None, int | None]:
    made = with_preset(config, size)
    return made.learning_rate, made.epochs, made.gradient_accumulation_steps


@pytest.mark.parametrize("rows", [40, 200, 400])
@pytest.mark.parametrize("parameters", [6.74e9, 8.03e9, None])
def test_the_papers_sizes_take_the_papers_values(rows: int, parameters: int | None) -> None:
    assert chosen(CONFIG, Size(rows, parameters)) == (1e-5, 5, 8)


@pytest.mark.parametrize("preset", ["fictitious", "continual", "real-world"])
def test_a_preset_that_is_named_is_the_papers_at_every_size(preset: str) -> None:
    config = replace(CONFIG, preset=preset, method="ME+GD")  # type: ignore[arg-type]
    assert not is_fitted(config)
    assert chosen(config, None) == (5e-6 if preset == "real-world" else 1e-5, 5, 8)
    assert not is_fitted(replace(CONFIG, official=True))


def test_nothing_is_fitted_beside_a_learning_rate_or_epochs() -> None:
    assert is_fitted(CONFIG) and is_fitted(replace(CONFIG, gradient_accumulation_steps=8))
    assert not is_fitted(replace(CONFIG, learning_rate=1e-5)) and not is_fitted(replace(CONFIG, epochs=5.0))


@pytest.mark.parametrize(("accumulation", "epochs"), [(1, 5), (2, 8), (8, 32)])
def test_a_step_that_is_given_stays(accumulation: int, epochs: float) -> None:
    made = chosen(replace(CONFIG, gradient_accumulation_steps=accumulation), TINY)
    assert made == (Size(20, 1_000_000).rate(1e-5), epochs, accumulation)


def test_rows_and_parameters_are_counted() -> None:
    model, _ = new_model("new:hidden=32,layers=2,heads=2,vocabulary=400", ["a b c"] * 10, seed=0)
    assert size_of(CONFIG, 3, model) == Size(3, model.num_parameters())
    assert size_of(CONFIG, 3, "nowhere/at/all") == Size(3, None)


@pytest.mark.parametrize("rows", [1, 2, 5, 20, 39, 40, 100, 400, 5000])
@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_there_are_steps_enough(rows: int, batch_size: int) -> None:
    made = with_preset(replace(CONFIG, batch_size=batch_size), Size(rows, 1_000_000))
    plan = Plan(rows, made.epochs or 0, batch_size, made.gradient_accumulation_steps or 0, seed=0)
    assert plan.steps >= LEAST_STEPS
    # Whole ones; no more epochs than that takes, and no smaller steps.
    assert made.epochs == 5 or (made.epochs - 1) * rows < LEAST_STEPS * batch_size  # type: ignore[operator]
    step = made.gradient_accumulation_steps or 0
    assert step == 8 or Plan(rows, 5, batch_size, step + 1, seed=0).steps <= LEAST_STEPS


def test_the_rate_grows_as_the_model_shrinks() -> None:
    rates = [Size(400, count).rate(1e-5) for count in (10**12, 7 * 10**9, 10**9, 10**8, 10**7, 10**6, 10**3)]
    assert rates == [1e-5, 1e-5, 2.6e-5, 8.2e-5, 2.6e-4, 8.2e-4, 1e-3]
    assert Size(5, None).rate(1e-5) == 1e-5
    assert Size(5, 10**6).rate(2e-3) == 2e-3  # never below the preset's


def test_parameters_are_counted_without_reading_weights(tmp_path: Path) -> None:
    model, tokenizer = new_model("new:hidden=32,layers=2,heads=2,vocabulary=400", ["a b c"] * 10, seed=0)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    assert parameter_count(str(tmp_path), trust_remote_code=False) == model.num_parameters()
    (tmp_path / "config.json").write_text("{")
    assert parameter_count(str(tmp_path), trust_remote_code=False) is None
    assert parameter_count("nowhere/at/all", trust_remote_code=False) is None


def test_presets_are_named_from_python_too() -> None:
    assert config_of(ForgetConfig, "m", {"forget": "f", "preset": "continual"}).preset == "continual"
    assert config_of(ForgetConfig, "m", {"forget": "f", "preset": None, "epochs": None}).epochs is None
    with pytest.raises(UserError, match="preset cannot be 'continal': did you mean 'continual'"):
        config_of(ForgetConfig, "m", {"forget": "f", "preset": "continal"})
