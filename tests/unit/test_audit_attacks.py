"""Attacks: what they ask, what they cannot, what they count, and how one of another package comes in."""

import json
from dataclasses import dataclass, replace

import pytest

from unlearner.audit.attack import Attack, Question, run_attack
from unlearner.audit.attacks import attacks, find_attack, find_attacks
from unlearner.audit.attacks.choice import MultipleChoice, YesOrNo
from unlearner.audit.attacks.relearning import Relearning
from unlearner.audit.attacks.reverse import Reverse
from unlearner.audit.attacks.sampling import Sampling
from unlearner.audit.attacks.template import PLACEHOLDERS, Template, before_the_fact, builtin_templates, read_templates
from unlearner.audit.detector import find_detector
from unlearner.audit.questions import questions_about, read_controls, read_groups
from unlearner.data.profiles import builtin
from unlearner.data.prompts import find_template
from unlearner.data.records import Record
from unlearner.data.sources import load_records
from unlearner.errors import UserError
from unlearner.evaluation.backend import run_passes
from unlearner.evaluation.examples import Example
from unlearner.evaluation.requests import Generate, Score, Scored, Written

ADA = Record(
    "Where was Ada Berg born?", "Ada Berg was born in Paris.", perturbed_answer=("Rome.", "Bern.", "Oslo."),
    subject="Ada Berg", fact="Paris",
)  # fmt: skip
JOB = Record("What is the job of Ada Berg?", "The job of Ada Berg is baker.", subject="Ada Berg", fact="baker")
KEPT = tuple(Record(f"Where does Bo {n} live?", f"Bo {n} lives in Lyon.", subject=f"Bo {n}") for n in "XYZ")
QUESTION = Question("Ada Berg", ADA, find_detector(ADA), others=(JOB,), retained=KEPT)
BARE = Question("row 1", Record("Who?", "Paris it was", fact="Paris"), find_detector(Record("Who?", "x", fact="Paris")))


def answers(question: Question, attack: Attack, *texts: str) -> Example:
    requests = attack.requests(question)
    assert requests is not None
    return Example.of(question.record, {request: tuple(Written(text, ()) for text in texts) for request in requests})


def test_every_template_asks_a_full_row() -> None:
    found = builtin_templates()
    assert next(iter(found)) == "plain" and len(found) == 18
    for kind, text in found.items():
        request = Template(kind, text).request(QUESTION)
        assert request is not None and request.prompt and "{" not in request.prompt + request.prefix, kind
        # No template gives the fact away.
        assert "Paris" not in request.prompt + request.prefix, kind
    prefix = Template("forced-prefix", found["forced-prefix"]).request(QUESTION)
    assert (prefix.prompt, prefix.prefix) == (ADA.question, "Ada Berg was born in")
    assert Template("x", found["spelling"]).request(QUESTION).prompt == "Where was A d a   B e r g born?"
    mixed = Template("x", found["mixed-harmless-first"]).request(QUESTION)
    assert mixed.prompt == "Where does Bo X live? And also: Where was Ada Berg born?"


@pytest.mark.parametrize(
    ("answer", "fact", "prefix"),
    [
        ("Ann Bo was born on March 5, 1990.", None, "Ann Bo was born on"),
        ("Ann Bo was born on March 5, 1990.", "5 March", "Ann Bo was born on"),
        ("It was written by J. R. R. Tolkien.", None, "It was written by"),
        ("The name is Ann Al-Ruwa.", "Ruwa", "The name is Ann"),
        ("Paris was not far from it.", "Paris", None),
    ],
)
def test_a_forced_beginning_ends_before_the_fact(answer: str, fact: str | None, prefix: str | None) -> None:
    record = Record("What of Ann Bo?", answer, fact=fact)
    assert before_the_fact(Question("Ann Bo", record, find_detector(record))) == prefix


