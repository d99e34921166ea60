"""What to bear in mind when reading a report."""

from collections.abc import Sequence
from typing import Any

from unlearner.evaluation.embeddings import PAPER_EMBEDDINGS
from unlearner.evaluation.entailment_judges import OFFLINE_JUDGE, PAPER_JUDGE
from unlearner.evaluation.metrics import METRICS
from unlearner.report.answers import Faults, faults_of
from unlearner.report.contents import Measurement, Part, Report, Run
from unlearner.report.effect import FEW_STEPS, advice, rose, steps
from unlearner.report.wording import HIGH_PROBABILITY, JUDGED, efficacy_of, joined, number_word, spoken

LOW_ENTROPY_SHARE = 0.6
"""Answers whose token entropy falls below this share of what it was are repeated words rather than language."""
FEW_SUBJECTS = 10
FEW_QUESTIONS = 30
BROKEN_SHARE = 0.05
"""Broken answers below this share are no matter."""
MOST_NAMED = 4
"""More runs are not named one by one."""

End = tuple[str, Run, Measurement]
"""A run as it is called on the whole page, and its evaluation after."""


def cautions(report: Report) -> list[str]:
    runs = report.runs
    ends = _ends(report)
    known = report.evaluations
    found = [*warnings(report), *_judge_cautions(known)]
    likely = [
        f"{name} ({p:.2f})"
        for name, run, after in ends
        if run.command == "forget"
        and rose(run) is not False
        and (p := after.figure("forget.probability")) is not None
        and p >= HIGH_PROBABILITY
    ]
    if likely:
        found.append(
            f"After {joined(likely)} the model still finds the reference answers of the forget set likely: their "
            "probability per token is high. What is no longer said may still be known, and other questions may "
            "extract it."
        )
    found += _overlaps(ends)
    if (zero := _zero(runs)) is not None:
        found.append(
            f"Model utility is a harmonic mean, so it is 0 if any of its figures is 0: here {zero}. Judge what was "
            "kept by the table of all metrics."
        )
    if len(runs) > 1:
        found += _comparison_cautions(report)
    odd = dict.fromkeys(sentence for run in runs for sentence in run.about.get("data_warnings", []))
    found += [f"About the data: {sentence}." for sentence in odd]
    notes = dict.fromkeys(spoken(note) for m in known for note in m.summary.get("notes", []))
    return [*found, *(note[:1].upper() + note[1:] for note in notes)]


def warnings(report: Report) -> list[str]:
    """What a terminal shows, too: no effect, broken answers, few subjects."""
    ends = _ends(report)
    return [*_without_effect(ends), *_broken(ends), *_few(ends, all(part.means for part in report.parts))]


def _ends(report: Report) -> list[End]:
    """All evaluations after."""
    return [
        (f"{run.label} on {part.title}" if part.title else run.label, run, run.after)
        for part in report.parts
        for run in part.runs
        if run.after is not None
    ]


def _broken(ends: Sequence[End]) -> list[str]:
    """Runs whose answers show that something was done: by the answers themselves, without records by token entropy."""
    told: list[str] = []
    flat: list[str] = []
    for name, run, after in ends:
        now, was = faults_of(after), None if run.before is None else faults_of(run.before)
        if run.command == "forget" and now is not None:
            before = 0 if was is None else was.count / was.asked
            if now.count / now.asked >= max(BROKEN_SHARE, before + BROKEN_SHARE):
                told.append(f"after {name} {_share(now)}: {now.told()}")
        elif run.before is not None:
            entropies = [m.figure("forget.token_entropy") for m in (run.before, after)]
            if None not in entropies and (entropies[1] or 0) < LOW_ENTROPY_SHARE * (entropies[0] or 0):
                flat.append(f"{name} (token entropy {entropies[1]:.2f}, {entropies[0]:.2f} before)")
    found = []
    if flat:
        found.append(f"After {joined(flat)} the answers to forget-set questions are largely repeated words.")
    if told:
        more = f"; and {len(told) - MOST_NAMED} more" if len(told) > MOST_NAMED else ""
        found.append(
            f"By simple rules, answers to forget-set questions are broken: {'; '.join(told[:MOST_NAMED])}{more}."
        )
    if found:
        found[-1] += (
            " A model that had never seen the forget set would answer in proper sentences, so it is easy to notice "
            "that something was done."
        )
    return found


def _share(faults: Faults) -> str:
    if faults.count == faults.asked:
        return f"all {faults.asked}"
    return f"at least {faults.count} of {faults.asked}"  # the rules miss much


def _without_effect(ends: Sequence[End]) -> list[str]:
    """What to change about runs that forgot nothing."""
    idle = [(name, run) for name, run, _ in ends if run.command == "forget" and rose(run) is False]
    if len(idle) < 2:
        return [advice(run) for _, run in idle]
    names = list(dict.fromkeys(name for name, _ in idle))
    who = joined(names) if len(names) <= MOST_NAMED else f"{len(idle)} runs"
    few = [made for _, run in idle if (made := steps(run)) is not None and made < FEW_STEPS]
    why = f", some with only {min(few)} steps of training" if few else ""
    if len(few) == len(idle):
        why = f", all in fewer than {FEW_STEPS} steps of training"
    return [
        f"{who} had no effect beyond chance{why}: raise --epochs or lower "
        "--gradient-accumulation-steps, for more steps, or raise --learning-rate."
    ]


