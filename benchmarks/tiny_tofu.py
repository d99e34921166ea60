"""Six methods on real TOFU text with a tiny Llama: teach it 20 authors, forget 2, measure, print a Markdown table.

    python -m benchmarks.tiny_tofu path/to/tofu runs/tiny-tofu

Every row is one `unlearner forget` command, printed before it runs; a run that is there already is not repeated.
"""

import shlex
import sys
from pathlib import Path

from unlearner.cli import main
from unlearner.files import read_json

METHODS = ("GA+GD", "NPO+GD", "ME+GD", "DPO+GD", "IDK+GD", "IDK+AP")
COLUMNS = ("rouge", "probability", "truth_ratio", "token_entropy", "cosine_similarity", "entailment")


def run(command: str) -> None:
    print(f"\n$ unlearner {command}", flush=True)
    main(shlex.split(command))


def table(runs: Path) -> str:
    """Markdown: the starting model, then one row a method; figures are forget / retain."""
    rows = [("before", read_json(runs / METHODS[0] / "before" / "summary.json"))]
    rows += [(method, read_json(runs / method / "summary.json")) for method in METHODS]
    lines = [
        f"| forget / retain | {' | '.join(COLUMNS)} | MU | FE |",
        f"|---{'|---' * (len(COLUMNS) + 2)}|",
    ]
    for name, summary in rows:
        sets = summary["sets"]
        cells = [f"{sets['forget'][m]:.3f} / {sets['retain'][m]:.3f}" for m in COLUMNS]
        lines.append(
            f"| {name} | {' | '.join(cells)} | {summary['model_utility']:.3f} | {summary['forget_efficacy']:.3f} |"
        )
    return "\n".join(lines)


def everything(tofu: str, runs: Path) -> None:
    target = runs / "target"
    run(
        f"finetune --model new:hidden=256,layers=4,heads=4,vocabulary=2048 --data {tofu}:forget01[:40] "
        f"{tofu}:retain90[:360] --lr 1e-3 --epochs 40 --batch-size 16 --accumulation 1 --output {target}"
    )
    for method in METHODS:
        run(
            f"forget --model {target}/model --forget {tofu}:forget01 --task 1 --retain {tofu}:retain90[:360] "
            f"--forget-eval {tofu}:forget01_perturbed --retain-eval {tofu}:retain_perturbed[:360] --method {method} "
            f"--lr 1e-4 --epochs 5 --accumulation 1 --judge offline --output {runs}/{method}"
        )
    print(f"\n{table(runs)}")


if __name__ == "__main__":
    everything(sys.argv[1].rstrip("/"), Path(sys.argv[2]))
