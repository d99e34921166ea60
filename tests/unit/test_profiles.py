"""The fictional people: repeatable, never named alike, and every fact findable in right answers and in no others."""

import random
import string
import subprocess
import sys
import time
from dataclasses import asdict
from itertools import combinations

import pytest

from unlearner.data import profiles
from unlearner.data.profiles import LONG_WRONG, SHORT_QUESTIONS, SHORT_WRONG, TOPICS, builtin, states_fact
from unlearner.data.records import Record
from unlearner.errors import UserError

LONG_SETS = ("forget", "retain")


def subjects(records: list[Record]) -> list[str]:
    return list(dict.fromkeys(record.subject or "" for record in records))


@pytest.fixture(scope="module")
def many() -> list[Record]:
    """All records of 200 people."""
    return [record for name in LONG_SETS for record in builtin(name, people=200, forget=20, seed=3)]


@pytest.fixture(scope="module")
def neighbours() -> list[Record]:
    return builtin("neighbours", neighbours=200, seed=3)


def test_counts():
    assert len(builtin("forget")) == 4 * len(TOPICS)
    assert len(builtin("retain")) == 20 * len(TOPICS)
    assert len(builtin("neighbours")) == 8 * len(SHORT_QUESTIONS)
    assert len(builtin("forget", people=7, forget=6)) == 6 * len(TOPICS)
    assert len(builtin("retain", people=7, forget=6)) == len(TOPICS)


def test_defaults_name_people_with_nothing_in_common_by_name():
    """In the default sets no two people of a kind share a first or a last name."""
    people = subjects(builtin("forget") + builtin("retain"))
    assert len(people) == 24
    assert len({name.split()[0] for name in people}) == len({name.split()[1] for name in people}) == 24


@pytest.mark.parametrize("name", profiles.SETS)
def test_same_seed_same_records(name: str):
    assert builtin(name, seed=5) == builtin(name, seed=5)


def test_same_records_in_another_process():
    """Python salts the hash of strings in each process; the seeds must not depend on it."""
    code = "from unlearner.data.profiles import builtin; print(builtin('forget', seed=9)[17])"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": salt}, capture_output=True, text=True, check=True
        ).stdout.strip()
        for salt in ("1", "2")
    }
    assert outputs == {str(builtin("forget", seed=9)[17])}


@pytest.mark.parametrize("name", ["forget", "retain", "neighbours"])
def test_another_seed_other_people(name: str):
    one, other = (builtin(name, seed=seed) for seed in (0, 1))
    assert subjects(one) != subjects(other)
    assert [record.fact for record in one] != [record.fact for record in other]


def test_more_people_leave_the_earlier_ones_as_they_are():
    assert builtin("forget", people=24) == builtin("forget", people=100)
    few, more = builtin("retain", people=24), builtin("retain", people=100)
    assert more[: len(few)] == few
    assert builtin("neighbours", neighbours=50)[: 8 * len(SHORT_QUESTIONS)] == builtin("neighbours", neighbours=8)


def test_a_person_moved_from_retain_to_forget_changes_only_in_task():
    moved = builtin("forget", forget=5)[-len(TOPICS) :]
    assert {record.task_id for record in moved} == {"5"}
    assert [asdict(record) | {"task_id": None} for record in moved] == [
        asdict(record) for record in builtin("retain", forget=4)[: len(TOPICS)]
    ]


@pytest.mark.parametrize("kind", ["person", "neighbour"])
def test_names_are_unique(kind: str):
    """5,000 neighbours are more than there are pairs of their names: middle initials are covered too."""
    names = [person.name for person, _ in profiles._people(kind, range(5000), seed=0)]
    assert len(set(names)) == 5000


def test_names_stay_unique_when_initials_run_through_the_alphabet():
    firsts, lasts = ["A", "B"], ["X", "Y", "Z"]
    count = 6 * (1 + 26 + 26 * 26 + 5)
    names = [profiles._name(place, firsts, lasts) for place in range(count)]
    assert len(set(names)) == count
    assert names[0] == "A X"
    assert names[6] == "A A. X"


