"""The model's own neighbours of a subject: names that it puts close to the subject, and knows itself.

A model names others readily, and makes many of them up. So each that is not well known is asked about as `unlearner
probe` asks, and kept where enough of the answers are known.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from unlearner.config import PrepareConfig
from unlearner.evaluation.requests import Generate, Written
from unlearner.prepare.asking import Asked
from unlearner.prepare.kinds import ask
from unlearner.prepare.knowledge import Probe, are_enough, investigate
from unlearner.prepare.subject import About, is_any

LIST_TOKENS = 120
"""Longest list of names, in tokens."""
WARMTH = 0.7
"""Temperature of further lists: at 1, a small model's are mostly invented."""
LONGEST = 60
MOST_WORDS = 6
ITEM = re.compile(r"^\s*(?:\d{1,2}[.)]|[-*•])\s+(.*)$", re.MULTILINE)
BEHIND = re.compile(r"\s*[:(,;]|\s+[-–—]\s|\s+by\s")
"""Where what is told about a name begins."""
DESCRIPTION = re.compile(r"^(?:an?|eine?) | in |['’](?:s|(?<=s['’])) ", re.IGNORECASE)
"""An indefinite article, a place or work, or a possessive: words of a description rather than of a name."""
AROUND = "*_\"'“”„«»` ."


def own_neighbours(
    asked: Asked, config: PrepareConfig, subject: About, found: Probe
) -> tuple[list[str], Mapping[str, str]]:
    """At most `config.neighbour_count` names that the model puts close to the subject and knows by `found`'s scale,
    those that it names most often first; and its likeliest answers about all that were tried, by question.

    Well-known names of the kind are taken as they are. The others are asked half of the questions, and those of which
    it knows something but not enough the other half. They are judged by the answers that it knows alone, more strictly
    than the probe judges a subject.
    """
    candidates = named(asked, config, subject)[: config.neighbour_count]
    invented = list(dict.fromkeys(answer.name for answer in found.invented))
    wordings = {fact: wordings[0] for fact, wordings in subject.facts.items()}
    half = (len(wordings) + 1) // 2
    known: Counter[str] = Counter()
    kept, answers = {name for name in candidates if name in subject.kind.known}, {}
    doubtful = [name for name in candidates if name not in kept]
    for facts in (list(wordings)[:half], list(wordings)[half:]):
        said = investigate(
            asked, dict.fromkeys(doubtful, ()), {fact: wordings[fact] for fact in facts}, invented,
            samples=config.samples, max_new_tokens=config.max_new_tokens, seed=config.seed,
            above=found.scale.specificity, persons=subject.kind.persons,
        )  # fmt: skip
        for answer in (answer for those in said.values() for answer in those):
            answers[answer.question] = answer.answer
            known[answer.name] += found.scale.verdict(answer) == "knows"
        kept |= {name for name in doubtful if are_enough(known[name], len(wordings))}
        doubtful = [name for name in doubtful if known[name] and name not in kept]
    return [name for name in candidates if name in kept], answers


def named(asked: Asked, config: PrepareConfig, subject: About) -> list[str]:
    """The names in the model's lists, those of most lists first."""
    requests = []
    for wording in subject.kind.near:
        greedy = Generate(ask(wording, subject.name), max_new_tokens=LIST_TOKENS)
        warm = Generate(
            greedy.prompt, n=config.samples, temperature=WARMTH, seed=config.seed, max_new_tokens=LIST_TOKENS
        )
        requests += [greedy, warm]
    said = asked.answers(requests, "neighbours")
    lists = [set(names_in(answer)) for request in requests for answer in said.written(request)]
    order = [name for request in requests for answer in said.written(request) for name in names_in(answer)]
    counts = Counter(name for names in lists for name in names)
    ranked = sorted(dict.fromkeys(order), key=lambda name: -counts[name])
    return distinct(name for name in subject.others(ranked) if not describes(name, titles=config.kind == "work"))


def describes(text: str, *, titles: bool) -> bool:
    """Whether a text tells who or what is meant in place of the name: An Italian city, Ann Bell's sister. `titles` may
    have such words, as A Tale of Two Cities has; what ends in small letters is none."""
    return bool(DESCRIPTION.search(text)) and not (titles and text.split()[-1][0].isupper())


def distinct(names: Iterable[str]) -> list[str]:
    """The names without those that are the same as an earlier one: what is trained by one would be held out by the
    other."""
    found: list[str] = []
    for name in names:
        if not is_any(name, found):
            found.append(name)
    return found


def names_in(answer: Written) -> Iterator[str]:
    """The names that a list in an answer holds, without what is told about them; not the last of a list cut short."""
    items = ITEM.findall(answer.text)
    for item in items[:-1] if len(answer.ids) >= LIST_TOKENS - 1 else items:
        name = " ".join(BEHIND.split(item.strip(AROUND), maxsplit=1)[0].strip(AROUND).split())
        if 2 <= len(name) <= LONGEST and len(name.split()) <= MOST_WORDS and any(letter.isupper() for letter in name):
            yield name
