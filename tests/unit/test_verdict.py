"""The verdict and its cautions: what is claimed, and what is not."""

from dataclasses import replace
from typing import Any

import pytest

from unlearner.evaluation.metrics import METRICS
from unlearner.report.contents import Measurement, Part, Report, Run
from unlearner.report.titles import described, renamed, set_names
from unlearner.report.verdict import Verdict, verdict


def measured(efficacy: float, entailed: float, rows: list[dict[str, Any]] | None = None, **more: Any) -> Measurement:
    """Forty questions to forget; the interval is ±0.02."""
    sets = {"forget": {**dict.fromkeys(METRICS, 0.1), "entailment": entailed}}
    around = [efficacy - 0.02, efficacy + 0.02]
    return Measurement(
        {
            "forget_efficacy": efficacy, "model_utility": 0.9, "sets": sets, "counts": {"forget": 40},
            "judge": "offline", "embedding_model": "sentence-transformers/all-MiniLM-L6-v2",
            "intervals": {"forget_efficacy": around}, **more,
        },
        rows or [],
    )  # fmt: skip


def run(method: str, after: Measurement, before: Measurement, **config: Any) -> Run:
    config = {"method": method, "learning_rate": 1e-5, **config}
    log = [{"step": step} for step in range(1, 5)]
    return Run(method, "forget", {"config": config}, before, {}, after, log, label=method)


def told(*runs: Run) -> Verdict:
    return verdict(Report([Part("", list(runs))], [], []))


BEFORE = measured(0.1, 1.0)


def test_the_higher_efficacy_is_not_called_more_forgetting() -> None:
    found = told(run("ME+GD", measured(0.813, 0.1), BEFORE), run("IDK+AP", measured(0.769, 0.0), BEFORE))
    assert found.sentences == [
        "Of the two runs, ME+GD has the higher forget efficacy, 0.813 (4 of 40 questions still answered correctly, 40 "
        "before; fewest after IDK+AP, 0), and keeps all of its model utility.",
        "Both keep at least 90% of the model utility.",
    ]
    assert found.judged == "Judged by the offline judge, not by the paper's."
    assert found.warnings == []


def test_where_nothing_was_forgotten_none_is_the_best() -> None:
    """Neither a trifle nor what lies within both intervals counts."""
    runs = [run("ME+GD", measured(0.104, 1.0), BEFORE), run("IDK+AP", measured(0.13, 0.975), BEFORE)]
    found = told(*runs)
    assert found.sentences == [
        "Neither of the two runs forgot anything to speak of.",
        "The highest forget efficacy is that of IDK+AP, 0.130 (39 of 40 questions still answered correctly, 40 "
        "before); before unlearning it was 0.100.",
    ]
    assert found.warnings[0] == (
        "ME+GD and IDK+AP had no effect beyond chance, all in fewer than 20 steps of training: raise "
        "--epochs or lower --gradient-accumulation-steps, for more steps, or raise --learning-rate."
    )
    assert told(runs[0]).warnings[0] == (
        "ME+GD had no effect beyond chance (forget efficacy 0.100 before, 0.104 after) in only 4 "
        "steps of training: raise --epochs or lower --gradient-accumulation-steps, for more steps, or raise "
        "--learning-rate (it was 1e-05)."
    )
    assert told(runs[0]).sentences[0].startswith("Hardly anything in the forget set is forgotten")
    assert told(*runs, run("GA+GD", measured(0.5, 0.2), BEFORE)).sentences[0].startswith("Of the three runs, GA+GD has")


def test_a_bench_in_which_nothing_was_forgotten_says_so() -> None:
    runs = [run(method, measured(0.104, 1.0), BEFORE) for method in ("ME+GD", "IDK+AP", "GA+GD")]
    found = verdict(Report([Part("people4", runs, seeds=[1])], [{"scenario": "fictitious"}], []))
    assert found.sentences == [
        "None of the three methods forgot anything to speak of.",
        "Forget efficacy is 0.104 after each (40 of 40 questions still answered correctly, 40 before); before "
        "unlearning it was 0.100.",
    ]