def test_ten_thousand_people_take_seconds():
    start = time.process_time()
    records = builtin("retain", people=10_001, forget=1)
    assert len(records) == 10_000 * len(TOPICS)
    assert time.process_time() - start < 10  # about 2 s on one core of a server


def test_sets_share_no_person():
    sets = [set(subjects(builtin(name, people=300, forget=100, neighbours=300))) for name in (*LONG_SETS, "neighbours")]
    assert [len(people) for people in sets] == [100, 200, 300]
    for one, other in combinations(sets, 2):
        assert not one & other


def test_each_forgotten_person_is_one_task():
    forget = builtin("forget", forget=3)
    assert [record.task_id for record in forget] == ["1"] * len(TOPICS) + ["2"] * len(TOPICS) + ["3"] * len(TOPICS)
    assert {record.task_id for record in builtin("retain") + builtin("neighbours")} == {None}


def test_full_answers_state_the_fact_and_name_the_person(many: list[Record]):
    for record in many:
        assert record.subject and record.fact and record.question and record.paraphrased_answer
        assert record.subject in record.question
        assert record.fact.lower() not in record.question.lower()
        for right in (record.answer, record.paraphrased_answer):
            assert record.subject in right
            assert record.fact.lower() in right.lower()
            assert states_fact(right, record)
            assert 7 <= len(right.split()) <= 18
            assert right[0].isupper() and right.endswith(".")


def test_paraphrase_differs_from_answer_in_more_than_case(many: list[Record]):
    for record in many:
        assert record.paraphrased_answer
        assert record.paraphrased_answer.lower() != record.answer.lower()


def test_wrong_answers_take_the_paraphrase_with_another_value(many: list[Record]):
    values = {value for topic in TOPICS.values() for value in topic.values}
    for record in many:
        assert record.fact and record.paraphrased_answer
        assert len(set(record.perturbed_answer)) == len(record.perturbed_answer) == LONG_WRONG == 5
        before, after = record.paraphrased_answer.split(record.fact)
        for wrong in record.perturbed_answer:
            assert record.fact.lower() not in wrong.lower()
            assert not states_fact(wrong, record)
            assert wrong.startswith(before) and wrong.endswith(after)
            assert wrong.removeprefix(before).removesuffix(after) in values - {record.fact}


def test_neighbours_answer_in_a_word_or_a_title(neighbours: list[Record]):
    for record in neighbours:
        assert record.subject and record.fact and record.question and record.original_answer
        assert record.answer == record.fact
        assert record.paraphrased_answer is None
        assert record.subject in record.question and record.subject in record.original_answer
        assert record.fact.lower() not in record.question.lower()
        assert states_fact(record.original_answer, record)
        assert len(set(record.perturbed_answer)) == len(record.perturbed_answer) == SHORT_WRONG == 3
        for wrong in record.perturbed_answer:
            assert record.fact.lower() not in wrong.lower()
            assert len(wrong.split()) <= 3


def test_questions_are_asked_once(many: list[Record], neighbours: list[Record]):
    questions = [record.question for record in many + neighbours]
    assert len(set(questions)) == len(questions)


def test_no_value_hides_in_another_value_a_name_or_a_wording():
    """Then a fact cannot be found by accident, whoever asks and whatever the seed."""
    starts = profiles.LAST_NAME_STARTS + profiles.NEIGHBOUR_LAST_NAME_STARTS
    last_names = [start + end for start in starts for end in profiles.LAST_NAME_ENDS]
    wordings = [text for topic in TOPICS.values() for text in topic.questions + topic.sentences]
    texts = " | ".join([*profiles.FIRST_NAMES, *last_names, *wordings, *SHORT_QUESTIONS.values()]).lower()
    for topic in TOPICS.values():
        values = [value.lower() for value in topic.values]
        joined = "|".join(values)
        for value in values:
            assert value not in texts
            assert joined.count(value) == 1, value


