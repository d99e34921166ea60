"""Tables of an audit's page: attacks by what they take, likelihoods, membership, growing numbers of samples."""

from collections.abc import Mapping, Sequence
from typing import Any

from unlearner.audit.likelihood_tables import LIKELIHOOD
from unlearner.audit.outcomes import RANK, decoders
from unlearner.audit.relearned import FORGOTTEN, UNKNOWN
from unlearner.audit.statistics import lower, upper
from unlearner.report.contents import clean

Summary = Mapping[str, Any]
ACCESS = {
    "greedy": "text at temperature 0", "sampled": "sampled text", "likelihoods": "likelihoods",
    "weights": "the weights", "training": "the weights, and training them",
}  # fmt: skip
"""What an attacker may have, from least to most."""
COLUMNS = {
    "unlearned.forget": "forgotten, now", "before.forget": "before", "retrained.forget": "retrained",
    "unlearned.control": "controls, now", "unlearned.retain": "retained, now",
}  # fmt: skip
FIGURES = {
    "probability": "Probability of a token, geometric mean",
    "exact_memorization": "Tokens that are the most likely at their position",
    "extraction_strength": "Share of the answer that the model completes by itself",
    "truth_share": "Truth against wrong answers (½: no difference)",
    "prior_corrected": "More likely than with another name, nats",
    "log10_samples": "Samples for an even chance of the exact answer",
    "extracted": "Answers found word for word in 1,024 samples",
}
SCORES = {
    "loss": "Loss", "zlib": "Loss per compressed byte", "reference": "Loss minus that of the reference",
    "min_k@0.2": "Min-k, 20%", "min_k@0.4": "Min-k, 40%", "min_k_plus_plus@0.2": "Min-k++, 20%",
    "min_k_plus_plus@0.4": "Min-k++, 40%", "gradient_norm": "Norm of the gradient",
}  # fmt: skip
RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
MODELS = {"unlearned": "now", "before": "before", "retrained": "retrained"}


def access_levels(summary: Summary) -> list[dict[str, Any]]:
    """Of each level of access its `code`, `title`, how many attacks were `made`, those by which an answer can leak
    (`attacks`: all but likelihoods), and of these the `worst`: whose rate is the furthest above that of controls or of
    guessing. None where there is none, or all are left out."""
    levels = []
    for place, (access, title) in enumerate(ACCESS.items(), 1):
        made = [attack for attack in attacks_made(summary) if attack["access"] == access]
        shown = [_attack(attack, summary) for attack in made if attack["attack"] != LIKELIHOOD]
        counted = [attack for attack in shown if not attack["dropped"] and attack["excess"] is not None]
        worst = max(counted, key=lambda attack: attack["excess"], default=None)
        levels.append({"code": f"A{place}", "title": title, "made": len(made), "attacks": shown, "worst": worst})
    return levels


def attacks_made(summary: Summary) -> list[Summary]:
    """All but those that asked nothing about what was to be forgotten."""
    return [attack for attack in summary["attacks"] if attack["attack"] not in summary.get("untested", ())]


def untested_sentences(summary: Summary) -> list[str]:
    """What could not be tested with these rows, and what it takes."""
    without = summary.get("untested", ())
    takes: dict[str, list[str]] = {}
    for attack in summary["attacks"]:
        if attack["attack"] in without:
            takes.setdefault(attack.get("asks_of", ""), []).append(attack["attack"])
    said = [
        f"No row of the forget set can be used for {', '.join(labels)}" + (f"; needed: {what}." if what else ".")
        for what, labels in takes.items()
    ]
    if RANK in without:
        said.append("There is no rank test: it needs wrong answers in rows of the forget set and of the controls.")
    arms = summary["relearning"].get("unlearned", {}).get("arms", {})
    if FORGOTTEN in arms and UNKNOWN not in arms:
        said.append(
            "Relearning was not compared with controls, so no verdict rests on it: that needs as many controls as "
            "forgotten subjects, and two facts about each."
        )
    return said


