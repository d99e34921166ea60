"""Where cells are run: in this process, in processes of this machine, or as Ray tasks on several machines."""

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch

from unlearner.bench.cells import Before, Cell
from unlearner.config import BenchConfig
from unlearner.console import warn
from unlearner.errors import UserError, first_line, install

Job = Cell | Before
DIED = "its process died ({}), perhaps because memory ran out"


def run_all(jobs: Sequence[Job], config: BenchConfig) -> Iterator[Job]:
    """Run all `jobs`, as many at a time as `config` says, and give each when it has ended, well or not."""
    if config.ray is not None:
        yield from _on_ray(jobs, config)
    elif config.jobs > 1:
        yield from _in_processes(jobs, config.jobs)
    else:
        for job in jobs:
            job.run()
            yield job


# ---------------------------------------------------------------------------------------------------------- processes

FORKSERVER = multiprocessing.get_context("forkserver")
"""A server process imports torch once and forks for every cell: a cell that takes its process down takes no other."""
PRELOAD = ["unlearner.bench.preloaded"]


def _in_processes(jobs: Sequence[Job], count: int) -> Iterator[Job]:
    FORKSERVER.set_forkserver_preload(PRELOAD)
    gpus = _visible_gpus()
    waiting, running = list(jobs), dict[int, tuple[ForkServerProcess, Job]]()
    try:
        while waiting or running:
            for place in range(count):
                if waiting and place not in running:
                    job = waiting.pop(0)
                    environment = {**os.environ, **({"CUDA_VISIBLE_DEVICES": gpus[place % len(gpus)]} if gpus else {})}
                    process = FORKSERVER.Process(target=_in_process, args=(job, environment))
                    running[place] = process, job  # first: a Ctrl-C while it starts ends it, too
                    process.start()
            ended = wait([process.sentinel for process, _ in running.values()])
            for place, (process, job) in list(running.items()):
                if process.sentinel in ended:
                    process.join()
                    del running[place]
                    if process.exitcode != 0:
                        job.fail(DIED.format(f"exit code {process.exitcode}"))
                    yield job
    finally:  # interrupted, a cell ends with a checkpoint; one that heard Ctrl-C itself hears this as the same
        begun = [process for process, _ in running.values() if process.pid is not None]
        for process in begun:
            process.terminate()
        for process in begun:
            process.join()


def _visible_gpus() -> list[str]:
    """The GPUs that are to be dealt out, as CUDA_VISIBLE_DEVICES names them."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return chosen.split(",") if chosen else [str(number) for number in range(torch.cuda.device_count())]


def _in_process(job: Job, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the server ignores it
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    try:
        job.run()
    except KeyboardInterrupt:
        os._exit(0)


def _die_with_parent() -> None:
    """A bench that is killed takes its cells with it, or they would meet those of the next."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


# ---------------------------------------------------------------------------------------------------------------- Ray


def check_ray() -> None:
    """Raises UserError where Ray is not installed."""
    try:
        import ray  # noqa: F401
    except ImportError as error:
        raise UserError(f"--ray needs Ray: {install('ray')}") from error


def _on_ray(jobs: Sequence[Job], config: BenchConfig) -> Iterator[Job]:
    import ray

    connected = ray.is_initialized()
    if not connected:
        try:
            ray.init(
                None if config.ray == "local" else config.ray, log_to_driver=False, logging_level=logging.ERROR,
                include_dashboard=None if config.ray != "local" else False,
            )  # fmt: skip
        except Exception as error:
            raise UserError(f"--ray {config.ray}: no Ray cluster responds there ({first_line(error)}).") from error
    try:
        gpus = config.gpus
        if gpus is None:
            gpus = 1 if ray.cluster_resources().get("GPU") else 0
        if not any(_holds(node, config.threads, gpus) for node in ray.nodes()):
            warn(f"no machine of the cluster has {config.threads} CPUs and {gpus:g} GPUs: cells wait until one joins")
        # A cell whose machine is lost is continued on another: its finished steps are on the shared disk.
        task = ray.remote(num_cpus=config.threads, num_gpus=gpus, max_retries=1)(_as_ray_task)
        kept = {name: os.environ[name] for name in ("UNLEARNER_CACHE",) if name in os.environ}
        waiting = {task.remote(job, str(Path.cwd()), kept): job for job in jobs}
        while waiting:
            (ended, *_), _ = ray.wait(list(waiting))
            job = waiting.pop(ended)
            try:
                ray.get(ended)
            except ray.exceptions.RayError as error:
                job.fail(DIED.format(first_line(error)))
            yield job
    finally:
        if not connected:
            ray.shutdown()


def _holds(node: Mapping[str, Any], cpus: float, gpus: float) -> bool:
    has = node["Resources"]
    return node["Alive"] and has.get("CPU", 0) >= cpus and has.get("GPU", 0) >= gpus


def _as_ray_task(job: Job, folder: str, environment: dict[str, str]) -> None:
    os.chdir(folder)  # paths may be relative
    os.environ.update(environment)
    job.run()
