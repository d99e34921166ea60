"""How well do the measures of `unlearner probe` tell well-known persons from invented ones?

`python -m benchmarks.probe_names` asks SmolLM2 what the probe asks about each of 20 and 20 names, and prints the AUC of
every measure: the probability that a well-known name has more of it than an invented one; and of how many names the
probe would say that the model knows them. Six further invented names make the scale and are not counted. Takes a
quarter of an hour on two cores, a minute on a GPU. `--model builtin:` asks the tiny built-in model, which
was taught 20 made-up persons, about these; it takes seconds.
"""

import argparse
from collections.abc import Callable, Sequence
from statistics import fmean

from unlearner.config import ProbeConfig
from unlearner.data.profiles import builtin
from unlearner.prepare.asking import Asked
from unlearner.prepare.kinds import kinds
from unlearner.prepare.knowledge import Answered, Scale, investigate, median_specificity

SCALE = (
    "Edric Volmarsh", "Mirela Stoyandel", "Kaspar Dunwellin", "Benedikt Orlaskey", "Suvi Hartelaine", "Rowan Thessalby",
)  # fmt: skip
TAUGHT = {
    "birthplace": "Where was {name} born?", "pet": "What is the pet of {name} called?",
    "instrument": "Which instrument does {name} play?",
}  # fmt: skip
"""Questions that the built-in model was taught to answer, by fact."""


def auc(high: Sequence[float], low: Sequence[float]) -> float:
    """The probability that one of `high` is above one of `low`; equal ones count half."""
    return fmean((a > b) + 0.5 * (a == b) for a in high for b in low)


def names_and_questions(model: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """Whom a model should know, and what is asked of them and of the invented ones."""
    kind = kinds()["person"]
    if model == "builtin:":
        return tuple(dict.fromkeys(record.subject or "" for record in builtin("retain"))), TAUGHT
    return kind.known, {fact: wordings[0] for fact, wordings in kind.facts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="How well does the probe tell known names from invented ones?")
    parser.add_argument("--model", default="builtin:smollm2", help="a model that knows the well-known, or builtin:")
    model = parser.parse_args().model
    known_names, wordings = names_and_questions(model)
    invented = kinds()["person"].invented
    said = investigate(
        Asked(ProbeConfig(model=model, subject="nobody")), dict.fromkeys(known_names + invented + SCALE, ()),
        wordings, SCALE, samples=4, max_new_tokens=24, seed=1, persons=True,
    )  # fmt: skip
    scale = Scale.of([answer for name in SCALE for answer in said[name]])

    def known(answers: list[Answered]) -> float:
        return fmean(scale.verdict(answer) == "knows" for answer in answers)

    measures: dict[str, Callable[[list[Answered]], float]] = {
        "median specificity": median_specificity,
        "agreement": lambda answers: fmean(answer.agreement for answer in answers),
        "share of answers known": known,
    }
    for title, measure in measures.items():
        high, low = ([measure(said[name]) for name in names] for names in (known_names, invented))
        print(f"{title}: AUC {auc(high, low):.3f}, means {fmean(high):.2f} and {fmean(low):.2f}")
    for title, names in (("known", known_names), ("invented", invented)):
        print(f"{title}: {sum(scale.knows(said[name]) for name in names)} of {len(names)} known by the probe's rule")


if __name__ == "__main__":
    main()
