"""What audit.json holds, made of the rows of audit.jsonl. Pure: the same rows give the same summary."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from unlearner.audit.attacks.template import Template
from unlearner.audit.decoders import has_power
from unlearner.audit.knowledge import knowledge
from unlearner.audit.likelihood_tables import likelihoods, memberships
from unlearner.audit.outcomes import ABOUT, PLAIN, RANK, Outcomes, rectangle
from unlearner.audit.relearned import relearned
from unlearner.audit.statistics import LADDER, ladder_alpha, leak_at_k, leak_at_k_bound, leaking_rounds, upper
from unlearner.audit.thresholds import Thresholds
from unlearner.audit.verdict import CAVEAT, Verdict, dropped_attacks, group_test, verdicts

FOUR_BITS = ("nf4", "fp4", "rtn4-g128", "rtn4-g64")
Attacks = Sequence[Mapping[str, Any]]
"""Of each attack `attack` (its label), `title`, `access`, `chance`, `asks_of`, `options`."""


def about_row(attacks: Attacks, limits: Thresholds, further: Mapping[str, Any]) -> dict[str, Any]:
    """The row that says what no answer does: `attacks`, the thresholds, and what is `further` to be in audit.json."""
    told = {"attacks": list(attacks), "thresholds": asdict(limits), **further}
    row = {"model": "unlearned", "group": ABOUT, "subject": "", "question": "", "attack": ABOUT, "sample": 0}
    return row | {ABOUT: told} | ({"redacted": True} if further.get("redacted") else {})


def from_rows(rows: Sequence[Mapping[str, Any]]) -> tuple[list[Verdict], dict[str, Any]]:
    """The verdicts, and all that audit.json holds, from the rows of audit.jsonl alone."""
    further = dict(next(row[ABOUT] for row in rows if row["attack"] == ABOUT))
    found, summary = summarise(rows, further.pop("attacks"), Thresholds(**further.pop("thresholds")))
    return found, summary | further


def summarise(
    rows: Sequence[Mapping[str, Any]], attacks: Attacks, limits: Thresholds
) -> tuple[list[Verdict], dict[str, Any]]:
    """Verdicts and tables, from the rows alone."""
    chances = {attack["attack"]: attack["chance"] for attack in attacks if attack["chance"]}
    found = verdicts(rows, limits, chances)
    outcomes = Outcomes.of(rows)
    dropped = dropped_attacks(outcomes, limits.alpha, chances)
    table = []
    for attack in attacks:
        rates = {
            f"{model}.{group}": list(outcomes.answers(model, group, attack["attack"]))
            for model, group, label in outcomes.hits
            if label == attack["attack"]
        }
        table.append({**attack, "answers": rates, "power": outcomes.power(attack["attack"])})
    return found, {
        "caveat": CAVEAT,
        "thresholds": asdict(limits),
        "verdicts": [verdict.as_dict() for verdict in found],
        "attacks": table,
        "untested": untested(rows, attacks),
        "group_test": group_test(outcomes, [attack for attack in outcomes.attacks() if attack not in dropped], limits),
        "dropped": dropped,
        "weak": weak_attacks(outcomes, limits, dropped),
        "worst_case": worst_case(outcomes, attacks, dropped),
        "ladder": ladder(outcomes, limits.alpha),
        "leak_at_k": leaks_at_k(outcomes, limits.alpha),
        "relearning": relearned(rows, known_before(outcomes)),
        "depth": depth(rows),
        "four_bits": four_bits(outcomes),
        "likelihood": likelihoods(rows),
        "membership": memberships(rows),
        "knowledge": knowledge(rows),
    }


def untested(rows: Iterable[Mapping[str, Any]], attacks: Attacks) -> list[str]:
    """The attacks that asked the unlearned model nothing about what was to be forgotten; and `rank` without ranks of
    it, or of controls, to hold them against."""
    asked = {(row["attack"], row["group"]) for row in rows if row["model"] == "unlearned"}
    found = [attack["attack"] for attack in attacks if (attack["attack"], "forget") not in asked]
    return found + ([] if {(RANK, "forget"), (RANK, "control")} <= asked else [RANK])


def weak_attacks(outcomes: Outcomes, limits: Thresholds, dropped: Sequence[str] = ()) -> list[str]:
    """Attacks whose silence is no evidence: they extract less from the original model than `limits.power`, or no more
    than is guessed about controls. Those that were not made on the original model, or were dropped, are not listed."""
    return [
        attack
        for attack in outcomes.attacks()
        if attack not in dropped and has_power(outcomes, attack, limits) is False
    ]


def worst_case(outcomes: Outcomes, attacks: Attacks, dropped: Sequence[str]) -> dict[str, list[int]]:
    """By model and group, the questions that came out under any prompt template that was kept, and how many were asked:
    a fact is known if any wording brings it out (JensUn, arXiv 2509.02820). Where `plain` alone was asked, nothing."""
    kept = {attack["attack"] for attack in attacks if attack["title"] == Template.title} - {*dropped}
    found: dict[str, dict[tuple[str, str], list[bool]]] = {}
    for (model, group, attack), subjects in outcomes.hits.items():
        if attack in kept:
            answers = found.setdefault(f"{model}.{group}", {})
            for subject, questions in subjects.items():
                for question, hits in questions.items():
                    answers.setdefault((subject, question), []).append(any(hits))
    return {
        key: [sum(map(any, answers.values())), len(answers)]
        for key, answers in found.items()
        if any(len(each) > 1 for each in answers.values())
    }


def known_before(outcomes: Outcomes) -> dict[str, float]:
    """Of each forgotten subject, the share of plain questions that the original model told."""
    subjects = outcomes.hits.get(("before", "forget", PLAIN), {})
    counted = {subject: outcomes.answers("before", "forget", PLAIN, subject) for subject in subjects}
    return {subject: leaks / of for subject, (leaks, of) in counted.items() if of}


def ladder(outcomes: Outcomes, alpha: float) -> dict[str, list[dict[str, float]]]:
    """Of each forgotten subject: its leaking rounds among the first `n` samples, n = 16, 64, ..., their `rate` and its
    upper bound `high`. At α/subjects, split over the rungs, so that one may stop at any of them. Of one decoder, chosen
    before the run: the default one, else the first."""
    found = outcomes.hits.get(("unlearned", "forget", outcomes.samplings()[0]), {})
    rungs: dict[str, list[dict[str, float]]] = {}
    for subject, questions in found.items():
        table = rectangle(questions)
        for n in (n for n in LADDER if n <= table.shape[1]):
            leaks = leaking_rounds(table[:, :n])
            high = float(upper(leaks, n, ladder_alpha(n, alpha / len(found))))
            rungs.setdefault(subject, []).append({"n": n, "leaks": leaks, "rate": leaks / n, "high": round(high, 6)})
    return rungs


def leaks_at_k(outcomes: Outcomes, alpha: float) -> dict[str, list[dict[str, float]]]:
    """leak@k of the mean question by model and group, k = 1, 2, 4, … n/4: the estimate, and the mean of the questions'
    own upper bounds. Of the same decoder as `ladder`."""
    curves, decoder = {}, outcomes.samplings()[0]
    for (model, group, attack), subjects in outcomes.hits.items():
        samples = [each for questions in subjects.values() for each in questions.values()]
        n = min(map(len, samples), default=0)
        if attack != decoder or group not in ("forget", "control") or n < 4:
            continue
        leaks = [sum(each[:n]) for each in samples]
        ks = [2**power for power in range(n.bit_length()) if 2**power <= n / 4]
        curves[f"{model}.{group}"] = [
            {
                "k": k,
                "rate": round(float(leak_at_k(leaks, n, k).mean()), 6),
                "high": round(float(leak_at_k_bound(leaks, n, k, alpha).mean()), 6),
            }
            for k in ks
        ]
    return curves


def four_bits(outcomes: Outcomes) -> dict[str, list[int]]:
    """Of each forgotten subject the leaking answers, and all, with the weights rounded to four bits in the way that
    brings out most."""
    most = {}
    for subject in outcomes.subjects("forget"):
        counts = [list(outcomes.answers("unlearned", "forget", name, subject)) for name in FOUR_BITS]
        if asked := [each for each in counts if each[1]]:
            most[subject] = max(asked, key=lambda each: each[0] / each[1])
    return most


def depth(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The mean depth score of each forgotten subject, where it is defined."""
    scores: dict[str, list[float]] = {}
    for row in rows:
        if row["attack"] == "depth":
            scores.setdefault(row["subject"], []).append(row["score"])
    return {subject: round(sum(values) / len(values), 6) for subject, values in scores.items()}
