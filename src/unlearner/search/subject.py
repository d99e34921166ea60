"""`unlearner forget --subject`: prepare, look for a setting, forget, measure what was held out."""

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from unlearner import distributed
from unlearner.config import ForgetConfig
from unlearner.console import note
from unlearner.data.sources import load_records
from unlearner.errors import UserError
from unlearner.files import read_json, write_json
from unlearner.prepare.asking import Asked
from unlearner.results.lock import lock, released
from unlearner.results.run import check_place, is_empty, records_hash
from unlearner.results.subjects import Manifest, SubjectDirectory
from unlearner.results.subjects import label as label_of
from unlearner.search.config import MATERIAL, ForgetCommand, identity
from unlearner.search.halving import ETA, Budget, next_trials, rungs, undominated
from unlearner.search.held_out import Aim, Before, Figures, HeldOut, Rates, as_rates, check, figures
from unlearner.search.listening import Listening
from unlearner.search.material import Names, begun_otherwise, names_of, sources
from unlearner.search.trials import METHODS, Journal, Setting, TooShortError, Trial, candidates, configured, run_trial
from unlearner.settings import resolved
from unlearner.training.interrupt import time_limit
from unlearner.workflows.builtin import resolve_model
from unlearner.workflows.evaluate import judges_for
from unlearner.workflows.forget import ForgetResult, forget
from unlearner.workflows.inputs import size_of
from unlearner.workflows.presets import with_preset
from unlearner.workflows.subject import Subject

ANSWER_TOKENS = 40
"""Longest answer that is asked for, as in `prepare`."""


@dataclass(frozen=True)
class Asking:
    """One set of held-out questions, before and after."""

    name: str
    questions: int
    counted: int
    """Those that the model answered before."""
    before: float | None
    """The share of their answers that stated the fact; None where none counts."""
    after: float | None
    rare: bool
    """Whether the facts of those that count came out less often than in a quarter of the samples before."""

    @property
    def share(self) -> float | None:
        """After as a share of before."""
        return self.after / self.before if self.before and self.after is not None else None


@dataclass(frozen=True)
class SubjectResult:
    """What `forget --subject` did. `run` is the run with the setting that was chosen."""

    output: Path
    run: ForgetResult
    config: ForgetConfig
    """The options of that run."""
    setting: Setting
    epochs: float
    aim: Aim
    found: Figures
    """Of the model made, on held-out questions."""
    reached: bool
    sets: list[Asking]
    trials: list[Trial]
    """Of --search, in the order in which they ended."""

    @property
    def model(self) -> Any:
        return self.run.model

    @property
    def frontier(self) -> list[Trial]:
        """The trials that no other beats in forgetting and in what is kept, those that forget most first."""
        ended = [t for t in self.trials if t.found is not None]
        points = [(-f.leak, f.neighbours, f.general) for t in ended if (f := t.found)]
        chosen = [ended[place] for place in undominated(points)]
        return sorted(chosen, key=lambda t: t.found.leak if t.found else 0.0)


def forget_subject(command: ForgetCommand, *, tokenizer: Any = None) -> SubjectResult:
    """Prepare, search where a time is given, forget and measure. What has ended is kept: repeated, the same command
    goes on, with another --search longer.

    Raises UserError; NothingToForgetError where the model does not know a subject.
    """
    with time_limit(command.time_limit), released(command.output):
        return _forgotten(command, tokenizer)


def _forgotten(command: ForgetCommand, tokenizer: Any) -> SubjectResult:
    command.check()
    if distributed.count() > 1:
        raise UserError("--subject runs in one process: start the command without torchrun.")
    if command.output is None:
        raise UserError("--subject writes what it prepares: give output.")
    subjects = names_of(command)
    place = SubjectDirectory(Path(command.output))
    _check_output(place, command)
    judges_for(command)  # a missing package is told before anything is prepared
    data = sources(command, subjects, tokenizer)
    place.path.mkdir(parents=True, exist_ok=True)
    lock(place.path)
    search = Search(command, place, data, tokenizer)
    if command.search is not None:
        search.run(Budget.read("--search", command.search).seconds or 0.0)
    return search.finish(subjects)


