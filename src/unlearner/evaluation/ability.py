"""General ability, by EleutherAI's lm-evaluation-harness (github.com/EleutherAI/lm-evaluation-harness): what the model
can do that neither set asks for. The paper's five tasks, or any other by name."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

from unlearner import distributed
from unlearner.console import note
from unlearner.errors import UserError, did_you_mean, install
from unlearner.files import read_json, write_json
from unlearner.models.sharding import whole
from unlearner.options import AbilityOptions
from unlearner.random_state import own_random_state
from unlearner.results.layout import EvaluationDirectory
from unlearner.scenarios.real_world import GENERAL_ABILITY


def task_names(options: AbilityOptions) -> list[str]:
    """The tasks by name, `paper` written out."""
    return [name for given in options.lm_eval for name in (GENERAL_ABILITY if given == "paper" else [given])]


def check_ability(options: AbilityOptions) -> None:
    """Raises UserError where lm-eval is not installed or does not know a task."""
    if not options.lm_eval:
        if options.lm_eval_tasks is not None:
            raise UserError("--lm-eval-tasks is a folder of tasks; name those to run with --lm-eval.")
        return
    if options.lm_eval_tasks is not None and not Path(options.lm_eval_tasks).is_dir():
        raise UserError(f"--lm-eval-tasks {options.lm_eval_tasks} is not a folder: give the one that holds your tasks.")
    known = _tasks(options).all_tasks
    for name in task_names(options):
        if name not in known:
            raise UserError(f"lm-eval has no task {name!r}: {did_you_mean(name, known)}")


def general_ability(
    model: Any,
    tokenizer: Any,
    options: AbilityOptions,
    folder: Path,
    *,
    autocast: Callable[[], AbstractContextManager[Any]] | None = None,
    known: Path | None = None,
) -> dict[str, Any] | None:
    """Write `folder`/ability.json: task → metric → value, with lm-eval's version and the limit; None without tasks,
    and in all processes but the main one, which measures.

    What is there is not computed again, nor what lies in `known`, a folder of this very model. Raises UserError for a
    task that cannot be run, in most cases because its data are missing.
    """
    if not options.lm_eval:
        return None
    file = EvaluationDirectory(folder).ability
    with whole(model):
        if not distributed.is_main():
            return None  # what is sharded is whole now, or follows the main process until it is done
        if file.is_file():
            return read_json(file)
        kept = None if known is None else EvaluationDirectory(known).ability
        if kept is not None and kept.is_file():
            result = read_json(kept)
        else:
            result = _measured(model, tokenizer, options, autocast)
            if kept is not None:
                kept.parent.mkdir(parents=True, exist_ok=True)
                write_json(kept, result)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(file, result)
    return result


def _measured(model: Any, tokenizer: Any, options: AbilityOptions, autocast: Any) -> dict[str, Any]:
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    names = task_names(options)
    note(f"lm-eval: {', '.join(names)}")
    training = model.training
    model.eval()
    try:
        with own_random_state(), autocast() if autocast else nullcontext():  # lm-eval seeds all generators
            results = lm_eval.simple_evaluate(
                model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=16),
                tasks=names, limit=options.lm_eval_limit, task_manager=_tasks(options), bootstrap_iters=0,
                log_samples=False,
            )  # fmt: skip
    except Exception as error:  # datasets, the hub and the tasks' own code each raise their own
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"lm-eval cannot run {', '.join(names)}: {lines[0]}") from error
    finally:
        model.train(training)
    assert results is not None
    found = {name: results["results"][name] for name in names}
    return {
        "lm_eval": lm_eval.__version__,
        "limit": options.lm_eval_limit,
        "tasks": {
            name: {
                metric: float(value)
                for metric, value in sorted(metrics.items())
                if isinstance(value, int | float) and "," in metric and "_stderr" not in metric
            }
            for name, metrics in found.items()
        },
    }


def _tasks(options: AbilityOptions) -> Any:
    return _task_manager(options.lm_eval_tasks)


@cache  # it reads thousands of files
def _task_manager(folder: str | None) -> Any:
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise UserError(f"--lm-eval needs lm-evaluation-harness: {install('lm-eval')}") from error
    return TaskManager(include_path=folder)
