"""What metrics ask for is answered once, and nothing else is computed."""

import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from unlearner.config import EvaluateConfig
from unlearner.data.prompts import TEMPLATES
from unlearner.data.records import Record
from unlearner.errors import UserError
from unlearner.evaluation import backend
from unlearner.evaluation.backend import run_passes
from unlearner.evaluation.evaluate import way_of_measuring
from unlearner.evaluation.judges import load_judges
from unlearner.evaluation.metrics import METRICS, find_metrics
from unlearner.evaluation.requests import Generate, Request, Score
from unlearner.files import read_jsonl, write_jsonl
from unlearner.workflows.evaluate import evaluate

PLUGIN = "unlearner_test_plugin.metrics:WorstOfEight"
ROWS = [
    {
        "question": f"Where was {name} born?", "answer": f"In {place}.", "paraphrased_answer": f"It was in {place}.",
        "perturbed_answer": ["In Rome.", "In Lima."],
    }
    for name, place in (("Ada", "Oslo"), ("Bo", "Quito"), ("Cy", "Kyoto"))
]  # fmt: skip


@pytest.fixture(autouse=True)
def plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "plugin"))
    for name in [name for name in sys.modules if name.startswith("unlearner_test_plugin")]:
        monkeypatch.delitem(sys.modules, name)


@pytest.fixture
def model(spread_llama: Any) -> Any:
    return spread_llama


@pytest.fixture
def measured(model: Any, tiny_tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> Any:
    model.save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    write_jsonl(tmp_path / "rows.jsonl", ROWS)

    def run(*metrics: str, **options: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        output = tmp_path / "-".join(["out", *metrics]).replace(":", "_")
        summary = evaluate(EvaluateConfig(
            model=str(tmp_path / "model"), forget=str(tmp_path / "rows.jsonl"), output=str(output), judge="offline",
            retain=str(tmp_path / "rows.jsonl"), max_new_tokens=6, template="plain", metrics=list(metrics), **options,
        )).summary  # fmt: skip
        return summary, read_jsonl(output / "records.jsonl")

    return run


def test_nothing_computes_what_no_metric_asks_for(measured: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "generation_pass", lambda *_, **__: pytest.fail("nobody asked for an answer"))
    summary, rows = measured("probability")
    for row in rows:
        assert row["answer_tokens"] > 0 and 0 < row["probability"] < 1
        assert row["generation"] is row["paraphrase_nll"] is row["rouge"] is None and row["perturbed_nll"] == []
    assert summary["model_utility"] is summary["forget_efficacy"] is None
    assert summary["intervals"]["forget_efficacy"] is None
    assert [note.split(":")[0] for note in summary["notes"]] == [
        "model utility is not computed", "forget efficacy is not computed",
    ]  # fmt: skip


def test_a_metric_alone_has_the_values_it_has_among_all(measured: Any) -> None:
    all_six, together = measured()
    for name in ("rouge", "truth_ratio", "token_entropy"):
        summary, alone = measured(name)
        assert [row[name] for row in alone] == pytest.approx([row[name] for row in together], rel=1e-5)
        assert summary["sets"]["forget"][name] == pytest.approx(all_six["sets"]["forget"][name], rel=1e-5)


def test_a_metric_of_another_package_over_eight_sampled_answers(measured: Any) -> None:
    summary, rows = measured(PLUGIN, "rouge")
    assert all(0 <= row["worst_of_eight"] <= 1 for row in rows)
    assert summary["sets"]["retain"]["worst_of_eight"] == pytest.approx(sum(r["worst_of_eight"] for r in rows[3:]) / 3)
    low, high = summary["intervals"]["sets"]["forget"]["worst_of_eight"]
    assert low <= summary["sets"]["forget"]["worst_of_eight"] <= high
    again, _ = measured(PLUGIN)
    assert again["sets"]["forget"]["worst_of_eight"] == summary["sets"]["forget"]["worst_of_eight"]


def test_requests_of_all_records_are_answered_once(model: Any, tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    record = Record("Where was Ada born?", "In Oslo.")
    sampled = Generate(record.question, n=2, temperature=1.0)
    asked: list[Request] = [Score(record.question, "In Oslo."), Generate(record.question), sampled, sampled]
    seen: dict[str, int] = {}
    found = run_passes(
        model, tiny_tokenizer, TEMPLATES["plain"], [record] * 3, asked=[asked] * 3, max_new_tokens=4,
        progress=lambda name, rows, total: seen.update({name: total}),
    )  # fmt: skip
    assert seen == {"answers": 1, "generation": 1, "generation 2": 1}
    assert found[0] == found[1] == found[2]
    assert found[0].scored(Score(record.question, "In Oslo.")).nll == found[0].answer_nll
    assert [answer.text for answer in found[0].written(Generate(record.question))] == [found[0].generation]
    assert len(found[0].written(sampled)) == 2


def test_an_answer_goes_on_from_its_forced_beginning(model: Any, tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    record, template = Record("Where was Ada born?", "In Oslo."), TEMPLATES["plain"]
    begun = Generate(record.question, prefix="In the city of", max_new_tokens=5)
    (example,) = run_passes(model, tiny_tokenizer, template, [record], asked=[[begun]])
    prompt = template.question_part(record.question) + template.answer_part(record.question, "In the city of")
    ids = tiny_tokenizer(prompt, return_tensors="pt")
    new = model.generate(**ids, max_new_tokens=5, do_sample=False, pad_token_id=0)[0, ids["input_ids"].shape[1] :]
    (answer,) = example.written(begun)
    assert answer.text == tiny_tokenizer.decode(new, skip_special_tokens=True).strip()
    assert example.generation == "" and example.answer_nll is None


def test_metrics_by_name() -> None:
    assert find_metrics([]) == list(METRICS.values())
    assert [metric.name for metric in find_metrics(["entailment", PLUGIN])] == ["entailment", "worst_of_eight"]
    for wrong, said in (
        (["rougr"], "did you mean 'rouge'"), (["rouge", "rouge"], "rouge twice"), (["json:dumps"], "is not a metric"),
        (["unlearner_test_plugin.metrics:Best"], "no 'Best'"), (["no_such_module:Best"], "cannot be imported"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=said):
            find_metrics(wrong)


def test_a_retrained_model_needs_truth_ratios(measured: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="add truth_ratio"):
        measured("rouge", retrained=str(tmp_path / "model"))
    measured("rouge")
    with pytest.raises(UserError, match="without truth_ratio"):
        measured("truth_ratio", retrained=str(tmp_path / "out-rouge"))


def test_the_way_of_measuring_tells_ways_apart() -> None:
    judges, template = load_judges("offline"), TEMPLATES["plain"]

    def way(**options: Any) -> str:
        config = EvaluateConfig(model="m", output="o", **options)
        return way_of_measuring(config, config, template, judges)

    same = [way(), way(metrics=list(METRICS)), way(eval_tokens=5), way(eval_limit=2), way(seed=3)]
    assert set(same) == {way()}
    others: list[dict[str, Any]] = [
        {"metrics": ["rouge"]}, {"metrics": [PLUGIN]}, {"max_new_tokens": 5}, {"eval_max_length": 9},
        {"precision": "bf16"}, {"entailment": "real-world"}, {"lm_eval": ["piqa"]},
    ]  # fmt: skip
    assert len({way(), *(way(**other) for other in others)}) == 1 + len(others)