def rank_p(verdict: Summary, summary: Summary) -> str:
    """The p-value of the rank test, where there was one."""
    return "–" if RANK in summary.get("untested", ()) else p_value(verdict["rank_p"])


def ability_rows(summary: Summary) -> list[tuple[str, list[str]]]:
    """(task and metric of lm-eval, its values before, now, and of the retrained model); none where none was run."""
    found = summary.get("ability", {})
    tasks = {(task, metric): None for each in found.values() for task, of in each["tasks"].items() for metric in of}
    rows = []
    for task, metric in tasks:
        values = (
            found.get(m, {}).get("tasks", {}).get(task, {}).get(metric) for m in ("before", "unlearned", "retrained")
        )
        title = f"{task}, {metric.removesuffix(',none')}"
        rows.append((clean(title), ["–" if value is None else f"{value:.3f}" for value in values]))
    return rows


def _attack(attack: Summary, summary: Summary) -> dict[str, Any]:
    answers = attack["answers"]
    cells = {name: answers.get(key) for name, key in (
        ("now", "unlearned.forget"), ("before", "before.forget"), ("control", "unlearned.control"),
    )}  # fmt: skip
    arms = summary["relearning"].get("unlearned", {}).get("arms", {}) if attack["attack"] == "relearning" else {}
    if arms:
        cells["now"] = arms.get("forgotten", {}).get("leaks")
        cells["control"] = arms.get("unknown", {}).get("leaks")
    counts = {name: found or (0, 0) for name, found in cells.items()}
    now, control = (_rate(counts[name]) for name in ("now", "control"))
    return {
        "label": attack["attack"], "title": attack["title"], "dropped": attack["attack"] in summary["dropped"],
        "chance": f"{attack['chance']:.0%}" * bool(attack["chance"]),
        "excess": None if now is None else now - max(control or 0.0, attack["chance"]),
        "rates": {name: _bounded(*found) for name, found in counts.items()},
        **{name: (share(*found), _bounded(*found)[1]) for name, found in counts.items()},
    }  # fmt: skip


def _rate(counts: Sequence[int]) -> float | None:
    return counts[0] / counts[1] if counts[1] else None


def _bounded(leaks: int, of: int) -> tuple[str, str]:
    """A rate, and its 95% interval."""
    if not of:
        return ("–", "")
    return f"{leaks / of:.0%}", f"{float(lower(leaks, of, 0.025)):.1%}–{float(upper(leaks, of, 0.025)):.1%}"


def share(leaks: int, of: int) -> str:
    return f"{leaks} of {of}" if of else "–"


def likelihood_table(summary: Summary) -> Summary | None:
    """`columns`, and `rows` of a title and (mean, interval) of each column."""
    found = summary.get("likelihood")
    if not found:
        return None
    columns = [key for key in COLUMNS if key in found]
    rows = [
        (title, [_figure(name, found[key].get(name)) for key in columns])
        for name, title in FIGURES.items()
        if any(name in found[key] for key in columns)
    ]
    return {"columns": [COLUMNS[key] for key in columns], "rows": rows}


def _figure(name: str, found: Mapping[str, Any] | None) -> tuple[str, str]:
    if found is None:
        return ("–", "")
    texts = ["" if found[key] is None else _number(name, found[key]) for key in ("mean", "low", "high")]
    between = " to " if name == "prior_corrected" else "–"  # which may be negative
    return texts[0], f"{texts[1]}{between}{texts[2]}" if texts[1] else ""


def _number(name: str, value: float) -> str:
    if name == "log10_samples":
        return f"{10**value:,.0f}" if value < 5 else f"10{f'{value:.0f}'.translate(RAISED)}"
    return f"{value:+.1f}" if name == "prior_corrected" else f"{value:.1%}"


