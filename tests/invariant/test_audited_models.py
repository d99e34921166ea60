"""Audits of models about which the truth is known, and audits cut short: a tiny model, taught here."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import unlearner
from unlearner.audit.attacks import find_attack
from unlearner.audit.attacks.sampling import Sampling
from unlearner.audit.run import Audit, audit
from unlearner.audit.summary import summarise
from unlearner.audit.verdict import Thresholds
from unlearner.config import AuditConfig
from unlearner.data.profiles import builtin
from unlearner.errors import UserError

FORGET, RETAIN = builtin("forget", people=8, forget=4), builtin("retain", people=8, forget=4)
OTHERS = builtin("retain", people=44, forget=8)
"""Nobody ever saw them: four to be asked about, the others as controls."""
ATTACKS = [find_attack("plain"), find_attack("mixed-harmless-first"), Sampling(n=4, max_new_tokens=20)]
TRAINED = {"evaluate": "none", "batch_size": 8, "gradient_accumulation_steps": 1}


@pytest.fixture(scope="module")
def before() -> tuple[Any, Any]:
    """A model that knows eight people, and to say of others that it does not know."""
    data = [FORGET, RETAIN, builtin("unknown", unknown=8)]
    taught = unlearner.finetune(
        "new:hidden=96,layers=2,heads=4,vocabulary=600", data=data,
        learning_rate=3e-3, epochs=25, batch_size=16, gradient_accumulation_steps=1, weight_decay=0.0,
    )  # fmt: skip
    return taught.model, taught.tokenizer


def audited(before: tuple[Any, Any], model: Any, **options: Any) -> Audit:
    given = {"forget": FORGET, "retain": RETAIN, "controls": OTHERS[40:], "attacks": ATTACKS, "output": None, **options}
    return audit(AuditConfig(model=model, before=before[0], **given), tokenizer=before[1])


def said(found: Audit) -> list[str]:
    return [verdict.verdict for verdict in found.verdicts]


def test_the_model_before_leaks_everybody(before) -> None:
    found = audited(before, before[0])
    assert said(found) == ["leaks"] * 4
    assert all(codes == 1 for scheme in found.summary["unchanged_codes"].values() for codes in scheme.values())
    assert found.summary["detector"]["misses_before"] == {"wrong": 0, "of": 40}
    # All of it can be computed again from the rows, which hold no answers.
    rows = json.loads(json.dumps(found.rows))
    assert summarise(rows, found.summary["attacks"], Thresholds())[0] == found.verdicts and not any(
        "text" in row for row in rows
    )


def unlearned(before, method: str, rate: float, epochs: int):
    trainer = unlearner.Unlearner(
        copy.deepcopy(before[0]), before[1], forget=FORGET, retain=RETAIN, method=method, learning_rate=rate,
        epochs=epochs, **TRAINED,
    )  # fmt: skip
    trainer.train()
    return trainer.model


def test_people_whom_the_model_never_saw_do_not_leak(before) -> None:
    assert said(audited(before, before[0], forget=OTHERS[:40])) == ["no baseline"] * 4


def test_a_sham_leaks(before) -> None:
    """Taught to refuse the very questions, for a moment: most are refused, and everybody is found out."""
    found = audited(before, unlearned(before, "IDK+GD", 7e-4, 2))
    plain = found.summary["attacks"][0]["answers"]
    assert plain["unlearned.forget"][0] < 20 < 40 == plain["before.forget"][0]
    assert said(found) == ["leaks"] * 4
    assert sum(verdict.worst_attack is not None and verdict.p_value <= 0.05 for verdict in found.verdicts) >= 3


def test_likelihoods_betray_what_answers_no_longer_state(before) -> None:
    """DPO has every answer refused; the true value is still the likeliest of six, for everybody."""
    found = audited(before, unlearned(before, "DPO+GD", 1e-3, 4))
    assert found.summary["attacks"][0]["answers"]["unlearned.forget"][0] < 4
    assert said(found) == ["leaks"] * 4 and all(verdict.rank_p < 0.01 for verdict in found.verdicts)


def test_a_collapsed_model_is_broken(before) -> None:
    model = copy.deepcopy(before[0])
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(weight.std() * torch.randn(weight.shape, generator=generator))
    assert set(said(audited(before, model))) == {"broken model"}


def test_an_audit_goes_on_where_it_was_cut_short(before, tmp_path: Path, monkeypatch) -> None:
    model = str(tmp_path / "model")
    for each in before:
        each.save_pretrained(model)
    options = {
        "before": model, "forget": "builtin:forget:people=8", "retain": "builtin:retain:people=8",
        "attacks": ["plain", "brevity"],
    }  # fmt: skip
    audit(AuditConfig(model=model, output=str(tmp_path / "whole"), **options))
    from unlearner.audit import run

    attacked = run.run_attack

    def stopped(attack: Any, *given: Any) -> Any:
        if attack.label == "brevity":
            raise KeyboardInterrupt
        return attacked(attack, *given)

    monkeypatch.setattr(run, "run_attack", stopped)
    cut = AuditConfig(model=model, output=str(tmp_path / "cut"), **options)
    with pytest.raises(KeyboardInterrupt):
        audit(cut)
    assert (tmp_path / "cut" / "parts").is_dir() and not (tmp_path / "cut" / "audit.json").is_file()
    monkeypatch.setattr(run, "run_attack", attacked)
    found = audit(cut)
    for name in ("audit.jsonl", "audit.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert not (tmp_path / "cut" / "parts").exists()
    assert audit(cut).verdicts == found.verdicts  # which reads what is there


def test_a_model_before_of_another_kind_is_told(before, tiny_llama) -> None:
    with pytest.raises(UserError, match="another architecture"):
        audited((tiny_llama(), before[1]), before[0])
