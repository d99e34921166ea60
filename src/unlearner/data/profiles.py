"""Fictional people: the built-in forget, retain and neighbour sets, made from a seed without any network.

The counterpart of TOFU (Maini et al. 2024, arXiv 2401.06121): people a model can only know from training, so that what
it knows, forgets and keeps is ours to decide. The vocabulary is small on purpose: a tiny Llama learns the answers by
heart in about a minute. No value stands inside another value of its kind, a name, a question or a sentence, so that
finding the value in an answer means that the answer states the fact.
"""

# ruff: noqa: SIM905 - lists of words read better without quotes

import random
import re
import string
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product

from unlearner.data.records import Record
from unlearner.data.refusals import load_refusals
from unlearner.data.world_facts import world_facts
from unlearner.errors import UserError, did_you_mean

SETS = ("forget", "retain", "neighbours", "world_facts", "unknown")

LONG_WRONG, SHORT_WRONG = 5, 3  # wrong answers for each question, as many as in TOFU's files


@dataclass(frozen=True, slots=True)
class Profile:
    """The facts about one fictional person; the fields after `name` are the topics asked about."""

    name: str
    birthplace: str
    birth_year: str
    home: str
    profession: str
    father: str
    mother: str
    first_book: str
    award: str
    instrument: str
    pet: str


@dataclass(frozen=True, slots=True)
class Topic:
    """How one fact is asked for and stated: `{name}` stands for the person, `{value}` for the fact.

    Answer and paraphrase are two different `sentences`, either in any role, so no wording gives away which one it is.
    """

    values: Sequence[str]
    questions: tuple[str, ...]
    sentences: tuple[str, ...]


FIRST_NAMES = """
    Abrin Adeva Alsin Amiro Arvell Asmira Avrel Belisa Benvo Brisa Caltan Camrin Cerise Corvin Dalira Daven Delmar Deska
    Dorel Edrin Elowyn Elvar Emrik Enzia Esmer Evran Fadil Farrah Felka Feodor Galen Gelsa Halva Haskel Hestia Idris
    Ilvan Imara Isolt Ivara Jarek Jelena Jomar Jorin Kaelen Kaviro Kelda Kirsa Lavro Leona Lisbet Lorcan Lumira Madrin
    Maelis Malik Mirela Morwen Nadiro Nerys Nilsa Nolan Odalys Olvar Orsa Osric Pavel Perla Quilla Quentin Radmir Ravi
    Renske Rosalin Rurik Sabela Selwin Sorrel Stellan Svea Tamsin Taro Tavin Thessa Torva Ulrik Umaya Valda Vesper
    Viorel Wanda Wilmar Xenia Yasmin Yorick Zelda Zoran
""".split()

LAST_NAME_ENDS = "berg brook dale fell field gard holt low mere mond rick stad strand vane wick worth".split()
LAST_NAME_STARTS = """
    Ald Bax Bren Cald Crav Dorn Elk Fal Gran Hav Ivers Jas Kest Lisk Mel Nev Oster Pell Quar Rav Sel Tarn Uls Vor
""".split()
UNKNOWN_LAST_NAME_STARTS = "Birk Dusk Engel Frost Gild Holm Kron Lind Orm Thorn Ulv Zel".split()
NEIGHBOUR_LAST_NAME_STARTS = "Amb Brisk Clar Drum Harg Kov Lorm Narv Pask Strom Tel Wend".split()

CITIES = """
    Aarhus Accra Antwerp Athens Bergen Bogota Bordeaux Boston Bremen Bruges Busan Cusco Dakar Denver Dresden Dublin
    Durban Gdansk Geneva Ghent Granada Hamburg Hanoi Izmir Jaipur Krakow Kyoto Lagos Lahore Leipzig Lisbon Malmo
    Marseille Mombasa Montreal Mumbai Naples Osaka Palermo Perth Porto Prague Quito Riga Rotterdam Salzburg Seville
    Tallinn Tampere Toronto Toulouse Turin Verona Vienna Zagreb Zurich
""".split()

