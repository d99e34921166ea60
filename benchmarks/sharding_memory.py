"""Peak memory of a process while a sharded model is loaded and trains, with one, two and three processes, and the plan.

    python -m benchmarks.sharding_memory          # three minutes, 10 GiB; writes benchmarks/results/

Counted is what a process' resident memory rises by, at its peak over three steps of ME+GD in float32, above what the
libraries take. The plan, for P weights of which R are around the layers (embeddings, norm, output embedding) and L in
a layer, n processes, in float32:

    4·4·P/n     weights, gradients and AdamW's two states, each process its part
    + for n > 1: 4·3·R   the weights around the layers whole, their gradients, and these laid out to be summed
                 4·3·L   the same of one layer

Loading is from files in bf16, which several processes map; counted is what they hold beside the files:

    4·P/n                    each process its part
    + for n > 1: 4·2·(R+L)   in the first forward, those around the layers and of one layer: received, and laid out

Activations are not in it: at the end of a backward pass, when all gradients are there, they are gone. (Under ddp the
gradients' buffers are there all the time, so that a process holds 16 bytes a weight and the activations.)
"""

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.loss_memory import RETURNING, resident
from benchmarks.shapes import Shape
from benchmarks.timing import machine
from unlearner import distributed
from unlearner.data.batches import Plan
from unlearner.data.prompts import TokenTable
from unlearner.data.views import View
from unlearner.methods import Method
from unlearner.models.load import load_model
from unlearner.models.new import new_model
from unlearner.options import TrainOptions
from unlearner.training import loop, setup

Peaks = dict[str, int]
"""Bytes that this process' memory rises by: `loading`, without mapped files, and `training`."""
SHAPE = Shape(vocabulary=8192, hidden=1024, inner=4096, layers=14, heads=16, kv_heads=8)
LENGTH, ITEMS, STEPS = 32, 6, 3


def planned(count: int) -> Peaks:
    """Those of one of `count` processes."""
    layer = SHAPE.body / SHAPE.layers
    around = SHAPE.parameters - SHAPE.body
    whole = around + layer if count > 1 else 0
    return {
        "loading": round(4 * SHAPE.parameters / count + 4 * 2 * whole),
        "training": round(16 * SHAPE.parameters / count + 4 * 3 * whole),
    }


@contextmanager
def highest() -> Iterator[list[int]]:
    """A list that gets the highest RssAnon inside, looked at every two milliseconds: Linux keeps no peak of it."""
    seen, ended = [0], threading.Event()

    def look() -> None:
        while not ended.wait(0.002):
            seen[0] = max(seen[0], resident("RssAnon"))

    watch = threading.Thread(target=look)
    watch.start()
    try:
        yield seen
    finally:
        ended.set()
        watch.join()


def measure(folder: Path) -> Peaks:
    """Load and train in this process."""
    options = TrainOptions(
        model="", precision="fp32", learning_rate=1e-5, epochs=STEPS, batch_size=ITEMS,
        gradient_accumulation_steps=1, save_steps=1000,
    )  # fmt: skip
    distributed.join()
    _, tokenizer = new_model("new:hidden=32,layers=1,heads=2,vocabulary=300", ["a few words"], seed=0)
    accelerator = setup.make_accelerator(options)
    method, plan = Method.parse("ME+GD"), Plan(ITEMS, STEPS, ITEMS, 1, seed=0)
    ids = np.random.default_rng(0).integers(3, 8000, ITEMS * LENGTH, dtype=np.int32)
    table = TokenTable(ids, np.arange(ITEMS + 1) * LENGTH, np.full(ITEMS, 4, np.int32), np.ones(ITEMS, bool))
    view = View(table, np.tile(np.arange(ITEMS), (STEPS, 1)), np.full(ITEMS, 4))
    before = resident("VmRSS")
    anonymous = resident("RssAnon")
    engine: Any = "fsdp" if distributed.count() > 1 else "ddp"
    with highest() as seen:
        model = load_model(str(folder), lazy=True)
        model, _ = setup.place(model, None, method, options, accelerator, engine)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    peak = 0

    def at_epoch(_: Any, epoch: int) -> loop.Measured:
        nonlocal peak
        peak = resident("VmHWM")
        return loop.Measured({}, enough=False)

    views = dict.fromkeys(method.needs, view)
    loop.train(
        model, tokenizer, method, views, plan, options, folder, accelerator=accelerator, parallel=engine,
        at_epoch=at_epoch,
    )  # fmt: skip
    return {"loading": seen[0] - anonymous, "training": peak - before}


def main() -> None:
    rows = []
    for count in (1, 2, 3):
        with tempfile.TemporaryDirectory() as folder:
            SHAPE.make(dtype=torch.bfloat16).save_pretrained(folder)
            launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"] if count > 1 else []
            subprocess.run(
                [sys.executable, *launch, "-m", "benchmarks.sharding_memory", folder],
                check=True, stdout=subprocess.DEVNULL, env={**RETURNING, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
            peaks = [json.loads(path.read_text()) for path in sorted(Path(folder).glob("peak-*.json"))]
        row: dict[str, Any] = {"processes": count}
        for part, plan in planned(count).items():
            measured = [peak[part] for peak in peaks]
            row[part] = {"planned": plan, "peaks": measured, "largest_over_planned": round(max(measured) / plan, 3)}
        rows.append(row)
        print(json.dumps(row))
    result = {"parameters": SHAPE.parameters, "shape": vars(SHAPE), "machine": machine(), "runs": rows}
    path = Path(__file__).parent / "results" / "sharding_memory.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        place = Path(sys.argv[1])
        (place / f"peak-{distributed.rank()}.json").write_text(json.dumps(measure(place)))
        distributed.leave()
    else:
        main()
