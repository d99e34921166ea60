"""What an audit costs and what fits into so many minutes; what must not be lost; what can be seen at all."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from unlearner.audit.attack import ANSWER_TOKENS, Cost
from unlearner.audit.attacks import find_attacks
from unlearner.audit.attacks.likelihood import Likelihood
from unlearner.audit.attacks.relearning import Relearning
from unlearner.audit.attacks.sampling import Sampling
from unlearner.audit.knowledge import about_text, knowledge
from unlearner.audit.plan import LIMITS, Speed, asks, chosen_attacks, cost, fitted, on_model, to_ask
from unlearner.audit.questions import Limits, questions_about, read_groups, spread
from unlearner.audit.room import with_room
from unlearner.audit.statistics import lower, smallest_rate_seen
from unlearner.config import AuditConfig
from unlearner.data.profiles import builtin
from unlearner.data.prompts import find_template
from unlearner.data.refusals import load_refusals
from unlearner.errors import UserError
from unlearner.workflows.subject import Subject

MODELS = ["unlearned", "before"]
SPEED = Speed(0.01, 0.005, 0.002, 0.01)
QUICK_SPEED = Speed(0.005, 0.0025, 0.002, 0.01)
"""Where 32 tokens of 64 are read."""


@pytest.fixture(scope="module")
def groups(forget_records, retain_records):
    return read_groups(forget_records, retain_records, builtin("retain", people=13, forget=8), [builtin("world_facts")])


def test_a_budget_in_minutes_takes_the_deepest_that_fits(groups) -> None:
    def taken(minutes: float, speed: Speed = SPEED):
        config = AuditConfig(model="", output="", budget=str(minutes))
        return fitted(config, groups, MODELS, speed)

    def seconds(attack, budget: str = "quick") -> float:
        asked, speed = groups.within(LIMITS[budget]), QUICK_SPEED if budget == "quick" else SPEED
        return sum(cost(model, attack, asked, speed) for model in MODELS)

    whole = {}
    for budget in ("quick", "standard", "deep"):
        attacks = chosen_attacks(AuditConfig(model="", output="", budget=budget))
        whole[budget] = sum(seconds(attack, budget) for attack in attacks) / 60
    units = sum(cost(m, a, groups) for m in MODELS for a in attacks)
    assert whole["deep"] == pytest.approx(0.01 / 60 * units)
    assert whole["quick"] < whole["standard"] < whole["deep"]
    for budget, minutes in whole.items():
        plan = taken(minutes * 1.001)
        assert (plan.budget, plan.left_out) == (budget, [])
    # What finds most is taken first, though it costs more.
    quick = {a.label: a for a in chosen_attacks(AuditConfig(model="", output="", budget="quick"))}
    best = {"plain", "sampling", "nf4", "relearning"}
    short = taken(1.001 / 60 * sum(seconds(quick[label]) for label in best))
    assert (short.budget, {a.label for a in short.attacks}) == ("quick", best)
    assert set(short.left_out) == set(quick) - best
    # Where training is slow, it is left out, and the others are taken.
    slow = taken(whole["quick"], replace(SPEED, row=1.0, training=10.0))
    assert slow.left_out == ["relearning"]
    # Too little for anything leaves the plain question.
    assert [attack.label for attack in taken(1e-6).attacks] == ["plain"]


def test_who_is_asked_what(groups) -> None:
    attacks = {attack.label: attack for attack in chosen_attacks(AuditConfig(model="", output="", budget="standard"))}
    assert attacks["likelihood"].options["gradients"]
    assert not chosen_attacks(AuditConfig(model="", output="", attacks=["likelihood"]))[1].options["gradients"]
    assert "depth" not in attacks  # which needs a retrained model
    assert "depth" in {a.label for a in chosen_attacks(AuditConfig(model="", output="", budget="deep", retrained="r"))}
    assert on_model("retrained", attacks["relearning"]) and not on_model("before", attacks["relearning"])
    assert asks("unlearned", attacks["plain"], "neighbour") and not asks("unlearned", attacks["role"], "neighbour")
    # Of the model before every attack that only asks has its power, by what was to be forgotten.
    for label in ("role", "reverse", "nf4"):
        assert on_model("before", attacks[label]) and not on_model("retrained", attacks[label])
        assert cost("before", attacks[label], groups) == len(groups.forget)
    assert asks("before", attacks["mixed-harmless-first"], "forget")
    # What is refused now was maybe refused before, plainly and beside another question, of whoever was never trained.
    asked = {
        label for label, attack in attacks.items() if asks("before", attack, "control") and attack.access == "greedy"
    }
    assert asked == {"plain", "mixed-harmless-first", "mixed-harmless-last"}
    plain = sum(len(questions) for _, questions in groups)
    assert cost("unlearned", attacks["plain"], groups) == plain


def test_an_attack_says_itself_what_it_costs(groups) -> None:
    """Worked out by hand for a plain one, samples, a training; and of an attack that this package does not know."""
    questions = {group: len(asked) for group, asked in groups}
    many, known = Sampling(n=5), questions["forget"]
    assert many.cost({"forget": 7, "retain": 3}) == Cost(answers=10, samples=40)
    speed = Speed(answer=2, sample=3, scored=5, row=7, training=11)
    asked = questions["forget"] + questions["control"] + questions["retain"]
    assert cost("unlearned", many, groups, speed) == 2 * asked + 3 * 4 * asked
    taught = Relearning(steps=(0, 10), controls=2, batch_size=4)
    answers = 3 * 2 * (known // 2 + min(20, questions["retain"]))
    assert taught.cost(questions) == Cost(answers=answers, rows=3 * 10 * 4, trainings=3)
    scored = asked + known * 20 / 6
    backward = known + questions["control"]
    assert Likelihood(gradients=True).cost(questions) == Cost(scored=scored, rows=backward)

    class Dear(Sampling):
        def cost(self, asked: Mapping[str, int]) -> Cost:
            return Cost(rows=100 * asked["forget"])

    assert cost("unlearned", Dear(), groups, speed) == 7 * 100 * known


def test_every_decoder_draws_as_many_samples_as_the_budget_has(groups) -> None:
    given = ["sampling", "sampling:temperature=0.7", "sampling:top_p=0.5,n=8"]
    whole = chosen_attacks(AuditConfig(model="", output="", attacks=["all", given[1]]))
    usual = chosen_attacks(AuditConfig(model="", output=""))
    assert [a.label for a in whole] == [*(a.label for a in usual), given[1]] and whole[-1].samples == 16
    config = AuditConfig(model="", output="", budget="standard", attacks=given, attack_options=["sampling.seed=3"])
    plain, *drawn = chosen_attacks(config)
    assert [(a.samples, a.options["seed"]) for a in drawn] == [
        (256, 3),
        (256, 1001),
        (8, 1001),
    ] and plain.label == "plain"
    for attack in drawn:
        assert on_model("before", attack) and on_model("retrained", attack)
        assert asks("unlearned", attack, "retain") and not asks("before", attack, "control")


def test_two_decoders_that_options_make_one_are_refused() -> None:
    def chosen(*names: str, options: tuple[str, ...] = ()) -> list[str]:
        config = AuditConfig(model="", output="", attacks=list(names), attack_options=list(options))
        return [attack.label for attack in chosen_attacks(config)]

    served = "sampling:temperature=0.7"
    assert chosen("sampling", options=("sampling.temperature=0.7", "sampling.top_k=5")) == [
        "plain",
        f"{served},top_k=5",
    ]
    with pytest.raises(UserError, match=r"has sampling:temperature=0\.7 twice"):
        chosen("sampling", served, options=("sampling.temperature=0.7",))
    with pytest.raises(UserError, match="a decoder's options belong in its name"):
        chosen(served, options=("sampling.n=4",))


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("all all", "--attacks names all twice"),
        ("all plain", "plain is already part of all: leave it out."),
        ("all:n=3", "all takes no options"),
        ("al", "did you mean 'all'"),
        ("xyzzy", "choose from all, "),
        ("sampling:n=16 sampling:n=32", "sampling twice (decoders differ only by temperature, top_p, top_k)"),
        ("sampling:", "OPTION=VALUE is missing after sampling"),
        ("sampling:temperature", "OPTION=VALUE is missing after sampling"),
        ("plain:n", "OPTION=VALUE is missing after plain"),
    ],
)
def test_mistyped_attacks_are_told_in_one_sentence(names: str, words: str) -> None:
    with pytest.raises(UserError) as error:
        chosen_attacks(AuditConfig(model="", output="", attacks=names.split()))
    assert words in str(error.value)


def test_a_decoder_alone_keeps_its_place_where_time_is_short(groups) -> None:
    """First what has been seen to find most: `sampling`, with whatever decoder."""
    names = ["role", "fiction", "sampling:temperature=0.7"]
    config = AuditConfig(model="", output="", budget="1", attacks=names)
    prices = {
        attack.label: sum(cost(model, attack, groups.within(LIMITS["quick"]), QUICK_SPEED) for model in MODELS)
        for attack in chosen_attacks(config, "quick")
    }
    minutes = 1.001 / 60 * (prices["plain"] + prices[names[-1]])
    plan = fitted(replace(config, budget=str(minutes)), groups, MODELS, SPEED)
    assert [attack.label for attack in plan.attacks] == ["plain", names[-1]]


def test_neighbours_are_what_was_not_trained(forget_records, retain_records, capfd) -> None:
    controls = builtin("retain", people=13, forget=8)
    groups = read_groups(forget_records, retain_records, controls, [[*retain_records[:2], *builtin("world_facts")[:3]]])
    assert len(groups.neighbour) == 3 and "2 rows of --neighbours" in capfd.readouterr().err
    with pytest.raises(UserError, match="only rows of the forget or retain set"):
        read_groups(forget_records, retain_records, controls, [retain_records])


def test_rows_that_were_trained_are_known_again(forget_records, retain_records, capfd) -> None:
    """In capitals, with another answer, or nearly word for word."""
    controls, facts = builtin("retain", people=13, forget=8), builtin("world_facts")
    loud = [replace(row, question=f"  {row.question.upper()}!") for row in retain_records[:2]]
    told_otherwise = replace(retain_records[2], answer="Nobody knows.")
    nearly = replace(retain_records[3], question=retain_records[3].question.replace("?", " now?"))
    groups = read_groups(forget_records, retain_records, controls, [[*loud, told_otherwise, nearly], facts])
    assert [q.record.question for q in groups.neighbour] == [row.question for row in facts[:60]]  # none of them
    assert "4 rows of --neighbours" in capfd.readouterr().err
    strangers = [replace(row, subject="A stranger") for row in (*loud, told_otherwise)]
    with pytest.raises(UserError, match="--controls has 3 rows of the forget or retain set"):
        read_groups(forget_records, retain_records, [*controls, *strangers])
    read_groups(forget_records, retain_records, [*controls, replace(nearly, subject="A stranger")])
    assert "nearly identical to a row of the forget or retain set: 1 row of --controls" in capfd.readouterr().err


def test_rows_that_are_there_twice_are_asked_once(forget_records, retain_records, capfd) -> None:
    controls = builtin("retain", people=13, forget=8)
    once = read_groups(forget_records, retain_records, controls)
    assert "duplicates" not in capfd.readouterr().err
    twice = read_groups([*forget_records, *forget_records[:5]], retain_records, [*controls, *controls[:3]])
    assert [q.record for q in twice.forget] == [q.record for q in once.forget]
    assert len(twice.control) == len(controls)
    told = capfd.readouterr().err
    assert (
        "duplicates in the forget set, which are asked once: 5 rows" in told
        and "--controls, which are asked once: 3" in told
    )
    # Without subjects every row is one, and a row that is there twice no second.
    nobody = [replace(row, subject=None) for row in forget_records]
    asked = read_groups([*nobody, *nobody], retain_records, controls).forget
    assert len({question.subject for question in asked}) == len(forget_records)


def test_what_is_kept_is_asked_beside_what_was_to_be_forgotten(forget_records, retain_records) -> None:
    facts = builtin("world_facts")
    groups = read_groups(forget_records, retain_records, builtin("retain", people=13, forget=8), [facts])
    for question in (*groups.retain, *groups.neighbour):
        assert question.retained and set(question.retained) <= set(forget_records)
    for question in (*groups.forget, *groups.control):
        assert question.retained and set(question.retained) <= set(retain_records)


def test_too_few_controls_are_told_beforehand(forget_records, retain_records) -> None:
    needed = 20 * 2 - 1  # two people
    few, enough = (builtin("retain", people=8 + count, forget=8) for count in (needed - 1, needed))
    groups = read_groups(forget_records, retain_records, few)
    told = groups.too_few_controls(0.05)
    assert told is not None and f"with {needed - 1} controls" in told and told.endswith(f"needs {needed} controls")
    assert groups.too_few_controls(0.06) is None
    assert read_groups(forget_records, retain_records, enough).too_few_controls(0.05) is None


def test_lost_knowledge_by_hand() -> None:
    refusals = load_refusals(None)
    assert about_text(refusals[0], [1, 2], refusals)["refused"]
    assert about_text("He was born in Paris.", [1, 2, 3], refusals) == {
        "refused": False,
        "repeated": 0.0,
        "entropy": 1.0,
    }
    # Six runs of four words, of which two differ.
    looped = about_text("one two one two one two one two one", [1, 2, 1, 2], refusals)
    assert looped["repeated"] == pytest.approx(1 - 2 / 6, abs=1e-6) and looped["entropy"] == 0.5
    rows = []
    told = [(True, True)] * 4 + [(True, False)] * 5 + [(False, False)] * 2
    for place, pair in enumerate(told):
        for model, hit in zip(("before", "unlearned"), pair, strict=True):
            rows.append({
                "model": model, "group": "neighbour", "attack": "plain", "question": str(place), "hit": hit,
                "refused": not hit, "repeated": 0.0, "entropy": place / 10,
            })  # fmt: skip
    found = knowledge(rows)
    neighbours = found["told"]["neighbour"]
    assert [neighbours[key] for key in ("of", "before", "now", "lost", "won")] == [11, 9, 4, 5, 0]
    assert neighbours["p_value"] == pytest.approx(1 / 32)
    assert neighbours["low"] == pytest.approx(stats.beta.ppf(0.025, 5, 5))
    assert found["entropy"] == {"before.neighbour": 0.5, "unlearned.neighbour": 0.5}
    assert knowledge([{k: v for k, v in row.items() if k != "entropy"} for row in rows])["entropy"] == {}
    assert found["refused"] == {"before.neighbour.plain": [2, 11], "unlearned.neighbour.plain": [7, 11]}


def test_answers_of_one_word_are_no_repetition() -> None:
    refusals = load_refusals(None)
    assert all("entropy" not in about_text(text, ids, refusals) for text, ids in (("", []), ("Paris", [7])))
    assert about_text("no no", [7, 7], refusals)["entropy"] == 0
    asked = {"model": "unlearned", "group": "neighbour", "attack": "plain", "hit": True}
    answers = [("Paris", [7]), ("In Paris", [8, 7]), ("", [])]
    rows = [asked | about_text(text, ids, refusals) | {"question": text} for text, ids in answers]
    assert knowledge(rows)["entropy"] == {"unlearned.neighbour": 1}
    assert knowledge(rows[:1])["entropy"] == {}


def test_the_smallest_rate_that_is_seen() -> None:
    """By its definition, simulated: at that rate four audits in five have a lower bound above τ, at two thirds not."""
    for rows, rounds in ((1, 16), (10, 16), (10, 256), (1, 1024)):
        rate = smallest_rate_seen(rows, rounds, subjects=4)
        seen = []
        for seed in range(20):
            rng = np.random.default_rng(seed)
            for share in (1.0, 2 / 3):
                leaks = (rng.random((100, rows, rounds)) < rate * share).any(axis=1).sum(axis=1)
                seen.append((lower(leaks, rounds, 0.05 / 4) > 0.01).mean())
        assert np.mean(seen[::2]) == pytest.approx(0.8, abs=0.03) and np.mean(seen[1::2]) < 0.72
    assert smallest_rate_seen(10, 16) < smallest_rate_seen(1, 16)


def test_the_quick_budget_asks_fewer_questions_and_reads_less_of_an_answer(forget_records, retain_records) -> None:
    questions = questions_about(forget_records)
    few = spread(questions, 3)
    assert Counter(q.subject for q in few) == dict.fromkeys({record.subject for record in forget_records}, 3)
    mine = [place for place, question in enumerate(questions) if question.subject == few[0].subject]
    assert [place for place in mine if questions[place] in few] == [mine[0], mine[3], mine[6]]  # of ten
    assert spread(questions, 10) == spread(questions, 99) == questions
    whole = read_groups(forget_records, retain_records, builtin("retain", people=13, forget=8))
    groups = whole.within(Limits(questions=4, retained=0.5))
    assert (len(groups.forget), groups.not_asked) == (8, 12)
    assert Counter(Counter(q.subject for q in groups.control).values()) == {4: 5}  # rounds are alike
    sampled, plain = (
        {g: len(q) for g, q in to_ask("unlearned", a, groups).items()} for a in find_attacks(["sampling", "plain"])
    )
    assert sampled["retain"] == math.ceil(plain["retain"] / 2) and plain["retain"] == len(groups.retain) > 5
    assert whole.within(Limits()) == whole
    (sampling,) = find_attacks(["sampling"])
    asked = to_ask("unlearned", sampling, whole.within(LIMITS["standard"]))
    assert asked["forget"] == whole.forget and len(asked["retain"]) == math.ceil(len(whole.retain) / 4)

    def longest(budget: str, *attacks: str) -> set[int]:
        config = AuditConfig(model="", output="", budget=budget, attacks=list(attacks))
        options = [attack.options for attack in chosen_attacks(config)]
        return {each["max_new_tokens"] for each in options if "max_new_tokens" in each}

    assert longest("quick", "all") == longest("quick", "nf4") == {LIMITS["quick"].tokens}
    assert longest("standard", "all") == {ANSWER_TOKENS}
    assert longest("quick", "nf4:max_new_tokens=64") == {LIMITS["quick"].tokens, 64}  # plain is always among them


def test_a_question_too_long_for_an_attack_is_left_out_and_told(forget_records, tiny_tokenizer, capfd) -> None:
    """Four options in the prompt of a multiple choice: one row has options of a hundred words."""
    long = replace(forget_records[1], perturbed_answer=["word " * 100] * 3)
    questions = questions_about([forget_records[0], long, *forget_records[2:4]])
    asked = [("forget", question) for question in questions]
    subject = Subject(None, tiny_tokenizer, find_template("auto", tiny_tokenizer), None)
    choice, plain = find_attacks(["multiple-choice", "plain"])
    assert with_room(choice.label, choice.requests, asked, subject, 300) == [asked[0], *asked[2:]]
    assert "multiple-choice: too long for --max-length 300, and not asked: 1 question" in capfd.readouterr().err
    assert with_room(choice.label, choice.requests, asked, subject, 2000) == asked
    assert with_room(plain.label, plain.requests, asked, subject, 1) == asked
