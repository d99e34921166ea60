"""The methods audited: five of them, the model that never saw what was forgotten, and the original model.

    python -m benchmarks.audited_methods --data builtin --jobs 7 --output runs/audited-builtin
    python -m benchmarks.audited_methods --data tofu --tofu path/to/tofu --jobs 7 --output runs/audited-tofu
    python -m benchmarks.audited_methods --data smollm2 --device cuda --jobs 2 --output runs/audited-smollm2

Built-in data: 4 of 24 people, the built-in model. TOFU: 2 authors, the tiny Llama of benchmarks/tiny_tofu.py; controls
are 40 authors whom it never saw. SmolLM2-135M-Instruct: 4 real people, prepared by `unlearner prepare`.
Methods are run by `unlearner bench --audit`, with the scenario's settings where nothing else is given here; what
follows `--` goes to all of them (`-- --epochs 1`). Repeated, it goes on. Writes table.md, of every subject, and
audits.json.
"""

import argparse
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.at_a_time import Work, run_all
from benchmarks.timing import machine
from benchmarks.tiny_tofu import teaching, write_slice
from unlearner.files import read_json, read_jsonl, write_json, write_jsonl, write_text
from unlearner.report.audits import subject_lines
from unlearner.results.layout import MODEL, AuditDirectory
from unlearner.search.config import ForgetCommand
from unlearner.search.material import names_of, sources
from unlearner.workflows.builtin import builtin_model, recipe, resolve_model

METHODS = ("ME+GD", "NPO+GD", "GA+GD", "IDK+AP", "DPO+GD")
PEOPLE = ("J. R. R. Tolkien", "Charles Darwin", "Albert Einstein", "William Shakespeare")
BUDGETS = {"builtin": "standard", "tofu": "standard", "smollm2": "quick"}
AUTHOR_ROWS, CONTROLS, CONTROL_ROWS = 20, 40, 5
RATE = "2e-4"
"""For the tiny Llama on TOFU, as benchmarks/tiny_tofu.py's continual bench has it."""


@dataclass
class Setting:
    """Where model and data lie: options of the benches, and of audits of other models."""

    model: str
    bench: list[str]
    forget: str
    retain: str
    neighbours: list[str]
    controls: str | None = None
    of_method: dict[str, list[str]] = field(default_factory=dict)
    """Further options of one method."""
    before: Work = ()
    """What makes the model, where it is not there."""
    retrain: Work = ()
    """What makes `retrained/model`, the model that never saw the forget set."""


def builtin(folder: Path) -> Setting:
    made = recipe("")
    builtin_model()
    retrain = [
        "finetune", "--model", made.model, "--data", *made.data, "--exclude", "builtin:forget", "--learning-rate",
        str(made.learning_rate), "--epochs", str(made.epochs), "--batch-size", str(made.batch_size),
        "--gradient-accumulation-steps", "1", "--weight-decay", "0", "--output", str(folder / "retrained"),
    ]  # fmt: skip
    return Setting(
        "builtin:", ["--splits", "people4"], "builtin:forget", "builtin:retain",
        ["builtin:neighbours", "builtin:world_facts"], retrain=[retrain],
    )  # fmt: skip


def tofu(folder: Path, given: Path) -> Setting:
    data, target = folder / "data", folder / "target"
    if not (data / "controls.jsonl").is_file():
        write_slice(given, data)
        named = {name: _with_authors(read_jsonl(data / f"{name}.json")) for name in ("forget01", "forget01_perturbed")}
        known = {row["question"] for name in ("forget01", "retain90") for row in read_jsonl(data / f"{name}.json")}
        others = _with_authors(read_jsonl(given / "forget05_perturbed.json"))
        trained = {row["subject"] for row in others if row["question"] in known}
        authors = [name for name in dict.fromkeys(row["subject"] for row in others) if name not in trained][:CONTROLS]
        controls = [
            {name: value for name, value in row.items() if name != "task_id"}
            for author in authors
            for row in [row for row in others if row["subject"] == author][:CONTROL_ROWS]
        ]
        for name, rows in named.items():
            write_jsonl(data / f"{name}.json", rows)
        write_jsonl(data / "forgotten.jsonl", [row for row in named["forget01_perturbed"] if row["task_id"] == "1"])
        write_jsonl(data / "controls.jsonl", controls)
    bench = [
        "--data", str(data), "--splits", "forget01", "--learning-rate", RATE, "--epochs", "5", "--batch-size", "4",
        "--gradient-accumulation-steps", "1", "--max-new-tokens", "64", "--eval-limit", "80", "--judge", "offline",
    ]  # fmt: skip
    forgotten = str(data / "forgotten.jsonl")
    return Setting(
        str(target / MODEL), bench, forgotten, f"{data}:retain90",
        [f"{data}:real_authors_perturbed", f"{data}:world_facts_perturbed"], str(data / "controls.jsonl"),
        before=[shlex.split(teaching(data, target))],
        retrain=[shlex.split(teaching(data, folder / "retrained", "--exclude", forgotten))],
    )  # fmt: skip


def smollm2(folder: Path) -> Setting:
    model = resolve_model("builtin:smollm2")
    command = ForgetCommand(model="builtin:smollm2", subject=list(PEOPLE), output=str(folder / "prepared"))
    data = sources(command, names_of(command), None)
    bench = [
        "--forget", f"{data}:forget", "--retain", f"{data}:retain", "--forget-eval", f"{data}:subject",
        "--retain-eval", f"{data}:neighbours_held_out", "--world-facts", f"{data}:general_held_out",
        "--learning-rate", "1e-4", "--epochs", "6", "--batch-size", "4", "--gradient-accumulation-steps", "1",
        "--max-new-tokens", "40", "--judge", "offline",
    ]  # fmt: skip
    return Setting(
        model, bench, f"{data}:subject", f"{data}:retain",
        [f"{data}:neighbours_held_out", f"{data}:general_held_out"], f"{data}:controls",
        of_method={"ME+GD": ["--forget-coeff", "0.5"]},
    )  # fmt: skip


