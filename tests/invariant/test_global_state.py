"""Import and use of the library change nothing that is the whole process's: a notebook is as it was."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from global_state import STATE

PROGRAM = (
    STATE
    + """
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
from transformers import TrainerCallback
model = transformers.AutoModelForCausalLM.from_pretrained(result.model)
tokenizer = transformers.AutoTokenizer.from_pretrained(result.model)
u = unlearner.Unlearner(
    model, tokenizer, forget=rows[:3], retain=rows[3:], method="ME+GD", callbacks=[TrainerCallback()],
    peft_config=peft.LoraConfig(r=2, target_modules="all-linear"), args=unlearner.TrainingArguments(epochs=1),
    judge="offline", max_new_tokens=4,
)
u.evaluate()
u.train()
u.evaluate()
after = state()
print(json.dumps({key: [first[key], after[key]] for key in first if first[key] != after[key]}))
"""
)


@pytest.mark.slow
def test_nothing_of_the_process_is_changed(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout.splitlines()[-1]) == {}