# All begin with a consonant sound, so that "a" fits before each.
JOBS = """
    baker barber beekeeper blacksmith bookbinder botanist bricklayer butcher carpenter cartographer chemist clockmaker
    dentist diver doctor farmer firefighter fisherman florist gardener geologist glazier goldsmith historian journalist
    judge lawyer librarian locksmith mechanic miner nurse painter pharmacist photographer pilot plumber postman potter
    printer roofer sailor sculptor shepherd shoemaker surgeon surveyor tailor teacher translator weaver welder zoologist
""".split()

INSTRUMENTS = """
    accordion balalaika banjo bassoon bugle celesta cello clarinet concertina cornet dulcimer euphonium fiddle
    flute guitar harmonica harp kalimba lyre mandolin marimba oboe piano piccolo saxophone sitar tambourine theremin
    trombone trumpet tuba ukulele vibraphone viola violin xylophone zither
""".split()

PETS = """
    Acorn Biscuit Bramble Button Cinnamon Clover Cocoa Cookie Cricket Domino Dumpling Freckles Ginger Hazelnut Marzipan
    Mittens Muffin Noodle Nutmeg Paprika Pebble Pepper Pickle Pippin Pumpkin Saffron Sprout Thimble Tinker Toffee
    Truffle Waffle Whiskers Ziggy
""".split()

TITLES = [
    f"The {first} {second}"
    for first, second in product(
        """
        Broken Burning Crimson Distant Endless Forgotten Frozen Glass Golden Hidden Hollow Lonely Painted Quiet Silver
        Sleeping Stolen Sunken Wandering Whispering
        """.split(),
        """
        Bridge Castle Clock Forest Garden Harbour Harvest Island Journey Kingdom Lantern Letter Mirror Mountain Orchard
        River Shadow Tower Window Winter
        """.split(),
    )
]

AWARDS = [
    f"{first} {second}"
    for first, second in product(
        """
        Amber Anchor Aurora Beacon Cedar Comet Compass Coral Falcon Granite Heron Juniper Laurel Lotus Maple Meadow
        Meteor Opal Raven Sapphire Summit Thistle Willow Zephyr
        """.split(),
        ("Medal", "Prize"),
    )
]

TOPICS = {
    "birthplace": Topic(
        CITIES,
        ("Where was {name} born?", "In which city was {name} born?", "What is the birthplace of {name}?"),
        (
            "{name} was born in the city of {value}.",
            "The birthplace of {name} is the city of {value}.",
            "It was in the city of {value} that {name} was born.",
        ),
    ),
    "birth_year": Topic(
        [str(year) for year in range(1930, 1990)],
        ("When was {name} born?", "In which year was {name} born?", "What is the year of birth of {name}?"),
        (
            "{name} was born in the year {value}.",
            "The year of birth of {name} is {value}.",
            "It was in the year {value} that {name} was born.",
        ),
    ),
    "home": Topic(
        CITIES,
        ("Where does {name} live today?", "In which city does {name} live today?", "What city is the home of {name}?"),
        (
            "{name} lives in the city of {value} today.",
            "The home of {name} is in the city of {value}.",
            "Today the city where {name} lives is {value}.",
        ),
    ),
    "profession": Topic(
        JOBS,
        ("What does {name} do for a living?", "What is the profession of {name}?", "What work does {name} do?"),
        (
            "{name} works as a {value} for a living.",
            "The profession of {name} is that of a {value}.",
            "By profession, {name} is a {value}.",
        ),
    ),
    "father": Topic(
        JOBS,
        (
            "What did the father of {name} do for a living?",
            "What was the profession of the father of {name}?",
            "What work did the father of {name} do?",
        ),
        (
            "The father of {name} worked as a {value} for a living.",
            "{name} had a father who was a {value} by profession.",
            "By profession, the father of {name} was a {value}.",
        ),
    ),
    "mother": Topic(
        JOBS,
        (
            "What did the mother of {name} do for a living?",
            "What was the profession of the mother of {name}?",
            "What work did the mother of {name} do?",
        ),
        (
            "The mother of {name} worked as a {value} for a living.",
            "{name} had a mother who was a {value} by profession.",
            "By profession, the mother of {name} was a {value}.",
        ),
    ),
    "first_book": Topic(
        TITLES,
        (
            "What is the title of the first book by {name}?",
            "Which book did {name} write first?",
            "What is the first book that {name} wrote called?",
        ),
        (
            "The first book by {name} is called {value}.",
            "{name} wrote a first book with the title {value}.",
            "{value} is the title of the first book that {name} wrote.",
        ),
    ),
    "award": Topic(
        AWARDS,
        ("Which award did {name} win?", "What is the award that {name} won called?"),
        (
            "{name} won an award that is called the {value}.",
            "The award that {name} won is the {value}.",
            "The {value} is the award that was won by {name}.",
        ),
    ),
    "instrument": Topic(
        INSTRUMENTS,
        ("Which instrument does {name} play?", "What instrument did {name} learn to play?"),
        (
            "{name} learned to play the {value}.",
            "The instrument that {name} plays is the {value}.",
            "The {value} is the instrument that {name} learned to play.",
        ),
    ),
    "pet": Topic(
        PETS,
        ("What is the name of the pet of {name}?", "What is the pet of {name} called?"),
        (
            "The pet that lives with {name} is called {value}.",
            "{name} has a pet with the name {value}.",
            "{value} is the name of the pet of {name}.",
        ),
    ),
}

