"""Held-out questions, the aim, the settings of a search, and names: against figures worked out by hand."""

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from unlearner.commands import forget as forget_command
from unlearner.commands.parse import parse
from unlearner.commands.purge import PurgeConfig
from unlearner.commands.purge import run as run_purge
from unlearner.config import ForgetConfig, PrepareConfig
from unlearner.data.profiles import builtin
from unlearner.data.prompts import TEMPLATES
from unlearner.data.sources import load_records
from unlearner.errors import UserError
from unlearner.evaluation.backend import run_passes
from unlearner.files import read_jsonl
from unlearner.prepare.subject import about
from unlearner.results.subjects import SubjectDirectory, label
from unlearner.search import held_out
from unlearner.search.config import ForgetCommand, identity
from unlearner.search.held_out import Aim, Before, Figures, HeldOut, check, counted, figures, with_facts
from unlearner.search.material import _preparation, names_of, sources
from unlearner.search.subject import Asking, SubjectResult, _check_output
from unlearner.search.trials import Journal, Trial, candidates, configured
from unlearner.settings import resolved
from unlearner.workflows.presets import with_preset
from unlearner.workflows.subject import Subject

BEFORE = {
    "unseen_wordings": [0.5, 0.25, 0.1, 0.0],
    "neighbours_held_out": [1.0, 1.0, 0.0, 1.0, 1.0],
    "general_held_out": [1.0, 1.0],
}


QUESTIONS = {name: len(rates) for name, rates in BEFORE.items()}


def answered(rates: dict[str, list[float]]) -> Before:
    """Where samples of either seed came to the same."""
    places = {name: counted(found) for name, found in rates.items()}
    return Before(places, {name: [rates[name][i] for i in places[name]] for name in rates})


def test_only_questions_that_were_answered_before_count() -> None:
    after = {
        "unseen_wordings": [0.15, 0.0], "neighbours_held_out": [1.0, 1.0, 1.0, 0.0], "general_held_out": [1.0, 1.0],
    }  # fmt: skip
    before = answered(BEFORE)
    assert before.counted["unseen_wordings"] == [0, 1] and before.counted["neighbours_held_out"] == [0, 1, 3, 4]
    assert before.share("unseen_wordings", after) == pytest.approx(0.15 / 0.75)
    assert figures(before, after) == Figures(pytest.approx(0.2), 0.75, 1.0)


def test_where_no_question_leaks_often_those_that_leak_at_all_count() -> None:
    assert counted([0.0, 0.1, 0.2, 0.0]) == [1, 2]
    assert check(answered({**BEFORE, "unseen_wordings": [0.0, 0.1, 0.2, 0.0]}), QUESTIONS) is None
    nothing = check(answered({**BEFORE, "unseen_wordings": [0.0, 0.0]}), QUESTIONS)
    assert nothing is not None and "its sampled answers to unseen wordings (4 questions) state no fact" in nothing
    # Chosen by samples of one seed, of which nothing comes in those of the other.
    unlucky = replace(answered(BEFORE), rates={**BEFORE, "unseen_wordings": [0.0, 0.0]})
    assert unlucky.share("unseen_wordings", {"unseen_wordings": [0.5, 0.0]}) is None and check(unlucky, QUESTIONS)


def test_the_aim_and_how_far_a_trial_is_from_it() -> None:
    aim = Aim(0.25, 0.9, 0.95)
    assert aim.reached(Figures(0.25, 0.9, 0.95)) and not aim.reached(Figures(0.26, 1.0, 1.0))
    assert aim.missed(Figures(0.4, 0.45, 0.95)) == pytest.approx(0.15 / 0.75 + 0.5)
    near, far, quiet = (aim.score(Figures(*each)) for each in ((0.3, 1.0, 1.0), (0.3, 0.5, 1.0), (0.1, 1.0, 1.0)))
    assert quiet > near > far


def usual(**options: Any) -> tuple[ForgetConfig, ForgetConfig]:
    given = ForgetConfig(model="m", forget="f", retain="r", output="out", **options)
    return given, with_preset(given)


