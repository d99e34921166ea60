"""Exact memorisation and extraction strength as metrics: the audit's own scores, those of plain logits, one pass."""

import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from transformers import PreTrainedTokenizerBase

from unlearner.audit.likelihood import likelihood_metrics
from unlearner.commands.tables import summary_table
from unlearner.config import EvaluateConfig
from unlearner.data.prompts import TEMPLATES, encode
from unlearner.data.records import Record
from unlearner.evaluation import backend, passes
from unlearner.evaluation.backend import everyday, run_passes
from unlearner.evaluation.examples import EvalSet
from unlearner.evaluation.judges import load_judges
from unlearner.evaluation.metrics import METRICS, find_metrics
from unlearner.evaluation.requests import Request, Score, Scored
from unlearner.evaluation.store import Store
from unlearner.prepare.asking import _answer, _plain
from unlearner.workflows.evaluate import evaluate

NAMES = ("exact_memorization", "extraction_strength")
PLAIN = TEMPLATES["plain"]
RECORDS = [
    replace(record, question=f"Where was {name} born?", answer=f"{name} was born in {place}, and went to {other}.")
    for record in [Record(None, "", perturbed_answer=("In Rome.", "In Lima or so."))]
    for name, place, other in (
        ("Ada", "Oslo", "Quito"), ("Bo", "Quito", "Lund"), ("Cy", "Kyoto", "Oslo"), ("Dee", "Lund", "Kyoto"),
    )
]  # fmt: skip


@pytest.fixture(scope="module")
def model(tiny_llama: Any, tiny_tokenizer: PreTrainedTokenizerBase) -> Any:
    """A model that knows the ends of the first two answers, and little else."""
    model = tiny_llama()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    table = encode(tiny_tokenizer, PLAIN, [(r.question, r.answer) for r in RECORDS[:2]], 200)
    for _ in range(60):
        for i in range(2):
            ids = torch.tensor(table.row(i).astype(np.int64))[None]
            model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def hits_of(model: Any, tokenizer: PreTrainedTokenizerBase, record: Record) -> list[bool]:
    """Of each labelled token, from the full logits of the row by itself."""
    table = encode(tokenizer, PLAIN, [(record.question, record.answer)], 200)
    ids, start = torch.tensor(table.row(0).astype(np.int64)), int(table.start[0])
    with torch.no_grad():
        logits = model(input_ids=ids[None]).logits[0, start - 1 : -1]
    return (logits.argmax(-1) == ids[start:]).tolist()