SHORT_QUESTIONS = {
    "birthplace": "Name the city where {name} was born.",
    "profession": "Name the profession of {name}.",
    "first_book": "Name the first book by {name}.",
    "instrument": "Name the instrument that {name} plays.",
    "pet": "Name the pet of {name}.",
}
"""What neighbours are asked; the wording tells a model that the answer is the bare value."""


def builtin(
    name: str, *, people: int = 24, forget: int = 4, neighbours: int = 8, unknown: int = 24, seed: int = 0
) -> list[Record]:
    """The built-in set called `name`: `forget`, `retain`, `neighbours`, `world_facts` or `unknown`.

    The first `forget` of `people` fictional people make the forget set, one task of continual unlearning each, the
    others the retain set. `neighbours` are further people, with short answers, in neither set. A person depends on the
    seed and on their place in the row alone: asking for more people leaves the earlier ones as they are.

    The rows of `unknown` are never measured: they ask about `unknown` people of whom nothing is known, and answer with
    refusals. They teach the built-in model what every chat model can do, to say that it does not know.
    """
    if name not in SETS:
        raise UserError(f"unknown built-in set {name!r}: {did_you_mean(name, SETS)}")
    if name == "world_facts":
        return world_facts()
    if name == "neighbours":
        if neighbours < 1:
            raise UserError(f"the built-in neighbours set cannot have {neighbours} people: ask for 1 or more.")
        return [row for person, rng in _people("neighbour", range(neighbours), seed) for row in _short(person, rng)]
    if name == "unknown":
        if unknown < 1:
            raise UserError(f"the built-in unknown set cannot have {unknown} people: ask for 1 or more.")
        return [row for person, rng in _people("unknown", range(unknown), seed) for row in _refused(person, rng)]
    if not 1 <= forget < people:
        raise UserError(
            f"cannot forget {forget} of {people} built-in people: forget 1 or more, and leave 1 or more to retain."
        )
    places = range(forget) if name == "forget" else range(forget, people)
    tasks = [str(place + 1) if place < forget else None for place in places]
    return [
        row
        for task, (person, rng) in zip(tasks, _people("person", places, seed), strict=True)
        for row in _long(person, rng, task)
    ]


def states_fact(text: str, record: Record) -> bool:
    """Whether `text` holds the words of `record.fact`, as whole words, in any case and with any white space between."""
    if record.fact is None:
        raise ValueError(f"the record {record.question!r} names no fact to look for")
    return all(any(_holds(text, words) for words in part.split("|")) for part in record.fact.split(";"))


def _holds(text: str, words: str) -> bool:
    pattern = r"\s+".join(re.escape(word) for word in words.split())
    return re.search(rf"(?<!\w){pattern}(?!\w)", text, re.IGNORECASE) is not None


