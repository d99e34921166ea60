"""Finished batches, kept, and shared out over processes."""

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch import nn

from unlearner import distributed
from unlearner.files import read_jsonl, space_errors, write_jsonl
from unlearner.models.batch_jobs import BatchJob, Map, two_at_a_time
from unlearner.models.sharding import whole
from unlearner.results.layout import EvaluationDirectory

Progress = Callable[[str, int, int], None]
"""Called with the job's name (`answers`, `generation`), the rows done and all rows."""


class Store:
    """Finished batches in JSON-lines files, so that a killed evaluation goes on where it stopped.

    A batch is known by the hash of its tokens, so rows that changed in between are computed anew. A folder serves any
    number of sets, but one model. What is read back is to the last bit what was written. Every process writes a file
    of its own, passes.jsonl or passes-RANK.jsonl, and any number of processes reads them all. Without a folder,
    nothing outlives the process.
    """

    def __init__(self, folder: Path | None = None):
        self._results: dict[str, Any] = {}
        self.path: Path | None = None
        if folder is None:
            return
        if distributed.is_main():
            for path in EvaluationDirectory(folder).batches:
                rows = read_jsonl(path)
                self._results |= {row["batch"]: row["result"] for row in rows}
                if not path.read_bytes().endswith(b"\n"):
                    write_jsonl(path, rows)  # without the line that the last run was killed in
        self._results = distributed.agreed(self._results)
        self.path = EvaluationDirectory(folder).batch_file(distributed.rank())

    def run(
        self, jobs: Sequence[BatchJob[Any]], model: nn.Module | None, progress: Progress | None = None
    ) -> list[Any]:
        """The results of all `jobs`, in every process.

        What is not kept is computed, each batch by one process and maybe beside another one; `model` is what computes.
        The batches are those of one process, whatever the number of processes, so that the results are, too. The
        jobs take turns: where two batches run side by side, one that waits for Python and one that does not.
        """
        turns = range(max((len(job.batches) for job in jobs), default=0))
        batches = [(j, i) for i in turns for j, job in enumerate(jobs) if i < len(job.batches)]
        keys = {(j, i): _key(jobs[j].batches[i]) for j, i in batches}
        missing = {keys[batch]: batch for batch in reversed(batches) if keys[batch] not in self._results}
        owners: dict[tuple[int, int], int] = {}
        for j, job in enumerate(jobs):
            places = sorted(batch for batch in missing.values() if batch[0] == j)
            owners |= zip(places, distributed.shares([job.costs[i] for _, i in places]), strict=True)
        made: dict[str, Any] = {}
        done = [0] * len(jobs)
        with ExitStack() as stack:
            run: Map = map
            if model is not None:
                stack.enter_context(whole(model))
                run = stack.enter_context(two_at_a_time(model, len(batches)))
            mine = [batch for batch in batches if owners.get(batch) == distributed.rank()]
            results = run(lambda batch: jobs[batch[0]].compute(batch[1]), mine)
            for j, i in batches:
                if owners.get((j, i)) == distributed.rank():
                    key = keys[j, i]
                    made[key] = self._results[key] = next(results)
                    if self.path is not None:
                        with space_errors(self.path), self.path.open("a", encoding="utf-8") as file:
                            file.write(json.dumps({"batch": key, "result": made[key]}) + "\n")
                done[j] += jobs[j].rows[i]
                if progress is not None:
                    progress(jobs[j].name, done[j], sum(jobs[j].rows))
        for theirs in distributed.gathered(made):
            self._results |= theirs
        results_of = [[self._results[keys[j, i]] for i in range(len(job.batches))] for j, job in enumerate(jobs)]
        return [job.join(results) for job, results in zip(jobs, results_of, strict=True)]


def _key(batch: Any) -> str:
    return hashlib.sha256(json.dumps(batch).encode()).hexdigest()[:24]