def membership_table(summary: Summary) -> Summary | None:
    """`models` with columns of their own, and `rows`: a title, then for each model (AUC, interval), TPR and p, then
    PrivLeak, empty without a retrained model."""
    found = summary.get("membership")
    if not found:
        return None
    models = [model for model in MODELS if model in found]
    rows = []
    for score, title in SCORES.items():
        cells = [found[model].get(score) for model in models]
        leak = found.get("unlearned", {}).get(score, {}).get("privleak")
        if any(cells):
            rows.append((title, [_membership(cell) for cell in cells], "" if leak is None else f"{leak:+.0f}%"))
    return {"models": [MODELS[model] for model in models], "rows": rows, "has_leak": any(leak for *_, leak in rows)}


def _membership(found: Mapping[str, Any] | None) -> tuple[tuple[str, str], str, str]:
    if found is None:
        return ("–", ""), "–", "–"
    interval = "" if found["low"] is None else f"{found['low']:.2f}–{found['high']:.2f}"
    return (f"{found['auc']:.2f}", interval), f"{found['tpr']:.0%}", p_value(found["p_value"])


def ladder_table(summary: Summary) -> Summary | None:
    """`rungs`, and `rows` of a name and (leaking rounds, upper bound) at each rung."""
    found = summary.get("ladder")
    if not found:
        return None
    rungs = sorted({step["n"] for steps in found.values() for step in steps})
    rows = []
    for subject, steps in found.items():
        by_rung = {s["n"]: (f"{s['leaks']} of {s['n']:,}", f"≤ {s['high']:.1%}") for s in steps}
        rows.append((clean(subject), [by_rung.get(n, ("–", "")) for n in rungs]))
    return {"rungs": [f"First {n:,} rounds" for n in rungs], "rows": rows}


def group_sentence(summary: Summary) -> str | None:
    """All forgotten subjects against all controls, in one sentence."""
    found = summary.get("group_test")
    if not found:
        return None
    p = p_value(found["p_value"])
    return (
        f"All {found['subjects']} forgotten subjects against all {found['controls']} controls: p {p}, "
        "for each subject's most surprising attack, by permuting whole subjects."
    )


def weak_sentence(summary: Summary) -> str | None:
    """Silent attacks whose silence is no evidence, with what each got out of the original model; None in an old audit,
    too."""
    made = {attack["attack"]: attack for attack in summary["attacks"]}
    silent = [made[name] for name in summary.get("weak", ()) if not _tells(made[name])]
    asked = summary["thresholds"]["power"]
    reasons = {
        "too few facts": [attack for attack in silent if attack["power"] < asked],
        "no more than is guessed about controls": [attack for attack in silent if attack["power"] >= asked],
    }
    said = [
        f"That these found nothing is no evidence, because even from the original model they extracted {reason}: "
        + ", ".join(f"{attack['attack']} ({attack['power']:.0%})" for attack in weak)
        + "."
        for reason, weak in reasons.items()
        if weak
    ]
    return " ".join(said) or None


def _tells(attack: Summary) -> bool:
    """Whether it gets more out of the unlearned model than is guessed about controls: then it is not silent."""
    leaks, of = attack["answers"].get("unlearned.forget") or (0, 0)
    guessed, asked = attack["answers"].get("unlearned.control") or (0, 0)
    return bool(lower(leaks, of) > (upper(guessed, asked) if asked else 0.0))


def decoder_of(verdict: Summary, summary: Summary) -> str:
    """Of several decoders that whose rates a verdict has; nothing of one, and in an old audit."""
    found = decoders(attack["attack"] for attack in summary["attacks"])
    return str(verdict.get("decoder", "")) if len(found) > 1 else ""


def first_decoder(summary: Summary) -> str:
    """Of several decoders, which the ladder and the curves of leak@k are of: in words, else nothing."""
    found = decoders(attack["attack"] for attack in summary["attacks"])
    return f" With {found[0]}." if len(found) > 1 else ""


def p_value(value: float) -> str:
    return f"{value:.3f}" if value >= 0.0005 else "< 0.001"
