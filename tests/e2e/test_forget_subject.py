"""`unlearner forget --subject`: search, resume, an aim that is not reached, a time that is too short, bad input."""

import json
import shutil
import signal
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

import unlearner
from conftest import Moment, arguments, contents, in_process, run, run_arguments, stamps, surroundings, write_rows
from unlearner.commands.main import main
from unlearner.data.profiles import builtin
from unlearner.data.records import Record
from unlearner.errors import UserError
from unlearner.files import read_json, read_jsonl
from unlearner.results.subjects import SubjectDirectory

NAME = builtin("forget", people=8, forget=1)[0].subject


def sources() -> dict[str, list[Record]]:
    """One person to forget, others and the world to keep; all of it is taught, so that all of it is known."""
    forget, kept = builtin("forget", people=8, forget=1), builtin("retain", people=8, forget=1)
    world = builtin("world_facts")
    made = {
        "forget": forget[:6], "unseen_wordings": forget[6:], "neighbours": kept[:8], "neighbours_held_out": kept[30:36],
        "general": world[:6], "general_held_out": world[10:16],
    }  # fmt: skip
    return {**made, "subject": [*forget], "retain": [*made["neighbours"], *made["general"]]}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """A folder as `prepare` makes it, and a tiny model that knows all of its rows."""
    folder = tmp_path_factory.mktemp("subject")
    made = folder / "made"
    made.mkdir()
    for name, records in sources().items():
        given = [{k: v for k, v in asdict(record).items() if v not in (None, ())} for record in records]
        write_rows(made / f"{name}.jsonl", [{"id": f"{name}{i}", **row} for i, row in enumerate(given)])
    options = {"options": {"subject": NAME, "alias": []}, "rows": dict.fromkeys(sources(), 1)}
    (made / "prepare.json").write_text(json.dumps(options))
    taught = [f"{made}:{name}" for name in sources() if name not in ("subject", "retain")]
    with surroundings(cache):
        main(["finetune", *arguments({
            "model": "new:hidden=64,layers=2,heads=2,vocabulary=600", "data": taught, "output": folder / "taught",
            "lr": 5e-3, "epochs": 40, "batch_size": 12, "accumulation": 1, "weight_decay": 0,
        })])  # fmt: skip
    return folder


@pytest.fixture
def options(place: Path) -> dict[str, Any]:
    """Two settings, all weights or LoRA, in one epoch."""
    return {
        "model": place / "taught" / "model", "prepared": place / "made", "search": "10m", "search_methods": "GA+GD",
        "learning_rate": 3e-3, "retain_coeff": 1, "epochs": 1, "warmup_epochs": 0, "batch_size": 2,
        "judge": "offline", "metrics": "rouge",
        "leak_samples": 8, "leak_below": 0.9, "keep": 0.001,
    }  # fmt: skip


def outcome(folder: Path) -> dict[str, Any]:
    """Everything that a search found, but how long it took."""
    trials = [{k: v for k, v in row.items() if k != "seconds"} for row in read_jsonl(folder / "trials.jsonl")]
    held = read_json(folder / "search.json")
    return {"trials": trials, "before": held["held_out"], "held out": read_json(folder / "held-out.json")}


