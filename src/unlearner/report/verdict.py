"""The report in two sentences, and what to bear in mind when reading them."""

from collections.abc import Sequence
from dataclasses import dataclass

from unlearner.evaluation.judges import OFFLINE_EMBEDDINGS, OFFLINE_JUDGE, PAPER_EMBEDDINGS, PAPER_JUDGE
from unlearner.evaluation.metrics import METRICS
from unlearner.report.read import Measurement, Part, Report, Run, over_parts

HIGH_PROBABILITY = 0.25
"""A reference answer likelier than this, per token, is still known: models that never saw TOFU's answers stay below."""
LOW_ENTROPY_SHARE = 0.6
"""Answers whose token entropy falls below this share of what it was are repeated words rather than language."""
KEPT_UTILITY = 0.9
"""Forgetting is compared among runs that keep this share of the model utility."""
FEW_QUESTIONS = 30


@dataclass(frozen=True)
class Verdict:
    sentences: list[str]
    cautions: list[str]


def verdict(report: Report) -> Verdict:
    """What the runs show, in plain words; where the evidence is not there, what is missing for it."""
    benches = [part for part in report.parts if part.seeds]
    if benches and len(report.benches) == 1:
        return Verdict(_of_bench(benches), _cautions(report))
    return Verdict(_of_runs(report.runs), _cautions(report))


def _of_runs(runs: Sequence[Run]) -> list[str]:
    if not runs:
        return ["Nothing has been measured yet.", "What is missing is named below."]
    forgotten = [run for run in runs if run.command == "forget"]
    measured = [run for run in forgotten if run.before is not None and run.after is not None]
    if not forgotten:
        return _evaluated(runs)
    if len(measured) > 1:
        return _compared(measured, "runs")
    return _one(measured[0]) if measured else _unfinished(forgotten)


def _of_bench(parts: Sequence[Part]) -> list[str]:
    """A bench by its methods' means over seeds and splits."""
    part = parts[0]
    over = [f"{number_word(len(parts))} splits"] if len(parts) > 1 else []
    over += [f"{number_word(len(part.seeds))} seeds"] if part.means else []
    how = f" in the mean over {' and '.join(over)}" if over else ""
    if part.step == "task":
        how = f" after {number_word(len(next(r.retention.tasks for r in part.runs if r.retention)))} tasks{how}"
    runs = over_parts(parts)
    if not runs:
        return ["No method has been measured on every split.", "The tables show what is there."]
    if len(runs) == 1:
        first = f"{runs[0].label} comes to a forget efficacy of {_number(_efficacy(runs[0]))}{how}"
        return [f"{first}.", f"{_kept(runs[0], mean=True)}, {_judged_all(runs)}."]
    return _compared(runs, "methods", how, counts=len(parts) == 1 and part.step != "task")


def number_word(number: int) -> str:
    """A small number in letters."""
    words = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
    return words[number] if number < len(words) else str(number)


def _one(run: Run) -> list[str]:
    before, after = run.before, run.after
    assert before is not None and after is not None
    sentences = []
    was, now, count = before.right("forget"), after.right("forget"), after.count("forget")
    if was is None or now is None:
        sentences.append("No forget set was measured, so nothing can be said about what is gone.")
    else:
        was_efficacy = _number(before.figure("forget_efficacy"))
        efficacy = f"forget efficacy went from {was_efficacy} to {_ranged(after, 'forget_efficacy')}"
        if was == 0:
            sentences.append(
                f"The model answered none of the {count} forget-set questions correctly even before; with {run.label}, "
                f"{efficacy}."
            )
        else:
            sentences.append(
                f"{_gone(now / was, after)}: after {run.label} the model answers {now} of {count} forget-set questions "
                f"correctly ({was} before), and {efficacy}."
            )
    return [*sentences, f"{_kept(run)}, {_judged(after)}."]


def _kept(run: Run, *, mean: bool = False) -> str:
    assert run.before is not None and run.after is not None
    before, after = run.before.figure("model_utility"), run.after.figure("model_utility")
    if before is None or after is None:
        return "No set to be kept was measured, so what was lost beside the forget set is not known"
    if before == 0:
        return "Model utility was 0 before unlearning already, so what was kept cannot be told from it"
    share = after / before
    only = "only " if share < KEPT_UTILITY else ""
    now = _number(after) if mean else _ranged(run.after, "model_utility")
    return f"It keeps {only}{_share(share)} of its model utility ({before:.3f} before, {now} after)"


