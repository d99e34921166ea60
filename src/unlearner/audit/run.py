"""Run an audit: every attack on every model, a row an answer, and the verdicts made of them.

`audit.jsonl` holds the outcome rows (`verdict.py`), without the answers themselves unless they are asked for, because
these are what was to be erased. `audit.json` can be computed again from it.
"""

import gc
import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from unlearner import distributed
from unlearner.audit.attack import Answerer, Attack, Question, run_attack
from unlearner.audit.attacks import find_attacks
from unlearner.audit.attacks.sampling import Sampling
from unlearner.audit.attacks.template import builtin_templates, read_templates
from unlearner.audit.detector import ErrorRate, false_alarms, misses
from unlearner.audit.quantise import SCHEMES, rounded_layers, unchanged_codes
from unlearner.audit.questions import Groups, read_controls, read_groups
from unlearner.audit.statistics import rank_among
from unlearner.audit.verdict import (
    CAVEAT,
    PLAIN,
    RANK,
    SAMPLED,
    Outcomes,
    Thresholds,
    Verdict,
    dropped_attacks,
    verdicts,
)
from unlearner.config import AuditConfig
from unlearner.console import progress_bar
from unlearner.data.prompts import DOCUMENT
from unlearner.data.records import Record
from unlearner.data.sources import load_records
from unlearner.errors import UserError
from unlearner.evaluation.backend import run_passes
from unlearner.evaluation.examples import Example
from unlearner.evaluation.requests import Request, Score
from unlearner.evaluation.sets import load_forget
from unlearner.evaluation.store import Store
from unlearner.files import read_json, write_json, write_jsonl
from unlearner.models.anatomy import bare
from unlearner.models.load import uses_bf16
from unlearner.models.sharding import placed
from unlearner.results.layout import AuditDirectory
from unlearner.results.records import sha256
from unlearner.results.run import check_output, open_run, records_hash, resolved
from unlearner.workflows.builtin import resolve_model
from unlearner.workflows.subject import Subject

BUDGETS = {"quick": 16, "standard": 256, "deep": 1024}
"""Samples of each question."""
ROUNDED = {"quick": ("int8", "nf4"), "standard": ("int8", "nf4", "fp4", "rtn4-g128"), "deep": SCHEMES}
Row = dict[str, Any]


@dataclass(frozen=True)
class Audit:
    """What an audit found."""

    verdicts: list[Verdict]
    summary: dict[str, Any]
    """What audit.json holds."""
    rows: list[Row]
    """What audit.jsonl holds."""


def audit(config: AuditConfig, *, tokenizer: Any = None) -> Audit:
    """Audit by `config`; one that is finished is read. `config.model`, `before` and `retrained` may be objects in
    memory, their tokenizer then `tokenizer`; without an output directory nothing is written. Raises UserError."""
    config.check()
    settings = resolved(config)
    if config.output is not None:
        check_output(config.output, "audit", settings)
    forget = load_forget(config.forget, config.columns, config.task)
    retain = load_records(config.retain, config.columns) if config.retain is not None else []
    controls = read_controls(config.controls, config.forget, config.columns)
    groups = read_groups(forget, retain, controls)
    attacks = chosen_attacks(config)
    distributed.join()
    models = {"unlearned": config.model, "before": config.before, "retrained": config.retrained}
    subjects = {
        name: Subject.of(replace(config, model=resolve_model(model)), tokenizer)
        for name, model in models.items()
        if model is not None
    }
    folder = None
    if config.output is not None:
        sets = {"forget": forget, "retain": retain, "controls": controls}
        hashes: dict[str, str | None] = {name: records_hash(records) for name, records in sets.items()}
        hashes |= {name if name != "unlearned" else "model": s.fingerprint() for name, s in subjects.items()}
        folder = AuditDirectory(open_run(config.output, "audit", settings, hashes))
        if distributed.agreed(folder.audit.is_file()):
            return _read(folder, attacks)
    run = _Run(config, groups, folder)
    for name, subject in subjects.items():
        asked = attacks if name == "unlearned" else [a for a in attacks if a.label in (PLAIN, SAMPLED)]
        run.model(name, subject, asked)
    return run.finish(attacks)


def chosen_attacks(config: AuditConfig) -> list[Attack]:
    """The attacks of a config: those it names, else all of its budget, and its own templates. Raises UserError."""
    names: list[str | Attack] = list(config.attacks)
    if not names:
        names = [*builtin_templates(), "multiple-choice", "yes-or-no", "reverse", "sampling", *ROUNDED[config.budget]]
    if PLAIN not in (getattr(name, "label", name) for name in names):
        names.insert(0, PLAIN)
    own = read_templates(config.templates) if config.templates is not None else []
    found = find_attacks([*names, *own])
    samples, seed = BUDGETS[config.budget], config.seed
    return [replace(a, n=samples, seed=seed) if type(a) is Sampling and a == Sampling() else a for a in found]