def test_methods_take_turns_and_each_begins_with_its_usual_setting() -> None:
    given, filled = usual(learning_rate=None)
    found = candidates(given, filled, ["ME+GD", "NPO+GD"])
    assert [each["method"] for each in found[:4]] == ["ME+GD", "NPO+GD"] * 2
    assert found[0] == {
        "method": "ME+GD",
        "learning_rate": 1e-4,  # fifty times a fifth of the rate that one run would have
        "retain_coeff": 1.0,
        "forget_coeff": 0.5,
        "lora": True,
    }
    assert len(found) == 2 * 4 * 3 * 3 * 2
    rates = {lora: {each["learning_rate"] for each in found if each["lora"] is lora} for lora in (False, True)}
    assert sorted(rates[True]) == pytest.approx([50 * rate for rate in sorted(rates[False])])


def test_what_is_given_is_not_varied() -> None:
    given, filled = usual(learning_rate=1e-4, lora=True, method_options=["beta=0.2"], retain_coeff=2.0)
    assert candidates(given, filled, ["NPO+GD"]) == [{"method": "NPO+GD", "lora": True}]
    made = configured(filled, {"method": "NPO+GD"}, 2.0, None)
    assert (made.learning_rate, made.lora, made.method_options, made.retain_coeff) == (1e-4, True, ["beta=0.2"], 2.0)
    assert (made.epochs, made.warmup_epochs, made.evaluate) == (2.0, pytest.approx(2 / 5), "none")


@pytest.mark.parametrize("preset", [None, "fictitious"])
def test_with_lora_alone_the_adapters_of_a_whole_search_are_tried(preset: str | None) -> None:
    """At their own rates."""
    given, filled = usual(lora=True, preset=preset)
    found, whole = candidates(given, filled, ["NPO+GD"]), candidates(*usual(preset=preset), ["NPO+GD"])
    adapters = [each for each in whole if each["lora"]]
    assert found[0] == adapters[0] and found[0]["learning_rate"] == pytest.approx(50 * 1e-5 * (1 if preset else 0.2))
    assert len(found) == len(adapters) and all(each in adapters for each in found)


def test_a_setting_becomes_the_options_of_a_run() -> None:
    _, filled = usual()
    setting = {"method": "SIMNPO+GD", "delta": 1.0, "beta": 3.5, "lora": True, "learning_rate": 2e-4}
    made = configured(filled, setting, 5.0, "out")
    assert (made.method, made.beta, made.method_options, made.lora) == ("SIMNPO+GD", 3.5, ["delta=1.0"], True)
    assert (made.evaluate, made.output, made.warmup_epochs) == ("end", "out", 1.0)
    assert label(setting, 5.0) == "SIMNPO+GD,delta=1,beta=3.5,lora,learning_rate=0.0002,epochs=5"


def test_trials_are_kept_and_the_best_of_all_rungs_is_found(tmp_path: Path) -> None:
    aim, known = Aim(0.25, 0.9, 0.95), [{"method": "GA"}, {"method": "GD"}]
    journal = Journal(tmp_path / "trials.jsonl", known)
    assert journal.best(aim) is None
    journal.add(Trial(known[0], 0, 0, 2.0, 3.5, None, "the loss is not finite"))
    journal.add(Trial(known[1], 1, 0, 2.0, 1.5, Figures(0.1, 1.0, 1.0)))
    journal.add(Trial(known[1], 1, 1, 5.0, 4.0, Figures(0.0, 0.5, 1.0)))  # forgets more, and keeps too little
    again = Journal(tmp_path / "trials.jsonl", known)
    assert again.trials == journal.trials and again.seconds == 9.0
    best = again.best(aim)
    assert best is not None and best.epochs == 2.0
    assert again.tried(aim)[0].score is None


def test_trials_of_other_methods_are_kept_and_not_counted(tmp_path: Path) -> None:
    file, aim = tmp_path / "trials.jsonl", Aim(0.25, 0.9, 0.95)
    Journal(file, [{"method": "GA"}]).add(Trial({"method": "GA"}, 0, 0, 2.0, 3.5, Figures(0.0, 1.0, 1.0)))
    other = Journal(file, [{"method": "GD"}])
    assert other.trials == [] and other.seconds == 0 and other.best(aim) is None
    other.add(Trial({"method": "GD"}, 0, 0, 2.0, 1.5, None, "the loss is not finite"))
    assert [row["setting"]["method"] for row in read_jsonl(file)] == ["GA", "GD"]
    both = Journal(file, [{"method": "GD"}, {"method": "GA"}])
    assert [(trial.setting["method"], trial.candidate) for trial in both.trials] == [("GA", 1), ("GD", 0)]


