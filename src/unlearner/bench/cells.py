"""A cell: one method on one split with one seed. It is a run of `unlearner forget`, or a run for each task."""

import re
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

from unlearner import distributed
from unlearner.audit.from_run import check_forget, of_forget
from unlearner.audit.run import audit
from unlearner.config import BenchConfig, ForgetConfig
from unlearner.console import quiet
from unlearner.data.benchmarks import is_benchmark
from unlearner.data.readers import DOCUMENTS, READERS, STANDARD_INPUT
from unlearner.data.sources import load_records
from unlearner.errors import UserError, did_you_mean
from unlearner.evaluation.metrics import chosen_metrics
from unlearner.evaluation.summary import FORGET_EFFICACY
from unlearner.files import read_json, write_json
from unlearner.methods import Method
from unlearner.methods.options import options_of, split_pairs
from unlearner.methods.registry import find
from unlearner.results.layout import AuditDirectory, BenchDirectory, CellDirectory, EvaluationDirectory, RunDirectory
from unlearner.scenarios import SCENARIOS
from unlearner.scenarios.base import BUILTIN, Split
from unlearner.search.listening import Listening
from unlearner.workflows.builtin import use_threads
from unlearner.workflows.forget import forget, measure_before

OWN = (
    "model", "output", "forget", "retain", "task", "continual", "columns", "eval_columns", "method", "preset", "seed",
    "reference_model", "time_limit", "note",
)  # fmt: skip
"""Options of `unlearner forget` that the bench decides."""


@dataclass(frozen=True)
class Cell:
    """What is run for one method, split and seed."""

    method: str
    split: str
    seed: int
    folder: Path
    runs: tuple[ForgetConfig, ...]
    """One run, whose directory is the cell's, or one for each task, in folders below it."""
    continual: bool
    known: Path
    """What cells share: evaluations (`workflows/forget.py`); what audits ask the original model (`audit/run.py`)."""
    threads: int
    chosen: Mapping[str, Any] = field(default_factory=dict)
    """Options that were tuned."""
    timed: bool = False
    """Whether to keep how long it took."""

    @property
    def name(self) -> str:
        """ME+GD, forget01, seed 1; or what a trial of --tune tries: ME+GD, forget01, learning_rate=1e-05."""
        return f"{self.method}, {self.split}, {self.folder.name.replace('seed-', 'seed ')}"

    @property
    def finished(self) -> bool:
        place = CellDirectory(self.folder)
        audits = [RunDirectory(Path(run.output)).audited for run in self.runs if run.audit is not None]
        trained = place.retention.is_file() if self.continual else place.is_finished
        return trained and all(AuditDirectory(audit).is_finished for audit in audits)

    @property
    def error(self) -> str | None:
        """Why it failed, if it did."""
        file = CellDirectory(self.folder).failed
        return str(read_json(file)["error"]) if file.is_file() else None

    def run(self) -> None:
        """Run what is left. An error ends the cell and stays in its failed.json; with several processes one that not
        all of them meet is raised, and ends the bench."""
        if distributed.is_main():
            CellDirectory(self.folder).failed.unlink(missing_ok=True)
        began = time.monotonic()
        try:
            with use_threads(self.threads), quiet():
                for run in self.runs:
                    check_forget(run)
                    forget(run, known=self.known, listens=Listening)
                    if run.audit is not None:
                        audit(of_forget(run), known=self.known)
                    distributed.barrier()  # the next task reads the files of this one
                if self.continual and distributed.is_main():
                    write_json(CellDirectory(self.folder).retention, self._retention())
        except Exception as error:
            told = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            if not distributed.met_by_all(told):
                raise
            self.fail(told, None if isinstance(error, UserError) else traceback.format_exc())
        if self.timed and distributed.is_main():
            write_json(CellDirectory(self.folder).seconds, {"seconds": round(time.monotonic() - began, 3)})

    def fail(self, error: str, trace: str | None = None) -> None:
        if not distributed.is_main():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        told = {"error": error} if trace is None else {"error": error, "traceback": trace}
        write_json(CellDirectory(self.folder).failed, told)

    def _retention(self) -> dict[str, Any]:
        """What stays forgotten: row k is after task k + 1, entry j forget efficacy on the set of task j + 1."""
        folders = [RunDirectory(Path(run.output)) for run in self.runs]
        tasks = [str(run.task) for run in self.runs]

        def read(place: EvaluationDirectory, key: str) -> float | None:
            return place.read_summary()[key]

        return {
            "tasks": tasks,
            "forget_efficacy": [
                [
                    read(folder.earlier(earlier) if j < k else folder, "forget_efficacy")
                    for j, earlier in enumerate(tasks[: k + 1])
                ]
                for k, folder in enumerate(folders)
            ],
            "model_utility": [read(folder, "model_utility") for folder in folders],
            "before": {
                "model_utility": read(folders[0].before, "model_utility"),
                # On each task's set, just before it is unlearned.
                "forget_efficacy": [read(folder.before, "forget_efficacy") for folder in folders],
            },
        }