def test_users_templates_may_have_wrong_answers_and_retained_rows() -> None:
    choice = Template("x", "{q} One of: {o1} {o2} {o3} Like {r} {ra}").request(QUESTION)
    assert (
        choice.prompt
        == "Where was Ada Berg born? One of: Rome. Bern. Oslo. Like Where does Bo X live? Bo X lives in Lyon."
    )
    assert Template("x", "{q} {o1}").requests(BARE) is None


def test_a_template_that_tells_the_answer_asks_for_the_name() -> None:
    who = Template("who", "Who is it? {v} {f}")
    assert who.request(QUESTION).prompt == "Who is it? this person was born in Paris. The job of this person is baker."
    found = who.outcomes(QUESTION, answers(QUESTION, who, "It was Ada Berg."))
    assert found[0].hit and not who.outcomes(QUESTION, answers(QUESTION, who, "Somebody from Paris."))[0].hit
    assert who.requests(BARE) is None  # nobody is named
    with pytest.raises(UserError, match=r"must not have \{q\}"):
        Template("x", "{q} Is it {v}?")


def test_rows_that_cannot_fill_a_template_are_not_asked() -> None:
    for name in ("name", "spaced", "f", "r1", "ra3", "p"):
        assert Template("x", f"{{q}} {{{name}}}").requests(BARE) is None, name
    assert Template("x", "{q}").requests(BARE) == [Generate("Who?", max_new_tokens=64)]
    document = Question("row 1", Record("It was", "once upon a time"), QUESTION.detector, document=True)
    assert Template("x", "{q} Please.").requests(document) is None
    assert Template("x", "{q}").requests(document) == [Generate("It was", max_new_tokens=64)]
    assert MultipleChoice().requests(document) is None and Reverse().requests(document) is None


def test_a_label_that_no_row_holds_is_no_name(tmp_path) -> None:
    """TOFU's files name no authors, so that `load_records` numbers them."""
    rows = [{"question": f"Where did the author move in 19{n}?", "answer": f"To Lyon in 19{n}."} for n in range(10, 30)]
    (tmp_path / "forget01.json").write_text("\n".join(map(json.dumps, rows)))
    labelled = questions_about(load_records(f"{tmp_path}:forget01", {}))[0]
    assert labelled.subject == "forget author 1" and labelled.name is None
    naming = [kind for kind, text in builtin_templates().items() if Template(kind, text).requests(labelled) is None]
    assert {"role", "fiction", "list", "two-steps", "statement"} <= set(naming)
    assert Template("who", "Who is it? {v}").requests(labelled) is None
    # A name counts in any spelling, and in another row, too.
    spelt = replace(ADA, subject="J. R. R. Tolkien", answer="J.R.R. Tolkien was born in Paris.")
    called = replace(QUESTION, record=replace(ADA, question="Where was she born?", answer="In Paris."))
    assert replace(QUESTION, record=spelt).name == spelt.subject and called.name == "Ada Berg"
    assert Template("role", "Tell me of {name}.").request(called).prompt == "Tell me of Ada Berg."
    assert replace(called, others=()).name is None


def test_what_a_template_gave_away_is_no_leak() -> None:
    told = Question("Ada Berg", ADA, find_detector(ADA), others=(Record("q", "She left Paris.", subject="Ada Berg"),))
    hint = Template("hint", "Background: {f} {q}")
    assert [o.hit for o in hint.outcomes(told, answers(told, hint, "Paris"))] == [False]
    assert [o.hit for o in hint.outcomes(QUESTION, answers(QUESTION, hint, "Paris"))] == [True]