def _with_authors(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """TOFU's rows, 20 an author one after the other, with the author's name: the one said most often."""
    named = []
    for first in range(0, len(rows), AUTHOR_ROWS):
        mine = rows[first : first + AUTHOR_ROWS]
        texts = [row[key] for row in mine for key in ("question", "answer")]
        found = Counter(name for text in texts for name in set(re.findall(r"[A-Z][\w'-]+(?: [A-Z][\w'-]+)+", text)))
        name = re.sub(r"'s?$", "", found.most_common(1)[0][0]) if found else f"author {first // AUTHOR_ROWS + 1}"
        named += [{**row, "subject": name} for row in mine]
    return named


def works(setting: Setting, folder: Path, budget: str, more: Sequence[str], jobs: int = 1) -> dict[str, Work]:
    """What makes the rows of the table; nothing of it waits for another. Of `jobs` each takes one, benches the rest."""
    asked = ["--budget", budget, *([] if setting.controls is None else ["--controls", setting.controls])]
    bench = ["--model", setting.model, *setting.bench, "--audit", budget, "--seeds", "1001", *more]
    bench += [] if setting.controls is None else ["--audit-controls", setting.controls]

    def audit(name: str, model: str) -> list[str]:
        given = ["--before", setting.model, "--forget", setting.forget, "--retain", setting.retain]
        given += ["--neighbours", *setting.neighbours]
        return ["audit", model, *given, *asked, "--output", str(folder / f"audit-{name}")]

    alike: dict[tuple[str, ...], list[str]] = {}
    for method in METHODS:
        alike.setdefault(tuple(setting.of_method.get(method, ())), []).append(method)
    bench += ["--jobs", str(max(1, jobs - len(alike) - bool(setting.retrain)))]
    # Methods with the same options in one bench: what the first audit asks the original model, later ones reuse.
    found: dict[str, Work] = {
        name: [["bench", "fictitious", "--methods", *methods, *bench, *own, "--output", str(folder / name)]]
        for own, methods in alike.items() for name in ["-".join(methods)]
    }  # fmt: skip
    if setting.retrain:
        found["retrained"] = [*setting.retrain, audit("retrained", str(folder / "retrained" / MODEL))]
    return found | {"before": [audit("before", setting.model)]}


def audits(folder: Path) -> dict[str, AuditDirectory]:
    """The finished audits by the name of their row."""
    places = {method: [*folder.glob(f"*/cells/{method}/*/*/audit")] for method in METHODS}
    places |= {name: [folder / f"audit-{name}"] for name in ("retrained", "before")}
    return {
        name: AuditDirectory(found[0])
        for name, found in places.items()
        if found and AuditDirectory(found[0]).is_finished
    }


def table(found: dict[str, AuditDirectory]) -> str:
    """A row a model and subject; round leak rates with the bounds of the verdict."""
    heads = ("model", "subject", "verdict", "leaks", "before", "controls", "worst attack", "p", "rank test p",
             "after relearning", "at 4 bits", "why")  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for name, audit in found.items():
        for row in subject_lines(read_json(audit.audit)):
            rates = [" ".join(row["rates"][which]).strip() for which in ("unlearned", "before", "control")]
            cells = [
                name, row["name"], row["verdict"], *rates, row["worst"], row["p"], row["rank"],
                " ".join(row["taught"]).strip(), row["four"], row["why"],
            ]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, prog="python -m benchmarks.audited_methods", formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", choices=tuple(BUDGETS), default="builtin")
    parser.add_argument("--tofu", type=Path, help="folder with TOFU's files, for --data tofu")
    parser.add_argument("--budget", help="of the audits; by default standard, on SmolLM2 quick")
    parser.add_argument("--jobs", type=int, default=1, help="models at a time, a process and a thread each")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--output", type=Path, help="by default runs/audited-DATA")
    parser.add_argument("more", nargs="*", help="options of the benches, behind --")
    options = parser.parse_args()
    folder = options.output or Path(f"runs/audited-{options.data}")
    if options.data == "tofu" and (options.tofu is None or not (options.tofu / "forget01.json").is_file()):
        parser.error("--data tofu needs --tofu, the folder that holds forget01.json and retain90.json")
    budget = options.budget or BUDGETS[options.data]
    setting = (
        tofu(folder, options.tofu)
        if options.data == "tofu"
        else {"builtin": builtin, "smollm2": smollm2}[options.data](folder)
    )
    how = {"jobs": options.jobs, "device": options.device}
    failed = run_all({"target": setting.before}, folder, **how) if setting.before else {}
    failed |= run_all(works(setting, folder, budget, options.more, options.jobs), folder, **how)
    found = audits(folder)
    text = table(found)
    print(f"\n{text}\n")
    write_text(folder / "table.md", text + "\n")
    verdicts = {name: read_json(audit.audit) for name, audit in found.items()}
    write_json(
        folder / "audits.json", {"machine": machine(), "data": options.data, "failed": failed, "audits": verdicts}
    )
    print(f"written to {folder / 'table.md'} and {folder / 'audits.json'}")


if __name__ == "__main__":
    main()
