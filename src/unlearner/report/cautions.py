"""What to bear in mind when reading a report."""

from collections.abc import Sequence

from unlearner.evaluation.embeddings import PAPER_EMBEDDINGS
from unlearner.evaluation.entailment_judges import OFFLINE_JUDGE, PAPER_JUDGE
from unlearner.evaluation.metrics import METRICS
from unlearner.report.contents import Measurement, Part, Report, Run
from unlearner.report.wording import HIGH_PROBABILITY, efficacy_of, joined, number_word, spoken

LOW_ENTROPY_SHARE = 0.6
"""Answers whose token entropy falls below this share of what it was are repeated words rather than language."""
FEW_QUESTIONS = 30


def cautions(report: Report) -> list[str]:
    runs = report.runs
    ends = [
        (f"{run.label} on {part.title}" if part.title else run.label, run, run.after)
        for part in report.parts
        for run in part.runs
        if run.after is not None
    ]
    known = [m for run in runs for m in (run.before, run.after) if m is not None]
    found = [*_judge_cautions(known)]
    likely = [
        f"{name} ({p:.2f})"
        for name, run, after in ends
        if run.command == "forget" and (p := after.figure("forget.probability")) is not None and p >= HIGH_PROBABILITY
    ]
    if likely:
        found.append(
            f"The reference answers of the forget set are still likely to the model after {joined(likely)}: their "
            "probability per token is high. What is no longer said may still be known, and be drawn out by other "
            "questions."
        )
    broken = []
    for name, run, after in ends:
        was = None if run.before is None else run.before.figure("forget.token_entropy")
        now = after.figure("forget.token_entropy")
        if was is not None and now is not None and now < LOW_ENTROPY_SHARE * was:
            broken.append(f"{name} (token entropy {now:.2f}, {was:.2f} before)")
    if broken:
        found.append(
            f"After {joined(broken)} the answers to forget-set questions are largely repeated words. A model that had "
            "never seen the forget set would answer in sentences, so it is easy to notice that something was done."
        )
    if (zero := _zero(runs)) is not None:
        found.append(
            f"Model utility is a harmonic mean, so it is 0 where one of its figures is 0: here {zero}. Judge what was "
            "kept by the table of all metrics."
        )
    few = min((after.count("forget") for *_, after in ends if after.count("forget")), default=FEW_QUESTIONS)
    if few < FEW_QUESTIONS:
        found.append(
            f"The forget set has only {number_word(few)} question{'s' * (few != 1)}: "
            "chance weighs heavily in its figures."
        )
    if len(runs) > 1:
        found += _comparison_cautions(report)
    odd = dict.fromkeys(sentence for run in runs for sentence in run.about.get("data_warnings", []))
    found += [f"About the data: {sentence}." for sentence in odd]
    notes = dict.fromkeys(spoken(note) for m in known for note in m.summary.get("notes", []))
    return [*found, *(note[:1].upper() + note[1:] for note in notes)]


def _judge_cautions(known: Sequence[Measurement]) -> list[str]:
    judges = {m.summary.get("judge") for m in known}
    embeddings = {m.summary.get("embedding_model") for m in known}
    found = []
    if len(judges) > 1 or len(embeddings) > 1:
        found.append("The evaluations were not all judged by the same models, so their figures do not compare.")
    if OFFLINE_JUDGE in judges:
        found.append(
            "“Correctly” is the word of the offline judge, which compares sentence embeddings and errs more often than "
            "the paper's NLI model: it stands in where that cannot be had."
        )
    elif judges - {PAPER_JUDGE}:
        found.append("“Correctly” is the word of another judge than the paper's.")
    if known and (judges - {PAPER_JUDGE} or embeddings - {PAPER_EMBEDDINGS}):
        found.append(
            "Entailment, cosine similarity, model utility and forget efficacy do not compare with published numbers, "
            "which rest on other judges."
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
    tied = f"{joined([most, *near])} are not told apart by forget efficacy{where}: their {spread} overlap."
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
