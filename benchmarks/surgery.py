"""What a surgery adds to the passes that it needs: `python -m benchmarks.surgery [NPO+GD+GRU ...] [--steps 6]`.

Every method trains the same steps of 4 + 4 TOFU rows. Of each step the time in forward and backward passes, that of the
optimisers, and the whole; and, after it, of a step of the same losses without surgery. Medians, the first step left
out. On a CPU they are the process's own seconds (of all its threads), which others on the machine do not take part in.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.work import load_texts
from unlearner import Unlearner
from unlearner.data.records import Record
from unlearner.methods.registry import find
from unlearner.training.step import Steps


def clock() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


class Clock:
    """Seconds in `Steps.backward`, in `Steps.update` and in whole steps."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self.whole, self.backward, self.update = Steps.take, Steps.backward, Steps.update

    def __enter__(self) -> "Clock":
        def timed(name: str, function: Any) -> Any:
            def run(*given: Any, **more: Any) -> Any:
                if name == "whole":
                    self.steps.append({})
                start = clock()
                made = function(*given, **more)
                self.steps[-1][name] = self.steps[-1].get(name, 0.0) + clock() - start
                return made

            return run

        for name, method in (("take", "whole"), ("backward", "passes"), ("update", "updates")):
            setattr(Steps, name, timed(method, getattr(Steps, name)))
        return self

    def __exit__(self, *_: Any) -> None:
        Steps.take, Steps.backward, Steps.update = self.whole, self.backward, self.update  # type: ignore[method-assign]

    def medians(self) -> dict[str, float]:
        return {name: statistics.median(step[name] for step in self.steps[1:]) for name in self.steps[0]}


def steps_of(method: str, model: str, forget: list[Record], retain: list[Record]) -> dict[str, float]:
    job = Unlearner(
        model, forget=forget, retain=retain, method=method, learning_rate=1e-5, epochs=1, batch_size=4,
        gradient_accumulation_steps=1, warmup_epochs=0.0, evaluate="none",
    )  # fmt: skip
    with Clock() as clock:
        job.train()
    return clock.medians()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.surgery")
    parser.add_argument("methods", nargs="*", default=["NPO+GD+GRU", "NPO+GD+BLUR", "NPO+GD+SAM", "NPO+GD+DUALOPTIM"])
    parser.add_argument("--model", default="builtin:smollm2")
    parser.add_argument("--steps", type=int, default=6, help="steps of a run, of which the first does not count")
    parser.add_argument("--runs", type=int, default=1, help="pairs of runs")
    parser.add_argument("--tofu", type=Path, help="folder with TOFU's files")
    options = parser.parse_args()
    texts = load_texts(options.tofu)
    rows = texts.forget[: 4 * options.steps], texts.retain
    print(f"{texts.name}, {options.model}; seconds a step\n")
    print(
        "| method | whole | its passes | optimiser | whole ÷ passes | whole ÷ a step without surgery |\n"
        + "|---" * 6
        + "|"
    )
    for method in options.methods:
        for _ in range(options.runs):
            plain, ours = (steps_of(each, options.model, *rows) for each in (find(method).base, method))
            print(
                f"| {method} | {ours['whole']:.3f} | {ours['passes']:.3f} | {ours['updates']:.3f} | "
                f"{ours['whole'] / ours['passes']:.2f} | {ours['whole'] / plain['whole']:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
