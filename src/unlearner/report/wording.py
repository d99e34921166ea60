"""Numbers, names and judges as words of a sentence."""

from collections.abc import Iterable, Sequence

from unlearner.evaluation.embeddings import OFFLINE_EMBEDDINGS, PAPER_EMBEDDINGS
from unlearner.evaluation.entailment_judges import OFFLINE_JUDGE, PAPER_JUDGE
from unlearner.report.contents import Measurement, Run

HIGH_PROBABILITY = 0.25
"""A reference answer likelier than this, per token, is still known: models that never saw TOFU's answers stay below."""


JUDGED = ("entailment", "cosine_similarity")
"""The metrics that rest on a judge, and through them model utility and forget efficacy."""


def number_word(number: int) -> str:
    """A small number in letters."""
    words = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
    return words[number] if number < len(words) else str(number)


def efficacy_of(run: Run) -> float | None:
    return None if run.after is None else run.after.figure("forget_efficacy")


def spoken(name: str) -> str:
    return name.replace("_", " ")


def judge_words(measured: Measurement) -> str:
    """Who judged, for the middle of a sentence."""
    judge, embeddings = measured.summary.get("judge"), measured.summary.get("embedding_model")
    if judge == PAPER_JUDGE and embeddings == PAPER_EMBEDDINGS:
        return "the paper's judges"
    if judge == OFFLINE_JUDGE:
        own = "" if embeddings == OFFLINE_EMBEDDINGS else f" with {embeddings}"
        return f"the offline judge{own}, not by the paper's"
    return f"{judge}, with the embeddings of {embeddings}"


def judged(known: Iterable[Measurement]) -> str:
    """A sentence on who judged; empty where nothing that a judge has a say in was measured."""
    words = {judge_words(m) for m in known if any(m.figure(f"{s}.{v}") is not None for s in m.sets for v in JUDGED)}
    if not words:
        return ""
    return f"Judged by {words.pop()}." if len(words) == 1 else "Judged by several judges."


def ranged(measured: Measurement, key: str) -> str:
    interval = measured.interval(key)
    value = decimals(measured.figure(key))
    return value if interval is None else f"{value} (95% interval {interval[0]:.3f} to {interval[1]:.3f})"


def decimals(value: float | None) -> str:
    return "an undefined value" if value is None else f"{value:.3f}"


def percent(share: float) -> str:
    """A share in percent; in words where it is all."""
    return "all" if 0.995 <= share < 1.005 else f"{share:.0%}"


def joined(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
