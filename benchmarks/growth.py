"""How time grows with the number of rows, and what 100,000 rows cost before the first step.

python -m benchmarks.growth forget.jsonl retain.jsonl MODEL OUTPUT     one start of a training run, as JSON
"""

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import training
from benchmarks.loss_memory import resident
from benchmarks.work import Texts, taught_model
from unlearner.data.profiles import builtin
from unlearner.data.records import Record

ROWS = 100
MANY = 100_000


def linearity(texts: Texts, runs: int) -> dict[str, Any]:
    """Seconds of one epoch of ME+GD over 1, 2, 4 and 8 × 100 rows, drawn from the retain set: alike in length."""
    model, tokenizer = taught_model(texts)
    rows = random.Random(0).sample(texts.retain, min(8 * ROWS, len(texts.retain)))
    unit = len(rows) // 8
    # Without it the first epoch, of one unit, would bear the first calls' cost and flatter the others.
    training.run_ours("ME+GD", model, tokenizer, replace(texts, forget=rows[:unit]), training.plan_for(unit, 1))
    print(f"one epoch of ME+GD over 1, 2, 4, 8 × {unit} rows", flush=True)
    seconds: dict[int, list[float]] = {1: [], 2: [], 4: [], 8: []}
    for _ in range(runs):
        for times, found in seconds.items():
            some = replace(texts, forget=rows[: times * unit])
            found.append(training.run_ours("ME+GD", model, tokenizer, some, training.plan_for(times * unit, 1))[0])
    median = {times: statistics.median(found) for times, found in seconds.items()}
    shares = {times: median[times] / (times * median[1]) for times in median}
    for times, share in shares.items():
        print(f"  {times} × {unit} rows: {median[times]:6.2f} s, {share:.2f} of linear", flush=True)
    return {"rows": unit, "seconds": seconds, "share_of_linear": shares}


def size(texts: Texts) -> dict[str, Any]:
    """Seconds and memory up to the first step with 100,000 rows each, against 100; the second start of each counts."""
    model, tokenizer = taught_model(texts)
    found: dict[int, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        model.save_pretrained(home / "model")
        tokenizer.save_pretrained(home / "model")
        for rows in (100, MANY):
            for name in ("forget", "retain"):
                _write(home / f"{name}-{rows}.jsonl", made_rows(name, rows))
            for attempt in ("first", "again"):
                files = [str(home / f"{name}-{rows}.jsonl") for name in ("forget", "retain")]
                command = [
                    sys.executable,
                    "-m",
                    __spec__.name,
                    *files,
                    str(home / "model"),
                    str(home / f"{rows}{attempt}"),
                ]
                environment = os.environ | {"UNLEARNER_CACHE": str(home / "cache")}
                out = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
                found[rows] = json.loads(out.splitlines()[-1])
                print(f"  {rows:,} rows each, {attempt}: first step after {found[rows]['seconds']:.1f} s, "
                      f"{found[rows]['peak_bytes'] / 2**20:.0f} MiB", flush=True)  # fmt: skip
    added = found[MANY]["peak_bytes"] - found[100]["peak_bytes"]
    print(f"  100,000 rows each add {added / 2**20:.0f} MiB", flush=True)
    return {"first_step_seconds": found[MANY]["seconds"], "added_bytes": added, "measured": found}


def made_rows(name: str, rows: int) -> list[Record]:
    """`rows` rows, a multiple of ten, of the built-in set `name`: ten about each person, as many forgotten as kept."""
    people = rows // 10
    records = builtin(name, people=2 * people, forget=people)
    assert len(records) == rows, (name, len(records))
    return records


def _write(path: Path, records: list[Record]) -> None:
    rows = ({"question": r.question, "answer": r.answer, "subject": r.subject} for r in records)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def start(forget: str, retain: str, model: str, output: str) -> None:
    """Run `unlearner forget` up to its first optimiser step, and say what that took."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    from unlearner.config import ForgetConfig
    from unlearner.workflows.forget import forget as forgetting

    began = time.perf_counter()

    def report(*_: Any) -> None:
        peak = resident("VmHWM")  # not ru_maxrss, which a process takes over from the one that started it
        print(json.dumps({"seconds": time.perf_counter() - began, "peak_bytes": peak}), flush=True)
        os._exit(0)  # the rest of the run is not of interest

    register_optimizer_step_post_hook(report)
    papers = {"evaluate": "none", "preset": "fictitious"}
    forgetting(ForgetConfig(model=model, forget=forget, retain=retain, output=output, **papers))  # type: ignore[arg-type]


if __name__ == "__main__":
    start(*sys.argv[1:5])
