"""Reads the runs and benches that a report is asked about."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from unlearner.errors import UserError
from unlearner.report.benches import read_bench
from unlearner.report.contents import Part, Report, Run, clean, without_texts
from unlearner.report.runs import read_about, read_object, read_run
from unlearner.results.layout import AuditDirectory, BenchDirectory, RunDirectory, results_in

WITHOUT_REPORT = {"finetune": "fine-tuning", "negate": "a negated model", "repselect": "a model of repselect"}
"""Commands whose runs are on no page, and what one calls them."""


def read(paths: Sequence[Path], *, redact: bool = False) -> Report:
    """The runs and benches in `paths`, with `redact` without their texts. Raises UserError where a path holds none."""
    if not paths:
        raise UserError("nothing to report on: give one or more directories of runs.")
    alone: list[Run] = []
    parts: list[Part] = []
    benches, missing = [], []
    seen: set[Path] = set()
    for path in map(Path, paths):
        if not path.is_dir():
            raise UserError(
                f"{path} is not a directory: give the --output of an earlier run, or a folder of such directories."
            )
        found = results_in(path)
        if not found:
            raise UserError(f"{path} holds no run of unlearner: give the --output of an earlier run.")
        found = [folder for folder in found if _command(folder) != "audit"] or found
        if all(_command(folder) == "audit" for folder in found):
            raise UserError(f"{path} holds several audits, and each has its own page: give one of them.")
        commands = {_command(folder) for folder in found}
        if commands <= WITHOUT_REPORT.keys():
            what = " and ".join(sorted(WITHOUT_REPORT[str(command)] for command in commands))
            raise UserError(f"{path} holds only {what}, which has no report: give a run of forget or evaluate.")
        for folder in found:
            if folder.resolve() in seen or _command(folder) in WITHOUT_REPORT:
                continue
            seen.add(folder.resolve())
            name = folder.relative_to(path).as_posix() if folder != path else path.resolve().name
            bench = BenchDirectory(folder)
            if bench.manifest.is_file():
                about = read_object(bench.manifest)
                if about is None or "scenario" not in about:
                    raise UserError(f"{bench.manifest} cannot be read: repeat the bench's command.")
                benches.append({"name": name, **about})
                made, lacking = read_bench(bench, about)
                parts += made
                missing += lacking
            else:
                alone.append(_with_audit(read_run(RunDirectory(folder), name), RunDirectory(folder).audited))
    if alone:
        alone = _labelled(alone)
        missing = [(run.label, sentence) for run in alone for sentence in run.missing] + missing
        parts.insert(0, Part("Single runs" if parts else "", alone))
    if len(benches) > 1:  # two benches may have splits of the same name
        names = iter(bench["name"] for bench in benches for _ in bench["splits"])
        parts = [replace(part, title=f"{next(names)}, {part.title}") if part.seeds else part for part in parts]
    if len(parts) == 1:
        parts = [replace(parts[0], title="")]
    report = Report(parts, benches, missing)
    return without_texts(report) if redact else report


def _with_audit(run: Run, folder: Path) -> Run:
    """The run with the audit of the model it made, where there is one that has ended."""
    audit = AuditDirectory(folder)
    found = read_object(audit.audit) if audit.is_finished else None
    return run if found is None else replace(run, audit=found, audit_page=audit.page)


def _command(folder: Path) -> str | None:
    about = read_about(RunDirectory(folder))
    return about.get("command") if about else None


def _labelled(runs: list[Run]) -> list[Run]:
    """Label every run by its subject; where that is not enough, by the options in which it differs, or by its place."""
    labels = [run.subject for run in runs]
    for subject in {label for label in labels if labels.count(label) > 1}:
        same = [i for i, run in enumerate(runs) if run.subject == subject]
        configs = [runs[i].config for i in same]
        differing = [
            key for key in configs[0] if any(c.get(key) != configs[0][key] for c in configs) and key != "method"
        ]
        differences = [", ".join(f"{key} {_short(c.get(key))}" for key in differing) for c in configs]
        enough = 0 < len(differing) <= 3 and len(set(differences)) == len(differences)
        for i, how in zip(same, differences, strict=True):
            labels[i] = f"{subject}, {how}" if enough else f"{subject} ({runs[i].name})"
    counts: dict[str, int] = defaultdict(int)
    unique = []
    for run, label in zip(runs, labels, strict=True):
        counts[label] += 1
        unique.append(replace(run, label=clean(label if counts[label] == 1 else f"{label} ({counts[label]})")))
    return unique


def _short(value: Any) -> str:
    return value.rpartition("/")[2] if isinstance(value, str) else str(value)