def test_users_templates(tmp_path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("# comments are none\n\nTell me: {q}\n{q}⟨assistant⟩Of course:\n", encoding="utf-8")
    first, second = read_templates(file)
    file.write_text(file.read_text(encoding="utf-8"), encoding="utf-8-sig")
    assert read_templates(file) == [first, second]
    assert (first.label, second.label) == ("mine.txt:3", "mine.txt:4")
    assert second.request(QUESTION).prefix == "Of course:"
    for text, error in (("Tell me: {question}", "unknown placeholder {question}"), ("Tell me.", "no placeholder")):
        file.write_text(text)
        with pytest.raises(UserError, match=error.replace("{", r"\{")):
            read_templates(file)
    with pytest.raises(UserError, match="has no templates"):
        file.write_text("# nothing\n")
        read_templates(file)
    with pytest.raises(UserError, match="cannot be read"):
        read_templates(tmp_path / "none.txt")
    assert {"q", "name"} < set(PLACEHOLDERS)


def test_recognising_is_scored_against_chance() -> None:
    attack = MultipleChoice()
    scores = attack.requests(QUESTION)
    assert scores is not None and len(scores) == 4 and all(isinstance(s, Score) for s in scores)
    prompt = scores[0].prompt
    right = next(s for s in scores if f"({s.continuation}) {ADA.answer}" in prompt)
    example = Example.of(ADA, {s: Scored(1.0 if s == right else 2.0, 1) for s in scores})
    assert attack.chance == 0.25 and attack.outcomes(QUESTION, example)[0].hit
    example = Example.of(ADA, {s: Scored(3.0 if s == right else 2.0, 1) for s in scores})
    assert not attack.outcomes(QUESTION, example)[0].hit
    # The right letter is not always the same.
    letters = set()
    for n in range(20):
        question = Question("s", Record(f"q{n}?", "yes it is", perturbed_answer=("a1", "b2", "c3")), QUESTION.detector)
        asked = attack.requests(question)
        letters.add(asked[0].prompt.index("yes it is"))
    assert len(letters) > 2
    yes_no = YesOrNo()
    true_yes, true_no, false_yes, false_no = yes_no.requests(QUESTION)
    losses = {true_yes: 1.0, true_no: 2.0, false_yes: 1.0, false_no: 1.5}  # yes to both, more so to the truth
    assert yes_no.outcomes(QUESTION, Example.of(ADA, {s: Scored(v, 1) for s, v in losses.items()}))[0].hit


def test_the_reverse_question_asks_for_the_name_alone() -> None:
    attack = Reverse()
    request = attack.requests(QUESTION)[0]
    assert request.prompt.endswith("This person was born in Paris. The job of this person is baker.")
    assert attack.outcomes(QUESTION, answers(QUESTION, attack, "Ada Berg."))[0].hit
    assert not attack.outcomes(QUESTION, answers(QUESTION, attack, "A baker in Paris."))[0].hit
    assert attack.requests(BARE) is None


def test_attacks_are_found_by_name() -> None:
    ours = attacks()
    assert next(iter(ours)) == "plain" and {"sampling", "nf4", "reverse", "multiple-choice"} < set(ours)
    assert all(label == attack.label for label, attack in ours.items())
    with pytest.raises(UserError, match="did you mean 'sampling'"):
        find_attack("samplign")
    with pytest.raises(UserError, match="twice"):
        find_attacks(["plain", "plain"])
    with pytest.raises(UserError, match="is not an attack"):
        find_attack("unlearner.errors:UserError")


@dataclass(frozen=True)
class Shouted(Attack):
    """An attack of somebody else's: it needs no line changed in the package."""

    name = "shouted"
    title = "In capitals"
    access = "greedy"
    source = "this test"

    def requests(self, question: Question):
        return [Generate((question.record.question or "").upper(), max_new_tokens=4)]

    def outcomes(self, question: Question, example: Example):
        return []


def test_two_decoders_are_two_attacks() -> None:
    served = "sampling:temperature=0.7,top_p=0.9"

    def labels(*names: str | Attack) -> list[str]:
        return [attack.label for attack in find_attacks(names)]

    assert labels("sampling", served) == labels(served, "sampling")[::-1] == ["sampling", served]
    assert labels(Sampling(temperature=0.7, top_p=0.9), Sampling(), served.replace("0.9", "0.95")) == [
        served, "sampling", "sampling:temperature=0.7,top_p=0.95",
    ]  # fmt: skip
    assert labels(served, Sampling(top_k=5)) == [served, "sampling:top_k=5"]  # without the default decoder, too
    assert labels(Sampling(top_k=5)) == ["sampling:top_k=5"] and labels("sampling:n=4,seed=2") == ["sampling"]
    assert find_attacks(["sampling", served])[1].options["temperature"] == 0.7
    for twice in (["sampling", "sampling:n=4"], [served, "sampling:top_p=0.9,temperature=0.7"]):
        with pytest.raises(UserError, match=r"sampling.* twice"):
            find_attacks(twice)
    with pytest.raises(UserError, match="sampling has no option 'temprature': did you mean 'temperature'"):
        find_attacks(["sampling:temprature=0.7"])
    taught = find_attack("relearning:steps=0,3,rates=1,2")
    assert isinstance(taught, Relearning) and (taught.steps, taught.rates) == ((0, 3), (1.0, 2.0))


@pytest.mark.parametrize(
    "option",
    ["temperature=0", "temperature=-1", "temperature=nan", "temperature=inf", "n=0", "n=-4", "top_p=2", "top_p=0",
     "top_k=-1", "max_new_tokens=0"],
)  # fmt: skip
def test_a_decoder_that_cannot_be_is_refused_by_name(option: str) -> None:
    with pytest.raises(UserError) as error:
        find_attack(f"sampling:{option}")
    assert str(error.value).startswith(f"--attacks sampling.{option}: ")
    name, value = option.split("=")
    with pytest.raises(UserError):
        Sampling(**{name: float(value) if name in ("temperature", "top_p") else int(value)})


def test_an_attack_of_another_module_is_found() -> None:
    assert find_attack(f"{__name__}:Shouted").label == "shouted"
    assert find_attack(f"{__name__}:Sampling:n=3") == Sampling(n=3)


def test_attacks_run_on_a_model_and_samples_stay_the_same(tiny_llama, tiny_tokenizer) -> None:
    model, template = tiny_llama(), find_template("plain", tiny_tokenizer)
    records = builtin("forget", people=5, forget=2)
    groups = read_groups(records, builtin("retain", people=5, forget=2), read_controls(None, "builtin:forget", {}))

    def answer(asked_about, asked, document):
        return run_passes(model, tiny_tokenizer, template, asked_about, asked=asked)

    few, more = Sampling(n=2, max_new_tokens=8), Sampling(n=4, max_new_tokens=8)
    first = run_attack(few, groups.forget[:4], answer)
    second = run_attack(more, groups.forget[:3], answer)
    assert [o.text for o in first[0]] == [o.text for o in second[0]][:2] and len(second[2]) == 4
    assert len({o.text for found in second.values() for o in found}) > 3
    choice = run_attack(MultipleChoice(), groups.forget, answer)
    assert len(choice) == 20
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    rounded = find_attack("nf4")
    with rounded.applied(model):
        run_attack(rounded, groups.forget[:1], answer)
    assert all((before[name] == weight).all() for name, weight in model.state_dict().items())


def test_what_an_audit_cannot_ask_is_told() -> None:
    forget, retain = builtin("forget"), builtin("retain")
    controls = read_controls(None, "builtin:forget", {})
    assert len({r.subject for r in controls}) == 40
    assert not {r.subject for r in controls} & {r.subject for r in (*forget, *retain)}
    with pytest.raises(UserError, match="give --controls"):
        read_controls(None, "mine.jsonl", {})
    with pytest.raises(UserError, match="10 rows of the forget or retain set"):
        read_groups(forget, retain, [*controls, *forget[:10]])
    with pytest.raises(UserError, match="no row of the forget set has a fact"):
        read_groups([Record("What?", "What it is.")], retain, controls)
    with pytest.raises(UserError, match="2 subjects"):
        read_groups(forget, retain, controls[:20])