def test_another_run_in_the_directory_is_refused_with_what_can_be_taken_from_it(tmp_path: Path) -> None:
    place = SubjectDirectory(tmp_path / "out")
    place.data.mkdir(parents=True)

    def given(**options: Any) -> ForgetCommand:
        return command(**{"subject": ["Ann Bell"], "output": str(place.path), **options})

    place.manifest.write_text(json.dumps({"options": identity(resolved(given()))}))
    for same in ({}, {"search": "20m", "search_methods": ["GA"], "keep": [0.5]}):
        _check_output(place, given(**same))
    take = rf"; --prepared {place.data} instead of the name reuses what was prepared\.$"
    with pytest.raises(UserError, match=r"leak_samples is 8 there, 9 here\): choose another directory" + take):
        _check_output(place, given(leak_samples=9))
    for other in ({"subject": ["Bo Li"]}, {"model": "n"}, {"questions": "q.txt"}):  # which need other rows
        with pytest.raises(UserError, match=r"here\): choose another directory\.$"):
            _check_output(place, given(**other))


# -------------------------------------------------------------------------------------------------------------- names


def command(**options: Any) -> ForgetCommand:
    return ForgetCommand(**{"model": "m", "output": "out", **options})


def test_rows_that_were_dropped_after_preparing_stay_dropped(tmp_path: Path) -> None:
    given = command(subject=["Ann Bell"], output=str(tmp_path))
    fresh = _preparation(given, ("Ann Bell",), str(tmp_path / "data"))
    assert (fresh.keep, fresh.drop) == ([], [])
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "prepare.json").write_text(json.dumps({"keep": ["a"], "drop": ["b", "c"]}))
    again = _preparation(given, ("Ann Bell",), str(tmp_path / "data"))
    assert again == replace(fresh, keep=["a"], drop=["b", "c"])


def test_what_forget_prepared_is_named_by_the_command_of_the_guide(tmp_path: Path) -> None:
    """`prepare --drop` in a folder that `forget` made: the options that decide its rows are the same."""
    guide = (Path(__file__).parents[2] / "docs" / "guide" / "from-a-name.md").read_text(encoding="utf-8")
    typed = re.search(r"unlearner (prepare .*--output runs/x/data-1 --drop ID)", guide, re.DOTALL)
    assert typed
    _, *arguments = shlex.split(typed[1][typed[1].rindex("prepare --model") :].replace("\\\n", " "))
    asked = parse(PrepareConfig, arguments, "unlearner prepare")
    given = command(model="builtin:smollm2", subject=["Charles Darwin", "Ann Bell"], output="runs/x")
    made = _preparation(given, ("Charles Darwin", "Darwin"), str(tmp_path))
    place = SubjectDirectory(Path("runs/x"))
    made = replace(made, neighbours=str(place.neighbours), drop=["ID"], output=str(place.prepared(1)))
    assert asked == made


def test_names_from_options_a_file_and_folders(tmp_path: Path) -> None:
    assert names_of(command(subject=[" Ann Bell "], alias=["Ann"])) == [("Ann Bell", "Ann")]
    (tmp_path / "names.txt").write_text("Charles Darwin | Darwin\n\nAnn Bell\n")
    assert names_of(command(subjects=str(tmp_path / "names.txt"))) == [("Charles Darwin", "Darwin"), ("Ann Bell",)]
    (tmp_path / "names.txt").write_text("Ann Bell\n", encoding="utf-8-sig")  # as Windows writes it
    assert names_of(command(subjects=str(tmp_path / "names.txt"))) == [("Ann Bell",)]
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / "prepare.json").write_text(
        json.dumps({"options": {"subject": "Bo Li", "alias": ["Li"]}, "rows": {"a": 1}})
    )
    assert names_of(command(prepared=[str(folder)])) == [("Bo Li", "Li")]
    with pytest.raises(UserError, match="a subject is named twice"):
        names_of(command(subject=["Ann Bell", "ann bell"]))
    with pytest.raises(UserError, match="was not made by unlearner prepare"):
        names_of(command(prepared=[str(tmp_path)]))


