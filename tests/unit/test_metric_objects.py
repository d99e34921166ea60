"""Metrics that are given as objects of Python: their options, their classes, and what they may ask and answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

import unlearner
from unlearner.config import EvaluateConfig
from unlearner.data.prompts import TEMPLATES
from unlearner.data.records import Record
from unlearner.errors import UserError
from unlearner.evaluation import evaluate
from unlearner.evaluation.evaluate import way_of_measuring
from unlearner.evaluation.examples import EvalSet, Example
from unlearner.evaluation.judges import Judges, load_judges
from unlearner.evaluation.metrics.base import Metric
from unlearner.evaluation.requests import Request
from unlearner.files import read_json
from unlearner.settings import metric_as_text

ROWS = [{"question": f"Where was {name} born?", "answer": f"In {name}ville."} for name in ("Ada", "Bo", "Cy")]


class Own(Metric):
    name = "own"
    title = short = "Own"
    formula = "x"
    source = "me"

    def requests(self, record: Record, eval_set: EvalSet) -> Sequence[Request]:
        return []


@dataclass(frozen=True)
class Tenths(Own):
    k: int = 2

    def values(self, examples: Sequence[Example], eval_set: EvalSet, judges: Judges) -> list[float]:
        return [self.k / 10 for _ in examples]


class Plain(Own):
    def __init__(self, k: int) -> None:
        self.k = k

    def values(self, examples: Sequence[Example], eval_set: EvalSet, judges: Judges) -> list[float]:
        return [self.k / 10]


@pytest.fixture
def measured(spread_llama: Any, tiny_tokenizer: PreTrainedTokenizerBase) -> Any:
    def run(metrics: Any, **options: Any) -> Any:
        return unlearner.evaluate(
            spread_llama, tokenizer=tiny_tokenizer, forget=ROWS, metrics=metrics, judge="offline", max_new_tokens=4,
            template="plain", **options,
        )  # fmt: skip

    return run


def test_other_options_of_a_metric_are_another_evaluation(measured: Any, tmp_path: Path) -> None:
    output = str(tmp_path / "out")
    first = measured([Tenths(2)], output=output)
    assert first.summary["sets"]["forget"]["own"] == pytest.approx(0.2)
    assert read_json(tmp_path / "out" / "run.json")["config"]["metrics"] == [f"own ({__name__}:Tenths(k=2))"]
    assert "Tenths(k=2)" in (tmp_path / "out" / "config.yaml").read_text()
    assert measured([Tenths(2)], output=output).summary == first.summary
    with pytest.raises(UserError, match=r"another run .*k=2.*k=5"):
        measured([Tenths(5)], output=output)


def test_rows_are_shared_between_like_metrics_only(monkeypatch: pytest.MonkeyPatch) -> None:
    judges, template = load_judges("offline"), TEMPLATES["plain"]

    def way(*metrics: Any) -> str:
        config = EvaluateConfig(model="m", output="o", metrics=list(metrics))
        return way_of_measuring(config, config, template, judges)

    assert way(Tenths(2)) == way(Tenths(2)) and way(Plain(2)) == way(Plain(2))
    assert len({way(each) for each in (Tenths(2), Tenths(5), Plain(2), Plain(5))}) == 4
    # What was hashed before options counted, so that rows kept by an earlier release are found.
    judged = [judges.embedding_model, judges.judge]
    config = EvaluateConfig(model="m", output="o", metrics=["rouge"])
    monkeypatch.setattr(evaluate, "sha256", lambda content: [content])
    (content,) = way_of_measuring(config, config, template, judges)
    assert len(content) == 6 and content[4:] == judged
    assert [len(metric) for metric in content[1]] == [3]


def test_a_metric_as_text_has_no_address_in_it() -> None:
    odd = Plain(2)
    vars(odd).update(words={"b", "a"}, rule=len, thing=object(), pair=(1, {"x": None}))
    assert metric_as_text(odd) == (
        f"own ({__name__}:Plain(k=2, words={{'a', 'b'}}, rule=builtins:len, thing=object, pair=[1, {{'x': None}}]))"
    )


def test_a_metric_may_be_a_class_or_stand_alone(measured: Any) -> None:
    for metrics in ([Tenths], Tenths, Tenths(2), ["rouge", Tenths]):
        assert measured(metrics).summary["sets"]["forget"]["own"] == pytest.approx(0.2)
    with pytest.raises(UserError, match=r"class Plain, which needs options .*'k'"):
        measured([Plain])


def test_too_few_values_are_one_sentence(measured: Any) -> None:
    with pytest.raises(UserError, match="metric 'own' gave 1 values for the 3 rows of the set 'forget'"):
        measured([Plain(2)])
