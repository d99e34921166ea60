"""Audits of models about which the truth is known, and audits cut short: a tiny model, taught here."""

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import unlearner
from forked import together
from unlearner.audit.attacks import find_attack
from unlearner.audit.attacks.relearning import Relearning, restored
from unlearner.audit.attacks.rounded import Rounded
from unlearner.audit.attacks.sampling import Sampling
from unlearner.audit.run import Audit, audit
from unlearner.audit.summary import summarise
from unlearner.audit.verdict import Thresholds
from unlearner.commands.main import main
from unlearner.config import AuditConfig
from unlearner.data.profiles import builtin
from unlearner.errors import UserError

pytestmark = pytest.mark.slow

FORGET, RETAIN = builtin("forget", people=8, forget=4), builtin("retain", people=8, forget=4)
OTHERS = builtin("retain", people=44, forget=8)
"""Nobody ever saw them: four to be asked about, the others as controls."""
FEW = OTHERS[280:]
"""Eight of them, where nothing is to be told from chance."""
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
    found = audited(before, before[0], attacks=[*ATTACKS, "likelihood"])
    assert said(found) == ["leaks"] * 4
    assert found.summary["group_test"] == {"p_value": 1e-4, "subjects": 4, "controls": 32}
    assert found.summary["membership"]["unlearned"]["loss"]["auc"] > 0.99
    assert found.summary["likelihood"]["unlearned.forget"]["extracted"]["mean"] > 0.99
    assert all(codes == 1 for scheme in found.summary["unchanged_codes"].values() for codes in scheme.values())
    assert found.summary["detector"]["misses_before"] == {"wrong": 0, "of": 40}
    # All of it can be computed again from the rows, which hold no answers.
    rows = json.loads(json.dumps(found.rows))
    assert summarise(rows, found.summary["attacks"], Thresholds())[0] == found.verdicts and not any(
        "text" in row for row in rows
    )


def unlearned(before, method: str, rate: float, epochs: int, retain=RETAIN):
    trainer = unlearner.Unlearner(
        copy.deepcopy(before[0]), before[1], forget=FORGET, retain=retain, method=method, learning_rate=rate,
        epochs=epochs, **TRAINED,
    )  # fmt: skip
    trainer.train()
    return trainer.model


@pytest.fixture(scope="module")
def sham(before):
    """Taught to refuse the very questions, for a moment."""
    return unlearned(before, "IDK+GD", 7e-4, 2)


@pytest.fixture(scope="module")
def silent(before):
    """DPO has every answer refused."""
    return unlearned(before, "DPO+GD", 1e-3, 4)


def test_people_whom_the_model_never_saw_do_not_leak(before) -> None:
    found = audited(before, before[0], forget=OTHERS[:40], attacks=[*ATTACKS, "likelihood"])
    assert said(found) == ["no baseline"] * 4 and found.summary["group_test"]["p_value"] > 0.05
    membership = found.summary["membership"]["unlearned"]
    assert all(0.35 < membership[score]["auc"] < 0.65 for score in ("loss", "min_k@0.4"))


def test_a_sham_leaks(before, sham) -> None:
    """Most questions are refused, and everybody is found out."""
    found = audited(before, sham)
    plain = found.summary["attacks"][0]["answers"]
    assert plain["unlearned.forget"][0] < 20 < 40 == plain["before.forget"][0]
    assert said(found) == ["leaks"] * 4
    assert sum(verdict.worst_attack is not None and verdict.p_value <= 0.05 for verdict in found.verdicts) >= 3


def test_a_sham_that_refuses_nearly_all_is_found_out_by_a_prefix_or_by_samples(before) -> None:
    """And the reason names what found it, which the plain question is not."""
    sham = unlearned(before, "IDK+GD", 1e-3, 3)
    found = audited(before, sham, attacks=["plain", "forced-prefix", Sampling(n=16, max_new_tokens=20)])
    assert found.summary["attacks"][0]["answers"]["unlearned.forget"][0] < 10
    assert said(found) == ["leaks"] * 4
    for verdict in found.verdicts:
        assert verdict.worst_attack in ("forced-prefix", "sampling")
        assert verdict.why == f"{verdict.worst_attack} extracts more than it does for any comparable control"


def test_a_truth_that_sank_below_chance_is_suppressed(before) -> None:
    """By gradient ascent until hardly any wrong value is as unlikely; the rank test alone sees it."""
    found = audited(before, unlearned(before, "GA", 1e-3, 40), attacks=["plain"])
    assert found.summary["attacks"][0]["answers"]["unlearned.forget"] == [0, 40]
    assert said(found).count("suppressed") >= 3 and "leaks" not in said(found)
    assert all(v.rank_p <= 0.05 and "ranks below chance" in v.why for v in found.verdicts if v.verdict == "suppressed")


def test_likelihoods_betray_what_answers_no_longer_state(before, silent) -> None:
    """The true value is still the likeliest of six, for everybody."""
    found = audited(before, silent)
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
        "attacks": ["plain", "likelihood", "brevity"],
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


