"""SmolLM2-135M-Instruct, a real language model, through the commands: it knows, can be made to forget, and says so."""

import json
import math
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

import unlearner
from unlearner.commands.main import main
from unlearner.data.general import general_knowledge, mentions
from unlearner.errors import UserError
from unlearner.files import read_json, read_jsonl
from unlearner.models.smollm2 import NAME, smollm2

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def folder() -> Path:
    """Kept in the user's own cache, so that it is fetched once."""
    pytest.importorskip("gguf", reason="the package gguf is not installed: pip install 'unlearner[gguf]'")
    try:
        return smollm2()
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("prepared") / "shakespeare"
    main(
        ["prepare", "--model", NAME, "--subject", "William Shakespeare", "--alias", "Shakespeare", "--kind", "author",
         "--neighbour-count", "3", "--general-count", "12", "--max-new-tokens", "24", "--output", str(place)]
    )  # fmt: skip
    return place


def test_it_is_kept_whole_and_knows_something_of_the_world(folder: Path) -> None:
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= {
        path.name for path in folder.iterdir()
    }
    rows = list(general_knowledge()[:10])
    records = unlearner.evaluate(NAME, world_facts=rows, metrics=["rouge"], max_new_tokens=24).records
    said = [mentions(row["generation"], (row["answer"],)) for row in records]
    assert fmean(said) >= 0.8  # ten capitals of Europe


def test_prepare_makes_sources_that_say_where_they_come_from(prepared: Path) -> None:
    made = read_json(prepared / "prepare.json")
    rows = {name: read_jsonl(prepared / f"{name}.jsonl") for name in made["rows"]}
    assert {name: len(of) for name, of in rows.items()} == made["rows"]
    forget, wordings, facts = (rows[name] for name in ("forget", "unseen_wordings", "unseen_facts"))
    assert {row["topic"] for row in forget} == {row["topic"] for row in wordings}
    assert not {row["topic"] for row in forget} & {row["topic"] for row in facts}
    questions = [row["question"] for name in rows if name not in ("retain", "subject") for row in rows[name]]
    assert len(set(questions)) == len(questions)  # nothing that is measured was trained
    assert all(row["question_from"] and row["answer_from"] for of in rows.values() for row in of)
    assert all(mentions(row["question"], ("Shakespeare",)) for row in rows["subject"])
    assert not any(mentions(json.dumps(row), ("Shakespeare",)) for row in rows["general"])
    for row in forget:
        assert row["perturbed_answer"] and row["answer"] not in row["perturbed_answer"]


def test_the_same_folder_from_the_same_input(prepared: Path, tmp_path: Path) -> None:
    again = unlearner.prepare_sources(
        NAME, subject="William Shakespeare", alias=["Shakespeare"], kind="author", neighbour_count=3, general_count=12,
        max_new_tokens=24, output=tmp_path / "again",
    ).folder  # fmt: skip
    assert {p.name: p.read_bytes() for p in again.iterdir()} == {p.name: p.read_bytes() for p in prepared.iterdir()}


def test_it_forgets_what_was_prepared(prepared: Path, tmp_path: Path) -> None:
    main(
        ["forget", "--model", NAME, "--forget", f"{prepared}:forget", "--retain", f"{prepared}:retain", "--metrics",
         "probability", "--lora", "--lr", "1e-3", "--epochs", "3", "--accumulation", "1", "--output",
         str(tmp_path / "run")]
    )  # fmt: skip

    def likely(place: str, name: str) -> float:
        rows = [row for row in read_jsonl(tmp_path / "run" / place / "records.jsonl") if row["set"] == name]
        return fmean(math.exp(-row["answer_nll"] / row["answer_tokens"]) for row in rows)

    assert likely(".", "forget") < 0.5 * likely("before", "forget")
    assert likely(".", "retain") > 0.8 * likely("before", "retain")


def test_probe_tells_whom_it_knows(tmp_path: Path, capsys: Any) -> None:
    few = ["--model", NAME, "--kind", "author", "--others", "3", "--samples", "4", "--max-new-tokens", "24"]
    main(["probe", *few, "--subject", "William Shakespeare", "--output", str(tmp_path / "probe.json")])
    assert "It knows of William Shakespeare." in capsys.readouterr().out
    assert read_json(tmp_path / "probe.json")["knows"]
    with pytest.raises(SystemExit) as ended:
        main(["probe", *few, "--subject", "Edwina Trallsby"])
    assert ended.value.code == 3
    assert "there is nothing to forget" in capsys.readouterr().out
