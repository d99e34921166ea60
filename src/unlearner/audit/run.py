"""Run an audit: every attack on every model, a row an answer, and the verdicts made of them.

`audit.jsonl` holds the outcome rows (`outcomes.py`), without the answers themselves unless they are asked for, because
these are what was to be erased. `audit.json` can be computed again from it.
"""

import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from unlearner import distributed
from unlearner.audit.attack import Answerer, Attack, Target, WeightAttack, run_attack
from unlearner.audit.attacks.rounded import Rounded
from unlearner.audit.attacks.template import read_templates
from unlearner.audit.detector import ErrorRate
from unlearner.audit.detector_errors import detector_errors
from unlearner.audit.from_run import where_begun
from unlearner.audit.knowledge import MIXED, about_text
from unlearner.audit.models import Models
from unlearner.audit.outcomes import PLAIN, RANK
from unlearner.audit.plan import ROUNDED, SAMPLES, UNIT, Plan, chosen_attacks, cost, fitted, on_model, to_ask
from unlearner.audit.quantise import rounded_layers, unchanged_codes
from unlearner.audit.questions import Groups, read_controls, read_groups
from unlearner.audit.ranks import Row, decoys, outcome_row, question_id, rank_rows
from unlearner.audit.room import with_room
from unlearner.audit.speed import measured
from unlearner.audit.summary import about_row, from_rows, summarise
from unlearner.audit.verdict import Thresholds, Verdict
from unlearner.config import AuditConfig
from unlearner.console import note, progress_bar
from unlearner.data.prompts import DOCUMENT
from unlearner.data.records import Record
from unlearner.data.refusals import load_refusals
from unlearner.data.sources import load_records
from unlearner.errors import UserError, plural
from unlearner.evaluation.ability import check_ability, general_ability
from unlearner.evaluation.backend import run_passes
from unlearner.evaluation.examples import Example
from unlearner.evaluation.requests import Request
from unlearner.evaluation.sets import load_forget
from unlearner.evaluation.store import Store
from unlearner.files import read_json, write_json, write_jsonl
from unlearner.results.evidence import finish_run
from unlearner.results.layout import AuditDirectory
from unlearner.results.lock import released
from unlearner.results.records import sha256
from unlearner.results.run import check_output, open_run, records_hash
from unlearner.results.texts import keyed, keyed_hashes, redacted_attacks, redacted_outcomes
from unlearner.settings import resolved
from unlearner.training.interrupt import time_limit


@dataclass(frozen=True)
class Audit:
    """What an audit found."""

    verdicts: list[Verdict]
    summary: dict[str, Any]
    """What audit.json holds."""
    rows: list[Row]
    """What audit.jsonl holds."""
    output: Path | None = None
    """Its directory."""


def audit(config: AuditConfig, *, tokenizer: Any = None, known: Path | None = None) -> Audit:
    """Audit by `config`; one that is finished is read. `config.model`, `before` and `retrained` may be objects in
    memory, their tokenizer then `tokenizer`; without an output directory nothing is written. `known` is a folder in
    which audits find what others have asked the models that they are compared with (`unlearner bench`). Raises
    UserError."""
    with time_limit(config.time_limit), released(config.output):
        return _audited(config, tokenizer, known)


def _audited(config: AuditConfig, tokenizer: Any, known: Path | None) -> Audit:
    config.check()
    if config.lm_eval and config.output is None:
        raise UserError("--lm-eval writes files: give --output.")
    settings = resolved(config)
    if config.output is not None:
        settings = where_begun(config, settings)
        check_output(config.output, "audit", settings)
    if config.output is None or not AuditDirectory(Path(config.output)).audit.is_file():
        check_ability(config)  # which takes its time, and a package that reading a finished audit does not need
    forget = load_forget(config.forget, config.columns, config.task)
    retain = load_records(config.retain, config.columns, name="retain") if config.retain is not None else []
    controls = read_controls(config.controls, config.forget, config.columns)
    neighbours = [load_records(source, config.columns) for source in config.neighbours]
    groups = read_groups(forget, retain, controls, neighbours)
    chosen_attacks(config)  # a mistyped name is told before anything is loaded
    distributed.join()
    models = Models(config, tokenizer)
    folder = shared = None
    if config.output is not None:
        sets = {"forget": forget, "retain": retain, "controls": controls}
        if neighbours:
            sets["neighbours"] = [record for records in neighbours for record in records]
        hashes: dict[str, str | None] = {name: records_hash(records) for name, records in sets.items()}
        if config.templates is not None:
            hashes["templates"] = sha256(*([own.label, own.text] for own in read_templates(config.templates)))
        hashes |= models.hashes()
        if known is not None and not config.redact:
            asked = ({**each, "model": None, "output": None} for each in (hashes, settings))
            shared = AuditDirectory(known / f"audit-{sha256(*asked)[:24]}")
        hashes = keyed_hashes(hashes) if config.redact else hashes
        folder = AuditDirectory(open_run(config.output, "audit", settings, hashes))
        if distributed.agreed(folder.audit.is_file()):
            _end(folder)
            return _read(folder)
    return _Run(config, groups, models, folder, shared).run()


