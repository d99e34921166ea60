"""What a model knows of a name: its answers beside those that it gives about names which nobody can know.

For a question q about a name and the model's likeliest answer a to it, two numbers tell knowing from the rest:

- specificity, in nats a token: mean over invented names i of NLL(a | q of i) − NLL(a | q of the name), names in q and a
  swapped. It is near 0 for what the model would say of anybody.
- agreement: the share of the answer's new words (those that the question does not hold) that an answer sampled at
  temperature 1 has too, mean over the samples. It is low where the model makes its answers up: they are different
  every time (Manakul et al. 2023, SelfCheckGPT, arXiv 2303.08896).

Invented names give the scale: what they reach is reached without knowing anything. A name is known where enough of its
answers are, or where the median of their specificity lies above what one more invented name would reach: a small model
tells little of a name that it samples twice, and its answers about the name still belong to it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from statistics import fmean, median, quantiles, stdev

from scipy.stats import t

from unlearner.evaluation.requests import Generate, Score
from unlearner.prepare.asking import Asked
from unlearner.prepare.kinds import ask, swapped

WORD = re.compile(r"\w+")
NO_NAME = re.compile(r"[JSjs][Rr]\.?|[IVX]{2,}\.?|[IV]\.?|\d+")
"""Words behind a family name; X alone is one."""
SHORT = 3
"""Words of so few letters say little; numbers count at any length."""
CONFIDENCE = 0.95
"""Of the bound on what one more invented name reaches."""


@dataclass(frozen=True)
class Answered:
    """One question about a name and what the model said."""

    name: str
    fact: str
    question: str
    answer: str
    """The likeliest one."""
    samples: tuple[str, ...]
    agreement: float
    specificity: float


@dataclass(frozen=True)
class Scale:
    """What invented names reach: a tenth of their answers lies above the first two lines."""

    agreement: float
    specificity: float
    median: float
    """Upper prediction bound (`CONFIDENCE`, of normal values) on the median specificity of one more invented name."""

    @classmethod
    def of(cls, invented: Sequence[Answered]) -> "Scale":
        """The lines that the answers about invented names draw; there are two names at least."""
        agreement, specificity = (
            quantiles([getattr(a, key) for a in invented], n=10)[-1] for key in ("agreement", "specificity")
        )
        names = dict.fromkeys(answer.name for answer in invented)
        medians = [median_specificity([a for a in invented if a.name == name]) for name in names]
        n = len(medians)
        spread = stdev(medians) * (1 + 1 / n) ** 0.5
        return cls(agreement, specificity, fmean(medians) + float(t.ppf(CONFIDENCE, n - 1)) * spread)

    def verdict(self, answer: Answered) -> str:
        """`knows`: the answer belongs to this name, and comes again. `guesses`: it would say the same of others.
        `makes up`: it says something else every time."""
        if answer.specificity > self.specificity:
            return "knows" if answer.agreement > self.agreement else "makes up"
        return "guesses" if answer.agreement > self.agreement else "makes up"

    def knows(self, answers: Sequence[Answered]) -> bool:
        """Whether the model knows the name that these answers are about."""
        known = sum(self.verdict(answer) == "knows" for answer in answers)
        return are_enough(known, len(answers)) or median_specificity(answers) > self.median


@dataclass(frozen=True)
class Probe:
    """What was found. `known` and `invented` are the same questions about names that most models know, and that none
    can."""

    subject: str
    answers: list[Answered]
    known: list[Answered]
    invented: list[Answered]
    scale: Scale

    @property
    def verdicts(self) -> list[str]:
        """Of every answer: knows, guesses, or makes up."""
        return [self.scale.verdict(answer) for answer in self.answers]

    @property
    def knows(self) -> bool:
        """Whether there is something to forget."""
        return self.scale.knows(self.answers)

    def share_known(self, answers: Sequence[Answered]) -> float:
        """How many of the answers are known by this scale, 0 to 1."""
        return fmean(self.scale.verdict(answer) == "knows" for answer in answers)

    @property
    def evidence(self) -> str:
        """The figures behind `knows`, in three sentences."""
        well_known = f"about well-known names {self.share_known(self.known):.0%}, " if self.known else ""
        return (
            f"{self.verdicts.count('knows')} of {len(self.answers)} answers are known; for the same questions "
            f"{well_known}about invented names {self.share_known(self.invented):.0%}. An answer counts as known above "
            f"a specificity of {self.scale.specificity:.2f} and an agreement of {self.scale.agreement:.2f}, which nine "
            f"in ten answers about invented names do not reach. Their median specificity is "
            f"{median_specificity(self.answers):.2f}; for one more invented name it would stay below "
            f"{self.scale.median:.2f} ({CONFIDENCE:.0%} prediction bound)."
        )

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        if self.knows:
            return f"The model knows about {self.subject}."
        return (
            f"The model knows nothing about {self.subject}, as far as these questions go: there is nothing to forget."
        )


def median_specificity(answers: Sequence[Answered]) -> float:
    """In nats a token. The median, because single questions bring out much that would be said of anybody."""
    return median(answer.specificity for answer in answers)


def are_enough(known: int, asked: int) -> bool:
    """Whether so many known answers of all that were asked are more than such a scale lets pass by chance, which is one
    in ten."""
    return known > max(1, 0.2 * asked)


def investigate(
    asked: Asked,
    names: Mapping[str, tuple[str, ...]],
    wordings: Mapping[str, str],
    invented: Sequence[str],
    *,
    samples: int,
    max_new_tokens: int,
    seed: int,
    above: float = -inf,
    keep: bool = False,
    persons: bool = False,
) -> dict[str, list[Answered]]:
    """By name, every question (`wordings` by fact, the name's place as `{name}`) with what the model said.

    `names` are those to ask about, each with its aliases; answers about them are compared with the same about the
    `invented` names, a name with all but itself. Samples are drawn for answers with a specificity `above` that; the
    others have no agreement, and are not known by any scale that asks for more. `keep` is as in `Asked.answers`,
    `persons` as in `renamed`.
    """
    likeliest = {
        (name, fact): Generate(ask(wording, name), max_new_tokens=max_new_tokens)
        for name in names
        for fact, wording in wordings.items()
    }
    said = asked.answers(likeliest.values(), "asking", keep=keep)
    scores: dict[tuple[str, str], tuple[Score, list[Score]]] = {}
    for (name, fact), request in likeliest.items():
        answer = said.written(request)[0].text or "."
        others = [other for other in invented if other != name]
        own = (name, *names[name])
        scores[name, fact] = (
            Score(request.prompt, answer),
            [Score(ask(wordings[fact], other), renamed(answer, own, other, persons=persons)) for other in others],
        )
    scored = asked.answers([r for own, others in scores.values() for r in (own, *others)], "comparing", keep=keep)

    def loss(request: Score) -> float:
        found = scored.scored(request)
        return found.nll / found.tokens

    specificity = {place: fmean(map(loss, others)) - loss(own) for place, (own, others) in scores.items()}
    several = {
        place: replace(request, n=samples, temperature=1.0, seed=seed)
        for place, request in likeliest.items() if specificity[place] > above
    }  # fmt: skip
    drawn = asked.answers(several.values(), "sampling", keep=keep)
    found: dict[str, list[Answered]] = {name: [] for name in names}
    for (name, fact), request in likeliest.items():
        answer, question = said.written(request)[0].text, ask(wordings[fact], name)
        sampled = several.get((name, fact))
        texts = tuple(each.text for each in drawn.written(sampled)) if sampled else ()
        agreed = agreement(answer, texts, question) if texts else 0.0
        found[name].append(Answered(name, fact, question, answer, texts, agreed, specificity[name, fact]))
    return found


def renamed(text: str, names: tuple[str, ...], other: str, *, persons: bool) -> str:
    """`text` about a name (the first of `names`, its aliases after it) as one about `other`. The family name of
    `persons` stands for them, as Darwin for Charles Darwin."""
    text = swapped(text, names, other)
    family = family_name(names[0])
    if not persons or family == names[0]:
        return text
    return re.sub(rf"(?<!\w){re.escape(family)}(?!\w)", lambda _: family_name(other), text)  # a Rich is not rich


def family_name(name: str) -> str:
    """The last word of a name that is no Jr., Sr. or numeral."""
    words = [word.rstrip(",") for word in name.split()]
    return next((word for word in reversed(words) if not NO_NAME.fullmatch(word)), words[-1])


def agreement(answer: str, samples: Sequence[str], question: str) -> float:
    """Mean share of the answer's new words that a sample has; 0 for an answer without any."""
    told = _words(answer) - _words(question)
    return fmean(len(told & _words(sample)) / len(told) for sample in samples) if told else 0.0


def _words(text: str) -> set[str]:
    return {word for word in WORD.findall(text.lower()) if len(word) > SHORT or word.isdigit()}