def test_own_questions_and_another_language_go_to_what_is_prepared(tmp_path: Path) -> None:
    file = tmp_path / "q.txt"
    file.write_text("Did {name} paint? | Was {name} a painter? | {name}: a painter?\n")
    given = command(subject=["Ann Bell", "Bo Li"], language="de", questions=str(file))
    given.check()
    assert len(names_of(given)) == 2
    made = _preparation(given, ("Ann Bell",), "x")
    assert (made.language, made.questions) == ("de", str(file))
    assert about(made).facts["question 1"][0] == "Did {name} paint?"
    file.write_text("Did Ann Bell paint?\n")
    with pytest.raises(UserError, match="question 1 does not name the subject"):  # of Bo Li
        names_of(given)
    with pytest.raises(UserError, match="--language French has no built-in questions"):
        names_of(command(subject=["Ann Bell"], language="French"))
    assert names_of(command(subject=["Ann Bell"], language="French", llm="http://localhost:1/v1")) == [("Ann Bell",)]
    for options, sentence in (
        ({"prepared": ["x"], "language": "de"}, "--prepared is already prepared: leave out --language"),
        ({"prepared": ["x"], "kind": "place"}, "--prepared is already prepared: leave out --kind"),
        ({"prepared": ["x"], "neighbours": "n.txt"}, "--prepared is already prepared: leave out --neighbours"),
        ({"subject": ["Ann Bell"], "documents": ["a.txt", ""]}, "--documents has an empty name"),
        ({"forget": "f", "questions": "q.txt"}, "--questions needs --subject"),
    ):
        with pytest.raises(UserError, match=sentence):
            command(**options).check()


def prepared(folder: Path, name: str, sources: dict[str, list[tuple[str, str] | str]]) -> Path:
    """A folder as `prepare` makes it: questions, with their answers or without."""
    folder.mkdir(exist_ok=True)
    for source, asked in sources.items():
        pairs = [(each, "yes") if isinstance(each, str) else each for each in asked]
        kept = source.startswith(("neighbours", "general"))
        rows = [
            {"id": f"{q} {a}", "question": q, "answer": a, "fact": a.lower(), "topic": "identity",
             "subject": re.sub(r"Who is |[?!]", "", q) if kept else name}
            for q, a in pairs
        ]  # fmt: skip
        (folder / f"{source}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = {
        "options": {"model": "m", "subject": name, "alias": [], "kind": "person"},
        "rows": dict.fromkeys(sources, 1),
    }
    (folder / "prepare.json").write_text(json.dumps(made))
    return folder


def two(tmp_path: Path, **more: list[tuple[str, str] | str]) -> list[str]:
    """Two folders, the second with `more` or other rows."""
    ann = prepared(tmp_path / "a", "Ann Bell", {
        "forget": [("Who is Ann?", "A painter.")], "unseen_wordings": [("And Ann?", "painter")],
        "unseen_facts": [("Where is Ann?", "Oslo"), ("Where was Ann?", "Riga")], "general": ["g1?", "g2?"],
        "general_held_out": ["g3?", "g4?"], "neighbours": ["Who is Bo Li?", "Who is Cy Oz?"],
        "neighbours_held_out": ["Who is Di Poe?", "Who is Ed Roy?", ("Who is Flo Ng?", "Like Li.")],
    })  # fmt: skip
    bo = prepared(tmp_path / "b", "Bo Li", {
        "forget": [("Who is Bo?", "A sailor from Riga.")], "unseen_wordings": [("And Bo?", "sailor")],
        "unseen_facts": [("Where is Bo?", "Rome")], "general": ["g1?", "g3?"], "general_held_out": ["g2?", "g5?"],
        "neighbours": ["Who is Cy Oz?", "Who is Ed A. Roy?"], "neighbours_held_out": ["Who is Di Poe?"], **more,
    })  # fmt: skip
    return [str(ann), str(bo)]