class _Run:
    """One audit under way; what is done of it lies in its directory, model by model and attack by attack."""

    def __init__(self, config: AuditConfig, groups: Groups, folder: AuditDirectory | None) -> None:
        self.config, self.groups, self.folder = config, groups, folder
        self.rows: list[Row] = []
        self.errors: dict[str, ErrorRate] = groups.detector_errors()
        self.unchanged: dict[str, dict[str, float]] = {}
        self._unlearned: nn.Module | None = None

    def model(self, name: str, subject: Subject, attacks: Sequence[Attack]) -> None:
        """All `attacks` on one model, and the rank test."""
        config = self.config
        dtype = torch.bfloat16 if uses_bf16(config.precision) else torch.float32
        subject.load(config, dtype)
        model = subject.model
        if subject.source is not None:
            model = placed(model, config, dtype)
            if hasattr(model, "peft_config"):
                model = model.merge_and_unload()  # as it will be served; what rounding does is seen after that alone
        if name == "before":
            assert self._unlearned is not None
            self._compare(model)
        elif name == "unlearned":
            self._unlearned = model
        kept = None if self.folder is None else self.folder.parts / name
        if kept is not None and distributed.is_main():
            kept.mkdir(parents=True, exist_ok=True)
        distributed.barrier()
        store = Store(kept)

        def answer(records: Sequence[Record], asked: Sequence[Sequence[Request]], document: bool) -> list[Example]:
            template = DOCUMENT if document else subject.template
            return run_passes(
                model, subject.tokenizer, template, records, asked=asked, max_length=config.max_length, store=store
            )

        everyone = [(group, question) for group, questions in self.groups for question in questions]
        unknown = [(group, question) for group, question in everyone if group != "retain"]
        with progress_bar(f"audit: {name}", len(attacks) + 1) as bar:
            for done, attack in enumerate(attacks, start=1):
                asked = [pair for pair in everyone if self._asks(name, attack.label, pair[0])]
                self.rows += self._once(name, attack.label, partial(self._attacked, name, attack, model, asked, answer))
                bar(done)
            self.rows += self._once(name, RANK, lambda: {"rows": rank_rows(name, unknown, answer, config.seed)})
            bar(len(attacks) + 1)
        if name != "unlearned":
            subject.model = None
            gc.collect()

    @staticmethod
    def _asks(name: str, attack: str, group: str) -> bool:
        """Whether an attack on a model asks about a group. Retained subjects: are they still told about? Samples about
        controls tell what guessing gives, for which one model does."""
        if group == "retain":
            return attack in (PLAIN, SAMPLED)
        return group != "control" or attack != SAMPLED or name != "before"

    def _once(self, name: str, label: str, make: Any) -> list[Row]:
        """The rows of an attack on a model: made, or read where an earlier run of the command has made them."""
        part = None if self.folder is None else self.folder.part(name, label)
        found: dict[str, Any]
        if part is not None and distributed.agreed(part.is_file()):
            found = distributed.agreed(read_json(part) if distributed.is_main() else {})
        else:
            found = make()
            if part is not None and distributed.is_main():
                part.parent.mkdir(parents=True, exist_ok=True)
                write_json(part, found)
        self.errors |= {key: ErrorRate(*counts) for key, counts in found.get("errors", {}).items()}
        rows: list[Row] = found["rows"]
        return rows

    def _attacked(
        self, name: str, attack: Attack, model: nn.Module, asked: list[tuple[str, Question]], answer: Answerer
    ) -> dict[str, Any]:
        questions = [question for _, question in asked]
        with attack.applied(model):
            outcomes = run_attack(attack, questions, answer)
        rows = []
        for place, found in outcomes.items():
            group, question = asked[place]
            for sample, outcome in enumerate(found):
                row = _row(name, group, question, attack.label, sample)
                row |= {"hit": outcome.hit, "score": round(outcome.score, 6)}
                rows.append(row | ({"text": outcome.text} if self.config.keep_samples else {}))
        made: dict[str, Any] = {"rows": rows}
        if name == "before" and attack.label == PLAIN:
            texts = {i: found[0].text for i, found in outcomes.items() if asked[i][0] == "forget" and found}
            made["errors"] = {key: list(vars(rate).values()) for key, rate in _measured(questions, texts).items()}
        return made

    def _compare(self, before: nn.Module) -> None:
        """How much of the unlearning rounding undoes. Raises UserError for models that are not alike."""
        unlearned = self._unlearned
        assert unlearned is not None
        if _shapes(unlearned) != _shapes(before):
            raise UserError(
                f"--before is another architecture ({type(bare(before)).__name__}) than the model "
                f"({type(bare(unlearned)).__name__}): give the model that the unlearning began from."
            )
        if not hasattr(unlearned, "peft_config") and not hasattr(before, "peft_config"):
            rounded_layers(unlearned)
            for scheme in ROUNDED[self.config.budget]:
                self.unchanged[scheme] = unchanged_codes(unlearned, before, scheme)
        self._unlearned = None

    def finish(self, attacks: Sequence[Attack]) -> Audit:
        """The verdicts, written last."""
        limits = Thresholds(tau=self.config.tau, alpha=self.config.alpha)
        found, summary = summarise(self.rows, attacks, limits)
        summary |= {
            "detector": {name: {"wrong": e.wrong, "of": e.of} for name, e in self.errors.items()},
            "rows_without_fact": self.groups.without_fact,
            "unchanged_codes": self.unchanged,
        }
        if self.folder is not None and distributed.is_main():
            write_jsonl(self.folder.rows, self.rows)
            write_json(self.folder.audit, summary)
            shutil.rmtree(self.folder.parts, ignore_errors=True)
        return Audit(found, summary, self.rows)


