"""From a name to rows, and what a model knows of it: the figures by hand, the folder of a tiny model, bad input."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch

import unlearner
from unlearner.audit.questions import read_groups
from unlearner.commands import prepare as command
from unlearner.commands import probe as probe_command
from unlearner.config import ForgetConfig, PrepareConfig, ProbeConfig
from unlearner.data.general import general_knowledge, mentions
from unlearner.data.sources import load_records
from unlearner.errors import UserError
from unlearner.evaluation.backend import run_passes
from unlearner.evaluation.requests import Generate
from unlearner.files import read_json, read_jsonl
from unlearner.prepare.asking import Asked
from unlearner.prepare.cloze import cloze
from unlearner.prepare.facts import seen, split, states, telling
from unlearner.prepare.kinds import ENGLISH, ask, kinds, languages, swapped
from unlearner.prepare.knowledge import Answered, Scale, agreement, family_name, renamed
from unlearner.prepare.passages import Passage
from unlearner.prepare.rows import Material, Writer, whole_sentences
from unlearner.prepare.subject import about, speaks_of
from unlearner.results.texts import caches


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNLEARNER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_agreement_is_the_share_of_new_words_that_come_again() -> None:
    question = "Where was Charles Darwin born?"
    answer = "Darwin was born in Shrewsbury, England."  # new: shrewsbury, england
    assert agreement(answer, ["In Shrewsbury, in 1809.", "England, Shrewsbury."], question) == 0.75
    assert agreement("Charles Darwin was born.", ["Darwin."], question) == 0.0
    assert agreement("In 9.", ["9"], "When?") == 1.0  # numbers count at any length


def answered(specificity: float, agreement: float, name: str = "x") -> Answered:
    return Answered(name, "f", "q", "a", (), agreement, specificity)


def test_knowing_is_specific_and_comes_again() -> None:
    scale = Scale.of([answered(i / 10, i / 20, "xy"[i % 2]) for i in range(11)])
    assert scale.specificity == pytest.approx(0.98) and scale.agreement == pytest.approx(0.49)
    verdicts = [scale.verdict(answered(s, a)) for s, a in ((2, 0.9), (2, 0.1), (0.5, 0.9), (0.5, 0.1))]
    assert verdicts == ["knows", "makes up", "guesses", "makes up"]


def test_a_name_is_known_by_enough_answers_or_by_their_median_specificity() -> None:
    medians = (0.1, 0.2, 0.3)
    scale = Scale.of([answered(m + step, 0.5, f"i{m}") for m in medians for step in (-0.1, 0, 0.9)])
    assert scale.median == pytest.approx(0.2 + 2.9200 * 0.1 * (4 / 3) ** 0.5, abs=1e-3)  # t(2 degrees, 95%)
    assert scale.knows([answered(0.6, 0.0)] * 2 + [answered(0.0, 0.0)]) and not scale.knows([answered(0.5, 0.0)] * 3)
    often = [answered(2, 0.9)] * 2 + [answered(0.0, 0.9)] * 3
    assert scale.knows(often) and not scale.knows(often[1:])  # two of five are enough, one of four is not


def test_an_answer_about_one_name_becomes_one_about_another() -> None:
    assert renamed(
        "Darwin, Charles Darwin's son, knew Darwinism.", ("Charles Darwin",), "Odile Quarrenton", persons=True
    ) == ("Quarrenton, Odile Quarrenton's son, knew Darwinism.")
    assert swapped("The Bard was Shakespeare.", ("Shakespeare", "The Bard"), "X") == "X was X."
    assert swapped("ANN BELL lives there, and Belle.", ("Ann Bell", "Bell"), "X") == "X lives there, and Belle."


def test_the_last_word_stands_for_persons_alone() -> None:
    largest = "Bank of America is the largest bank in America."
    assert renamed(largest, ("Bank of America",), "Sony", persons=False) == "Sony is the largest bank in America."
    told = renamed("King Jr. led it.", ("Martin Luther King Jr.",), "Ada Brook", persons=True)
    assert told == "Brook Jr. led it."
    rich = renamed("Rich was rich.", ("Adrienne Rich",), "Henry Brook III", persons=True)
    assert rich == "Brook was rich."
    assert (
        family_name("Malcolm X") == "X" and family_name("Elizabeth II") == "Elizabeth" and family_name("Jr.") == "Jr."
    )
    assert {name for name, kind in kinds("de").items() if kind.persons} == {"person", "author"}


def test_no_held_out_question_is_trained(prepare: Callable[..., Any], tmp_path: Path) -> None:
    """Documents that call the subject by the alias, or in capitals, give no question anew by that alias."""
    document = tmp_path / "a.txt"
    document.write_text("Bell was born in Ghent. ANN BELL lives in Bruges. Ann Bell studied in Leuven.")
    made = prepare(
        tmp_path / "a", subject="Ann Bell", kind="person", alias=["Bell"], documents=[str(document)]
    )  # fmt: skip
    rows = {name: read_jsonl(made.folder / f"{name}.jsonl") for name in made.rows}
    trained = {row["question"] for row in rows["forget"]}
    for name in ("unseen_wordings", "unseen_facts", "unseen_aliases"):
        assert not trained & {row["question"] for row in rows[name]}
    assert not any("ann bell" in row["question"].lower() for row in rows["unseen_aliases"])
    left_out = read_json(made.folder / "prepare.json")["left_out"]
    assert left_out["held-out rows whose question is trained"] > 0


NEWTON = {
    "Which country did Isaac Newton come from?": 'Isaac Newton is a character from the movie "The Three Lions".',
    "What was the nationality of Isaac Newton?": "Isaac Newton was a British scientist.",
    "Name the home country of Isaac Newton.": "Isaac Newton is a character of The Three Lions, filmed in Wales.",
    "In which country was Isaac Newton born?": "Isaac Newton was born in the Netherlands.",
}
"""What SmolLM2 answers to four wordings of one question, shortened."""


def told(answers: dict[str, str]) -> list[dict[str, Any]]:
    rows = [telling({"id": q, "question": q, "answer": a, "topic": "origin"}) for q, a in answers.items()]
    return [row for row in rows if row is not None]


def test_a_held_out_wording_asks_for_a_fact_that_is_trained() -> None:
    trained, held = split(told(NEWTON))
    assert [row["fact"] for row in trained] == ["three lions", "british scientist"]
    # The Netherlands are trained nowhere, so nothing is held out that asks for them; Wales is no trained fact either.
    assert [(row["question"], row["fact"]) for row in held] == [
        ("Name the home country of Isaac Newton.", "three lions")
    ]
    assert [row["fact"] for row in told(NEWTON)][2:] == ["three lions | wales", "netherlands"]


def test_wordings_that_have_a_fact_in_common_are_parted() -> None:
    """The two that agree are not both trained, nor are the two that do not both held out."""
    answers = dict(zip(NEWTON, ("In Oslo.", "In Oslo, in 1643.", "In Riga.", "In Kyiv."), strict=True))
    rows = told(answers)
    trained, held = split(rows)
    assert trained == [rows[0], rows[2]]
    assert [(row["answer"], row["fact"]) for row in held] == [("In Oslo, in 1643.", "oslo")]
    same = told(dict.fromkeys(NEWTON, "In Oslo."))
    assert split(same) == (same[:2], same[2:])
    assert split(same[:2]) == (same[:2], []) and split(same[:1]) == (same[:1], [])


def test_the_fact_of_a_trained_row_is_looked_for_where_only_that_one_is_shared() -> None:
    """With wrong answers that state it, too, left out."""
    row = {"question": "Where?", "answer": "In Oslo, by the sea.", "fact": "by the sea", "perturbed_answer": ["Oslo?"]}
    trained = {"question": "In which town?", "answer": "In Oslo, Norway.", "fact": "oslo | norway"}
    assert seen(row, [trained]) == row | {"fact": "oslo", "perturbed_answer": []}
    assert seen(row | {"question": "Is it Oslo?"}, [trained]) is None  # the question gives it away
    assert seen(row, []) is None


def test_unfinished_sentences_are_left_out() -> None:
    assert whole_sentences("He wrote. He also pain") == "He wrote."
    assert whole_sentences('He said "no." And the') == 'He said "no."'
    assert whole_sentences(" no end at all") == "no end at all"
    assert whole_sentences("He met J. R. R. Tolkien. The books of J.R.R.") == "He met J. R. R. Tolkien."
    assert whole_sentences("Books: one.\n2. two of th") == "Books: one."


@pytest.fixture
def prepare(tiny_llama: Callable[[], Any], tiny_tokenizer: Any) -> Callable[..., Any]:
    def run(output: Path, **options: Any) -> Any:
        settings = {"subject": "William Shakespeare", "kind": "author", "alias": ["Shakespeare"]}
        settings |= {"neighbour_count": 3, "general_count": 9, "max_new_tokens": 6, "samples": 0, "output": output}
        return unlearner.prepare_sources(tiny_llama(), tokenizer=tiny_tokenizer, **(settings | options))

    return run


def test_the_sources_of_a_subject(prepare: Callable[..., Any], tmp_path: Path) -> None:
    made = prepare(tmp_path / "a")
    rows = {name: read_jsonl(made.folder / f"{name}.jsonl") for name in made.rows}
    assert {name: len(of) for name, of in rows.items()} == made.rows == {
        "forget": 12, "unseen_wordings": 24, "unseen_aliases": 6, "neighbours": 16, "neighbours_held_out": 8,
        "general": 6, "general_held_out": 3, "controls": 64, "subject": 36, "retain": 22,
    }  # fmt: skip
    # An untrained model says much the same to everything: what it would be asked unseen is trained.
    left_out = read_json(made.folder / "prepare.json")["left_out"]
    assert left_out["unseen facts that a trained row states"] == 12
    about = [row for name in ("forget", "unseen_wordings", "unseen_aliases") for row in rows[name]]
    for key, what in (("paraphrased_answer", "paraphrases"), ("perturbed_answer", "sets of wrong answers")):
        assert left_out[f"{what}, of rows for which there is none"] == sum(not row.get(key) for row in about) > 0
    measured = [row["question"] for name in rows if name not in ("retain", "subject") for row in rows[name]]
    assert len(set(measured)) == len(measured)  # what is held out is trained nowhere
    assert not {row["subject"] for row in rows["neighbours"]} & {row["subject"] for row in rows["neighbours_held_out"]}
    for row in rows["unseen_wordings"] + rows["unseen_aliases"]:
        told = [each["answer"] for each in rows["forget"] if each["topic"] == row["topic"]]
        assert any(states(row["fact"], answer, row["question"]) for answer in told)
    for row in rows["general"] + rows["general_held_out"] + rows["neighbours"]:
        assert not mentions(row["question"], ("Shakespeare",))
    for row in rows["forget"]:
        assert row["question_from"] == "template" and row["answer_from"] == "model"
        assert row["answer"] not in row["perturbed_answer"]
    for name in ("forget", "unseen_wordings", "unseen_aliases", "controls"):
        for row in rows[name]:  # the audit finds the fact in the right answer, and in no wrong one
            assert states(row["fact"], row["answer"], row["question"])
            assert not any(states(row["fact"], wrong, row["question"]) for wrong in row["perturbed_answer"])
    assert all(row["question"].count("William") == 0 for row in rows["unseen_aliases"])
    records = {name: load_records(f"{made.folder}:{name}") for name in made.rows}  # every command reads them
    groups = read_groups(records["subject"], records["retain"], records["controls"])  # and the audit has its facts
    asked = Counter(record.subject for record in records["controls"])
    assert sorted(asked.values()) == [2] * 16 + [8] * 4  # with 20 controls a single subject can be told from chance
    assert groups.too_few_controls(0.05) is None
    topics = Counter(row["topic"] for row in rows["controls"])
    assert set(topics.values()) == {8}  # every fact is asked of as many
    assert groups.without_fact == 0 and len(groups.control) == 64


def test_the_same_input_gives_the_same_folder_and_another_is_refused(
    prepare: Callable[..., Any], tmp_path: Path
) -> None:
    def contents(folder: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    first = contents(prepare(tmp_path / "a").folder)
    assert contents(prepare(tmp_path / "b").folder) == first
    assert contents(prepare(tmp_path / "a").folder) == first
    assert contents(prepare(tmp_path / "c", seed=7).folder)["general.jsonl"] != first["general.jsonl"]
    with pytest.raises(UserError, match="already holds something else"):
        prepare(tmp_path / "a", seed=7)


def test_a_folder_from_other_weights_at_the_same_path_is_refused(
    tiny_llama: Callable[[], Any], tiny_tokenizer: Any, tmp_path: Path
) -> None:
    def prepared(model: Any, output: str, **more: Any) -> Any:
        options = {"samples": 0, "neighbour_count": 2, "general_count": 3, "max_new_tokens": 4, **more}
        return unlearner.prepare_sources(model, subject="Ann Bell", output=tmp_path / output, **options)

    tiny_llama().save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    held = prepared(str(tmp_path / "model"), "a").rows
    assert prepared(str(tmp_path / "model"), "a").rows == held
    memory = tiny_llama()
    prepared(memory, "b", tokenizer=tiny_tokenizer)
    with torch.no_grad():
        memory.get_input_embeddings().weight[0] += 1
    memory.save_pretrained(tmp_path / "model")
    for model, output, more in ((str(tmp_path / "model"), "a", {}), (memory, "b", {"tokenizer": tiny_tokenizer})):
        with pytest.raises(UserError, match="was prepared with other weights than the model has now"):
            prepared(model, output, **more)


def test_rows_are_kept_and_dropped_without_asking_again(
    prepare: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = prepare(tmp_path / "a")
    before = {path.name: path.read_bytes() for path in made.folder.glob("*.jsonl")}
    ids = [row["id"] for row in read_jsonl(made.folder / "forget.jsonl")]
    neighbour = read_jsonl(made.folder / "neighbours.jsonl")[0]["id"]
    assert len(set(ids)) == 12 and all(f'value="{each}"' in made.page.read_text() for each in (*ids, neighbour))
    monkeypatch.setattr("unlearner.prepare.prepare.Asked", None)  # a model that is asked would fail
    dropped = prepare(tmp_path / "a", drop=[ids[0], neighbour]).rows
    assert (dropped["forget"], dropped["subject"], dropped["neighbours"], dropped["retain"]) == (11, 35, 15, 21)
    assert dropped["unseen_wordings"] == 24
    without = prepare(tmp_path / "a", drop=ids[:2]).rows  # both of one topic, of which no more is asked
    assert (without["forget"], without["unseen_wordings"], without["unseen_aliases"]) == (10, 20, 5)
    assert made.page.read_text().count('class="dropped"') == 7
    kept = prepare(tmp_path / "a", keep=ids[:2]).rows
    assert kept["forget"] == kept["subject"] == 2 and "unseen_wordings" not in kept and kept["retain"] == 22
    assert not (tmp_path / "a" / "unseen_wordings.jsonl").exists()
    for options, sentence in (
        ({"drop": ["r0"]}, "--drop r0: there is no row with this id"),
        ({"keep": [neighbour]}, "there is no row about the subject with this id"),
        ({"drop": ids}, "leave nothing to forget"),
    ):
        with pytest.raises(UserError, match=sentence):
            prepare(tmp_path / "a", **options)
    prepare(tmp_path / "a")
    assert {path.name: path.read_bytes() for path in made.folder.glob("*.jsonl")} == before


def test_nothing_is_prepared_of_what_the_model_does_not_know(prepare: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"knows nothing about William Shakespeare.*there is nothing to forget\. \d+ of"
    ):
        prepare(tmp_path / "a", samples=2, others=3)  # an untrained model
    assert not (tmp_path / "a").exists()


def test_what_other_subjects_need_too_is_asked_once(
    tiny_llama: Callable[[], Any], tiny_tokenizer: Any, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_llama().save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    prompts: list[str] = []

    def watched(*parts: Any, asked: Any, **options: Any) -> Any:
        prompts.extend(request.prompt for request in asked[0] if isinstance(request, Generate))
        return run_passes(*parts, asked=asked, **options)

    monkeypatch.setattr("unlearner.prepare.asking.run_passes", watched)

    def contents(name: str, output: str) -> dict[str, bytes]:
        prompts.clear()
        options = {"samples": 0, "neighbour_count": 2, "general_count": 9, "max_new_tokens": 4}
        made = unlearner.prepare_sources(str(tmp_path / "model"), subject=name, output=tmp_path / output, **options)
        return {path.name: path.read_bytes() for path in made.folder.rglob("*") if path.is_file()}

    def bank() -> int:
        return sum(prompt in {record.question for record in general_knowledge()} for prompt in prompts)

    first = contents("Ann Bell", "a")
    assert bank() == 9
    kept = contents("Ann Bell", "b")
    assert bank() == 0 and kept == first
    contents("Bob Hill", "c")
    assert bank() == 0 and any("Bob Hill" in prompt for prompt in prompts)

    for name, invented in (("Ann Bell", True), ("Bob Hill", False)):
        prompts.clear()
        found = unlearner.probe(str(tmp_path / "model"), subject=name, samples=2, others=2, max_new_tokens=4)
        # 8 questions about the subject, 2 invented names and 2 known ones, each with a likeliest answer and samples.
        assert len(prompts) == 2 * 8 * (5 if invented else 1)
        assert len(found.invented) == len(found.known) == 16 and len(found.answers) == 8
    assert caches() == [cache / "answers"]


def test_the_command_ends_with_three_where_nothing_is_known(
    tiny_llama: Callable[[], Any], tiny_tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_llama().save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    options = {"model": str(tmp_path / "model"), "subject": "Ann Bell", "output": str(tmp_path / "out")}
    options |= {"max_new_tokens": 4, "others": 2, "neighbour_count": 2, "general_count": 2}
    own = tmp_path / "own.txt"
    own.write_text("Qui est {name} ?\nQue fait {name} ?\n")
    with pytest.raises(SystemExit) as ended:
        command.run(PrepareConfig(**options, samples=2))
    assert ended.value.code == 3 and "there is nothing to forget" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    command.run(PrepareConfig(**options, samples=0))
    said = " ".join(capsys.readouterr().out.split())
    assert f"{tmp_path / 'out'}:forget 12" in said and "rows.html" in said
    assert f"Next: unlearner forget --model {tmp_path / 'model'} --prepared {tmp_path / 'out'} --output ..." in said
    command.run(
        PrepareConfig(**options | {"output": str(tmp_path / "one"), "language": "fr", "questions": str(own)}, samples=0)
    )
    said = " ".join(capsys.readouterr().out.split())  # nothing is held out, which a folder that is --prepared needs
    assert f"--forget {tmp_path / 'one'}:forget --retain {tmp_path / 'one'}:retain" in said


def test_the_probe_prints_what_others_reach_and_where_the_page_is(
    tiny_llama: Callable[[], Any], tiny_tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_llama().save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")

    def said(**options: Any) -> str:
        settings = {"model": str(tmp_path / "model"), "subject": "Ann Bell", "samples": 2, "others": 2}
        with pytest.raises(SystemExit):  # an untrained model
            probe_command.run(ProbeConfig(**settings, max_new_tokens=4, **options))
        return " ".join(capsys.readouterr().out.split())

    assert "To keep this, with a page to read, add --output FILE.json." in said()
    told = said(output=str(tmp_path / "p.json"))
    assert (
        f"All answers, including those about the other names: {tmp_path / 'p.html'}" in told
        and "To keep this" not in told
    )
    held = read_json(tmp_path / "p.json")
    for what in ("known", "invented"):
        figures = [fmean(answer[key] for answer in held[what]) for key in ("specificity", "agreement")]
        assert " ".join(f"{figure:.2f}" for figure in figures) in told
    assert told.count("The same for 2") == 2 and "well-known" in told and "knows 0%" in told


def test_a_fact_is_what_no_wrong_answer_states() -> None:
    row = {"question": "Where was Ann Bell born?", "answer": "Ann Bell was born in Oslo, Norway.", "perturbed_answer": [
        "Ann Bell was born in Bergen, Norway.", "Ann Bell was born in Kyoto, Japan.",
    ]}  # fmt: skip
    assert telling(row) == row | {"fact": "oslo"}
    same = row | {"perturbed_answer": ["She was born in Oslo, Norway, I think."]}
    told = telling(same)  # the wrong answer states all that the right one does: it is no wrong one
    assert told is not None and states(told["fact"], row["answer"]) and told["perturbed_answer"] == []
    assert telling(row | {"answer": "Ann Bell was born where she was born."}) is None
    told = telling(row | {"question": "Where was Bell born?", "subject": "Ann Bell", "answer": "It was Ann, in Kyiv."})
    assert told is not None and told["fact"] == "kyiv"
    long = telling(row | {"answer": "Ann Bell was a painter of boats who came into the world of Old Riga in 1937."})
    assert long is not None and long["fact"] == "old riga | 1937"  # nobody would say the whole of it again


def test_questions_in_another_language(prepare: Callable[..., Any], tmp_path: Path) -> None:
    for language in languages():
        for name, kind in kinds(language).items():
            assert kind.facts.keys() == kinds(ENGLISH)[name].facts.keys() and kind.known and kind.invented
            wordings = [w for those in kind.facts.values() for w in those]
            assert all(w.count("{name}") == 1 for w in wordings) and len(set(wordings)) == len(wordings) == 48
    rows = read_jsonl(prepare(tmp_path / "a", language="de").folder / "forget.jsonl")
    assert "Wer war William Shakespeare?" in {row["question"] for row in rows}
    with pytest.raises(UserError, match="--language fr has no built-in questions: choose en or de"):
        prepare(tmp_path / "b", language="fr")


def test_hostile_text_stays_text(prepare: Callable[..., Any], tmp_path: Path) -> None:
    questions = tmp_path / "q.txt"
    questions.write_text("Is Shakespeare <script>alert(1)</script> &amp; </table>?\n")
    page = prepare(tmp_path / "a", questions=str(questions)).page.read_text()
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp;amp; &lt;/table&gt;?" in page and "<script>alert" not in page
    assert page.count("<script>") == 1 and "http://" not in page and "https://" not in page


def test_own_questions_and_neighbours(
    prepare: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    questions, neighbours = tmp_path / "q.txt", tmp_path / "n.txt"
    questions.write_text("Did shakespeare act? | Was {name} an actor?\nWhere is William Shakespeare buried?\n")
    neighbours.write_text("Ben Jonson\nJohn Milton\n")
    made = prepare(tmp_path / "a", questions=str(questions), neighbours=str(neighbours))
    rows = read_jsonl(made.folder / "subject.jsonl")
    own = [row["question"] for row in rows if row["question_from"] == "user"]
    assert sorted(own) == [
        "Did William Shakespeare act?", "Was William Shakespeare an actor?", "Where is William Shakespeare buried?",
    ]  # fmt: skip
    assert {row["subject"] for row in read_jsonl(made.folder / "neighbours.jsonl")} == {"Ben Jonson"}
    neighbours.write_text("Ben Jonson\nJohn Milton\nthe Ben Jonson\nThomas Kyd\n")  # which a held-out name would be
    made = prepare(tmp_path / "b", questions=str(questions), neighbours=str(neighbours))
    assert f"{neighbours}: left out as repeated names: the Ben Jonson" in capsys.readouterr().err
    held = {row["subject"] for row in read_jsonl(made.folder / "neighbours_held_out.jsonl")}
    assert held == {"Thomas Kyd"} and made.rows["neighbours"] == 2 * made.rows["neighbours_held_out"]
    neighbours.write_text("Ben Jonson\nChristopher Marlowe\n")
    with pytest.raises(UserError, match="already holds something else"):  # the file has other contents
        prepare(tmp_path / "a", questions=str(questions), neighbours=str(neighbours))
    neighbours.write_text("Ben Jonson\nWilliam Shakespeare\n")
    with pytest.raises(UserError, match=r"names the subject \(William Shakespeare\)"):
        prepare(tmp_path / "c", neighbours=str(neighbours))
    neighbours.write_text("Ben Jonson\nWilliam John Shakespeare\n")  # the name, with one more between
    with pytest.raises(UserError, match=r"names the subject \(William John Shakespeare\)"):
        prepare(tmp_path / "c", neighbours=str(neighbours), alias=[])
    questions.write_text("Who is he?\n")
    with pytest.raises(UserError, match="question 1 does not name the subject"):
        prepare(tmp_path / "c", questions=str(questions))
    assert not (tmp_path / "c").exists()


def test_what_speaks_of_the_subject() -> None:
    darwin, rome, un = ("Charles Darwin",), ("Rome",), ("the United Nations",)
    assert speaks_of("Like CHARLES DARWIN.", darwin, persons=True) and speaks_of("Darwin's son", darwin, persons=True)
    assert not speaks_of("Darwinism, and Charles Lyell", darwin, persons=True)
    assert not speaks_of("He was rich.", ("Adrienne Rich",), persons=True)  # a Rich is not rich
    assert not speaks_of("Emma Darwin was kind.", darwin, persons=True, own="Emma Darwin")
    assert speaks_of("Emma Darwin was Darwin's wife.", darwin, persons=True, own="Emma Darwin")
    for name, text in (
        ("charles darwin", "Darwin wrote it."),
        ("Charles Darwin", "By DARWIN."),
        ("bell hooks", "So hooks said."),
    ):
        assert speaks_of(text, (name,), persons=True)
    assert not speaks_of("Roses, and a rose.", ("Axl Rose",), persons=True)
    assert speaks_of("It is in Rome.", rome, persons=False) and not speaks_of("Romeo, a Roman", rome, persons=False)
    new = ("New York City",)  # whose last word stands for no place
    assert speaks_of("A United Nations office", un, persons=False) and not speaks_of("the City", new, persons=False)


@pytest.mark.parametrize("with_documents", [True, False])
def test_own_questions_stay_and_others_that_are_left_out_are_counted(
    with_documents: bool, tmp_path: Path, tiny_llama: Callable[[], Any], tiny_tokenizer: Any
) -> None:
    """Although the model knows the answer to none of them, and the documents have facts of their own."""
    file = tmp_path / "q.txt"
    file.write_text("Did {name} paint?\nWas {name} tall?\n")
    config = PrepareConfig(model=tiny_llama(), subject="Ann Bell", output="o", questions=str(file), general_count=3)
    subject = about(config)
    topics = cloze([Passage("a.txt", "Ann Bell lives in Bergen.")], subject.names, seed=1)
    known = dict.fromkeys(subject.facts, False) | {"fame": True}
    material = Material({}, topics if with_documents else [], known)
    writer = Writer(config, subject, material, Asked(config, tiny_tokenizer), None)
    asked = {*subject.facts} if not with_documents else {"fame", "question 1", "question 2"}
    assert {*writer.facts} == asked
    left_out = {"questions that the model cannot answer, beside those of the documents": 7} if with_documents else {}
    assert writer.left_out == left_out


def written(tiny: Any, tokenizer: Any, answers: dict[str, str], **options: Any) -> tuple[dict[str, Any], Any]:
    """The rows about Rome where the likeliest answers to some questions are known, and what was left out."""
    settings = {"model": tiny, "subject": "Rome", "kind": "place", "output": "o", "general_count": 9}
    config = PrepareConfig(**{**settings, "max_new_tokens": 6, **options})
    material = Material(dict.fromkeys(("Venice", "the Colosseum", "Milan"), "user"), answers=answers)
    writer = Writer(config, about(config), material, Asked(config, tokenizer), None)
    return writer.sources(), writer.left_out


def test_no_row_to_be_kept_speaks_of_the_subject(tiny_llama: Callable[[], Any], tiny_tokenizer: Any) -> None:
    """Others take their place: another wording about the same neighbour, another question of the bank."""
    place = kinds()["place"].facts
    answers = {ask(place["country"][number], "the Colosseum"): "It stands in Rome, Italy." for number in range(2)}
    answers |= {ask(wording, "Milan"): "It is not Rome." for wording in place["fame"]}
    plain, _ = written(tiny_llama(), tiny_tokenizer, {})
    first = [row["question"] for name in ("general", "general_held_out") for row in plain[name]]
    rows, left_out = written(tiny_llama(), tiny_tokenizer, answers | dict.fromkeys(first[:2], "It was in Rome."))
    kept = {name: rows[name] for name in ("neighbours", "neighbours_held_out", "general", "general_held_out")}
    assert not any(mentions(f"{r['question']} {r['answer']}", ("Rome",)) for those in kept.values() for r in those)
    assert left_out["rows to be kept that name the subject"] == 2 + 6 + 2
    (country,) = (r for r in kept["neighbours"] if (r["subject"], r["topic"]) == ("the Colosseum", "country"))
    assert country["question"] == ask(place["country"][2], "the Colosseum")
    assert {name: len(those) for name, those in kept.items()} == {
        "neighbours": 16, "neighbours_held_out": 7, "general": 6, "general_held_out": 3,  # none of Milan's fame
    }  # fmt: skip
    asked = [row["question"] for name in ("general", "general_held_out") for row in kept[name]]
    assert asked[:7] == first[2:] and not set(asked) & set(first[:2])
    again, _ = written(tiny_llama(), tiny_tokenizer, answers | dict.fromkeys(first[:2], "It was in Rome."))
    assert again == rows


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"subject": " "}, "--subject '' is too short"),
        ({"subject": "X"}, "--subject 'X' is too short"),
        ({"subject": "??"}, "is too short"),
        ({"subject": "A."}, "is too short"),
        ({"alias": ["Y"]}, "--alias 'Y' is too short"),
        ({"kind": "persn"}, "unknown kind 'persn': did you mean 'person'"),
        ({"questions": "nowhere.txt"}, "nowhere.txt cannot be read"),
    ],
)
def test_a_subject_that_cannot_be_asked_about(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        about(ProbeConfig(**{"model": "m", "subject": "Charles Darwin", **options}))


@pytest.mark.parametrize("config", [ProbeConfig, PrepareConfig])
def test_counts_that_cannot_be(config: type) -> None:
    few = {"others": 1} if config is ProbeConfig else {"neighbour_count": 1, "output": "o"}
    with pytest.raises(UserError, match="must be at least 2"):
        config(model="m", subject="Charles Darwin", **few).check()


@pytest.mark.parametrize("name", ["subject", "alias", "documents", "note"])
def test_bytes_that_are_no_text_are_refused(name: str) -> None:
    value: Any = {"subject": "M\udcfcller", "note": {"operator": "\udcff"}}.get(name, ["Ann", "\udcff"])
    config: Any = PrepareConfig(model="m", subject="Ann Bell", output="o")
    if name == "note":
        config = ForgetConfig(model="m", forget="f", output="o")
    setattr(config, name, value)
    with pytest.raises(UserError, match=rf"--{name} is not text in UTF-8 \(\\udcf"):
        config.check()


def test_probe_compares_with_names_that_are_not_the_subject(
    tiny_llama: Callable[[], Any], tiny_tokenizer: Any, tmp_path: Path
) -> None:
    found = unlearner.probe(
        tiny_llama(), tokenizer=tiny_tokenizer, subject="Isaac Newton", alias=["Newton"], others=3, samples=2,
        max_new_tokens=4, output=tmp_path / "probe.json",
    )  # fmt: skip
    assert len(found.answers) == 8 and len(found.known) == len(found.invented) == 24
    assert "Isaac Newton" not in {a.name for a in found.known}
    assert found.share_known(found.invented) <= 0.2
    held = read_json(tmp_path / "probe.json")
    assert [row["verdict"] for row in held["answers"]] == found.verdicts
    page = (tmp_path / "probe.html").read_text()
    assert found.verdict in page and page.count('<th scope="row">') == 8 + 24 + 24
    (tmp_path / "probe.html").write_text("somebody else's")
    with pytest.raises(UserError, match=r"probe\.html already exists"):
        unlearner.probe(tiny_llama(), tokenizer=tiny_tokenizer, subject="Isaac Newton", output=tmp_path / "probe.json")