@pytest.mark.slow
def test_a_search_that_is_killed_goes_on_and_keeps_its_trials(
    options: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    broken, clean = tmp_path / "broken", tmp_path / "clean"
    broken.mkdir()
    typed = ["forget", *arguments({**options, "output": broken / "out"})]
    assert in_process(typed, broken, Moment("os.rename", "trials.jsonl", 2)) == -signal.SIGKILL
    (first,) = read_jsonl(broken / "out" / "trials.jsonl")
    assert in_process(typed, broken) == 0, (broken / "said.txt").read_text()
    assert read_jsonl(broken / "out" / "trials.jsonl")[0] == first  # with its seconds: it was not run again
    ended = run(capfd, "forget", **{**options, "output": clean})
    assert ended.code == 0, ended.err
    assert outcome(broken / "out") == outcome(clean)

    trials = read_jsonl(clean / "trials.jsonl")
    assert sorted((t["setting"]["lora"], t["epochs"]) for t in trials) == [(False, 1.0), (True, 1.0)]
    for rates in ("unseen_wordings", "neighbours_held_out", "general_held_out"):
        known = read_json(clean / "search.json")["held_out"]["counted"][rates]
        assert len(known) >= len(read_jsonl(options["prepared"] / f"{rates}.jsonl")) / 2  # it was taught them
    held = read_json(clean / "held-out.json")
    assert held["reached"] and held["found"]["leak"] <= 0.9
    (made,) = [folder for folder in clean.iterdir() if (folder / "finished.json").is_file()]
    assert held["run"] == made.name and f"The aim is reached with {made.name}" in ended.out
    # What the trial in memory came to, the run in the directory came to as well.
    same = next(trial for trial in trials if trial["setting"]["lora"] == (",lora," in made.name))
    assert held["found"] == pytest.approx(same["found"])
    assert "min left" in ended.err and "searching for 10 min among 2 settings of GA+GD" in ended.err

    # Repeated, nothing is run; judged by another aim, nothing is tried again.
    def trained() -> dict[str, tuple[int, int]]:
        return {name: stamp for name, stamp in stamps(made).items() if not name.startswith("report")}

    before = trained()
    assert "The aim is reached:" in (made / "report.html").read_text()
    strict = {**options, "output": clean, "leak_below": 0.0001, "keep": [1, 1]}
    ended = run(capfd, "forget", **strict)
    assert ended.code == 3, ended.err
    assert "The aim is not reached" in ended.out and "2 trials; those that no other beats" in ended.out
    assert len(read_jsonl(clean / "trials.jsonl")) == 2 and trained() == before
    assert "The aim is not reached:" in (made / "report.html").read_text()
    other = run(capfd, "forget", **{**options, "output": clean, "epochs": 4})
    assert other.code == 2 and "holds another run (epochs is 1.0 there, 4.0 here)" in other.err


def test_a_time_too_short_for_one_trial_loses_nothing(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    ended = run(capfd, "forget", **{**options, "search": "0.01s", "output": tmp_path / "out"})
    assert ended.code == 2
    assert "--search 0.01s is too short for one trial, which takes about 1 min" in ended.err
    kept = contents(tmp_path / "out")
    assert [name for name in kept if not name.startswith(".lock")] == ["search.json"]
    other = {**options, "search": "0.01s", "search_methods": "NPO+GD"}
    ended = run(capfd, "forget", **{**other, "output": tmp_path / "out"})
    assert "is too short for one trial" in ended.err  # and not another run
    monkeypatch.setenv("UNLEARNER_CACHE", str(tmp_path / "cache"))  # which a purge empties
    ended = run(capfd, "purge", runs=tmp_path / "out")
    assert ended.code == 0 and f"the data: {options['prepared']}" in ended.out, ended.err
    assert not any((tmp_path / "out").iterdir())


def test_where_nothing_is_stated_even_before_the_advice_can_be_followed(
    options: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    silent, output = tmp_path / "silent", tmp_path / "out"
    shutil.copytree(options["prepared"], silent)
    rows = [{**row, "fact": "quixotic zeppelin"} for row in read_jsonl(silent / "unseen_wordings.jsonl")]
    write_rows(silent / "unseen_wordings.jsonl", rows)
    for samples in (1, 2):  # the second would otherwise be another run in the same directory
        ended = run(capfd, "forget", **{**options, "prepared": silent, "leak_samples": samples, "output": output})
        assert ended.code == 2 and "state no fact even before anything is forgotten: raise --leak-samples" in ended.err
        assert "with --prepared, and another --output." in ended.err


def test_without_a_search_the_held_out_sets_are_measured_too(options: dict[str, Any], tmp_path: Path) -> None:
    """In Python; the usual setting of the method, fitted to few rows and a tiny model."""
    result = unlearner.forget_subject(
        str(options["model"]), prepared=[str(options["prepared"])], output=tmp_path / "out", judge="offline",
        metrics=["rouge"], epochs=6, leak_samples=4,
    )  # fmt: skip
    assert result.setting["method"] == "ME+GD" and result.config.forget_coeff == 0.5 and result.trials == []
    assert result.config.learning_rate == 1e-3  # the highest, for a model so small
    assert [(each.name, each.questions) for each in result.sets] == [
        ("unseen_wordings", 4), ("forget", 6), ("neighbours_held_out", 6), ("general_held_out", 6)
    ]  # fmt: skip
    asked = {each.name: each for each in result.sets}
    trained, others = asked["forget"], asked["unseen_wordings"]  # few samples: of the others one more or less is chance
    assert trained.after < trained.before / 2 and result.found.leak == pytest.approx(others.after / others.before)
    assert (Path(result.model) / "model.safetensors").is_file()
    place = SubjectDirectory(tmp_path / "out")
    assert place.naming == [place.manifest]  # which a purge takes away
    with pytest.raises(UserError, match="--subject writes what it prepares: give output"):
        unlearner.forget_subject(str(options["model"]), NAME)


def test_a_subject_that_the_model_does_not_know(
    options: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    ended = run_arguments(
        capfd, ["forget", "--model", str(options["model"]), "--subject", "Nobody Inparticular", "--output", str(output)]
    )
    assert ended.code == 3, ended.err
    assert "The model knows nothing about Nobody Inparticular" in ended.out and not output.exists()
    assert ended.out.rstrip().endswith("To prepare anyway, without asking: unlearner prepare --samples 0.")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--subject", "Ann Bell", "--forget", "f.jsonl"], "--subject prepares what is forgotten"),
        (["--subject", "Ann Bell", "--retain", "r.jsonl"], "leave out --retain"),
        (["--subject", "Ann Bell", "--task", "1"], "leave out --task"),
        (["--subject", ""], "--subject '' is too short for a name"),
        (["--subject", "Ann Bell", "--subject", "x"], "--subject 'x' is too short for a name"),
        (["--subject", "Ann Bell", "--alias", "A"], "--alias 'A' is too short for a name"),
        (["--subject", "Ann", "Bob", "--alias", "Annie"], "--alias is for a single --subject"),
        (["--subject", "Ann Bell", "--kind", "persn"], "unknown kind 'persn': did you mean 'person'?"),
        (["--subject", "Ann Bell", "--subjects", "n.txt"], "--subject and --subjects both say who to forget"),
        (["--subject", "Ann Bell", "--neighbours", "near.txt"], "names the subject (Ann Bell)"),
        (["--subject", "Ann Bell", "Bob", "--neighbours", "near.txt"], "names a subject (Ann Bell)"),
        (["--subject", "Ann Bell", "--redact"], "--redact does not work with --subject"),
        (["--subjects", "nosuch.txt"], "--subjects nosuch.txt cannot be read"),
        (["--prepared", "nosuch"], "--prepared nosuch was not made by unlearner prepare"),
        (["--subject", "Ann Bell", "--search", "soon"], "--search must be a number of trials, such as 12, or a time"),
        (["--subject", "Ann Bell", "--search", "12"], "--search must be a time, such as 20m, not '12'"),
        (["--subject", "Ann Bell", "--search", "2m", "--search-methods", "NPO+GDD"], "unknown method 'NPO+GDD'"),
        (["--subject", "Ann Bell", "--search-methods", "NPO+GD"], "--search-methods needs --search"),
        (["--subject", "Ann Bell", "--keep", "0.9", "0.9", "0.9"], "--keep needs one number, or two"),
        (["--subject", "Ann Bell", "--keep", "2"], "--keep must lie between 0 and 1, not 2.0"),
        (["--subject", "Ann Bell", "--leak-below", "0"], "--leak-below must lie between 0 and 1, not 0.0"),
        (["--forget", "f.jsonl", "--search", "2m"], "--search needs --subject"),
        (["--forget", "f.jsonl", "--kind", "place"], "--kind needs --subject"),
        (["--subject", "Ann Bell", "--judge", "no/such-judge"], "'no/such-judge' is not a directory"),
        ([], "--forget must be given, or --subject"),
    ],
)  # fmt: skip
def test_refused(
    words: list[str], part: str, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("near.txt").write_text("Ann Bell\nDi\n")
    ended = run_arguments(capfd, ["forget", "--model", str(options["model"]), "--output", "out", *words])
    assert ended.code == 2, ended.err
    assert part in ended.err.splitlines()[-1]
    assert not Path("out").exists()