@dataclass(frozen=True)
class Before:
    """The evaluation of the model before unlearning, which all cells of a split share."""

    error: ClassVar[None] = None
    split: str
    config: ForgetConfig
    known: Path
    threads: int

    @property
    def name(self) -> str:
        return f"before, {self.split}"

    def run(self) -> None:
        """Measure it, if it can be: if not, the cells will say why."""
        try:
            with use_threads(self.threads), quiet():
                measure_before(self.config, self.known)
        except Exception as error:
            if not distributed.met_by_all(str(error)):
                raise

    def fail(self, error: str) -> None:
        """Nothing: every cell measures for itself."""


def make_cell(config: BenchConfig, method: str, split: str, seed: int, folder: Path, chosen: Mapping[str, Any]) -> Cell:
    """The cell in `folder`; `chosen` are options that were tuned. Raises UserError for an option that cannot be."""
    scenario = SCENARIOS[config.scenario]
    rows = splits(config)[split]
    options: dict[str, Any] = dict(scenario.builtin_options if config.builtin else scenario.options)
    if config.forget:
        options.pop("eval_columns", None)  # those of the paper's files
    if config.builtin:
        options["learning_rate"] = scenario.builtin_lr.get(method, scenario.builtin_lr[""])
    options |= rows.sources("" if config.forget else config.data)
    options |= {name: each for name in ("columns", "eval_columns") if (each := getattr(config, name))}
    options |= {name: typed(name, value) for name, value in config.options.items()}
    if "method_options" in options:
        options["method_options"] = own_pairs(method, options["method_options"])
    known = {each.name for each in fields(ForgetConfig)}
    options |= {name: value for name, value in chosen.items() if name in known}
    if own := [f"{name}={value}" for name, value in chosen.items() if name not in known]:
        options["method_options"] = [*options.get("method_options", []), *own]
    model = config.model or BUILTIN
    first = ForgetConfig(
        model=model, method=method, preset=config.scenario, seed=seed, output=str(folder), **options  # type: ignore[arg-type]
    )  # fmt: skip
    first.check()
    if first.retrained is not None:
        first = replace(first, retrained=first.retrained.replace("{split}", split))
    if first.benchmarks:
        first = replace(first, benchmarks=[each.replace("{split}", split) for each in first.benchmarks])
    runs = [first]
    if rows.tasks:
        tasks = rows.tasks[: config.tasks] if scenario.continual else rows.tasks[:1]
        runs = [replace(first, task=task, continual=True) for task in tasks]
    if scenario.continual:
        if missing := set(FORGET_EFFICACY) - {metric.name for metric in chosen_metrics(first)}:
            raise UserError(f"the continual scenario follows forget efficacy: add {min(missing)} to --metrics.")
        frozen = config.reference == "frozen" and Method.parse(method).needs_reference
        for number, run in enumerate(runs):
            last = None if number == 0 else RunDirectory(Path(runs[number - 1].output))
            made = model if last is None else str(last.made(lora=first.lora, merge=first.merge))
            runs[number] = replace(
                run,
                output=str(CellDirectory(folder).task(number + 1).path),
                model=made,
                reference_model=model if frozen and last is not None else None,
            )
    return Cell(
        method,
        split,
        seed,
        folder,
        tuple(runs),
        scenario.continual,
        BenchDirectory(Path(config.output)).known,
        config.threads,
        dict(chosen),
    )


