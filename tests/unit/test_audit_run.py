"""Small audits in memory, of models that know nothing: what they ask, leave out and count."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from transformers import GPT2Config, GPT2LMHeadModel

from unlearner.audit import run as audit_run
from unlearner.audit.attack import Cost, Finding, Outcome, Question, Target, WeightAttack
from unlearner.audit.attacks.lens import Lens
from unlearner.audit.attacks.relearning import Relearning
from unlearner.audit.attacks.rounded import Rounded
from unlearner.audit.attacks.soft_prompt import SoftPrompt
from unlearner.audit.attacks.template import Template
from unlearner.audit.detector import find_detector
from unlearner.audit.detector_errors import SHIFTS, detector_errors
from unlearner.audit.run import Audit, audit
from unlearner.commands.tables import print_audit
from unlearner.config import AuditConfig
from unlearner.data.profiles import builtin
from unlearner.data.records import Record
from unlearner.errors import UserError
from unlearner.files import read_json, write_json
from unlearner.options import EvalOptions
from unlearner.report.audit_tables import access_levels
from unlearner.report.audits import _left_out, write_audit_page
from unlearner.results.layout import AuditDirectory
from unlearner.settings import resolved

FORGET = builtin("forget", people=4, forget=1)
OTHERS = builtin("retain", people=8, forget=4)
PLAIN = Template("plain", "{q}", max_new_tokens=4)


def audited(model: Any, tokenizer: Any, **options: Any) -> Audit:
    given = {"forget": FORGET, "retain": OTHERS[:10], "controls": OTHERS[10:], "output": None, **options}
    return audit(AuditConfig(model=model, before=model, precision="fp32", **given), tokenizer=tokenizer)


def test_the_lens_asks_nothing_where_no_row_has_three_wrong_answers(tiny_llama, tiny_tokenizer) -> None:
    bare = [[dataclasses.replace(row, perturbed_answer=()) for row in rows] for rows in (FORGET, OTHERS[10:])]
    found = audited(tiny_llama(), tiny_tokenizer, forget=bare[0], controls=bare[1], attacks=[PLAIN, Lens()])
    assert not any(row["attack"] == "lens" for row in found.rows) and found.verdicts


def test_questions_that_are_too_long_are_not_scored_and_do_not_end_the_audit(tiny_llama, tiny_tokenizer) -> None:
    """One of which the question is too long, and one of which a wrong answer is, so that as an option it leaves no
    room."""
    wrong = ("word " * 300, *FORGET[1].perturbed_answer[1:])
    rows = [
        dataclasses.replace(FORGET[0], question="So then, " * 150 + str(FORGET[0].question)),
        dataclasses.replace(FORGET[1], perturbed_answer=wrong), *FORGET[2:],
    ]  # fmt: skip
    whole = [PLAIN, "multiple-choice", "likelihood", Lens(), Relearning(steps=(0, 1), max_new_tokens=4)]
    found = audited(tiny_llama(), tiny_tokenizer, forget=rows, attacks=whole, max_length=300)
    assert found.summary["too_long"] == {"multiple-choice": 2, "rank": 1}
    for attack, asked in (("plain", 0), ("multiple-choice", 2), ("rank", 1), ("lens", 1)):
        of = [r for r in found.rows if (r["model"], r["group"], r["attack"]) == ("unlearned", "forget", attack)]
        assert len(of) == len(FORGET) - asked, attack
    [told] = [s for s in _left_out(found.summary) if "too long" in s]
    assert told == "Questions too long for --max-length, and so not asked: 2 by multiple-choice, 1 by the rank test."


def test_what_no_row_fits_was_not_made_and_is_named(tiny_llama, tiny_tokenizer, tmp_path, capsys) -> None:
    """Rows without subjects and wrong answers; then one fact a subject, and fewer controls than subjects."""
    bare = [
        [dataclasses.replace(row, subject=name and row.subject, perturbed_answer=()) for row in rows]
        for rows, name in ((FORGET, None), (OTHERS[10:], "of controls"))
    ]
    role = Template("role", "Of {name}: {q}", max_new_tokens=4)
    relearning = Relearning(steps=(0, 1), max_new_tokens=4)
    attacks = [PLAIN, role, "multiple-choice", "yes-or-no", Lens(), relearning, SoftPrompt(steps=1, max_new_tokens=4)]
    found = audited(tiny_llama(), tiny_tokenizer, forget=bare[0], controls=bare[1], attacks=attacks).summary
    without = ["role", "multiple-choice", "yes-or-no", "lens", "relearning", "soft-prompt"]
    assert found["untested"] == [*without, "rank"]
    assert [level["made"] for level in access_levels(found)] == [1, 0, 0, 0, 0]
    assert [len(level["attacks"]) for level in access_levels(found)] == [1, 0, 0, 0, 0]
    said = "\n".join(_left_out(found))
    assert (
        "No row of the forget set can be used for role; needed: questions with the subject's name in its rows." in said
    )
    assert "can be used for multiple-choice, lens; needed: questions with three wrong answers." in said
    assert "There is no rank test" in said and "can be used for relearning, soft-prompt; needed: questions, not" in said
    print_audit(found, tmp_path)
    told = capsys.readouterr().out
    assert "can be used for multiple-choice, lens" in told and "rank p" in told and "1.000   1.000" not in told

    more = builtin("retain", people=11, forget=4)
    few = {"forget": OTHERS, "controls": [row for row in more if row not in OTHERS], "retain": FORGET}
    found = audited(tiny_llama(), tiny_tokenizer, **few, attacks=[PLAIN, relearning]).summary
    assert found["untested"] == [] and "subjects" not in found["relearning"]["unlearned"]
    assert "Relearning was not compared with controls" in "\n".join(_left_out(found))


def test_gpt2_can_be_audited_and_rounded(tiny_tokenizer) -> None:
    made = GPT2Config(vocab_size=len(tiny_tokenizer), n_embd=16, n_layer=2, n_head=2, n_positions=256)
    found = audited(GPT2LMHeadModel(made), tiny_tokenizer, attacks=[PLAIN, Rounded("nf4", max_new_tokens=4)])
    assert any(row["attack"] == "nf4" for row in found.rows)
    assert list(found.summary["unchanged_codes"]["nf4"]) == ["transformer.h.0", "transformer.h.1"]


def test_without_linear_layers_rounding_is_left_out_by_name(
    tiny_llama, tiny_tokenizer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def nothing(model: Any) -> None:
        raise UserError("it has no linear layers to round.")

    monkeypatch.setattr(audit_run, "rounded_layers", nothing)
    found = audited(tiny_llama(), tiny_tokenizer, attacks=[PLAIN, Rounded("nf4"), Rounded("int8")])
    assert [attack["attack"] for attack in found.summary["attacks"]] == ["plain"]
    assert found.summary["unchanged_codes"] == {}
    assert "no linear layers to round: nf4, int8" in capfd.readouterr().err


def test_general_tasks_need_a_directory_and_are_no_part_of_an_audit_without_them(tiny_llama, tiny_tokenizer) -> None:
    with pytest.raises(UserError, match="--lm-eval writes files: give --output"):
        audited(tiny_llama(), tiny_tokenizer, attacks=[PLAIN], lm_eval=["no-such-task"])
    for config in (AuditConfig(model="", output="", lm_eval_limit=0), EvalOptions(lm_eval_limit=0)):
        with pytest.raises(UserError, match="--lm-eval-limit must be"):
            config.check_lm_eval()
    assert "lm_eval" not in resolved(AuditConfig(model="", output=""))
    assert resolved(AuditConfig(model="", output="", lm_eval=["piqa"]))["lm_eval"] == ["piqa"]


def test_two_decoders_in_one_audit_and_again_after_it_was_cut_short(tiny_llama, tiny_tokenizer, tmp_path) -> None:
    model, two = tiny_llama(), [PLAIN, "sampling:n=3,max_new_tokens=4", "sampling:top_k=2,n=3,max_new_tokens=4"]
    whole = audited(model, tiny_tokenizer, attacks=two)
    labels = ["plain", "sampling", "sampling:top_k=2"]
    assert [attack["attack"] for attack in whole.summary["attacks"]] == labels
    drawn = [[r["score"] for r in whole.rows if r["attack"] == label] for label in labels[1:]]
    assert len(drawn[0]) == len(drawn[1]) and drawn[0] != drawn[1]
    made = audit_run._Run._attacked

    def cut_short(self: Any, name: str, attack: Any) -> Any:
        if (name, attack.label) == ("before", "sampling:top_k=2"):
            raise KeyboardInterrupt
        return made(self, name, attack)

    with pytest.MonkeyPatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(audit_run._Run, "_attacked", cut_short)
        audited(model, tiny_tokenizer, attacks=two, output=str(tmp_path / "audit"))
    parts = AuditDirectory(tmp_path / "audit").parts
    assert list(parts.rglob("passes*.jsonl")) and parts.stat().st_mode & 0o777 == 0o700  # all answers, until the end
    again = audited(model, tiny_tokenizer, attacks=two, output=str(tmp_path / "audit"))
    assert again.rows == whole.rows and again.summary == whole.summary and not parts.exists()


def test_kept_answers_are_for_their_owner_alone(tiny_llama, tiny_tokenizer, tmp_path) -> None:
    pytest.importorskip("jinja2")
    for name, keeps in (("with", True), ("without", False)):
        folder = AuditDirectory(tmp_path / name)
        audited(tiny_llama(), tiny_tokenizer, attacks=[PLAIN], output=str(folder.path), keep_samples=keeps)
        for file in (folder.rows, write_audit_page(folder.path)):
            assert (file.stat().st_mode & 0o777 == 0o600) == keeps, file


def test_what_was_begun_with_another_attack_of_that_name_is_made_again(tiny_llama, tiny_tokenizer, tmp_path) -> None:
    """Other options, or other groups, as an earlier version may have had them; what is alike is not made again."""
    model, output = tiny_llama(), tmp_path / "audit"
    role = Template("role", "As a friend: {q}", max_new_tokens=4)
    first, second = ([PLAIN, Template("own", text, max_new_tokens=4), role] for text in ("{q}", "Well: {q}"))
    whole = audited(model, tiny_tokenizer, attacks=second)
    made, done = audit_run._Run._attacked, []

    def watched(self: Any, name: str, attack: Any) -> Any:
        if name == "before" and not done[3:]:
            raise KeyboardInterrupt
        done.append((name, attack.label))
        return made(self, name, attack)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(audit_run._Run, "_attacked", watched)
        with pytest.raises(KeyboardInterrupt):
            audited(model, tiny_tokenizer, attacks=first, output=str(output))
        part = AuditDirectory(output).part("unlearned", "plain")
        held = read_json(part)
        del held["alike"]["asks"]["control"]
        write_json(part, held | {"rows": [row for row in held["rows"] if row["group"] != "control"]})
        done.append(("cut", "short"))
        again = audited(model, tiny_tokenizer, attacks=second, output=str(output))
    assert again.rows == whole.rows and again.summary == whole.summary
    assert [label for name, label in done[4:] if name == "unlearned"] == ["plain", "own"]


def test_templates_that_changed_are_another_audit(tiny_llama, tiny_tokenizer, tmp_path) -> None:
    own = tmp_path / "own.txt"
    given = {"attacks": [PLAIN], "templates": str(own), "output": str(tmp_path / "audit")}
    own.write_text("Well: {q}\n")
    model = tiny_llama()
    made = audited(model, tiny_tokenizer, **given)
    assert made.summary["attacks"][1]["options"]["text"] == "Well: {q}"
    assert audited(model, tiny_tokenizer, **given).rows == made.rows
    own.write_text("Well then: {q}\n")
    with pytest.raises(UserError, match="was begun with other contents of the templates"):
        audited(model, tiny_tokenizer, **given)


def test_an_attack_of_another_package_is_planned_by_what_it_says_that_it_costs(tiny_llama, tiny_tokenizer) -> None:
    class Dear(Template):
        def cost(self, asked: Mapping[str, int]) -> Cost:
            return Cost(rows=1e9, trainings=1e9)

    found = audited(tiny_llama(), tiny_tokenizer, attacks=[PLAIN, Dear("dear", "{q}", max_new_tokens=4)], budget="5")
    assert found.summary["budget"]["left_out"] == ["dear"]


@dataclasses.dataclass(frozen=True)
class Twice(WeightAttack):
    """Two findings a question, of which the second leaks."""

    name = "twice"
    title = "Twice"
    access = "weights"
    source = "here"

    def findings(self, target: Target) -> Iterator[Finding]:
        for group in ("forget", "control"):
            for hit in (False, group == "forget"):
                yield from (Finding(group, q, Outcome(hit, float(hit)), {"hit": hit}) for q in target.questions[group])


def test_several_findings_of_a_question_all_count(tiny_llama, tiny_tokenizer) -> None:
    found = audited(tiny_llama(), tiny_tokenizer, attacks=[PLAIN, Twice()])
    attack = found.summary["attacks"][1]
    assert attack["answers"]["unlearned.forget"] == [len(FORGET), 2 * len(FORGET)]
    assert {row["sample"] for row in found.rows if row["attack"] == "twice"} == {0, 1}


def question(place: int, city: str) -> Question:
    record = Record("Where?", f"In {city}.", subject=f"person {place}", fact=city)
    return Question(record.subject or "", record, find_detector(record))


def test_detector_errors_are_counted_in_answers_about_others_and_about_controls() -> None:
    forget = [("forget", question(i, f"City{i}"), f"It is in City{i}.") for i in range(4)]
    controls = [("control", question(10 + i, "Nowhere"), "Maybe in City0.") for i in range(3)]
    found = detector_errors([*forget, *controls])
    assert (found["false_alarms_on_others"].wrong, found["false_alarms_on_others"].of) == (0, 12)
    assert (found["false_alarms_on_controls"].wrong, found["false_alarms_on_controls"].of) == (3, 12)
    assert (found["misses_before"].wrong, found["misses_before"].of) == (0, 4)


def test_detector_errors_do_not_grow_with_the_square_of_the_questions() -> None:
    many = [("forget", question(i, f"City{i}"), f"It is in City{i}.") for i in range(2_000)]
    found = detector_errors(many)["false_alarms_on_others"]
    assert found.wrong == 0 and 2_000 * (SHIFTS - 2) < found.of <= 2_000 * 2 * SHIFTS