def summarise(
    rows: Sequence[Mapping[str, Any]], attacks: Sequence[Attack], limits: Thresholds
) -> tuple[list[Verdict], dict[str, Any]]:
    """Verdicts and tables, from the rows of audit.jsonl alone."""
    chances = {attack.label: attack.chance for attack in attacks if attack.chance}
    found = verdicts(rows, limits, chances)
    outcomes = Outcomes.of(rows)
    table = []
    for attack in attacks:
        rates = {
            f"{model}.{group}": list(outcomes.answers(model, group, attack.label))
            for model, group, label in outcomes.hits
            if label == attack.label
        }
        about = {"attack": attack.label, "title": attack.title, "access": attack.access, "chance": attack.chance}
        table.append({**about, "options": attack.options, "answers": rates})
    return found, {
        "caveat": CAVEAT,
        "thresholds": asdict(limits),
        "verdicts": [verdict.as_dict() for verdict in found],
        "attacks": table,
        "dropped": dropped_attacks(outcomes, limits.alpha, chances),
    }


def rank_rows(name: str, asked: Sequence[tuple[str, Question]], answer: Answerer, seed: int) -> list[Row]:
    """The rank of every truth among its row's wrong answers, which share its wording; as many decoys for each."""
    fit = [(g, q) for g, q in asked if not q.document and q.record.perturbed_answer]
    if not fit:
        return []
    decoys = min(len(question.record.perturbed_answer) for _, question in fit)
    wanted = [[Score(q.record.question, text) for text in in_one_wording(q.record)[: decoys + 1]] for _, q in fit]
    rows = []
    for (group, question), scores, example in zip(
        fit, wanted, answer([q.record for _, q in fit], wanted, False), strict=True
    ):
        truth, *others = (-example.scored(score).nll / example.scored(score).tokens for score in scores)
        row = _row(name, group, question, RANK, 0)
        rng = np.random.default_rng(random.Random(f"{seed}:{row['question']}").getrandbits(64))
        del row["sample"]
        rows.append(row | {"rank": rank_among(truth, others, rng), "decoys": decoys})
    return rows


def in_one_wording(record: Record) -> tuple[str, ...]:
    """The truth, then every wrong value in the same words: in the answer's, which were trained, where the row's fact
    shows what the values are; else in those of the paraphrase, which the wrong answers share."""
    fact, paraphrase = record.fact, record.paraphrased_answer
    if fact and paraphrase and record.answer.count(fact) == paraphrase.count(fact) == 1:
        before, after = paraphrase.split(fact)
        if all(wrong.startswith(before) and wrong.endswith(after) for wrong in record.perturbed_answer):
            values = [wrong[len(before) : len(wrong) - len(after)] for wrong in record.perturbed_answer]
            return (record.answer, *(record.answer.replace(fact, value) for value in values))
    return (paraphrase or record.answer, *record.perturbed_answer)


def _row(name: str, group: str, question: Question, attack: str, sample: int) -> Row:
    record = question.record
    return {
        "model": name, "group": group, "subject": question.subject,
        "question": sha256([question.subject, record.question, record.answer])[:16], "attack": attack, "sample": sample,
    }  # fmt: skip


def _measured(questions: Sequence[Question], texts: Mapping[int, str]) -> dict[str, ErrorRate]:
    """The detector's errors on what the model before wrote: about others, and where it wrote the whole answer."""
    places = list(texts)
    chosen = [questions[i] for i in places]
    detectors, written = [q.detector for q in chosen], [texts[i] for i in places]
    swapped = [
        (i, written[(i + shift) % len(chosen)], "")
        for shift in range(1, len(chosen))
        for i, question in enumerate(chosen)
        if chosen[(i + shift) % len(chosen)].subject != question.subject
    ]
    return {
        "false_alarms_on_others": false_alarms(detectors, swapped),
        "misses_before": misses(detectors, [q.record for q in chosen], written),
    }


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: weight.shape for name, weight in bare(model).named_parameters() if "lora_" not in name}


def _read(folder: AuditDirectory, attacks: Sequence[Attack]) -> Audit:
    summary, rows = read_json(folder.audit), folder.read_rows()
    found, _ = summarise(rows, attacks, Thresholds(**summary["thresholds"]))
    return Audit(found, summary, rows)
