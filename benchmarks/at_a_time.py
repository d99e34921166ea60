"""Commands of unlearner, so many at a time, each a process of its own with one thread."""

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

Work = Sequence[Sequence[str]]
"""Commands, one after the other: what follows `unlearner`, word by word."""


def run_all(works: Mapping[str, Work], folder: Path, *, jobs: int, device: str) -> dict[str, str]:
    """Run all of `works`, `jobs` at a time; what they say goes to `folder`/NAME.log. Gives the last line of each that
    failed, by name. `device`: cpu hides the GPUs, cuda does not."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"} | ({"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {})
    failed: dict[str, str] = {}

    def work(name: str) -> None:
        with (folder / f"{name}.log").open("a", encoding="utf-8") as log:
            for words in works[name]:
                print(f"$ unlearner {shlex.join(words)}", file=log, flush=True)
                command = [sys.executable, "-m", "unlearner", *words]
                if subprocess.run(command, env=environment, stdout=log, stderr=log).returncode:
                    failed[name] = (folder / f"{name}.log").read_text(encoding="utf-8").strip().splitlines()[-1]
                    break
        print(f"{name}: {failed.get(name, 'done')}", flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(work, works))
    return failed