class _Run:
    """One audit under way; what is done of it lies in its directory, model by model and attack by attack."""

    def __init__(
        self, config: AuditConfig, groups: Groups, models: Models, folder: AuditDirectory | None,
        known: AuditDirectory | None,
    ) -> None:  # fmt: skip
        self.config, self.groups, self.models, self.folder, self.known = config, groups, models, folder, known
        self.rows: list[Row] = []
        self.errors: dict[str, ErrorRate] = groups.detector_errors()
        self.too_long: dict[str, int] = {}
        self.unchanged: dict[str, dict[str, float]] = {}
        self.refusals = load_refusals(None)
        self.stores: dict[str, Store] = {}
        self.ability: dict[str, Any] = {}

    def run(self) -> Audit:
        """Every attack on every model; those that compare the models come last, when all of them are loaded."""
        plan = self._that_can_be_rounded(self._plan())
        names, groups = self.models.names, self.groups
        done, total = 0.0, plan.seconds(names, groups, UNIT)
        with progress_bar("audit", round(total)) as bar:
            for name in names:
                for attack in plan.attacks:
                    if on_model(name, attack) and not attack.together:
                        self.rows += self._once(name, attack.label, partial(self._attacked, name, attack), attack)
                        done += cost(name, attack, groups)
                        bar(round(done))
                self.rows += self._once(name, RANK, partial(self._ranked, name))
                if self.config.lm_eval:
                    self.ability[name] = self._able(name)
                if name == "before":
                    self._compare(plan.budget)
                if not any(attack.together for attack in plan.attacks):
                    for finished in names[: names.index(name) + 1] if name != "unlearned" else ():
                        self.models.let_go(finished)
            for attack in plan.attacks:
                if attack.together:
                    made = partial(self._attacked, "unlearned", attack)
                    self.rows += self._once("unlearned", attack.label, made, attack)
                    done += cost("unlearned", attack, groups)
                    bar(round(done))
        for name in names:
            self.models.let_go(name)
        return self._finish(plan)

    def _plan(self) -> Plan:
        """What will be done, told beforehand. Of a budget in minutes a directory keeps what was chosen."""
        config, groups, names = self.config, self.groups, self.models.names
        minutes = config.budget not in SAMPLES
        kept = None if self.folder is None else self.folder.parts / "plan.json"
        if minutes and kept is not None and distributed.agreed(kept.is_file()):
            held = distributed.agreed(read_json(kept) if distributed.is_main() else {})
            chosen = chosen_attacks(config, held["budget"])
            attacks = [attack for attack in chosen if attack.label not in held["left_out"]]
            plan = Plan(held["budget"], attacks, held["left_out"])
            self.groups = groups.within(plan.limits)
            return plan
        speed = measured(config, groups, self._target("unlearned"))
        plan = fitted(config, groups, names, speed) if minutes else Plan(config.budget, chosen_attacks(config), [])
        if kept is not None and distributed.is_main():
            kept.parent.mkdir(0o700, parents=True, exist_ok=True)
            write_json(kept, {"budget": plan.budget, "left_out": plan.left_out})
        self.groups = groups = groups.within(plan.limits)
        counts = {group: len({q.subject for q in questions}) for group, questions in groups}
        seconds = plan.seconds(names, groups, speed.reading(plan.limits.tokens))
        note(
            f"{plan.budget} audit: {plural(counts['forget'], 'subject')} ({plural(len(groups.forget), 'question')}), "
            f"{plural(counts['control'], 'control')}, {plural(len(groups.retain), 'retained question')}, "
            f"{len(groups.neighbour)} about neighbours; {plural(len(plan.attacks), 'attack')}; "
            f"estimated time {timedelta(seconds=round(seconds))}"
        )
        if few := groups.too_few_controls(config.alpha):
            note(few)
        if config.lm_eval:
            note("the estimate does not include the lm-eval tasks")
        if plan.left_out:
            note(f"not enough time for {', '.join(plan.left_out)}: give more minutes")
        return plan

    def _that_can_be_rounded(self, plan: Plan) -> Plan:
        """Without attacks that round weights where the model has no layers for it."""
        rounding = [attack.label for attack in plan.attacks if isinstance(attack, Rounded)]
        if rounding and not self.roundable:
            note(f"left out because the model has no linear layers to round: {', '.join(rounding)}")
        kept = [attack for attack in plan.attacks if self.roundable or not isinstance(attack, Rounded)]
        return plan._replace(attacks=kept)

    @cached_property
    def roundable(self) -> bool:
        try:
            return bool(rounded_layers(self.models.get("unlearned")))
        except UserError:
            return False

    def _answerer(self, name: str, store: Store | None = None) -> Answerer:
        """Asks a model. By default answers are kept in the audit's directory, under their questions: this is for the
        model as it is, and not for one that an attack has changed."""
        if store is None and name not in self.stores:
            kept = None if self.folder is None or self.config.redact else self.folder.parts / name
            if kept is not None and distributed.is_main():
                kept.mkdir(parents=True, exist_ok=True)
            distributed.barrier()
            self.stores[name] = Store(kept)
        store = store or self.stores[name]
        subject, model, length = self.models.subjects[name], self.models.get(name), self.config.max_length

        def answer(records: Sequence[Record], asked: Sequence[Sequence[Request]], document: bool) -> list[Example]:
            template = DOCUMENT if document else subject.template
            return run_passes(model, subject.tokenizer, template, records, asked=asked, max_length=length, store=store)

        return answer

    def _once(
        self, name: str, label: str, make: Callable[[], dict[str, Any]], attack: Attack | None = None
    ) -> list[Row]:
        """The rows of an attack on a model: made, or read where an earlier run of the command, or another audit that
        asks the same model the same, has made them alike: with another version of unlearner an attack may have other
        options, or ask other groups."""
        places = [] if self.folder is None else [self.folder.part(name, label)]
        places += [] if self.known is None or name == "unlearned" else [self.known.part(name, label)]
        alike = {"asks": self._asks(name, attack)} | ({} if attack is None else self._described(attack))
        found: dict[str, Any] = {}
        for part in places:
            if found.get("alike") != alike and distributed.agreed(part.is_file()):
                found = distributed.agreed(read_json(part) if distributed.is_main() else {})
        if found.get("alike") != alike:
            found = make() | {"alike": alike}
            if self.config.redact:
                found["rows"] = redacted_outcomes(found["rows"])
            for part in places if distributed.is_main() else ():
                part.parent.mkdir(0o700, parents=True, exist_ok=True)
                write_json(part, found)
        self.errors |= {key: ErrorRate(*counts) for key, counts in found.get("errors", {}).items()}
        if name == "unlearned" and found.get("too_long"):
            self.too_long[label] = found["too_long"]
        rows: list[Row] = found["rows"]
        return rows

    def _asks(self, name: str, attack: Attack | None) -> dict[str, str]:
        """The hash of the questions of each group that it asks of a model, or may ask."""
        if attack is None or isinstance(attack, WeightAttack):
            questions = dict(self.groups)
        else:
            questions = to_ask(name, attack, self.groups)
        hashes = {group: sha256(*map(question_id, those)) for group, those in questions.items()}
        return {group: keyed(value) if self.config.redact else value for group, value in hashes.items()}

    def _attacked(self, name: str, attack: Attack) -> dict[str, Any]:
        if isinstance(attack, WeightAttack):
            return {"rows": self._on_weights(name, attack)}
        asked = [(g, q) for g, questions in to_ask(name, attack, self.groups).items() for q in questions]
        planned = len(asked)
        asked = with_room(attack.label, attack.requests, asked, self.models.subjects[name], self.config.max_length)
        questions = [question for _, question in asked]
        changes = type(attack).applied is not Attack.applied
        answer = self._answerer(name, Store() if changes else None)
        with attack.applied(self.models.get(name)):
            outcomes = run_attack(attack, questions, answer)
        worded, tokenizer = attack.access == "greedy", self.models.subjects[name].tokenizer
        rows = []
        for place, found in outcomes.items():
            group, question = asked[place]
            for sample, outcome in enumerate(found):
                row = outcome_row(name, group, question, attack.label, sample)
                row |= {"hit": outcome.hit, "score": round(outcome.score, 6)}
                if worded and attack.label in (PLAIN, *MIXED):
                    ids = tokenizer(outcome.text, add_special_tokens=False)["input_ids"]
                    row |= about_text(outcome.text, ids, self.refusals)
                rows.append(row | ({"text": outcome.text} if self.config.keep_samples else {}))
        made: dict[str, Any] = {"rows": rows, "too_long": planned - len(asked)}
        if name == "before" and attack.label == PLAIN:
            told = [(*asked[place], found[0].text) for place, found in outcomes.items() if found]
            made["errors"] = {key: list(vars(rate).values()) for key, rate in detector_errors(told).items()}
        return made

    def _target(self, name: str, *, together: bool = False, changes: bool = True) -> Target:
        subject = self.models.subjects[name]
        others = {other: self.models.get(other) for other in self.models.names} if together else {}

        def answer(*given: Any) -> list[Example]:
            return self._answerer(name, Store() if changes else None)(*given)

        return Target(
            name, self.models.get(name), subject.tokenizer, subject.template, self.config,
            answer, dict(self.groups), self.groups.examples, others,
        )  # fmt: skip

    def _on_weights(self, name: str, attack: WeightAttack) -> list[Row]:
        target = self._target(name, together=attack.together, changes=attack.changes)
        rows, samples = [], Counter[tuple[str, str]]()
        for found in attack.findings(target):
            asked = found.group, question_id(found.question)
            row = outcome_row(name, found.group, found.question, attack.label, samples[asked])
            samples[asked] += 1
            if found.outcome is not None:
                row |= {"hit": found.outcome.hit, "score": round(found.outcome.score, 6)}
                row |= {"text": found.outcome.text} if self.config.keep_samples else {}
            rows.append(row | found.about)
        return rows

    def _ranked(self, name: str) -> dict[str, Any]:
        asked = [(g, q) for g, questions in self.groups for q in questions if g in ("forget", "control")]
        fit = with_room(RANK, decoys, asked, self.models.subjects[name], self.config.max_length)
        rows = rank_rows(name, fit, self._answerer(name), self.config.seed)
        return {"rows": rows, "too_long": len(asked) - len(fit)}

    def _able(self, name: str) -> dict[str, Any] | None:
        assert self.folder is not None  # without one tasks are refused
        model, tokenizer = self.models.get(name), self.models.subjects[name].tokenizer
        return distributed.agreed(general_ability(model, tokenizer, self.config, self.folder.parts / "lm-eval" / name))

    def _compare(self, budget: str) -> None:
        """How much of the unlearning rounding undoes."""
        for scheme in ROUNDED[budget] if self.roundable else ():
            unlearned, before = self.models.get("unlearned"), self.models.get("before")
            self.unchanged[scheme] = unchanged_codes(unlearned, before, scheme)

    def _described(self, attack: Attack) -> dict[str, Any]:
        """An attack as audit.json has it."""
        told = {name: getattr(attack, name) for name in ("title", "access", "chance", "asks_of")}
        told = {"attack": attack.label, **told, "options": _plain(attack.options)}
        return redacted_attacks([told])[0] if self.config.redact else told

    def _finish(self, plan: Plan) -> Audit:
        """The verdicts, written last."""
        limits = Thresholds(tau=self.config.tau, alpha=self.config.alpha)
        further: dict[str, Any] = {
            "budget": {"asked": self.config.budget, "taken": plan.budget, "left_out": plan.left_out},
            "detector": {name: {"wrong": e.wrong, "of": e.of} for name, e in self.errors.items()},
            "rows_without_fact": self.groups.without_fact,
            "not_asked": self.groups.not_asked,
            "too_long": self.too_long,
            "unchanged_codes": self.unchanged,
        }
        if self.ability:
            further["ability"] = self.ability
        if self.config.redact:
            further["redacted"] = True
        if self.config.keep_samples:
            further["questions"] = {question_id(q): q.record.question for _, each in self.groups for q in each}
        self.rows.append(about_row([self._described(attack) for attack in plan.attacks], limits, further))
        found, summary = from_rows(self.rows)
        if self.folder is not None and distributed.is_main():
            write_jsonl(self.folder.rows, self.rows, private=self.config.keep_samples)
            write_json(self.folder.audit, summary)
            _end(self.folder)
        distributed.barrier()
        return Audit(found, summary, self.rows, None if self.folder is None else self.folder.path)


def _end(folder: AuditDirectory) -> None:
    """Nothing but finished.json is missing, if that."""
    if distributed.is_main() and not folder.is_finished:
        shutil.rmtree(folder.parts, ignore_errors=True)
        finish_run(folder.path)


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON gives it back."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}


def _read(folder: AuditDirectory) -> Audit:
    summary, rows = read_json(folder.audit), folder.read_rows()
    found, _ = summarise(rows, summary["attacks"], Thresholds(**summary["thresholds"]))
    return Audit(found, summary, rows, folder.path)