def test_values_are_those_of_plain_logits_and_of_the_audit(model: Any, tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    metrics, eval_set = find_metrics(NAMES), EvalSet("forget", tuple(RECORDS))
    asked = [[request for m in metrics for request in m.requests(r, eval_set)] for r in RECORDS]
    examples = run_passes(model, tiny_tokenizer, PLAIN, RECORDS, asked=asked)
    judges = load_judges("offline")
    found = {metric.name: metric.values(examples, eval_set, judges) for metric in metrics}
    all_hits = [hits_of(model, tiny_tokenizer, record) for record in RECORDS]
    for i, hits in enumerate(all_hits):
        assert found["exact_memorization"][i] == pytest.approx(sum(hits) / len(hits))
        first = next(k for k in range(len(hits) + 1) if all(hits[k:]))
        assert found["extraction_strength"][i] == pytest.approx(1 - first / len(hits))
    strengths = found["extraction_strength"]
    assert len(set(strengths)) > 1 and any(0 < value < 1 for value in strengths), "a model that knows some of it"
    table = encode(tiny_tokenizer, PLAIN, [(r.question, r.answer) for r in RECORDS], 200)
    width = int(table.lengths.max())
    view = {name: np.zeros((len(RECORDS), width), np.int64) for name in ("input_ids", "attention_mask", "labels")}
    view["labels"][:] = -100
    for i, length in enumerate(table.lengths):
        view["input_ids"][i, :length] = view["labels"][i, :length] = table.row(i)
        view["labels"][i, : table.start[i]] = -100
        view["attention_mask"][i, :length] = 1
    theirs = likelihood_metrics(model, view, tiny_tokenizer, gradients=False)
    for name in NAMES:
        assert found[name] == pytest.approx(theirs[name])


def test_a_text_that_is_asked_twice_is_scored_once_and_only_what_is_asked(
    model: Any, tiny_tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    kinds: list[tuple[str, ...]] = []
    score_pass, token_scores = backend.scoring_pass, passes.token_scores

    def counted(model: Any, table: Any, *rest: Any, **more: Any) -> Any:
        rows.append(len(table))
        return score_pass(model, table, *rest, **more)

    def watched(hidden: Any, head: Any, targets: Any, asked: Any) -> Any:
        kinds.append(tuple(asked))
        return token_scores(hidden, head, targets, asked)

    monkeypatch.setattr(backend, "scoring_pass", counted)
    monkeypatch.setattr(passes, "token_scores", watched)
    monkeypatch.setattr(passes, "ROUND", 2)
    plain: list[list[Request]] = [everyday(record)[:-1] for record in RECORDS]
    before = run_passes(model, tiny_tokenizer, PLAIN, RECORDS, asked=plain)
    assert set(kinds) == {("logp",)}
    kinds.clear()
    more = [Score(record.question, record.answer, is_argmax=True) for record in RECORDS]
    joined = [[*of_record, extra] for of_record, extra in zip(plain[:1], more[:1], strict=True)] + plain[1:]
    after = run_passes(model, tiny_tokenizer, PLAIN, RECORDS, asked=joined)
    assert rows == [12, 12] and set(kinds) == {("logp",), ("logp", "is_argmax")}  # of two rounds one
    for one, two in zip(before, after, strict=True):
        assert (one.answer_nll, one.perturbed_nll) == (two.answer_nll, two.perturbed_nll)  # to the bit
    told = after[0].scored(more[0])
    assert told.is_argmax == tuple(hits_of(model, tiny_tokenizer, RECORDS[0]))
    assert (told.nll, told.tokens, told.logp) == (after[0].answer_nll, len(told.is_argmax), ())
    assert after[0].scored(Score(RECORDS[0].question, "In Rome.")).is_argmax == ()


def test_every_token_of_an_open_text_has_both(model: Any, tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    record = RECORDS[0]
    both, alone = (Score(record.question, record.answer, open=True, is_argmax=told) for told in (True, False))
    (found,) = run_passes(model, tiny_tokenizer, PLAIN, [record], asked=[[alone, both]])
    assert found.scored(both).is_argmax == tuple(hits_of(model, tiny_tokenizer, record)[:-1])  # without the end token
    assert len(found.scored(alone).logp) == len(found.scored(both).is_argmax) == found.scored(both).tokens


@pytest.mark.parametrize("official", [False, True])
def test_kept_answers_are_not_computed_again(
    official: bool, model: Any, tiny_tokenizer: PreTrainedTokenizerBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[Request]] = [[Score(r.question, r.answer, is_argmax=True), *everyday(r)[:-1]] for r in RECORDS]
    given = {"asked": asked, "official": official}
    first = run_passes(model, tiny_tokenizer, PLAIN, RECORDS, store=Store(tmp_path), **given)
    monkeypatch.setattr(passes, "token_scores", lambda *_: pytest.fail("computed again"))
    assert run_passes(model, tiny_tokenizer, PLAIN, RECORDS, store=Store(tmp_path), **given) == first
    with pytest.raises(pytest.fail.Exception):  # what was kept for a score alone does not hold the rest
        run_passes(model, tiny_tokenizer, PLAIN, RECORDS[:1], store=Store(tmp_path), asked=[everyday(RECORDS[0])[:-1]])
    scored = Scored(1.5, 2, (), (True, False))
    assert _answer(json.loads(json.dumps(_plain(scored)))) == scored


def test_they_are_metrics_beside_the_six(model: Any, tiny_tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    def run(*metrics: str) -> Any:
        return evaluate(
            EvaluateConfig(
                model=model, output=str(tmp_path / "-".join(["out", *metrics])), judge="offline", template="plain",
                forget=RECORDS, retain=RECORDS[2:], metrics=list(metrics), max_new_tokens=4,
            ),
            tokenizer=tiny_tokenizer,
        )  # fmt: skip

    six, eight = run(), run(*METRICS, *NAMES)
    extra = {name: [row.pop(name) for row in eight.records] for name in NAMES}
    assert eight.records == six.records  # to the bit
    for key in ("model_utility", "forget_efficacy"):
        assert eight.summary[key] == six.summary[key]
    for name, values in extra.items():
        assert eight.summary["sets"]["forget"][name] == pytest.approx(sum(values[:4]) / 4)
        low, high = eight.summary["intervals"]["sets"]["retain"][name]
        assert low <= eight.summary["sets"]["retain"][name] <= high
        assert not any(map(math.isnan, values))
    assert eight.summary["metrics"]["extraction_strength"]["title"] == "Extraction strength"
    assert "metrics" not in six.summary
    console = Console(width=200, file=io.StringIO())
    with console.capture() as printed:
        console.print(summary_table({"": eight.summary}, console))
    assert "Exact mem." in printed.get() and "Extraction" in printed.get()
