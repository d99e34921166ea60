"""How often the offline judge says the truth: a markdown table, from statements whose truth is known.

    python benchmarks/judge_agreement.py [folder with TOFU's *_perturbed.json files]

A statement is never its own reference: a paraphrase is taken out of the right answers, and a wrong answer out of the
wrong ones, before the judge sees it. Wrong answers share the paraphrase's wording, which makes both cases hard ones.
`same wording` puts a wrong value in the place of the right one in the reference answer: what a confused model says.
Measured is the metric `entailment`, with its rule that a ROUGE-L recall under 0.1 counts as not entailed.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from unlearner.data.profiles import builtin
from unlearner.data.records import Record
from unlearner.evaluation.examples import EvalSet, Example
from unlearner.evaluation.judges import Judges, load_judges
from unlearner.evaluation.metrics import find_metric

TOFU_ROWS = 100
Case = tuple[str, bool, str, Record]
"""Name of the case, whether the statement is true, the statement, the record with the statement held out."""


def cases(record: Record) -> Iterator[Case]:
    """Statements about one record."""
    if record.paraphrased_answer:
        yield "paraphrase", True, record.paraphrased_answer, replace(record, paraphrased_answer=None)
    if record.original_answer:
        yield "long answer", True, record.original_answer, replace(record, original_answer=None)
    for i, wrong in enumerate(record.perturbed_answer):
        others = record.perturbed_answer[:i] + record.perturbed_answer[i + 1 :]
        yield "wrong answer", False, wrong, replace(record, perturbed_answer=others)
        long = record.original_answer or record.answer
        value = _wrong_value(record, wrong)
        if value and record.fact and record.fact in long:
            yield "wrong value, same wording", False, long.replace(record.fact, value), record


def _wrong_value(record: Record, wrong: str) -> str | None:
    """What stands in `wrong` where the right answer of the same wording has the fact."""
    frame = (record.paraphrased_answer or record.answer).split(record.fact or "\0")
    if len(frame) != 2 or not (wrong.startswith(frame[0]) and wrong.endswith(frame[1])):
        return None
    return wrong[len(frame[0]) : len(wrong) - len(frame[1])]


def agreement(records: list[Record], judges: Judges) -> dict[tuple[str, bool], tuple[int, float, float]]:
    """Case and truth → number of statements, share judged right as the judge is, and by embeddings alone."""
    found = [case for record in records for case in cases(record)]
    verdicts = []
    for embeddings_alone in (False, True):
        examples = [
            Example(replace(record, fact=None) if embeddings_alone else record, 0.0, 1, statement, ())
            for _, _, statement, record in found
        ]
        verdicts.append(find_metric("entailment").values(examples, EvalSet("retain", tuple(records)), judges))
    table = {}
    for key in dict.fromkeys((name, truth) for name, truth, _, _ in found):
        chosen = [i for i, (name, truth, _, _) in enumerate(found) if (name, truth) == key]
        as_is, alone = (sum(each[i] == key[1] for i in chosen) / len(chosen) for each in verdicts)
        table[key] = len(chosen), as_is, alone
    return table


def read_tofu(path: Path) -> list[Record]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[:TOFU_ROWS]]
    return [
        Record(
            row["question"],
            row["answer"],
            row.get("paraphrased_answer"),
            tuple(row["perturbed_answer"]),
            row.get("original_answer"),
        )
        for row in rows
    ]


def main(tofu: Path | None) -> None:
    judges = load_judges("offline")
    data = {f"built-in {name}": builtin(name) for name in ("retain", "neighbours", "world_facts")}
    if tofu is not None:
        names = ("retain_perturbed", "real_authors_perturbed", "world_facts_perturbed")
        data |= {f"TOFU {name}": read_tofu(tofu / f"{name}.json") for name in names}
    print("| data | statement | entailed? | statements | judged right | by embeddings alone |")
    print("|---|---|---|---|---|---|")
    for label, records in data.items():
        has_facts = any(record.fact for record in records)
        for (name, truth), (count, as_is, alone) in agreement(records, judges).items():
            answer = "yes" if truth else "no"
            print(f"| {label} | {name} | {answer} | {count} | {f'{as_is:.1%}' if has_facts else '–'} | {alone:.1%} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
