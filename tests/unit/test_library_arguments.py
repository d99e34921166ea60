"""What the library says to arguments that a user of transformers might give."""

import copy
from typing import Any

import pandas as pd
import pytest
from transformers import TrainerCallback

import unlearner
from unlearner import TrainingArguments, UserError
from unlearner.models.new import new_model

ROWS = [{"question": f"Where does person {i} live?", "answer": f"Person {i} lives in place {i}."} for i in range(6)]


@pytest.fixture(scope="module")
def both() -> tuple[Any, Any]:
    texts = [f"{row['question']}\n {row['answer']}" for row in ROWS]
    return new_model("new:hidden=16,layers=1,heads=2,vocabulary=300", texts, seed=0)


@pytest.fixture
def model(both: tuple[Any, Any]) -> Any:
    return copy.deepcopy(both[0])


@pytest.fixture
def tokenizer(both: tuple[Any, Any]) -> Any:
    return both[1]


def made(model: Any, tokenizer: Any, **options: Any) -> unlearner.Unlearner:
    args = TrainingArguments(learning_rate=1e-3, epochs=1, gradient_accumulation_steps=1)
    given = {"forget": ROWS[:3], "retain": ROWS[3:], "method": "GA+GD", "args": args, "evaluate": "none"}
    return unlearner.Unlearner(model, tokenizer, **{**given, **options})


@pytest.mark.parametrize("name", ["forget", "retain", "forget_eval", "retain_eval", "real_authors", "world_facts"])
def test_every_source_may_be_a_dataframe(name: str, model: Any, tokenizer: Any) -> None:
    options = {name: pd.DataFrame(ROWS[:3])}
    if name in ("forget", "retain", "real_authors", "world_facts"):
        found = unlearner.evaluate(model, tokenizer=tokenizer, metrics=["probability"], judge="offline", **options)
        assert len(found.records) == 3
    assert len(made(model, tokenizer, **options).train().log) == 1


def test_a_message_about_rows_in_memory_names_the_option(model: Any, tokenizer: Any) -> None:
    with pytest.raises(UserError, match="row 2 of the list given as retain"):
        made(model, tokenizer, retain=[ROWS[0], {"question": "Who?"}])


def test_training_arguments_have_every_name_of_an_option() -> None:
    assert TrainingArguments(lr=1e-3, num_train_epochs=3) == TrainingArguments(learning_rate=1e-3, epochs=3)
    with pytest.raises(UserError, match="unknown option 'learning_rat': did you mean 'learning_rate'"):
        TrainingArguments(learning_rat=1e-3)
    with pytest.raises(UserError, match="learning_rate is given twice"):
        TrainingArguments(lr=1e-3, learning_rate=1e-3)


def test_output_is_the_directory_under_either_name(model: Any, tokenizer: Any, tmp_path: Any) -> None:
    made(model, tokenizer, output=tmp_path / "run").train()
    assert (tmp_path / "run" / "run.json").is_file()
    with pytest.raises(UserError, match="output is given twice, as output and output_dir"):
        made(model, tokenizer, output=tmp_path / "a", output_dir=tmp_path / "b")


@pytest.mark.parametrize(
    "option", [{"forget_coeff": 3.0}, {"beta": 4.5}, {"method_options": ["beta=1"]}, {"retain_coeff": 2.0}]
)
def test_options_of_losses_do_not_go_with_a_method_object(option: dict[str, Any], model: Any, tokenizer: Any) -> None:
    method = unlearner.Method.parse("NPO+GD", beta=0.5)
    with pytest.raises(UserError, match=f"the method is an object, which has its own {next(iter(option))}"):
        made(model, tokenizer, method=method, **option)


class Counts(TrainerCallback):
    steps = 0

    def on_step_end(self, *_: Any, **__: Any) -> None:
        Counts.steps += 1


@pytest.mark.parametrize("given", [None, Counts, [Counts], Counts(), (Counts(),)])
def test_callbacks_are_taken_as_a_trainer_takes_them(given: Any, model: Any, tokenizer: Any) -> None:
    before = Counts.steps
    made(model, tokenizer, callbacks=given).train()
    assert Counts.steps == before + (given is not None)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"callbacks": [3]}, "callbacks are transformers' TrainerCallbacks, not int"),
        ({"args": {"learning_rate": 1e-3}}, "args must be unlearner.TrainingArguments, not dict"),
        ({"peft_config": 3}, "peft_config must be"),
    ],
)
def test_refused(options: dict[str, Any], told: str, model: Any, tokenizer: Any) -> None:
    with pytest.raises(UserError, match=told):
        made(model, tokenizer, **options)


def test_a_report_of_what_is_no_run_is_refused() -> None:
    for given in (3, object()):
        with pytest.raises(UserError, match="report accepts"):
            unlearner.report(given)
