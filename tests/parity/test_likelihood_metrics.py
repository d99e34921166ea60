"""OpenUnlearning's memorisation and membership scores of every row (shared/parity/field.json)."""

import json
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from unlearner.audit import likelihood_metrics

NAMES = {
    "exact_memorization": "exact_memorization",
    "extraction_strength": "extraction_strength",
    "mia_loss": "loss",
    "mia_zlib": "zlib",
    "mia_reference": "reference",
    "mia_min_k k=0.2": "min_k@0.2",
    "mia_min_k k=0.4": "min_k@0.4",
    "mia_min_k_plus_plus k=0.2": "min_k_plus_plus@0.2",
    "mia_min_k_plus_plus k=0.4": "min_k_plus_plus@0.4",
    "mia_gradnorm p=2": "gradient_norm",
}


@pytest.fixture(scope="module")
def parity(shared: Path) -> Path:
    return shared / "parity"


@pytest.fixture(scope="module")
def models(parity: Path):
    load = AutoModelForCausalLM.from_pretrained
    return load(parity / "model"), load(parity / "reference_model"), AutoTokenizer.from_pretrained(parity / "model")


@pytest.mark.parametrize("number", range(9))
def test_every_row_is_the_official_one(parity: Path, models, number: int) -> None:
    model, reference, tokenizer = models
    case = json.loads((parity / "field.json").read_text())["rows"][number]
    view = json.loads((parity / "losses.json").read_text())[case["case"]]["batch"][case["view"]]
    found = likelihood_metrics(model, view, tokenizer, reference=reference, official=True)
    assert set(case["values"]) == set(NAMES) and set(found) == set(NAMES.values())
    for official, ours in NAMES.items():
        assert found[ours] == pytest.approx(case["values"][official], rel=1e-4, abs=0), official


def test_all_nine_are_there(parity: Path) -> None:
    assert len(json.loads((parity / "field.json").read_text())["rows"]) == 9