def _compared(runs: Sequence[Run], noun: str, how: str = "", *, counts: bool = True) -> list[str]:
    def efficacy(run: Run) -> float:
        value = _efficacy(run)
        return -1 if value is None else value

    most = max(runs, key=efficacy)
    if efficacy(most) < 0:
        return ["No forget set was measured, so nothing can be said about what is gone.", f"{_judged_all(runs)}."]
    shares = {run.label: run.utility_share or 0 for run in runs}
    kept = [run for run in runs if shares[run.label] >= KEPT_UTILITY]
    bound = f"{KEPT_UTILITY:.0%} of the model utility"
    number = number_word(len(runs))
    much = "more" if len(runs) == 2 else "most"
    first = f"Of the {number} {noun}, {most.label} forgets {much}{how} ({_facts(most, counts)})"
    if most.utility_share is not None:
        keeps = "and keeps" if most in kept else "but keeps only"
        first += f", {keeps} {_share(shares[most.label])} of its model utility"
    if all(run.utility_share is None for run in runs):
        second = "What was kept cannot be told, for none has a model utility above 0 before unlearning"
    elif not kept:
        best = max(runs, key=lambda run: shares[run.label])
        second = f"None keeps {bound}; {best.label} comes nearest, with {_share(shares[best.label])}"
    elif len(kept) == len(runs):
        second = f"{'Both' if len(runs) == 2 else f'All {number}'} keep at least {bound}"
    elif most in kept:
        second = f"It alone keeps at least {bound}"
        if len(kept) > 1:
            second = f"{number_word(len(kept)).capitalize()} of the {number} keep at least {bound}"
    else:
        best = max(kept, key=efficacy)
        facts = f"{_facts(best, counts)}; {_share(shares[best.label])} kept"
        second = f"Only {best.label} keeps at least {bound} ({facts})"
        if len(kept) > 1:
            much = "more" if len(kept) == 2 else "most"
            second = (
                f"Of the {number_word(len(kept))} that keep at least {bound}, {best.label} forgets {much} ({facts})"
            )
    return [f"{first}.", f"{second}, {_judged_all(runs)}."]


def _efficacy(run: Run) -> float | None:
    return None if run.after is None else run.after.figure("forget_efficacy")


def _facts(run: Run, counts: bool) -> str:
    assert run.before is not None and run.after is not None
    was, now = run.before.right("forget"), run.after.right("forget")
    efficacy = f"forget efficacy {_number(run.after.figure('forget_efficacy'))}"
    if was is None or now is None or not counts:
        return efficacy
    return (
        f"{now} of {run.after.count('forget')} forget-set questions still answered correctly, {was} before; {efficacy}"
    )


def _evaluated(runs: Sequence[Run]) -> list[str]:
    measured = [(run, run.after) for run in runs if run.after is not None]
    if not measured:
        return ["Nothing has been measured yet.", "What is here is shown below."]
    sentences = []
    for run, after in measured[:2]:
        now, parts = after.right("forget"), []
        if now is not None:
            parts.append(
                f"answers {now} of {after.count('forget')} forget-set questions correctly "
                f"(forget efficacy {_ranged(after, 'forget_efficacy')})"
            )
        if after.figure("model_utility") is not None:
            parts.append(f"has a model utility of {_ranged(after, 'model_utility')}")
        sentences.append(f"The model {run.label} {' and '.join(parts) or 'was measured'}")
    if len(sentences) == 1:
        judged = _judged(measured[0][1])
        return [f"{sentences[0]}.", f"This is the evaluation of one model, with nothing to compare it with, {judged}."]
    return [f"{sentences[0]}.", f"{sentences[1]}, {_judged_all(runs)}."]


def _unfinished(runs: Sequence[Run]) -> list[str]:
    silent = all(run.config.get("evaluate") == "none" for run in runs)
    why = "the model was not to be measured (--evaluate none)" if silent else "the evaluations are not complete"
    known = next((run.before for run in runs if run.before is not None), None)
    second = "What is here is shown below."
    if known is not None and (right := known.right("forget")) is not None:
        count = f"{right} of {known.count('forget')}"
        second = f"Before unlearning the model answered {count} forget-set questions correctly, {_judged(known)}."
    elif any(run.after is not None for run in runs):
        second = "There is an evaluation after unlearning, but none before to compare it with."
    return [f"Nothing can be said yet about what was forgotten, for {why}.", second]