def test_a_judge_is_named_only_where_one_was_asked() -> None:
    sets = {"forget": {**dict.fromkeys(METRICS, None), "rouge": 0.5}}
    one = measured(0.1, 1.0, sets=sets, forget_efficacy=None, model_utility=None, intervals={})
    found = told(run("ME+GD", one, one))
    assert found.judged == ""
    assert found.sentences[0].startswith("Not everything that makes up forget efficacy was measured (--metrics)")
    assert not any("judge" in caution for caution in found.cautions)


def rows(subjects: int, name: str = "forget") -> list[dict[str, Any]]:
    return [
        {
            "id": f"{name} {i}", "set": name, "question": f"{i}?", "answer": f"It is {i}.", "generation": f"It is {i}.",
            "subject": f"person {i % subjects}",
        }
        for i in range(40)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("subjects", "sentence"),
    [(1, "are about one subject"), (4, "are about only four subjects"), (9, "only nine subjects"), (10, None)],
)
def test_the_caution_counts_subjects(subjects: int, sentence: str | None) -> None:
    found = told(run("ME+GD", measured(0.8, 0.0, rows(subjects)), BEFORE)).warnings
    assert any(sentence in warning for warning in found) if sentence else not any("subject" in w for w in found)


def test_what_is_both_forgotten_and_kept_is_told() -> None:
    both = rows(20) + [{**row, "set": "retain"} for row in rows(20)[:30]]
    some = told(run("ME+GD", measured(0.8, 0.0, both), BEFORE)).cautions
    assert any(c.startswith("30 of 40 forget-set questions of ME+GD are also in the retain set") for c in some)
    same = run("ME+GD", measured(0.8, 0.0), BEFORE)
    same = replace(same, about={**same.about, "hashes": {"forget": "1", "retain": "1"}})
    assert any("The forget set and the retain set of ME+GD are the same" in c for c in told(same).cautions)
    assert not any("retain set" in c for c in told(run("ME+GD", measured(0.8, 0.0, rows(20)), BEFORE)).cautions)


def test_broken_answers_are_a_warning() -> None:
    salad = [{**row, "generation": "it is is born born born"} for row in rows(20)]
    found = told(run("ME+GD", measured(0.8, 0.0, salad), measured(0.1, 1.0, rows(20)))).warnings
    assert found[0].startswith(
        "By simple rules, answers to forget-set questions are broken: after ME+GD all 40: 40 repeat "
        "themselves, 40 are not sentences."
    )
    # The model wrote no better before: nothing was done.
    assert told(run("ME+GD", measured(0.8, 0.0, salad), measured(0.1, 1.0, salad))).warnings == []


def test_the_built_in_neighbours_are_no_real_authors() -> None:
    names = set_names({"real_authors": "builtin:neighbours"})
    summary = {
        "sets": {"real_authors": {"rouge": 0.5}}, "counts": {"real_authors": 40}, "model_utility": 0.5,
        "intervals": {"model_utility": [0, 1], "sets": {"real_authors": {"rouge": [0, 1]}}},
        "notes": ["truth_ratio on 'real_authors' is undefined."],
    }  # fmt: skip
    made = renamed(summary, names)
    assert "real_authors" not in str(made) and str(made).count("neighbours") == 4
    assert set_names({"real_authors": "tofu:real_authors_perturbed"}) == {}


def test_metrics_of_other_packages_come_with_their_names() -> None:
    sets = {"forget": {"worst_of_eight": 0.5, "rouge": 0.4, "truth_ratio": None}}
    about = {"title": "Worst of eight", "short": "Worst", "formula": "max", "source": "test"}
    one = measured(0.1, 1.0, sets=sets, metrics={"worst_of_eight": about})
    assert {name: each.title for name, each in described([one]).items()} == {
        "rouge": "ROUGE", "worst_of_eight": "Worst of eight"
    }  # fmt: skip
