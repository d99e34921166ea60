"""The summary against hand-worked numbers, and its intervals against the plain bootstrap."""

import json
import math

import numpy as np
import pytest

from unlearner.data.records import Record
from unlearner.errors import UserError
from unlearner.evaluation.examples import EvalSet, Example
from unlearner.evaluation.judges import Judges
from unlearner.evaluation.metrics import METRICS
from unlearner.evaluation.summary import per_example, summarise

NAMES = {"embedding_model": "some embeddings", "judge": "some judge"}


def row(subject: str | None = None, **values: float | None) -> dict:
    return {"subject": subject, **dict.fromkeys(METRICS, 0.5), **values}


class FakeModels:
    name = "fake"

    def embed(self, texts: list[str]) -> np.ndarray:
        return np.ones((len(texts), 1), dtype=np.float32)

    def entailed(self, examples: list[Example], eval_set: EvalSet) -> list[bool]:
        return [True] * len(examples)


FAKE = Judges(FakeModels(), FakeModels())  # type: ignore[arg-type]


def test_a_row_holds_what_the_metrics_were_computed_from():
    record = Record("Who?", "Ada", "It is Ada", ("Bob", "Eve"), "It was Ada.", subject="Ada L.")
    seen = Example(record, 1.0, 2, "Ada", (3, 4), 5.0, 6, (7.0, 8.0), (9, 10))
    (made,) = per_example([seen], EvalSet("retain", (record,)), FAKE)
    assert {key: made[key] for key in made if key not in METRICS} == {
        "id": "3f661360d83a0ace",
        "set": "retain",
        "index": 0,
        "question": "Who?",
        "answer": "Ada",
        "original_answer": "It was Ada.",
        "subject": "Ada L.",
        "generation": "Ada",
        "answer_nll": 1.0,
        "answer_tokens": 2,
        "paraphrase_nll": 5.0,
        "paraphrase_tokens": 6,
        "perturbed_nll": [7.0, 8.0],
        "perturbed_tokens": [9, 10],
    }
    assert made["rouge"] == made["cosine_similarity"] == made["entailment"] == made["token_entropy"] == 1
    assert made["probability"] == math.exp(-0.5)
    assert json.loads(json.dumps(made)) == made


def test_an_undefined_truth_ratio_is_null_in_the_row():
    plain = Example(Record(None, "A document."), 1.0, 2, "A", (3,))
    (made,) = per_example([plain], EvalSet("retain", ()), FAKE)
    assert made["truth_ratio"] is None


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (Example(Record("?", "a"), math.nan, 2, "", ()), "row 0 of the set 'retain'.*not a finite number"),
        (Example(Record("?", "a"), 1.0, 2, "", (), perturbed_nll=(math.inf,), perturbed_tokens=(1,)), "not a finite"),
        (Example(Record("?", "a"), 0.0, 0, "", ()), "max_length"),
        (Example(Record("?", "a"), 1.0, 2, "", (), paraphrase_nll=0.0), "max_length"),
    ],
)
def test_broken_measurements_are_an_error_not_a_number(broken: Example, message: str):
    with pytest.raises(UserError, match=message):
        per_example([broken], EvalSet("retain", ()), FAKE)


def test_figures_by_hand():
    rows = {
        "forget": [row(rouge=0.2, probability=0.1), row(rouge=0.4, probability=0.3)],
        "retain": [row(rouge=1.0), row(rouge=0.0)],
        "world_facts": [row(rouge=0.25)],
    }
    summary = summarise(rows, **NAMES)
    # Eleven values of 1/2 and one of 1/4: 12 / (11 · 2 + 4).
    assert summary["model_utility"] == pytest.approx(12 / 26, rel=1e-12)
    assert summary["model_utility_retain"] == pytest.approx(0.5, rel=1e-12)
    # Mean of rouge 0.3, probability 0.2, and three times 0.5; token entropy has no part in it.
    assert summary["forget_efficacy"] == pytest.approx(1 - 2.0 / 5, rel=1e-12)
    assert summary["sets"]["forget"]["rouge"] == pytest.approx(0.3)
    assert summary["counts"] == {"forget": 2, "retain": 2, "world_facts": 1}
    assert summary["notes"] == []
    assert (summary["embedding_model"], summary["judge"]) == ("some embeddings", "some judge")
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_token_entropy_of_the_forget_set_leaves_forget_efficacy_alone():
    low, high = (summarise({"forget": [row(token_entropy=value)]}, **NAMES) for value in (0.0, 1.0))
    assert low["forget_efficacy"] == high["forget_efficacy"]
    assert low["sets"]["forget"]["token_entropy"] == 0


def test_model_utility_is_zero_if_one_figure_is():
    summary = summarise({"retain": [row(entailment=0.0), row(entailment=0.0)]}, **NAMES)
    assert summary["model_utility"] == 0
    assert summary["intervals"]["model_utility"] == [0, 0]