# ------------------------------------------------------------------------------------------------------------- cautions


def _cautions(report: Report) -> list[str]:
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
            f"The reference answers of the forget set are still likely to the model after {_list(likely)}: their "
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
            f"After {_list(broken)} the answers to forget-set questions are largely repeated words. A model that had "
            "never seen the forget set would answer in sentences, so whoever asks will notice that something was done."
        )
    if (zero := _zero(runs)) is not None:
        found.append(
            f"Model utility is 0 where one of its figures is 0, for it is a harmonic mean: here {zero}. Judge what was "
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
    notes = dict.fromkeys(_spoken(note) for m in known for note in m.summary.get("notes", []))
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
        for what, keys in (
            ("did not start from the same model", ("the model",)),
            ("were not all measured on the same forget set", ("the evaluation set forget", "forget set")),
            ("were not all measured on the same retain set", ("the evaluation set retain", "retain set")),
        ):
            compared = [run for run in part.runs if run.command == "forget"] if keys == ("the model",) else part.runs
            hashes = {run.about.get("hashes", {}).get(key) for run in compared for key in keys} - {None}
            if len(hashes) > 1:
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
    """Who cannot be told from the one that forgets most, for their intervals overlap."""
    spans = {run.label: run.after.interval("forget_efficacy") for run in part.runs if run.after is not None}
    known = {run.label: value for run in part.runs if spans.get(run.label) and (value := _efficacy(run)) is not None}
    if len(known) < 2:
        return []
    most = max(known, key=lambda label: known[label])
    low = (spans[most] or (0,))[0]
    near = [label for label in known if label != most and (spans[label] or (0, 0))[1] >= low]
    spread = "standard deviations over the seeds" if part.means else "intervals"
    tied = f"{_list([most, *near])} are not told apart by forget efficacy{where}: their {spread} overlap."
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
                        where = f"{_spoken(metric)} on {_spoken(name)}"
                        return f"{where}, for {run.label}" if run.command == "evaluate" else f"{where}, {when}"
    return None


def _spoken(name: str) -> str:
    return name.replace("_", " ")


# ---------------------------------------------------------------------------------------------------------------- words


def _gone(left: float, after: Measurement) -> str:
    """How much of the forget set is gone, by the share of correct answers left, and whether it may only be hidden."""
    bounds = (
        (0.05, "Nearly all"),
        (0.25, "Most"),
        (0.4, "More than half"),
        (0.6, "About half"),
        (0.9, "Less than half"),
    )
    much = next((words for bound, words in bounds if left <= bound), "Hardly anything")
    likely = after.figure("forget.probability")
    if likely is None or likely < HIGH_PROBABILITY or left > bounds[-1][0]:
        return f"{much} of the forget set is gone"
    return (
        f"{much} of the forget set is no longer said, though the model still finds it likely (probability {likely:.2f})"
    )


def judge_words(measured: Measurement) -> str:
    """Who judged, for the middle of a sentence."""
    judge, embeddings = measured.summary.get("judge"), measured.summary.get("embedding_model")
    if judge == PAPER_JUDGE and embeddings == PAPER_EMBEDDINGS:
        return "the paper's judges"
    if judge == OFFLINE_JUDGE:
        own = "" if embeddings == OFFLINE_EMBEDDINGS else f" with {embeddings}"
        return f"the offline judge{own}, not by the paper's"
    return f"{judge}, with the embeddings of {embeddings}"


def _judged(measured: Measurement) -> str:
    return f"as judged by {judge_words(measured)}"


def _judged_all(runs: Sequence[Run]) -> str:
    words = {judge_words(m) for run in runs for m in (run.before, run.after) if m is not None}
    return f"as judged by {words.pop()}" if len(words) == 1 else "as judged by several judges"


def _ranged(measured: Measurement, key: str) -> str:
    interval = measured.interval(key)
    value = _number(measured.figure(key))
    return value if interval is None else f"{value} (95% interval {interval[0]:.2f} to {interval[1]:.2f})"


def _number(value: float | None) -> str:
    return "an undefined value" if value is None else f"{value:.3f}"


def _share(share: float) -> str:
    """A share in percent; in words where it is all."""
    return "all" if 0.995 <= share < 1.005 else f"{share:.0%}"


def _list(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