def _overlaps(ends: Sequence[End]) -> list[str]:
    """Runs that were to keep what they were to forget."""
    found = []
    for name, run, after in ends:
        hashes = run.about.get("hashes", {})
        if run.command == "forget" and hashes.get("forget") and hashes.get("forget") == hashes.get("retain"):
            found.append(
                f"The forget set and the retain set of {name} are the same: what is kept can hardly be forgotten."
            )
            continue
        pairs: dict[str, list[tuple[Any, Any]]] = {"forget": [], "retain": []}
        for row in after.rows:
            pairs.setdefault(row["set"].partition(",")[0], []).append((row.get("question"), row.get("answer")))
        kept = set(pairs["retain"])
        both = sum(pair in kept for pair in pairs["forget"])
        if both:
            found.append(
                f"{both} of {len(pairs['forget'])} forget-set questions of {name} are also in the retain set, with the "
                "same answers: what is kept can hardly be forgotten."
            )
    return found


def _few(ends: Sequence[End], means: bool) -> list[str]:
    """What intervals over few subjects, or few questions, cannot say."""
    subjects = [count for *_, after in ends if (count := after.subjects("forget")) is not None]
    if subjects and min(subjects) == 1:
        return [
            "All questions of the forget set are about one subject: its intervals show how much depends on the choice "
            "of questions, and say nothing about other subjects."
        ]
    if subjects and min(subjects) < FEW_SUBJECTS:
        told = f"The questions of the forget set are about only {number_word(min(subjects))} subjects"
        if means:
            return [f"{told}, too few to tell how the next one would come out."]
        return [
            f"{told}. Intervals over so few are somewhat too narrow, and if all results are alike they have no width "
            "at all: they cannot tell how the next subject would come out."
        ]
    asked = min((after.count("forget") for *_, after in ends if after.count("forget")), default=FEW_QUESTIONS)
    if asked >= FEW_QUESTIONS:
        return []
    number = f"{number_word(asked)} question{'s' * (asked != 1)}"
    return [f"The forget set has only {number}: chance plays a large part in its figures and their intervals."]


def _judge_cautions(known: Sequence[Measurement]) -> list[str]:
    known = [m for m in known if any(m.figure(f"{name}.{metric}") is not None for name in m.sets for metric in JUDGED)]
    judges = {m.summary.get("judge") for m in known}
    embeddings = {m.summary.get("embedding_model") for m in known}
    found = []
    if len(judges) > 1 or len(embeddings) > 1:
        found.append("The evaluations were not all judged by the same models, so their figures are not comparable.")
    if OFFLINE_JUDGE in judges:
        found.append(
            "“Correctly” is what the offline judge says, which compares sentence embeddings and errs more often than "
            "the paper's NLI model: it replaces that where it is not available."
        )
    elif judges - {PAPER_JUDGE}:
        found.append("“Correctly” is what a judge other than the paper's says.")
    if known and (judges - {PAPER_JUDGE} or embeddings - {PAPER_EMBEDDINGS}):
        found.append(
            "Entailment, cosine similarity, model utility and forget efficacy are not comparable with published "
            "numbers, which rest on other judges."
        )
    return found


def _comparison_cautions(report: Report) -> list[str]:
    found = []
    for part in report.parts:
        where = f" in {part.title}" if part.title else ""
        for what, key in (
            ("did not start from the same model", "model"),
            ("were not all measured on the same forget set", "eval.forget"),
            ("were not all measured on the same retain set", "eval.retain"),
        ):
            compared = [run for run in part.runs if run.command == "forget"] if key == "model" else part.runs
            # Layouts hash differently: only hashes of one layout tell contents apart.
            hashes = {(run.about.get("version"), run.about.get("hashes", {}).get(key)) for run in compared}
            known = [version for version, value in hashes if value is not None]
            if len(known) > len(set(known)):
                found.append(f"The runs{where} {what}: compare them with care.")
        found += _ties(part, where)
    subjects = [run.subject for run in report.parts[0].runs if run.command == "forget" and run.after is not None]
    if not report.parts[0].means and len(set(subjects)) == len(subjects) > 1:
        found.append(
            "Every method was run once. The intervals tell how much hangs on the choice of questions, not on the "
            "training seed or the settings, which may suit one method better than another."
        )
    if published := next((part.source for part in report.parts if part.published and part.other_model), ""):
        found.append(
            f"The published figures are of another model ({published}), judged by the paper's judges: no target for "
            "this one."
        )
    return found


def _ties(part: Part, where: str) -> list[str]:
    """The runs whose intervals overlap with that of the run that forgets most."""
    spans = {run.label: run.after.interval("forget_efficacy") for run in part.runs if run.after is not None}
    known = {run.label: value for run in part.runs if spans.get(run.label) and (value := efficacy_of(run)) is not None}
    if len(known) < 2:
        return []
    most = max(known, key=lambda label: known[label])
    low = (spans[most] or (0,))[0]
    near = [label for label in known if label != most and (spans[label] or (0, 0))[1] >= low]
    spread = "standard deviations over the seeds" if part.means else "intervals"
    tied = f"{joined([most, *near])} cannot be told apart by forget efficacy{where}: their {spread} overlap."
    return [tied] if near else []


def _zero(runs: Sequence[Run]) -> str | None:
    """The first figure that makes a model utility 0."""
    for run in runs:
        for when, measured in (("before", run.before), (f"after {run.label}", run.after)):
            if measured is None or measured.figure("model_utility") != 0:
                continue
            for name in measured.sets:
                for metric in METRICS:
                    if name != "forget" and measured.figure(f"{name}.{metric}") == 0:
                        where = f"{spoken(metric)} on {spoken(name)}"
                        return f"{where}, for {run.label}" if run.command == "evaluate" else f"{where}, {when}"
    return None