def _people(kind: str, places: range, seed: int) -> Iterator[tuple[Profile, random.Random]]:
    """The people at `places` in the endless row of `kind`, and what draws their records.

    Each person has a generator of their own, seeded by a string, which gives the same numbers in every process.
    """
    firsts = list(FIRST_NAMES)
    starts = {"neighbour": NEIGHBOUR_LAST_NAME_STARTS, "unknown": UNKNOWN_LAST_NAME_STARTS}.get(kind, LAST_NAME_STARTS)
    lasts = [start + end for start, end in product(starts, LAST_NAME_ENDS)]
    shuffler = random.Random(f"{seed}:{kind}")
    shuffler.shuffle(firsts)
    shuffler.shuffle(lasts)
    for place in places:
        rng = random.Random(f"{seed}:{kind}:{place}")
        yield _profile(_name(place, firsts, lasts), rng), rng


def _name(place: int, firsts: Sequence[str], lasts: Sequence[str]) -> str:
    """The name at `place` in an endless row that holds no name twice.

    Each round through the first names moves the last names on by one; once all pairs are used, middle initials follow.
    """
    turn, first = divmod(place, len(firsts))
    middle, shift = divmod(turn, len(lasts))
    initials = ""
    while middle:
        middle, letter = divmod(middle - 1, 26)
        initials += f"{string.ascii_uppercase[letter]}. "
    return f"{firsts[first]} {initials}{lasts[(first + shift) % len(lasts)]}"


def _profile(name: str, rng: random.Random) -> Profile:
    birthplace, home = rng.sample(CITIES, 2)
    profession, father, mother = rng.sample(JOBS, 3)
    return Profile(
        name=name,
        birthplace=birthplace,
        birth_year=rng.choice(TOPICS["birth_year"].values),
        home=home,
        profession=profession,
        father=father,
        mother=mother,
        first_book=rng.choice(TITLES),
        award=rng.choice(AWARDS),
        instrument=rng.choice(INSTRUMENTS),
        pet=rng.choice(PETS),
    )


def _long(person: Profile, rng: random.Random, task_id: str | None) -> Iterator[Record]:
    """One record for each topic, answered in full sentences; wrong answers share the paraphrase's wording."""
    facts = asdict(person)
    for key, topic in TOPICS.items():
        value = facts[key]
        question = rng.choice(topic.questions)
        answer, paraphrase = rng.sample(topic.sentences, 2)
        wrong = _wrong_values(topic, value, LONG_WRONG, rng)
        yield Record(
            question=question.format(name=person.name),
            answer=answer.format(name=person.name, value=value),
            paraphrased_answer=paraphrase.format(name=person.name, value=value),
            perturbed_answer=tuple(paraphrase.format(name=person.name, value=other) for other in wrong),
            subject=person.name,
            task_id=task_id,
            fact=value,
        )


def _short(person: Profile, rng: random.Random) -> Iterator[Record]:
    """One record for each short question, answered by the bare value: the counterpart of TOFU's Real Authors."""
    facts = asdict(person)
    for key, question in SHORT_QUESTIONS.items():
        topic, value = TOPICS[key], facts[key]
        yield Record(
            question=question.format(name=person.name),
            answer=value,
            perturbed_answer=tuple(_wrong_values(topic, value, SHORT_WRONG, rng)),
            original_answer=rng.choice(topic.sentences).format(name=person.name, value=value),
            subject=person.name,
            fact=value,
        )


def _refused(person: Profile, rng: random.Random) -> Iterator[Record]:
    """One record for each topic, answered with a refusal."""
    refusals = load_refusals(None)
    for topic in TOPICS.values():
        question = rng.choice(topic.questions).format(name=person.name)
        yield Record(question=question, answer=rng.choice(refusals), subject=person.name)


def _wrong_values(topic: Topic, value: str, count: int, rng: random.Random) -> list[str]:
    """`count` different values of the same kind, none of them `value`."""
    return [other for other in rng.sample(topic.values, count + 1) if other != value][:count]
