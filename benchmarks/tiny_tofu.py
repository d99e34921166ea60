"""The fictitious and the continual scenario on real TOFU text, with a tiny Llama that knows a part of it by heart.

    python -m benchmarks.tiny_tofu path/to/tofu runs/tiny-tofu

A slice of TOFU is written to runs/tiny-tofu/data in TOFU's own layout: forget01's ten tasks (20 authors, 400
questions), the first 18 authors of retain90 (360), real authors and world facts as they are. A new Llama of 4 million
parameters learns all of it. Every command is printed before it runs, and repeating it goes on where it was.
"""

import shlex
import sys
from pathlib import Path

from unlearner.commands.main import main
from unlearner.files import read_jsonl, write_jsonl

KEPT = 360


def write_slice(tofu: Path, folder: Path) -> None:
    """TOFU's files for the split forget01, the retain set cut down to its first 360 questions."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("forget01", "forget01_perturbed", "real_authors_perturbed", "world_facts_perturbed"):
        write_jsonl(folder / f"{name}.json", read_jsonl(tofu / f"{name}.json"))
    kept = read_jsonl(tofu / "retain90.json")[:KEPT]
    asked = {row["question"] for row in kept}
    perturbed = [row for row in read_jsonl(tofu / "retain_perturbed.json") if row["question"] in asked]
    write_jsonl(folder / "retain90.json", kept)
    write_jsonl(folder / "retain_perturbed.json", perturbed)


def run(command: str) -> None:
    print(f"\n$ unlearner {command}", flush=True)
    main(shlex.split(command))


def teaching(data: Path, target: Path, *more: str) -> str:
    """The command by which a new Llama learns the slice by heart."""
    known = " ".join(
        f"{data}:{name}" for name in ("forget01", "retain90", "real_authors_perturbed", "world_facts_perturbed")
    )
    return (
        f"finetune --model new:hidden=256,layers=4,heads=4,vocabulary=2048 --data {known} --learning-rate 1e-3 "
        f"--epochs 25 --batch-size 16 --gradient-accumulation-steps 1 {' '.join(more)} --output {target}"
    )


def everything(tofu: Path, runs: Path) -> None:
    data, target = runs / "data", runs / "target"
    write_slice(tofu, data)
    run(teaching(data, target))
    settings = (
        f"--data {data} --model {target}/model --splits forget01 --epochs 5 --batch-size 4 "
        "--gradient-accumulation-steps 1 --max-new-tokens 64 --judge offline --jobs 2"
    )
    run(f"bench fictitious {settings} --eval-limit 80 --tune lr=5e-5,1e-4,2e-4,4e-4 --output {runs}/fictitious")
    run(
        f"bench continual {settings} --learning-rate 2e-4 --eval-limit 40 --methods GA+GD NPO+GD ME+GD --tasks 3 "
        f"--output {runs}/continual"
    )


if __name__ == "__main__":
    everything(Path(sys.argv[1]), Path(sys.argv[2]))
