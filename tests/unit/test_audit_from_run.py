"""What an audit takes from the run that it audits."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from unlearner.audit.from_run import of_run
from unlearner.comparing.compare import with_run
from unlearner.comparing.options import CompareConfig
from unlearner.config import AuditConfig, ForgetConfig
from unlearner.data.profiles import builtin
from unlearner.data.records import Record
from unlearner.errors import UserError
from unlearner.results.layout import RunDirectory
from unlearner.results.prepared import PreparedDirectory
from unlearner.results.subjects import SubjectDirectory


@pytest.fixture
def sources(forget_records: list[Record], retain_records: list[Record], tmp_path: Path) -> dict[str, str]:
    """Files: what is forgotten, retained, and of the retain set some rows, and rows about others beside them."""
    rows = {
        "forget": forget_records, "retain": retain_records, "trained": retain_records[:5],
        "others": [*retain_records[:5], *builtin("retain", people=13, forget=8)[:5]],
    }  # fmt: skip
    paths = {}
    for name, records in rows.items():
        paths[name] = str(tmp_path / f"{name}.jsonl")
        lines = [json.dumps({"question": row.question, "answer": row.answer}) for row in records]
        Path(paths[name]).write_text("\n".join(lines), encoding="utf-8")
    return paths


@pytest.fixture
def audited(sources: dict[str, str], tmp_path: Path):
    """The config of an audit of a finished run with these options."""

    def made(given: AuditConfig | None = None, **options: Any) -> AuditConfig:
        run = RunDirectory(tmp_path / "run")
        run.path.mkdir(exist_ok=True)
        given_sources = {"forget": sources["forget"], "retain": sources["retain"]}
        config = ForgetConfig(model="m", output=str(run.path), **(given_sources | options))
        run.manifest.write_text(json.dumps({"command": "forget", "config": asdict(config), "hashes": {}}))
        run.finished.write_text("{}")
        return of_run(replace(given or AuditConfig(model="", output="o"), model=str(run.path)))

    return made


def test_the_directory_of_a_name_stands_for_the_run_in_it(audited, tmp_path: Path) -> None:
    """What `audit` and `compare` do with it."""
    of_the_run = audited(lora=True, world_facts="w")
    name = SubjectDirectory(tmp_path / "name")
    shutil.copytree(tmp_path / "run", name.run("ME+GD,lora,epochs=3").path)
    name.manifest.write_text("{}")
    given = AuditConfig(model=str(name.path), output="o")
    with pytest.raises(UserError, match=r"holds an unfinished run of `unlearner forget --subject`: repeat"):
        of_run(given)
    name.held_out.write_text(json.dumps({"run": "ME+GD,lora,epochs=3"}))
    found = of_run(given)
    assert found.model == str(name.path / "ME+GD,lora,epochs=3" / "adapter")
    assert replace(found, model=of_the_run.model) == of_the_run and found.neighbours == ["w"]
    compared = with_run(CompareConfig(model=str(name.path)))
    assert (compared.model, compared.after) == ("m", found.model)
    name.held_out.write_text("[]")
    with pytest.raises(UserError, match="holds neither a model nor a run of unlearner"):
        of_run(given)


def test_controls_are_those_of_the_run(audited) -> None:
    assert audited(audit="quick", audit_controls="never.jsonl").controls == "never.jsonl"
    assert audited().controls is None
    own = AuditConfig(model="", output="o", controls="mine.jsonl")
    assert audited(own, audit="quick", audit_controls="never.jsonl").controls == "mine.jsonl"


def test_controls_that_were_prepared_with_the_forget_set(audited, tmp_path: Path) -> None:
    prepared = PreparedDirectory(tmp_path / "data")
    prepared.path.mkdir()
    begun: dict[str, Any] = {"forget": f"{prepared.path}:forget", "retain": None}
    for file in (prepared.manifest, prepared.source("controls")):
        assert audited(**begun).controls is None
        file.touch()
    assert audited(**begun).controls == f"{prepared.path}:controls"
    own = AuditConfig(model="", output="o", controls="mine.jsonl")
    assert audited(own, **begun).controls == "mine.jsonl"


def test_neighbours_are_what_the_run_measured_and_did_not_train(audited, sources: dict[str, str]) -> None:
    assert audited(world_facts="w").neighbours == ["w"]
    assert audited(retain_eval=sources["others"], world_facts="w").neighbours == [sources["others"], "w"]
    # Only rows that were trained on are no neighbours.
    assert audited(retain_eval=sources["trained"]).neighbours == []
    assert audited(retain_eval=sources["retain"], real_authors="a").neighbours == ["a"]
    own = AuditConfig(model="", output="o", neighbours=["mine"])
    assert audited(own, retain_eval=sources["others"]).neighbours == ["mine"]
    # What is read by other columns than the audit's cannot be asked.
    assert audited(retain_eval=sources["others"], eval_columns={"question": "q"}).neighbours == []
    others = {"world_facts": "w", "forget_eval": "e", "eval_columns": {"question": "q"}}
    assert audited(**others).neighbours == []


def test_the_forget_set_is_the_one_evaluated_where_it_has_the_same_columns(audited, sources: dict[str, str]) -> None:
    columns = {"question": "prompt"}
    assert audited(forget_eval="e", columns=columns, eval_columns=columns).forget == "e"
    assert audited(forget_eval="e", columns=columns).forget == "e"
    found = audited(forget_eval="e", columns=columns, eval_columns={"question": "q"})
    assert found.forget == sources["forget"] and found.columns == columns
    own = AuditConfig(model="", output="o", columns={"question": "mine"})
    assert audited(own, forget_eval="e", columns=columns).columns == {"question": "mine"}