def _check_output(place: SubjectDirectory, command: ForgetCommand) -> None:
    """Raises UserError where the directory holds another search, or anything else."""
    check_place(place.path)
    ours = identity(resolved(command))
    if place.manifest.is_file():
        held = identity(read_json(place.manifest)["options"])
        changed = next((name for name in {**ours, **held} if ours.get(name) != held.get(name)), None)
        if changed is not None:
            prepared = place.data.is_dir() and not command.prepared and changed not in MATERIAL
            more = f"; --prepared {place.data} instead of the name reuses what was prepared" if prepared else ""
            raise UserError(
                f"--output {place.path} holds another run ({changed} is {held.get(changed)!r} there, "
                f"{ours.get(changed)!r} here): choose another directory{more}."
            )
    elif not is_empty(place.path) and not _only_prepared(place):
        raise UserError(f"--output {place.path} is not empty and holds no run of unlearner: choose another directory.")


def _only_prepared(place: SubjectDirectory) -> bool:
    """Whether the directory was left while its sources were being made."""
    names = {path.name for path in place.path.iterdir() if not path.name.startswith(".")}
    return all(name == place.neighbours.name or name.partition("-")[0] == place.data.name for name in names)


class Search:
    """One search under way. Making it measures the original model, once."""

    def __init__(self, command: ForgetCommand, place: SubjectDirectory, data: Path, tokenizer: Any) -> None:
        self.command, self.place, self.tokenizer = command, place, tokenizer
        self.given = replace(
            command.plain, forget=f"{data}:forget", retain=f"{data}:retain", forget_eval=f"{data}:subject",
            retain_eval=f"{data}:neighbours_held_out", world_facts=f"{data}:general_held_out",
            audit_controls=command.audit_controls or f"{data}:controls",
            max_new_tokens=min(command.max_new_tokens, ANSWER_TOKENS),
        )  # fmt: skip
        rows = len(load_records(self.given.forget))
        model = resolve_model(self.given.model)
        size = size_of(self.given, rows, model)
        usual = with_preset(self.given, None if self.given.preset or self.given.official else size)
        self.usual = replace(usual, forget_coeff=self.given.forget_coeff)  # which is a method's own
        self.aim = Aim(command.leak_below, *command.shares)
        self.held_out = HeldOut.read(
            data, samples=command.leak_samples, max_new_tokens=ANSWER_TOKENS, max_length=command.max_length,
            seed=command.seed,
        )  # fmt: skip
        self.hashes = {"model": Subject.of(replace(self.given, model=model), tokenizer).fingerprint()} | {
            name: records_hash(load_records(f"{data}:{name}"))
            for name in ("forget", "retain", *self.held_out.questions)
        }
        self.questions = {name: len(questions) for name, questions in self.held_out.questions.items()}
        self.before = self._before(data)
        self.journal: Journal | None = None

    def _before(self, data: Path) -> Before:
        """What the model answers before anything is forgotten, kept in the manifest. Raises UserError where nothing
        can be judged by it; then nothing is kept, so that it can be asked again with other options."""
        if self.place.manifest.is_file():
            held = read_json(self.place.manifest)
            if "held_out" not in held:
                raise UserError(
                    f"--output {self.place.path} was begun by an earlier version, which measured differently: choose "
                    "another directory."
                )
            if held["hashes"] != self.hashes:
                raise begun_otherwise(self.place, data)
            known = held["held_out"]
            return Before(known["counted"], as_rates(known["rates"]), known.get("rare", []))
        note("asking the model before anything is forgotten, then again the questions it knows")
        found = self.held_out.before(self._asked(self.given.model))
        if missing := check(found, self.questions):
            raise UserError(missing)
        made = Manifest(identity(resolved(self.command)), self.hashes, asdict(found))
        write_json(self.place.manifest, asdict(made))
        return found

    def _asked(self, model: Any) -> Subject:
        return Asked(replace(self.given, model=model), self.tokenizer).subject

    def run(self, seconds: float) -> None:
        """Try settings for so long, those tried before counted in."""
        usual = self.usual
        assert usual.epochs is not None
        methods = self.command.search_methods or (METHODS if usual.method == ForgetConfig.method else (usual.method,))
        known = candidates(self.given, usual, methods)
        # A few steps damage more than later ones mend, so that shorter runs say little of longer ones.
        lengths = rungs(usual.epochs if self.given.epochs is not None else ETA * usual.epochs)[-2:]
        self.journal = journal = Journal(self.place.trials, known)
        note(
            f"searching for {seconds / 60:g} min among {len(known)} settings of {', '.join(methods)}, {lengths[0]:g} "
            f"to {lengths[-1]:g} epochs; aim: {self.aim}"
        )
        while new := next_trials(len(known), lengths, Budget(seconds=seconds), journal.tried(self.aim)):
            candidate, rung = new[0]
            trial = self._tried(known[candidate], candidate, rung, lengths[rung], seconds)
            journal.add(trial)
            left = max(0.0, seconds - journal.seconds)
            note(f"{len(journal.trials)}. {trial}: {told(trial)}; {left / 60:.1f} min left")

    def _tried(self, setting: Setting, candidate: int, rung: int, epochs: float, seconds: float) -> Trial:
        assert self.journal is not None
        began = time.monotonic()
        found, error = None, None
        limit = None if self.journal.trials else (seconds, str(self.command.search))
        try:
            config = configured(self.usual, setting, epochs, None)
            found = run_trial(config, self.held_out, self.before, self.tokenizer, limit)
        except TooShortError:
            raise
        except UserError as failed:  # such as a loss that is no longer finite
            error = str(failed)
        return Trial(setting, candidate, rung, epochs, round(time.monotonic() - began, 3), found, error)

    def finish(self, subjects: list[Names]) -> SubjectResult:
        """Forget by the setting found, or by the usual one, in a directory; measure all that was held out."""
        setting, epochs = self._chosen()
        label = label_of(setting, epochs)
        names = ", ".join(names[0] for names in subjects)
        note(f"forgetting {names} with {label}")
        config = configured(self.usual, setting, epochs, str(self.place.run(label).path))
        run = forget(config, tokenizer=self.tokenizer, listens=Listening)
        file = self.place.held_out
        held = read_json(file) if file.is_file() else {}
        if held.get("run") != label:
            note("asking the unlearned model")
            held = {"run": label, "after": self.held_out.rates(self._asked(str(run.model)), self.before.counted)}
            write_json(file, held)
        after = as_rates(held["after"])
        found = figures(self.before, after)
        sets = [self._asking(name, after) for name in self.held_out.questions]
        reached = self.aim.reached(found)
        trials = self.journal.trials if self.journal is not None else []
        told = {"found": asdict(found), "aim": asdict(self.aim), "reached": reached, "sets": [asdict(s) for s in sets]}
        if held != {**held, **told}:  # a page is no older than what it tells
            write_json(file, {**held, **told})
        return SubjectResult(self.place.path, run, config, setting, epochs, self.aim, found, reached, sets, trials)

    def _chosen(self) -> tuple[Setting, float]:
        usual = self.usual
        assert usual.epochs is not None
        if self.journal is None:
            setting: Setting = {"method": usual.method, "learning_rate": usual.learning_rate}
            return setting | ({"lora": True} if usual.lora else {}), usual.epochs
        won = self.journal.best(self.aim)
        if won is None:
            first = next(iter(self.journal.trials), None)
            why = f" (the first: {first.error})" if first else ""
            raise UserError(f"no trial of --search finished{why}: give other --search-methods, or a longer --search.")
        return won.setting, won.epochs

    def _asking(self, name: str, after: Rates) -> Asking:
        was, now = (fmean(each[name]) if each[name] else None for each in (self.before.rates, after))
        counted = len(self.before.counted[name])
        return Asking(name, self.questions[name], counted, was, now, name in self.before.rare)


def told(trial: Trial) -> str:
    """What a trial came to, in one line."""
    if trial.found is None:
        return f"failed ({trial.error})"
    found = trial.found
    return f"leak {found.leak:.0%}, neighbours {found.neighbours:.0%}, general {found.general:.0%}, relative to before"
