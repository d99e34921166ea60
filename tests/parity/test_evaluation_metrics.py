"""The six metrics and their summary against one evaluation by the official code (shared/parity/evaluation.json)."""

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from unlearner.data.records import Record
from unlearner.evaluation.entailment_judges import premise_and_hypothesis
from unlearner.evaluation.examples import EvalSet, Example
from unlearner.evaluation.judges import Judges, load_judges
from unlearner.evaluation.metrics.rouge import rouge_l_recall
from unlearner.evaluation.summary import per_example, summarise

SETS = {
    # name: log of the official code, rows, file of the data set, label in the official results
    "retain": ("eval_log.json", "retain_perturbed", "retain_perturbed", "Retain"),
    "real_authors": (
        "eval_real_author_wo_options.json",
        "real_authors_perturbed",
        "real_authors_perturbed",
        "Real Authors",
    ),
    "world_facts": ("eval_real_world_wo_options.json", "world_facts_perturbed", "world_facts_perturbed", "Real World"),
    "forget": ("eval_log_forget.json", "forget_perturbed", "forget01_perturbed", "Forget"),
}
FIGURES = {
    "rouge": "ROUGE",
    "probability": "Probability",
    "truth_ratio": "Truth Ratio",
    "token_entropy": "Token Entropy",
    "cosine_similarity": "Cosine Similarity",
    "entailment": "Entailment Score",
}


class WordOverlap:
    """The rule that stood in for the NLI model: Jaccard overlap of the lower-cased words at least 1/2."""

    name = "word overlap"

    def entailed(self, examples: list[Example], eval_set: EvalSet) -> list[bool]:
        def overlap(premise: str, hypothesis: str) -> float:
            first, second = set(premise.lower().split()), set(hypothesis.lower().split())
            return len(first & second) / len(first | second)

        return [overlap(*premise_and_hypothesis(each, eval_set)) >= 0.5 for each in examples]


@pytest.fixture(scope="module")
def official(shared: Path) -> dict:
    return json.loads((shared / "parity" / "evaluation.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def rows(shared: Path, official: dict, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict]]:
    tokenizer = AutoTokenizer.from_pretrained(shared / "parity" / "model")
    embedder = load_judges("offline", cache=tmp_path_factory.mktemp("cache")).embedder
    judges = Judges(embedder, WordOverlap())
    made = {}
    for name, (log_name, rows_name, file, _) in SETS.items():
        log = official["logs"][log_name]
        short = name in ("real_authors", "world_facts")
        lines = (shared / "data" / "tofu" / f"{file}.json").read_text(encoding="utf-8").splitlines()
        data = {row["question"]: row for row in map(json.loads, lines)}
        examples = []
        for i, question in enumerate(official["rows"][rows_name]):
            row = data[question]
            record = Record(
                question,
                row["answer"],
                row.get("paraphrased_answer"),
                tuple(row["perturbed_answer"]),
                row.get("original_answer"),
            )
            prompt, generation, *_ = log["generated_text"][i]
            assert question in prompt
            examples.append(
                Example(
                    record,
                    answer_nll=log["gt_loss"][i],
                    answer_tokens=log["num_token_gt"][i],
                    generation=generation,
                    generation_ids=tuple(tokenizer(generation, add_special_tokens=False)["input_ids"]),
                    paraphrase_nll=None if short else log["paraphrased_loss"][i],
                    paraphrase_tokens=0 if short else log["num_token_paraphrased"][i],
                    perturbed_nll=tuple(log["perturb_loss"][i]),
                    perturbed_tokens=tuple(log["num_token_perturb"][i]),
                )
            )
        eval_set = EvalSet(
            name, tuple(e.record for e in examples), short_answers=short, generation_is_premise=name == "forget"
        )
        made[name] = per_example(examples, eval_set, judges)
        # A quirk of the official code: ROUGE, and it alone, reads the answer as cut at max_length. We read all of it.
        for row, (_, generation, cut, *_) in zip(made[name], log["generated_text"], strict=True):
            assert row["answer"].startswith(cut)
            if row["answer"] != cut:
                assert row["rouge"] <= rouge_l_recall(generation, cut)
                row["rouge"] = rouge_l_recall(generation, cut)
    return made


@pytest.mark.parametrize("name", SETS)
def test_per_example_values(official: dict, rows: dict[str, list[dict]], name: str):
    log = official["logs"][SETS[name][0]]

    def ours(metric: str) -> list[float]:
        return [row[metric] for row in rows[name]]

    assert ours("rouge") == pytest.approx(log["rougeL_recall"], rel=1e-4)
    assert ours("token_entropy") == pytest.approx(log["token_entropy"], rel=1e-4)
    assert ours("cosine_similarity") == pytest.approx([max(0, c) for c in log["cosine_similarity"]], rel=1e-4, abs=1e-6)
    assert ours("entailment") == [float(label == "entailment") for label in log["entailment_labels"]]


def test_results(official: dict, rows: dict[str, list[dict]]):
    summary = summarise(rows, embedding_model="all-MiniLM-L6-v2", judge=WordOverlap.name)
    results = official["results"]
    ours = {
        f"{label} {title}": summary["sets"][name][metric]
        for name, (*_, label) in SETS.items()
        for metric, title in FIGURES.items()
    }
    ours["Model Utility"] = summary["model_utility"]
    ours["Model Utility Retain"] = summary["model_utility_retain"]
    ours["Forget Efficacy"] = summary["forget_efficacy"]
    assert ours == pytest.approx(results, rel=1e-4)
    assert summary["notes"] == []
    for key in ("model_utility", "model_utility_retain", "forget_efficacy"):
        low, high = summary["intervals"][key]
        assert low < summary[key] < high