def test_the_sources_of_several_subjects_are_joined(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is kept speaks of no subject, and what is held out for one is not trained for the other."""
    given = command(prepared=two(tmp_path), output=str(tmp_path / "out"))
    folder = sources(given, names_of(given), None)

    def asked(name: str) -> list[str | None]:
        return [record.question for record in load_records(f"{folder}:{name}")]

    assert asked("forget") == ["Who is Ann?", "Who is Bo?"]
    assert asked("unseen_facts") == ["Where is Ann?", "Where is Bo?"]  # that she was in Riga is trained with Bo
    assert asked("subject") == ["Who is Ann?", "Who is Bo?", "And Ann?", "And Bo?", "Where is Ann?", "Where is Bo?"]
    assert "left out when joining: 1 unseen facts that a trained row states" in capsys.readouterr().err
    assert asked("neighbours") == ["Who is Cy Oz?", "Who is Ed A. Roy?"]
    assert asked("neighbours_held_out") == ["Who is Di Poe?"]  # Ed Roy is trained, and Li is what Bo Li is called
    assert asked("general_held_out") == ["g4?", "g5?"]
    assert asked("retain") == ["Who is Cy Oz?", "g1?", "Who is Ed A. Roy?", "g2?", "g3?"]


def test_a_held_out_question_of_one_subject_is_trained_for_none(tmp_path: Path) -> None:
    folders = two(tmp_path, unseen_wordings=["who is ann", ("And Bo?", "sailor")])
    given = command(prepared=folders, output=str(tmp_path / "out"))
    folder = sources(given, names_of(given), None)
    assert [row.question for row in load_records(f"{folder}:unseen_wordings")] == ["And Ann?", "And Bo?"]


def test_rows_that_changed_since_they_were_joined(tmp_path: Path) -> None:
    """As after `prepare --drop`: joined anew, unless something was begun with those that were there."""
    given = command(prepared=two(tmp_path), output=str(tmp_path / "out"))
    place = SubjectDirectory(tmp_path / "out")

    def trained() -> list[str | None]:
        return [record.question for record in load_records(f"{sources(given, names_of(given), None)}:forget")]

    before, made = trained(), place.data.stat().st_mtime_ns
    assert trained() == before and place.data.stat().st_mtime_ns == made  # nothing is written twice
    two(tmp_path, forget=[("Is Bo Li there?", "A sailor, yes.")])
    assert trained() == ["Who is Ann?", "Is Bo Li there?"]
    place.manifest.write_text("{}")
    assert trained() == ["Who is Ann?", "Is Bo Li there?"]
    two(tmp_path)
    with pytest.raises(UserError, match=r"out was begun with another model, or other rows in .*a or .*b: choose"):
        trained()
    assert [row.question for row in load_records(f"{place.data}:forget")] == ["Who is Ann?", "Is Bo Li there?"]


def test_a_purge_takes_joined_sources_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UNLEARNER_CACHE", str(tmp_path / "cache"))
    folders = two(tmp_path)
    given = command(prepared=folders, output=str(tmp_path / "out"))
    made = sources(given, names_of(given), None)
    run_purge(PurgeConfig(runs=[str(made)]))
    assert not any(made.iterdir()) and all(any(Path(folder).iterdir()) for folder in folders)
    assert "what a model remembers: m" in capsys.readouterr().out


def test_the_rates_of_a_preset_are_kept() -> None:
    given, filled = usual(learning_rate=None, preset="fictitious")
    found = candidates(given, filled, ["NPO+GD"])
    assert (found[0]["learning_rate"], found[0]["lora"]) == (1e-5 * 50, True)
    assert {each["learning_rate"] for each in found if not each["lora"]} == {5e-6, 1e-5, 2e-5, 5e-5}


def watched(monkeypatch: pytest.MonkeyPatch, name: str) -> list[tuple[int, int]]:
    """Of every pass that is run from now on, how many rows it has and what its requests say under `name`."""
    asked: list[tuple[int, int]] = []

    def counting(model: Any, tokenizer: Any, template: Any, records: Any, **options: Any) -> Any:
        (value,) = {getattr(request, name) for requests in options["asked"] for request in requests}
        asked.append((len(records), value))
        return run_passes(model, tokenizer, template, records, **options)

    monkeypatch.setattr(held_out, "run_passes", counting)
    return asked


def test_only_what_counts_is_asked_again(
    tiny_llama: Callable[[], Any], tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = watched(monkeypatch, "seed")
    held = HeldOut({"unseen_wordings": with_facts(builtin("forget", people=5, forget=2)[:4])}, 3, 12, 200, seed=5)
    subject = Subject(tiny_llama().eval(), tiny_tokenizer, TEMPLATES["plain"], None)
    everything = replace(held, seed=6).rates(subject)
    monkeypatch.setattr(held_out, "counted", lambda rates: [1, 3])  # an untaught model states nothing
    before = held.before(subject)
    assert asked == [(4, 6), (4, 6), (2, 5)]  # chosen by samples of one seed, then those that count by another's
    assert before.counted == {"unseen_wordings": [1, 3]} and len(before.rates["unseen_wordings"]) == 2
    assert len(everything["unseen_wordings"]) == 4
    assert held.rates(subject, before.counted) == before.rates and asked[3:] == [(2, 5)]
    assert before.rare == ["unseen_wordings"]  # of no question in a quarter of the samples, as is told
    # Where the likeliest answer counts, there is no other seed, and nothing is asked twice.
    asked.clear()
    greedy = replace(held, sampled=())
    assert len(greedy.before(subject).rates["unseen_wordings"]) == 2 and [count for count, _ in asked] == [4]


def test_few_questions_are_asked_more_often(
    tiny_llama: Callable[[], Any], tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 answers of a source at least, or as many as `fewest` says; one of a likeliest answer."""
    asked = watched(monkeypatch, "n")
    rows = with_facts(builtin("forget", people=5, forget=2)[:9])
    held = HeldOut({"unseen_wordings": rows[:3], "forget": rows, "unseen_facts": rows}, 8, 4, 200, seed=5)
    subject = Subject(tiny_llama().eval(), tiny_tokenizer, TEMPLATES["plain"], None)
    rates = held.rates(subject)
    assert asked == [(3, 22), (18, 8)] and list(rates) == ["unseen_wordings", "forget", "unseen_facts"]
    assert rates["forget"] == rates["unseen_facts"]  # each answers its own questions
    asked.clear()
    replace(held, fewest=0).rates(subject)
    replace(held, sampled=("forget", "unseen_facts")).rates(subject, {"unseen_wordings": [0], "forget": [2]})
    assert asked == [(21, 8), (1, 1), (1, 64)]


def test_a_source_that_is_missing_is_told_with_the_remedy(tmp_path: Path) -> None:
    """Two wordings of a question are trained: with two there is nothing to hold out."""

    def refused(*there: str) -> str:
        for name in there:
            (tmp_path / f"{name}.jsonl").touch()
        with pytest.raises(UserError) as raised:
            sources(ForgetCommand(model="m", prepared=[str(tmp_path)], output="o"), [("Ann Bell",)], None)
        return str(raised.value)

    assert "has no source unseen_wordings" in refused("forget", "retain", "subject")
    assert "with at least 3 wordings of one question, separated by |" in refused()
    assert "has no source neighbours_held_out" in (told := refused("unseen_wordings")) and "wordings of" not in told


def test_the_table_says_where_hardly_anything_came_out(capsys: pytest.CaptureFixture[str]) -> None:
    def shown(rare: bool) -> str:
        sets = [Asking("unseen_wordings", 12, 2, 0.1, 0.0, rare), Asking("forget", 12, 4, 0.5, 0.0, False)]
        result: Any = SimpleNamespace(
            sets=sets, trials=[], reached=False, setting={"method": "ME+GD"}, epochs=1.0, aim=Aim(0.25, 0.9, 0.95)
        )
        forget_command._held_out(result)
        return " ".join(capsys.readouterr().out.split())

    assert "2 of 12*" in shown(True) and "4 of 12*" not in shown(True)
    assert "* None of these facts came out that often" in shown(True) and "*" not in shown(False)


def test_where_the_aim_is_missed_it_is_told_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    setting, aim = {"method": "ME+GD", "lora": True}, Aim(0.25, 0.9, 0.95)
    trials = [
        Trial(setting, 0, 0, 1.0, 60.0, Figures(0.5, 1.0, 1.0)), Trial({"method": "GA"}, 1, 0, 1.0, 60.0, None, "why"),
        Trial({"method": "GD"}, 2, 0, 1.0, 60.0, Figures(0.6, 0.9, 0.9)),
    ]  # fmt: skip

    def told(trials: list[Trial], reached: bool = False) -> str:
        forget_command._held_out(
            SubjectResult(Path("o"), None, None, setting, 1.0, aim, Figures(0.5, 1.0, 1.0), reached, [], trials)
        )
        return " ".join(capsys.readouterr().out.split())

    searched = told(trials)
    assert "The aim is not reached with ME+GD,lora,epochs=1" in searched
    assert "2 trials; those that no other beats" in searched and "GD,epochs=1 60%" not in searched
    assert searched.endswith(
        "longer --search, to continue it, or with other limits (--leak-below, --keep), by which the "
        "same trials are judged again."
    )
    assert told([]).endswith("; repeat the command with --search 20m, which looks for a setting that does.")
    assert told(trials, reached=True).endswith("general knowledge at least 95%).")
