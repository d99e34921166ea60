"""How often does an audit say "leaks" of people whom the model never saw? Tiny models, a seed each.

    python -m benchmarks.audit_calibration --seeds 20 --jobs 16 --output runs/audit-calibration

Each seed teaches a new tiny Llama the built-in data without the four people (as `unlearner finetune --exclude
builtin:forget` does) and audits it, the built-in model, which knows them, being the one before. The same answers are
then judged as if the model had itself been the one before: nothing was known, so it should say "no baseline".
Repeated, it goes on with what is missing. Prints a table and writes calibration.json.
"""

import argparse
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.at_a_time import Work, run_all
from benchmarks.timing import machine
from unlearner.audit.verdict import Thresholds, verdicts
from unlearner.files import read_json, write_json
from unlearner.results.layout import MODEL, AuditDirectory
from unlearner.workflows.builtin import builtin_model, recipe

EVERYBODY = ("--forget", "builtin:forget", "--retain", "builtin:retain")
NEIGHBOURS = ("--neighbours", "builtin:neighbours", "builtin:world_facts")


def works(folder: Path, seed: int, budget: str) -> Work:
    """Teach without the four, then audit."""
    made = recipe("")
    taught, audit = folder / f"seed-{seed}", audit_of(folder, seed)
    options = {
        "learning-rate": made.learning_rate, "epochs": made.epochs, "batch-size": made.batch_size,
        "gradient-accumulation-steps": made.gradient_accumulation_steps, "weight-decay": made.weight_decay,
        "exclude": "builtin:forget", "seed": seed, "output": taught,
    }  # fmt: skip
    teach = ["finetune", "--model", made.model, "--data", *made.data]
    teach += [word for name, value in options.items() for word in (f"--{name}", str(value))]
    asked = ["audit", str(taught / MODEL), "--before", "builtin:", *EVERYBODY, *NEIGHBOURS, "--budget", budget]
    return [teach, [*asked, "--seed", str(seed), "--output", str(audit.path)]]


def audit_of(folder: Path, seed: int) -> AuditDirectory:
    return AuditDirectory(folder / f"seed-{seed}-audit")


def judged(audit: AuditDirectory) -> dict[str, dict[str, str]]:
    """Subject → verdict, with the built-in model before, and with the model itself."""
    summary, rows = read_json(audit.audit), audit.read_rows()
    chances = {attack["attack"]: attack["chance"] for attack in summary["attacks"] if attack["chance"]}
    ours = [row for row in rows if row["model"] == "unlearned"]
    itself = verdicts([*ours, *({**row, "model": "before"} for row in ours)], Thresholds(), chances)
    return {
        "knew": {verdict["subject"]: verdict["verdict"] for verdict in summary["verdicts"]},
        "itself": {verdict.subject: verdict.verdict for verdict in itself},
    }


def table(found: dict[int, dict[str, dict[str, str]]]) -> str:
    lines = ["| model before | seeds | seeds with a false `leaks` | people | verdicts |", "|---|---|---|---|---|"]
    for key, title in (("knew", "knew the four people"), ("itself", "the same, which never saw them")):
        all_verdicts = [verdict for each in found.values() for verdict in each[key].values()]
        false = sum("leaks" in each[key].values() for each in found.values())
        told = ", ".join(f"{count} {name}" for name, count in Counter(all_verdicts).most_common())
        lines.append(f"| {title} | {len(found)} | {false} | {len(all_verdicts)} | {told} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.audit_calibration")
    parser.add_argument("--seeds", type=int, default=20, help="how many, from 1 on")
    parser.add_argument("--jobs", type=int, default=1, help="seeds at a time, a process and a thread each")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--budget", default="quick", help="of the audits")
    parser.add_argument("--output", type=Path, default=Path("runs/audit-calibration"))
    options = parser.parse_args()
    builtin_model()  # once, before the others look for it
    began = time.monotonic()
    seeds = range(1, options.seeds + 1)
    missing = [seed for seed in seeds if not audit_of(options.output, seed).is_finished]
    failed = run_all(
        {f"seed-{seed}": works(options.output, seed, options.budget) for seed in missing}, options.output,
        jobs=options.jobs, device=options.device,
    )  # fmt: skip
    done = [seed for seed in seeds if audit_of(options.output, seed).is_finished]
    found: dict[int, dict[str, dict[str, str]]] = {seed: judged(audit_of(options.output, seed)) for seed in done}
    print(f"\n{table(found)}")
    result: dict[str, Any] = {
        "machine": machine(), "device": options.device, "jobs": options.jobs, "budget": options.budget,
        "seconds": round(time.monotonic() - began, 1), "seconds_are_of": missing, "failed": failed, "verdicts": found,
    }  # fmt: skip
    write_json(options.output / "calibration.json", result)
    print(f"\nwritten to {options.output / 'calibration.json'}")


if __name__ == "__main__":
    main()
