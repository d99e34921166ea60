"""How well do the measures of `unlearner probe` tell well-known persons from invented ones?

`python -m benchmarks.probe_names` asks SmolLM2 three questions about each of 20 and 20 names, and prints the AUC of
every measure: the probability that a well-known name has more of it than an invented one. Three invented names make the
scale and are not counted. Takes minutes on two cores.
"""

from collections.abc import Callable, Sequence
from statistics import fmean

from unlearner.config import ProbeConfig
from unlearner.prepare.asking import Asked
from unlearner.prepare.kinds import kinds
from unlearner.prepare.knowledge import Answered, Scale, investigate

FACTS = ("identity", "fame", "profession")
SCALE = 3


def auc(high: Sequence[float], low: Sequence[float]) -> float:
    """The probability that one of `high` is above one of `low`; equal ones count half."""
    return fmean((a > b) + 0.5 * (a == b) for a in high for b in low)


def main() -> None:
    kind = kinds()["person"]
    wordings = {fact: kind.facts[fact][0] for fact in FACTS}
    scale_names, invented = kind.invented[:SCALE], kind.invented[SCALE:]
    said = investigate(
        Asked(ProbeConfig(model="builtin:smollm2", subject="nobody")), dict.fromkeys(kind.known + kind.invented, ()),
        wordings, scale_names, samples=4, max_new_tokens=24, seed=1, persons=True,
    )  # fmt: skip
    scale = Scale.of([answer for name in scale_names for answer in said[name]])

    def known(answers: list[Answered]) -> float:
        return fmean(scale.verdict(answer) == "knows" for answer in answers)

    measures: dict[str, Callable[[list[Answered]], float]] = {
        "specificity": lambda answers: fmean(answer.specificity for answer in answers),
        "agreement": lambda answers: fmean(answer.agreement for answer in answers),
        "share of answers known": known,
    }
    for title, measure in measures.items():
        high, low = ([measure(said[name]) for name in names] for names in (kind.known, invented))
        print(f"{title}: AUC {auc(high, low):.3f}, means {fmean(high):.2f} and {fmean(low):.2f}")
    for title, names in (("well-known", kind.known), ("invented", invented)):
        print(f"{title}: {sum(known(said[name]) >= 2 / 3 for name in names)} of {len(names)} known by two answers")


if __name__ == "__main__":
    main()
