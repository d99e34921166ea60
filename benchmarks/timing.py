"""Paired runs and their medians, and what they ran on."""

import datetime
import os
import platform
import re
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from unlearner.results.run import versions


@dataclass(frozen=True)
class Pairs:
    """Seconds of each pair of runs, baseline and ours in turn."""

    baseline: list[float]
    ours: list[float]

    @property
    def ratio(self) -> float:
        """Median of the pairs' baseline ÷ ours."""
        return statistics.median(b / o for b, o in zip(self.baseline, self.ours, strict=True))

    def __str__(self) -> str:
        return (
            f"baseline {statistics.median(self.baseline):7.2f} s   ours {statistics.median(self.ours):7.2f} s   "
            f"ratio {self.ratio:5.2f}"
        )


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that `work` took, and what it returned."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def paired(baseline: Callable[[], float], ours: Callable[[], float], runs: int) -> Pairs:
    """`runs` times baseline and ours, which time themselves, in turn: a drift of the machine meets both alike."""
    pairs = Pairs([], [])
    for _ in range(runs):
        pairs.baseline.append(baseline())
        pairs.ours.append(ours())
    return pairs


def machine() -> dict[str, Any]:
    """Hardware, versions, date."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    found = re.search(r"model name\s*:\s*(.+)", text)
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": found[1] if found else platform.processor(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "versions": versions(),
    }
