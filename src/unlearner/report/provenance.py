"""How what a page shows was made: commands, settings, versions, hardware and hashes."""

import shlex
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

import yaml

from unlearner.config import BenchConfig, EvaluateConfig, ForgetConfig
from unlearner.report.contents import Part, Report, Run, clean
from unlearner.results.hash_keys import hash_title

CONFIGS: dict[str, type] = {"forget": ForgetConfig, "evaluate": EvaluateConfig, "bench": BenchConfig}


def _command(command: str, options: Mapping[str, Any], first: str = "") -> str:
    """The command line with every option that is not as by default, `first` right after its name."""
    defaults = {f.name: f.default for f in fields(CONFIGS[command])} if command in CONFIGS else {}
    lines = [f"unlearner {command} {first}".rstrip()]
    for key, value in options.items():
        default = defaults.get(key, MISSING)
        if value != default and not (default is MISSING and value in ([], {}, None)):
            lines += _option(key, value)
    return clean(" \\\n    ".join([*lines, "--output DIRECTORY"]))


def _option(key: str, value: Any) -> list[str]:
    """An option as it is typed, safe in a shell."""
    flag = "--" + key.replace("_", "-")
    if isinstance(value, bool):
        return [flag if value else f"--no-{flag[2:]}"]
    parts = value if isinstance(value, list) else [value]
    if isinstance(value, dict):
        parts = [part for pair in value.items() for part in pair]
    return [" ".join([flag, *(shlex.quote(str(part)) for part in parts)])]


def commands(report: Report) -> list[tuple[str, str]]:
    """What makes every bench and run; of a bench's cells, the first of every method and split."""
    known = {f.name for f in fields(BenchConfig)} - {"scenario"}
    found = [
        (
            f"the bench {bench['name']}",
            _command("bench", {k: v for k, v in bench.items() if k in known}, bench["scenario"]),
        )
        for bench in report.benches
    ]
    for part in report.parts:
        for run in part.runs:
            if run.config:
                tail = " (first task; the others each from the last one's model)" if run.retention else ""
                found.append((_within(part, run) + tail, _command(run.command, run.config)))
    return found


def _within(part: Part, run: Run) -> str:
    """A run's name on the whole page."""
    return ", ".join(filter(None, (run.label, part.title, f"seed {run.config.get('seed')}" if part.seeds else "")))


def settings(report: Report) -> list[tuple[str, str]]:
    """All options of every bench and run."""
    benches = [(f"the bench {b['name']}", _yaml({k: v for k, v in b.items() if k != "name"})) for b in report.benches]
    runs = [(_within(part, run), _yaml(run.config)) for part in report.parts for run in part.runs if run.config]
    return benches + runs


def provenance(report: Report) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Versions, hardware and hashes: one row where all runs agree, else one for every distinct value."""
    runs = [(_within(part, run), run.about) for part in report.parts for run in part.runs]
    groups = []
    for title, key in (("Versions", "versions"), ("Hardware", "hardware"), ("SHA-256 of the contents", "hashes")):
        rows, called = [], hash_title if key == "hashes" else str
        for name in dict.fromkeys(name for _, about in runs for name in about.get(key, {})):
            values: dict[str, list[str]] = {}
            for label, about in runs:
                if name in about.get(key, {}):
                    values.setdefault(_plain(about[key][name]), []).append(label)
            for value, labels in values.items():
                everywhere = len(values) == 1 and len(labels) == len(runs)
                rows.append((clean(called(name)), clean(value), "" if everywhere else "; ".join(labels)))
        if rows:
            groups.append((title, rows))
    return groups


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def _yaml(config: dict[str, Any]) -> str:
    return clean(yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=1000))