def test_what_cannot_be_computed_is_null():
    only_forget, only_facts = (summarise({name: [row()]}, **NAMES) for name in ("forget", "world_facts"))
    assert only_forget["model_utility"] is only_forget["model_utility_retain"] is None
    assert only_forget["intervals"]["model_utility"] is None
    assert only_facts["forget_efficacy"] is only_facts["model_utility_retain"] is None
    with pytest.raises(UserError, match="'retain' has no rows"):
        summarise({"retain": []}, **NAMES)


def test_undefined_truth_ratios_are_left_out_with_a_note():
    rows = {
        "forget": [row(truth_ratio=None, rouge=0.1)] * 3,
        "retain": [row(truth_ratio=0.2), row(truth_ratio=None), row(truth_ratio=0.4)],
    }
    summary = summarise(rows, **NAMES)
    assert summary["sets"]["forget"]["truth_ratio"] is None
    assert summary["intervals"]["sets"]["forget"]["truth_ratio"] is None
    assert summary["forget_efficacy"] == pytest.approx(1 - (0.1 + 3 * 0.5) / 4)
    assert summary["sets"]["retain"]["truth_ratio"] == pytest.approx(0.3)
    assert summary["model_utility"] == pytest.approx(6 / (5 * 2 + 1 / 0.3))
    assert summary["notes"] == [
        "truth_ratio on 'forget' is undefined, as no row has wrong answers; forget efficacy is computed without it.",
        "truth_ratio on 'retain' covers 2 of 3 rows; the others have no wrong answers.",
    ]
    assert json.dumps(summary, allow_nan=False)


def many(count: int, subjects: int | None = None) -> list[dict]:
    """Rows whose rouge depends on the subject alone."""
    generator = np.random.default_rng(1)
    by_subject = generator.uniform(0.2, 1, size=subjects or count)
    return [
        row(f"person {i % subjects}" if subjects else None, rouge=float(by_subject[i % len(by_subject)]))
        for i in range(count)
    ]


def test_the_interval_of_a_mean_is_the_textbook_one():
    rows = many(400)
    low, high = summarise({"retain": rows}, **NAMES)["intervals"]["sets"]["retain"]["rouge"]
    values = np.array([each["rouge"] for each in rows])
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=half / 10)


def test_rows_about_one_subject_are_drawn_together():
    def width(rows: list[dict]) -> float:
        low, high = summarise({"retain": rows}, **NAMES)["intervals"]["sets"]["retain"]["rouge"]
        return high - low

    clustered = many(400, subjects=20)
    alone = [{**each, "subject": None} for each in clustered]
    # Twenty rows that always say the same are worth one: √20 times the width.
    assert width(clustered) / width(alone) == pytest.approx(math.sqrt(20), rel=0.15)
    one_subject = [{**each, "subject": "the only one"} for each in clustered]
    assert width(one_subject) == width(alone)


def test_the_intervals_of_the_aggregates_are_plain_bootstraps_of_them():
    rows = {"forget": many(50, subjects=10), "retain": many(60), "world_facts": many(30)}
    intervals = summarise(rows, **NAMES)["intervals"]
    generator = np.random.default_rng(5)

    def resample(which: list[dict], groups: int) -> float:
        members = [which[g::groups] for g in range(groups)]
        drawn = [each["rouge"] for g in generator.integers(groups, size=groups) for each in members[g]]
        return float(np.mean(drawn))

    utility, efficacy = [], []
    for _ in range(2000):
        retain, facts = resample(rows["retain"], 60), resample(rows["world_facts"], 30)
        utility.append(12 / (10 / 0.5 + 1 / retain + 1 / facts))
        efficacy.append(1 - (resample(rows["forget"], 10) + 4 * 0.5) / 5)
    assert intervals["model_utility"] == pytest.approx(np.percentile(utility, [2.5, 97.5]).tolist(), abs=2e-3)
    assert intervals["forget_efficacy"] == pytest.approx(np.percentile(efficacy, [2.5, 97.5]).tolist(), abs=8e-3)


def test_the_summary_repeats_and_a_set_does_not_depend_on_the_others():
    rows = {"forget": many(50, subjects=10), "retain": many(60)}
    first = summarise(rows, **NAMES)
    assert summarise(rows, **NAMES) == first
    assert summarise(rows, **NAMES, seed=1)["intervals"] != first["intervals"]
    alone = summarise({"retain": rows["retain"]}, **NAMES)
    assert alone["intervals"]["sets"]["retain"] == first["intervals"]["sets"]["retain"]


def test_large_sets_are_drawn_in_blocks():
    rows = many(10_000)  # drawn in five blocks
    low, high = summarise({"retain": rows}, **NAMES)["intervals"]["sets"]["retain"]["rouge"]
    assert 0 < high - low < 0.01