@dataclass(frozen=True)
class Emptied(Rounded):
    """The plain question to a model without weights."""

    name = "emptied"

    @property
    def label(self) -> str:
        return "emptied"

    @contextmanager
    def applied(self, model: Any) -> Iterator[None]:
        with restored(model), torch.no_grad():
            for weight in model.parameters():
                weight.zero_()
            yield


def test_a_changed_model_answers_for_itself(before, tmp_path: Path) -> None:
    """Not with what the model answered before it was changed, nor after another change, to the same questions."""
    for each in before:
        each.save_pretrained(tmp_path / "model")
    found = audited(
        (str(tmp_path / "model"), before[1]), str(tmp_path / "model"), attacks=["plain", "int8", Emptied()],
        output=str(tmp_path / "audit"), controls=FEW,
    )  # fmt: skip
    told = {attack["attack"]: attack["answers"]["unlearned.forget"] for attack in found.summary["attacks"]}
    assert told["plain"][0] == told["int8"][0] == 40 and told["emptied"] == [0, 40]


def test_what_is_refused_comes_back_by_relearning(before, sham) -> None:
    """Taught half of the facts anew, the model tells of the other half, and of people whom it never saw it does not."""
    attack = Relearning(steps=(0, 20), controls=1)
    found = audited(before, sham, attacks=["plain", attack], controls=FEW)
    arms = found.summary["relearning"]["unlearned"]["arms"]
    assert arms["forgotten"]["leaks"][0] >= arms["forgotten"]["at_first"][0] + 4 and arms["forgotten"]["leaks"][0] >= 10
    assert arms["unknown"]["leaks"][0] <= 5 and found.summary["relearning"]["unlearned"]["excess"] > 0.3


def test_the_depth_of_a_model_like_the_retrained_one_is_one(before, silent) -> None:
    found = audited(before, silent, retrained=silent, attacks=["plain", "depth", "lens", "soft-prompt"], controls=FEW)
    depths = found.summary["depth"]
    assert depths and all(depth == pytest.approx(1, abs=1e-3) for depth in depths.values())
    told = {attack["attack"]: attack["answers"] for attack in found.summary["attacks"]}
    assert told["lens"]["unlearned.forget"][1] == 40 and told["soft-prompt"]["unlearned.forget"][1] == 20
    assert told["depth"] == {}
    untouched = audited(before, before[0], retrained=silent, attacks=["plain", "depth"], controls=FEW)
    assert all(depth == pytest.approx(0, abs=1e-3) for depth in untouched.summary["depth"].values())


def test_neighbours_that_were_lost_are_counted(before) -> None:
    """Refusals that are trained harm answers about people whom no row of the training touched."""
    held_out = RETAIN[20:]
    model = unlearned(before, "IDK+GD", 7e-4, 2, retain=RETAIN[:20])
    found = audited(before, model, attacks=["plain"], retain=RETAIN[:20], neighbours=[held_out], controls=FEW)
    told = found.summary["knowledge"]["told"]["neighbour"]
    assert told["before"] == len(held_out) and told["lost"] > 0 and told["won"] == 0
    refused = found.summary["knowledge"]["refused"]
    assert refused["unlearned.forget.plain"][0] > 10 > 0 == refused["before.forget.plain"][0]


def test_an_adapter_in_memory_is_merged_for_the_audit_alone(before) -> None:
    made = unlearner.Unlearner(
        copy.deepcopy(before[0]), before[1], forget=FORGET, retain=RETAIN, method="IDK+GD", learning_rate=3e-3,
        epochs=2, lora=True, **TRAINED,
    )  # fmt: skip
    made.train()
    with pytest.raises(UserError, match="give before="):
        made.audit(controls=OTHERS[40:])
    found = made.audit(before=before[0], controls=FEW, attacks=["plain", "nf4"])
    assert len(found.verdicts) == 4 and hasattr(made.model, "peft_config")
    assert any("lora" in name for name, _ in made.model.named_parameters())
    assert any(share < 1 for share in found.summary["unchanged_codes"]["nf4"].values())


def test_two_processes_audit_as_one_does(before, tmp_path: Path) -> None:
    """To the bit, relearning too: every process trains by itself."""
    for each in before:
        each.save_pretrained(tmp_path / "model")
    rows = [{"question": r.question, "answer": r.answer, "fact": r.fact, "subject": r.subject} for r in FEW[:50]]
    (tmp_path / "few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    typed = [
        "audit", "--model", str(tmp_path / "model"), "--before", str(tmp_path / "model"), "--forget",
        "builtin:forget:people=8", "--retain", "builtin:retain:people=8", "--attacks", "plain", "sampling",
        "nf4", "likelihood", "relearning", "lens", "soft-prompt", "--attack-options", "sampling.n=6", "--keep-samples",
        "--controls", str(tmp_path / "few.jsonl"),
    ]  # fmt: skip
    for count in (1, 2):
        together(count, tmp_path / "said", main, [*typed, "--output", str(tmp_path / str(count))])
    for name in ("audit.jsonl", "audit.json", "audit.html"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes(), name


def test_a_model_before_of_another_kind_is_told(before, tiny_llama) -> None:
    with pytest.raises(UserError, match="has another size than the model"):
        audited((tiny_llama(), before[1]), before[0])