def own_pairs(method: str, pairs: Sequence[str]) -> list[str]:
    """Those of `NAME=VALUE` texts that are options of a method: in a bench each goes to the methods that have it."""
    known = {name for part in find(method).parts for name in options_of(part)}
    return [f"{name}={value}" for name, value in split_pairs(pairs).items() if name in known]


def check_method_options(methods: Sequence[str], pairs: Sequence[str]) -> None:
    """Raises UserError, with the nearest name, for the first of `NAME=VALUE` texts that is no method's option."""
    known = {name for method in methods for part in find(method).parts for name in options_of(part)}
    for name in split_pairs(pairs):
        if name not in known:
            remedy = did_you_mean(name, known) if known else "they have none."
            raise UserError(f"--method-options: no method of this bench has an option {name!r}: {remedy}")


def splits(config: BenchConfig) -> Mapping[str, Split]:
    """The splits by name: of one's own data a split for each forget set, named after its file. Raises UserError
    where two of them bear the same."""
    scenario = SCENARIOS[config.scenario]
    if not config.forget:
        return scenario.builtin if config.builtin else scenario.splits
    assert config.retain is not None  # config.check()
    found: dict[str, Split] = {}
    for source in config.forget:
        name = source_name(source)
        if name in found:
            raise UserError(f"--forget names two sets that are both called {name!r}: rename one of the files.")
        tasks: tuple[str, ...] = ()
        if scenario.continual:
            records = load_records(source, config.columns)
            tasks = tuple(dict.fromkeys(record.task_id for record in records if record.task_id is not None))
            if not tasks:
                raise UserError(f"{source} has no task_id, by which the continual scenario forgets one after another.")
        found[name] = Split(source, config.retain, tasks=tasks)
    return found


def source_name(source: str) -> str:
    """A source's name as a folder may have it: `data/people.jsonl` and `data:people` are people, `rwku:hub:SET:SUBJECT`
    is SUBJECT."""
    if source == STANDARD_INPUT:
        return "stdin"
    cut, bracket, rows = source.partition("[")
    prefix, _, spec = cut.partition(":")
    if is_benchmark(prefix, spec):
        cut = spec.rpartition(":")[2]
    path = Path(cut.rstrip("/"))
    last = path.stem if path.suffix.lower() in (*READERS, *DOCUMENTS) else path.name
    last = last if path.exists() else last.partition(":")[2] or last
    return re.sub(r"[^\w.=-]+", "-", last + bracket + rows).strip("-.") or "forget"


def typed(name: str, text: Any) -> Any:
    """An option of `unlearner forget` from its text. Raises UserError for what it cannot be."""
    kinds = get_type_hints(ForgetConfig)
    known = [f.name for f in fields(ForgetConfig) if f.name not in OWN]
    name = name.replace("-", "_")
    flag = "--" + name.replace("_", "-")
    if name in OWN:
        raise UserError(f"{flag} is decided by the bench itself: leave it out.")
    if name not in known:
        raise UserError(f"unknown option {name!r}: {did_you_mean(name, known)}")
    kind = kinds[name]
    parts = [part for part in get_args(kind) if part is not type(None)]
    if get_origin(kind) is dict:
        words = [*chain.from_iterable(text.items())] if isinstance(text, Mapping) else str(text).split()
        if len(words) % 2:
            raise UserError(f"{flag} needs names and values in pairs, not {text!r}.")
        return dict(zip(words[::2], words[1::2], strict=True))
    text = str(text)
    if get_origin(kind) is Literal:
        if text not in parts:
            raise UserError(f"{flag} cannot be {text!r}: {did_you_mean(text, parts)}")
        if (name, text) == ("evaluate", "none"):
            raise UserError("--evaluate none leaves a bench nothing to compare: choose end or epochs.")
        return text
    if get_origin(kind) is list:
        return text.split()
    if type(None) in get_args(kind):
        if text.lower() == "none":
            return None
        (kind,) = parts
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise UserError(f"{flag} must be true or false, not {text}.")
        return text.lower() == "true"
    try:
        return kind(text)
    except ValueError:
        number = "a whole number" if kind is int else "a number"
        raise UserError(f"{flag} must be {number}, not {text}.") from None