def test_lists_are_large_and_without_repeats():
    for topic in TOPICS.values():
        assert len(set(topic.values)) == len(topic.values) >= 30
        assert len(set(topic.questions)) == len(topic.questions) >= 2
        assert len(set(topic.sentences)) == len(topic.sentences) == 3
    assert len(set(profiles.FIRST_NAMES)) == len(profiles.FIRST_NAMES)
    starts = profiles.LAST_NAME_STARTS, profiles.NEIGHBOUR_LAST_NAME_STARTS
    own, others = ({start + end for start in some for end in profiles.LAST_NAME_ENDS} for some in starts)
    assert len(own) == len(starts[0]) * len(profiles.LAST_NAME_ENDS)
    assert not own & others


def test_jobs_take_the_article_a():
    assert not [job for job in profiles.JOBS if job[0] in "aeiou"]


def test_two_people_rarely_share_facts(many: list[Record]):
    facts: dict[str, list[str]] = {}
    for record in many:
        facts.setdefault(record.subject or "", []).append(record.fact or "")
    shared = [
        sum(mine == theirs for mine, theirs in zip(one, other, strict=True))
        for one, other in combinations(facts.values(), 2)
    ]
    assert max(shared) <= 3  # of ten facts, among 19,900 pairs
    assert sum(shared) / len(shared) < 0.3


def test_all_wordings_are_used_in_both_roles(many: list[Record]):
    def wording(text: str, record: Record) -> str:
        return text.replace(record.subject or "", "{name}").replace(record.fact or "", "{value}")

    sentences = {sentence for topic in TOPICS.values() for sentence in topic.sentences}
    assert {wording(record.answer, record) for record in many} == sentences
    assert {wording(record.paraphrased_answer or "", record) for record in many} == sentences
    questions = {question for topic in TOPICS.values() for question in topic.questions}
    assert {wording(record.question or "", record) for record in many} == questions


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        ("The cello, of course.", True),
        ("She plays the CELLO.", True),
        ("cello", True),
        ("She plays the cellophone.", False),
        ("She plays the violoncello.", False),
        ("", False),
        ("She plays the violin.", False),
    ],
)
def test_states_fact_wants_whole_words(text: str, stated: bool):
    assert states_fact(text, Record("q", "a", fact="cello")) is stated


def test_states_fact_reads_over_white_space_and_takes_signs_literally():
    record = Record("q", "a", fact="The Glass (Orchard)")
    assert states_fact("It is the glass\n  (orchard)", record)
    assert not states_fact("It is The Glass Orchard", record)
    assert not states_fact("The Glass Tower (Orchard)", record)


def test_states_fact_without_a_fact():
    with pytest.raises(ValueError, match="who\\?"):
        states_fact("anything", Record("who?", "a"))


def test_unknown_set_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'neighbours'"):
        builtin("neighbors")


@pytest.mark.parametrize("name", LONG_SETS)
@pytest.mark.parametrize(("people", "forget"), [(4, 4), (3, 4), (24, 0), (24, -1)])
def test_impossible_splits(name: str, people: int, forget: int):
    with pytest.raises(UserError, match=f"cannot forget {forget} of {people}"):
        builtin(name, people=people, forget=forget)


def test_no_neighbours():
    with pytest.raises(UserError, match="0 people"):
        builtin("neighbours", neighbours=0)


def test_the_global_random_state_is_left_alone():
    random.seed(1)
    expected = random.random()
    random.seed(1)
    builtin("forget")
    assert random.random() == expected


def test_names_hold_letters_only():
    for names in (profiles.FIRST_NAMES, profiles.LAST_NAME_STARTS, profiles.NEIGHBOUR_LAST_NAME_STARTS):
        assert all(set(name) <= set(string.ascii_letters) and name.istitle() for name in names)
