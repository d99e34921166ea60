"""Memory and time of loss and gradient at a large vocabulary: all logits through autograd, against `token_scores`.

Counted is what a process' resident memory rises by, at its peak, over the weights, the hidden states and, where the
output embedding is trained, its gradient: both ways need those. Each measurement is a process of its own.

    python -m benchmarks.loss_memory plain logp trained     one measurement, as JSON
"""

import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unlearner.models.anatomy import Head
from unlearner.scoring.token_scores import token_scores

VOCABULARY, HIDDEN, TOKENS = 128_256, 2_048, 2_048
KINDS = ("logp", "mean_logp")
"""What CE, NPO and DPO need, and what ME needs."""

RETURNING = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
"""glibc's malloc otherwise keeps what was freed, in pieces: up to 1.6 GB here that no tensor holds."""


def plain(hidden: Tensor, weight: Tensor, targets: Tensor, kind: str) -> Tensor:
    """(N,) scores by way of the full float32 logits."""
    logits = torch.nn.functional.linear(hidden, weight).float()
    if kind == "logp":
        return torch.log_softmax(logits, dim=-1).gather(1, targets[:, None]).squeeze(1)
    return (torch.softmax(logits, dim=-1) + 1e-12).log().mean(-1)


def ours(hidden: Tensor, weight: Tensor, targets: Tensor, kind: str) -> Tensor:
    return token_scores(hidden, Head(weight), targets, [kind])[kind]


def resident(field: str) -> int:
    """Bytes that /proc says are resident: `VmRSS` now, `VmHWM` at the peak."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def measurement(way: str, kind: str, head: str, tokens: int = TOKENS) -> dict[str, float]:
    """Seconds and extra bytes of one loss with its gradient, in this process."""
    torch.manual_seed(0)
    hidden = torch.randn(tokens, HIDDEN, requires_grad=True)
    weight = (torch.randn(VOCABULARY, HIDDEN) * 0.02).requires_grad_(head == "trained")
    targets = torch.randint(VOCABULARY, (tokens,))
    score = {"plain": plain, "ours": ours}[way]
    score(hidden[:8].detach(), weight.detach(), targets[:8], kind)  # libraries make their buffers
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    start = time.perf_counter()
    score(hidden, weight, targets, kind).mean().backward()
    seconds = time.perf_counter() - start
    needed = weight.nbytes if head == "trained" else 0
    return {"seconds": seconds, "extra_bytes": resident("VmHWM") - before - needed}


def benchmark(runs: int) -> tuple[dict[str, float], dict[str, Any]]:
    print(f"loss and gradient at V = {VOCABULARY:,}, H = {HIDDEN:,}, {TOKENS:,} labelled tokens", flush=True)
    details: dict[str, Any] = {}
    worst = {"loss_memory": float("inf"), "loss_time": float("inf")}
    for head in ("trained", "frozen"):
        for kind in KINDS:
            found: dict[str, list[dict[str, float]]] = {"plain": [], "ours": []}
            for _ in range(runs):
                for way, rows in found.items():
                    command = [sys.executable, "-m", __spec__.name, way, kind, head]
                    done = subprocess.run(command, check=True, capture_output=True, text=True, env=RETURNING)
                    rows.append(json.loads(done.stdout))
            details[f"{kind}, head {head}"] = found
            median = {
                way: {key: statistics.median(row[key] for row in rows) for key in ("seconds", "extra_bytes")}
                for way, rows in found.items()
            }
            memory = median["plain"]["extra_bytes"] / median["ours"]["extra_bytes"]
            seconds = statistics.median(
                a["seconds"] / b["seconds"] for a, b in zip(found["plain"], found["ours"], strict=True)
            )
            print(
                f"  {kind:9} head {head:7}  baseline {median['plain']['extra_bytes'] / 2**20:7.0f} MiB "
                f"{median['plain']['seconds']:6.1f} s   ours {median['ours']['extra_bytes'] / 2**20:7.0f} MiB "
                f"{median['ours']['seconds']:6.1f} s   ratios {memory:5.1f} and {seconds:4.2f}",
                flush=True,
            )
            worst = {"loss_memory": min(worst["loss_memory"], memory), "loss_time": min(worst["loss_time"], seconds)}
    return worst, details


if __name__ == "__main__":
    way, kind, head = sys.argv[1:]
    print(json.dumps(measurement(way, kind, head)))
