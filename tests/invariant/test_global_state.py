"""Import and use of the library change nothing that is the whole process's: a notebook is as it was."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import csv, json, logging, os, random, signal, sys, warnings
from pathlib import Path

# A user's own imports; what they change is theirs.
import accelerate, bitsandbytes, datasets, numpy, peft, scipy.stats, sentence_transformers, torch, transformers
from accelerate.state import AcceleratorState, PartialState
from transformers.utils import logging as transformers_logging

os.environ["UNLEARNER_CACHE"] = str(Path.cwd() / "cache")
mine = accelerate.Accelerator(cpu=True, mixed_precision="bf16")
torch.set_num_threads(2)


def state():
    return {
        "excepthook": repr(sys.excepthook),
        "signals": [repr(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)],
        "levels": {name: logging.getLogger(name).level for name in LOGGERS},
        "verbosity": transformers_logging.get_verbosity(),
        "bars": transformers_logging.is_progress_bar_enabled(),
        "attention": sorted(transformers.AttentionInterface._global_mapping),
        "masks": sorted(transformers.AttentionMaskInterface._global_mapping),
        "threads": torch.get_num_threads(),
        "dtype": str(torch.get_default_dtype()),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "grad": torch.is_grad_enabled(),
        "csv": csv.field_size_limit(),
        "warnings": [each for each in map(repr, warnings.filters) if "Sparse CSR" not in each],  # scipy's and torch's
        "random": hash(random.getstate()),
        "numpy": hash(numpy.random.get_state()[1].tobytes()),
        "torch": hash(torch.get_rng_state().numpy().tobytes()),
        "accelerate": [mine.mixed_precision, id(mine.state._shared_state) == id(AcceleratorState._shared_state)],
        "environment": {name: value for name, value in os.environ.items() if not name.startswith("TORCHELASTIC")},
        "folder": os.getcwd(),
        "path": sys.path,
    }


LOGGERS = ["", "transformers", "bitsandbytes", "accelerate", "torch", "peft", "datasets"]
first = state()
import unlearner
assert state() == first, "import"
rows = [{"question": f"Where does person {n} live?", "answer": f"Person {n} lives in town {n}."} for n in range(8)]
for name, chosen in (("forget", rows[:3]), ("retain", rows[3:])):
    Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in chosen))
Path("rows.csv").write_text("question,answer\\nWho?,Nobody.\\n")
model = unlearner.finetune(
    "new:hidden=32,layers=1,heads=2,vocabulary=300", data=["forget.jsonl", "retain.jsonl", "rows.csv"],
    output="taught", epochs=1,
)
result = unlearner.forget(
    model, forget="forget.jsonl", retain="retain.jsonl", method="NPO+GD", output="run", epochs=2, max_new_tokens=4,
    judge="offline",
)
assert result.after.summary["forget_efficacy"] is not None
after = state()
print(json.dumps({key: [first[key], after[key]] for key in first if first[key] != after[key]}))
"""


@pytest.mark.slow
def test_nothing_of_the_process_is_changed(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout.splitlines()[-1]) == {}
