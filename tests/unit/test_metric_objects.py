"""Metrics that are given as objects of Python: their options, their classes, and what they may ask and answer."""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from transformers import PreTrainedTokenizerBase

import unlearner
from unlearner.commands.tables import summary_table
from unlearner.config import EvaluateConfig
from unlearner.data.prompts import TEMPLATES, encode
from unlearner.data.records import Record
from unlearner.errors import UserError
from unlearner.evaluation import evaluate, passes
from unlearner.evaluation.backend import run_passes
from unlearner.evaluation.evaluate import way_of_measuring
from unlearner.evaluation.examples import EvalSet, Example
from unlearner.evaluation.judges import Judges, load_judges
from unlearner.evaluation.metrics import METRICS
from unlearner.evaluation.metrics.base import Metric
from unlearner.evaluation.requests import Request, Score, Scored
from unlearner.evaluation.store import Store
from unlearner.files import read_json
from unlearner.prepare.asking import _answer, _plain

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


def test_options_of_a_metric_from_anywhere(measured: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "somebodys_metric.py").write_text(
        "from dataclasses import dataclass\n"
        "from unlearner.evaluation.metrics.base import Metric\n"
        "@dataclass(frozen=True)\n"
        "class Tenths(Metric):\n"
        "    name = title = short = formula = source = 'tenths'\n"
        "    k: int = 2\n"
        "    def requests(self, record, eval_set):\n"
        "        return []\n"
        "    def values(self, examples, eval_set, judges):\n"
        "        return [self.k / 10 for _ in examples]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    output = str(tmp_path / "out")
    named = ["rouge", "somebodys_metric:Tenths"]
    first = measured(named, metric_options=["tenths.k=5"], output=output)
    assert first.summary["sets"]["forget"]["tenths"] == pytest.approx(0.5)
    assert measured(named).summary["sets"]["forget"]["tenths"] == pytest.approx(0.2)
    with pytest.raises(UserError, match=r"another run .*tenths\.k=5"):
        measured(named, metric_options=["tenths.k=6"], output=output)

    def way(*options: str) -> str:
        config = EvaluateConfig(model="m", output="o", metrics=named, metric_options=list(options))
        return way_of_measuring(config, config, TEMPLATES["plain"], load_judges("offline"))

    assert way() != way("tenths.k=5") != way("tenths.k=6")


def test_a_metric_as_text_has_no_address_in_it() -> None:
    odd = Plain(2)
    vars(odd).update(words={"b", "a"}, rule=len, thing=object(), pair=(1, {"x": None}))
    assert odd.as_text() == (
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


NAMES = ("logp", "rank", "expected_logp", "variance_logp", "is_argmax")


class Standing(Own):
    """A min-k++ of one's own; what it was told is kept."""

    def __init__(self) -> None:
        self.told: list[Scored] = []

    def requests(self, record: Record, eval_set: EvalSet) -> Sequence[Request]:
        return [Score(record.question, record.answer, statistics=NAMES)]

    def values(self, examples: Sequence[Example], eval_set: EvalSet, judges: Judges) -> list[float]:
        self.told = [e.scored(Score(e.record.question, e.record.answer, statistics=NAMES)) for e in examples]
        return [float(np.mean(each.statistics["rank"])) for each in self.told]


def from_logits(model: Any, tokenizer: PreTrainedTokenizerBase, row: dict[str, str]) -> dict[str, list[float]]:
    table = encode(tokenizer, TEMPLATES["plain"], [(row["question"], row["answer"])], 200)
    ids, start = torch.tensor(table.row(0).astype(np.int64)), int(table.start[0])
    with torch.no_grad():
        log_p = model(input_ids=ids[None]).logits[0, start - 1 : -1].double().log_softmax(-1)
    own, mean = log_p.gather(1, ids[start:, None]), (log_p.exp() * log_p).sum(-1, keepdim=True)
    found = {
        "logp": own[:, 0], "rank": (log_p > own).sum(-1), "expected_logp": mean[:, 0],
        "variance_logp": (log_p.exp() * (log_p - mean) ** 2).sum(-1), "is_argmax": log_p.argmax(-1) == ids[start:],
    }  # fmt: skip
    return {name: values.double().tolist() for name, values in found.items()}


@pytest.mark.parametrize("batch_tokens", [16, 400])
def test_what_a_metric_asks_of_each_token_is_that_of_full_logits(
    batch_tokens: int, spread_llama: Any, tiny_tokenizer: PreTrainedTokenizerBase, measured: Any
) -> None:
    metric = Standing()
    found = measured([metric, "probability"], eval_tokens=batch_tokens)
    for row, told, record in zip(ROWS, metric.told, found.records, strict=True):
        expected = from_logits(spread_llama, tiny_tokenizer, row)
        assert tuple(told.statistics) == NAMES and told.logp == told.is_argmax == ()
        for name in NAMES:
            assert told.statistics[name] == pytest.approx(expected[name], abs=1e-4)
        assert told.nll == record["answer_nll"] == pytest.approx(-sum(expected["logp"]), abs=1e-4)
        assert record["own"] == pytest.approx(np.mean(expected["rank"]))


def test_statistics_outlive_a_break_and_are_computed_only_where_asked(
    spread_llama: Any, tiny_tokenizer: PreTrainedTokenizerBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [Record(row["question"], row["answer"]) for row in ROWS]
    plain = [Score(record.question, record.answer) for record in records]
    asked: list[list[Request]] = [
        [each, replace(each, statistics=("rank",), open=n == 2)] for n, each in enumerate(plain)
    ]
    kinds: list[tuple[str, ...]] = []
    token_scores = passes.token_scores

    def watched(hidden: Any, head: Any, targets: Any, names: Any) -> Any:
        kinds.append(tuple(names))
        return token_scores(hidden, head, targets, names)

    def run(asked: Any, store: Store | None = None) -> list[Example]:
        return run_passes(spread_llama, tiny_tokenizer, TEMPLATES["plain"], records, asked=asked, store=store)

    monkeypatch.setattr(passes, "token_scores", watched)
    alone = run([[each] for each in plain])
    assert set(kinds) == {("logp",)}
    kinds.clear()
    first = run(asked, Store(tmp_path))
    assert set(kinds) == {("logp", "rank")}
    assert [e.answer_nll for e in first] == [e.answer_nll for e in alone]  # to the bit
    assert first[0].scored(plain[0]).statistics == {} and first[2].scored(asked[2][1]).statistics["rank"]
    monkeypatch.setattr(passes, "token_scores", lambda *_: pytest.fail("computed again"))
    assert run(asked, Store(tmp_path)) == first
    told = first[0].scored(asked[0][1])
    assert told.statistics and _answer(json.loads(json.dumps(_plain(told)))) == told


def test_a_score_without_statistics_is_the_request_that_it_was() -> None:
    assert repr(Score("q", "a")) == "Score(prompt='q', continuation='a', open=False, is_argmax=False)"
    assert "statistics=('rank',)" in repr(Score("q", "a", statistics=("rank",)))
    for wrong, said in ((("rang",), "did you mean 'rank'"), ("rank", "a tuple of names")):
        with pytest.raises(UserError, match=said):
            Score("q", "a", statistics=wrong)  # type: ignore[arg-type]


def test_tables_show_the_chosen_metrics_only(measured: Any) -> None:
    def shown(*metrics: Any) -> tuple[str, str]:
        found, file = measured(list(metrics)), io.StringIO()
        Console(file=file, width=150).print(summary_table({"after": found.summary}, Console(width=150)))
        return found._repr_html_(), file.getvalue()

    html, table = shown("rouge", "truth_ratio", Tenths(2))
    for name, heading in (
        ("rouge", METRICS["rouge"].short),
        ("truth_ratio", METRICS["truth_ratio"].short),
        ("own", "Own"),
    ):
        assert f"<th>{name}</th>" in html and heading in table  # also where no row has a value
    assert "entailment" not in html and "token_entropy" not in html
    assert METRICS["entailment"].short not in table
    assert METRICS["entailment"].short in shown()[1]
