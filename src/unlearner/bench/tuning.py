"""`bench --tune`: the settings of every method that are tried on a seed of their own, and the best of them.

With a budget each method has its own grid (`methods/grids.py`) and the same number of trials, or the same time, by
successive halving (`search/halving.py`): the rungs are numbers of epochs, and a trial of a lower rung is the whole run
in short, warm-up included. Axes of --tune take the place of the method's own. Without a budget all combinations of
--tune's axes are tried in full. An axis that is an option of some methods' losses is theirs alone.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import product
from pathlib import Path
from typing import Any, get_type_hints

from unlearner.bench.cells import Cell, make_cell, typed
from unlearner.config import BenchConfig, ForgetConfig
from unlearner.errors import UserError
from unlearner.files import read_json
from unlearner.methods.grids import Axes, grid_of, rated, settings, usual_options
from unlearner.methods.options import options_of, split_pairs
from unlearner.methods.registry import find
from unlearner.results.layout import ADAPTER, MODEL, BenchDirectory, CellDirectory
from unlearner.search.halving import Budget, Spread, Tried, best, next_trials, rungs
from unlearner.values import convert
from unlearner.workflows.presets import with_preset

KEPT_UTILITY = 0.9
"""Tuning looks for the most forgetting among what keeps this share of model utility."""
CRITERION = f"forget efficacy of the settings that keep {KEPT_UTILITY:.0%} of model utility, 0 of the others"
FEW = 0.25
"""A method shines at few settings where no more than this share of them comes near its best."""
LEAST = 4
"""Of fewer settings nothing is said."""

Key = tuple[str, str]
"""Method and split."""


@dataclass(frozen=True)
class Race:
    """What is tried of one method on one split: a cell for each setting and rung."""

    settings: list[dict[str, Any]]
    lengths: tuple[float, ...]
    """Epochs of each rung."""
    budget: Budget
    cells: Mapping[tuple[int, int], Cell]
    """By setting and rung."""


class Tuning:
    """All trials of a bench. Making it checks them; nothing is run or written. Raises UserError."""

    def __init__(self, config: BenchConfig) -> None:
        self.axes = read_axes(config)
        self.budget = Budget.read("--tune-budget", config.tune_budget) if config.tune_budget is not None else None
        wanted = bool(self.axes) or self.budget is not None
        if self.budget is not None and "epochs" in self.axes:
            raise UserError("--tune epochs does not work with --tune-budget, whose rungs are numbers of epochs.")
        pairs = [(method, split) for method in config.methods for split in config.splits] if wanted else []
        self.races = {pair: self._race(config, *pair) for pair in pairs}
        self._failed: set[str] = set()

    def _race(self, config: BenchConfig, method: str, split: str) -> Race:
        root = BenchDirectory(Path(config.output))
        cell = make_cell(config, method, split, config.tune_seed, Path(config.output), {})
        usual = with_preset(cell.runs[0])
        assert usual.epochs is not None
        if self.budget is None:
            axes = self._given_axes(method)
            points = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
            lengths: tuple[float, ...] = (float(usual.epochs),)
            budget = Budget(trials=len(points))
        else:
            assert usual.learning_rate is not None
            axes = self._own_axes(config, method, usual.learning_rate)
            known = usual_options(method) | {n: v for n, v in vars(usual).items() if v is not None}
            points = settings(axes, known, f"{method} {config.tune_seed}")
            lengths, budget = rungs(usual.epochs), self.budget
        cells = {}
        for number, point in enumerate(points[: budget.trials]):
            for rung, epochs in enumerate(lengths):
                short = {} if rung == len(lengths) - 1 else {
                    "epochs": epochs, "warmup_epochs": usual.warmup_epochs * epochs / usual.epochs,
                }  # fmt: skip
                label = _label(point | ({"epochs": f"{epochs:g}"} if self.budget is not None else {}))
                folder = root.trial(method, split, label).path
                made = make_cell(config, method, split, config.tune_seed, folder, point | short)
                cells[number, rung] = replace(made, timed=budget.seconds is not None)
        return Race(points, lengths, budget, cells)

    def _own_axes(self, config: BenchConfig, method: str, rate: float) -> Axes:
        """The method's grid without what is given, axes of --tune in the place of its own."""
        given = split_pairs(config.options.get("method_options", "").split())
        found = rated(grid_of(method, given), rate)
        found = {n: values for n, values in found.items() if n not in {*given, *config.options, *self.axes}}
        return found | self._given_axes(method)

    def _given_axes(self, method: str) -> Axes:
        """The axes of --tune that are the method's: options of every run, and those of its losses and its surgery."""
        known = {*usual_options(method), *(field.name for field in fields(ForgetConfig))}
        return {name: tuple(values) for name, values in self.axes.items() if name in known}

    @property
    def cells(self) -> list[Cell]:
        """Every trial that there may be."""
        return [cell for race in self.races.values() for cell in race.cells.values()]

    def left(self) -> list[Cell]:
        """The trials to be run now; empty once all are done. A trial that failed before this command is run again."""
        found = []
        for race in self.races.values():
            chosen = next_trials(len(race.settings), race.lengths, race.budget, self._tried(race))
            found += [race.cells[key] for key in chosen]
        return found

    def ended(self, cells: Sequence[Cell]) -> None:
        """These trials have ended, well or not."""
        self._failed |= {cell.name for cell in cells if not cell.finished}

    def drop_models(self) -> None:
        """Remove the models of finished trials: nobody needs them, and they are many."""
        for race in self.races.values():
            for cell in race.cells.values():
                for run in CellDirectory(cell.folder).runs if cell.finished else ():
                    for name in (MODEL, ADAPTER):
                        shutil.rmtree(run.path / name, ignore_errors=True)

    def _tried(self, race: Race) -> list[Tried]:
        return [
            Tried(number, rung, score(figures(cell)), _seconds(cell))
            for (number, rung), cell in sorted(race.cells.items(), key=lambda each: each[0][1])  # rung by rung
            if cell.finished or cell.name in self._failed
        ]

    @property
    def count(self) -> int | None:
        """How many trials are left, at most; None where time decides."""
        if self.budget is not None and self.budget.seconds is not None:
            return None
        total = 0
        for race in self.races.values():
            tried, more = self._tried(race), True
            while more:
                new = next_trials(len(race.settings), race.lengths, race.budget, tried)
                tried, more = tried + [Tried(number, rung, (0.0,)) for number, rung in new], bool(new)
                total += len(new)
        return total

    def chosen(self) -> dict[Key, dict[str, Any] | None]:
        """The best setting of each method on each split; None where every trial failed."""
        found = {pair: best(self._tried(race)) for pair, race in self.races.items()}
        return {pair: self.races[pair].settings[won.candidate] if won else None for pair, won in found.items()}

    def told(self) -> dict[str, Any]:
        """tuning.json: by method and split what was tried, what came out, what was chosen, and how much it varies."""
        told: dict[str, Any] = {}
        for (method, split), race in self.races.items():
            tried, rows = self._tried(race), []
            for each in tried:
                cell = race.cells[each.candidate, each.rung]
                length = {} if self.budget is None else {"epochs": race.lengths[each.rung]}
                rows.append({**race.settings[each.candidate], **length, **_outcome(cell)})
            won = best(tried)
            chosen = None if won is None else race.settings[won.candidate]
            reached = None if won is None else _outcome(race.cells[won.candidate, won.rung])
            first = [value(figures(race.cells[t.candidate, t.rung])) for t in tried if t.rung == 0]
            spread = Spread.of(first) if first else None
            told.setdefault(method, {})[split] = {
                "chosen": chosen, "reached": reached, "grid": len(race.settings), "trials": rows,
                "spread": spread and asdict(spread), "sentence": spread and sentence(method, split, spread),
            }  # fmt: skip
        return told


def read_axes(config: BenchConfig) -> dict[str, list[Any]]:
    """The values of --tune by option. Raises UserError for what is no option, or no value of it."""
    axes: dict[str, list[Any]] = {}
    for axis in config.tune:
        name, equals, values = axis.partition("=")
        name = name.replace("-", "_")
        if not equals or not values:
            raise UserError(f"--tune {axis}: write an option and its values, as in learning_rate=1e-5,5e-6.")
        given = split_pairs(config.options.get("method_options", "").split())
        if name in {*given, *config.options, *axes}:
            raise UserError(f"--tune tries values of {name}, which is also given: leave one out.")
        axes[name] = [_value(config.methods, name, text) for text in values.split(",")]
        if any(axes[name].count(each) > 1 for each in axes[name]):
            raise UserError(f"--tune {axis} names a value twice: leave one out.")
    return axes


def _value(methods: Sequence[str], name: str, text: str) -> Any:
    """An option of `unlearner forget`, or of one of the methods, from its text. Raises UserError for any other."""
    parts = [part for method in methods for part in find(method).parts if name in options_of(part)]
    if not parts or name in {field.name for field in fields(ForgetConfig)}:
        return typed(name, text)
    kind = get_type_hints(parts[0])[options_of(parts[0])[name].name]
    return convert(f"--tune {name}", text, kind)


def _label(values: Mapping[str, Any]) -> str:
    return ",".join(f"{name}={each}" for name, each in values.items()) or "usual"


def _seconds(cell: Cell) -> float:
    file = CellDirectory(cell.folder).seconds
    return float(read_json(file)["seconds"]) if file.is_file() else 0.0


def figures(cell: Any) -> tuple[float, float, float] | None:
    """Model utility before and after, and forget efficacy (continual: the mean over all tasks); None if it failed."""
    if not cell.finished:
        return None
    place = CellDirectory(cell.folder)
    if cell.continual:
        told = read_json(place.retention)
        last = told["forget_efficacy"][-1]
        return told["before"]["model_utility"], told["model_utility"][-1], sum(last) / len(last)
    before, after = place.before.read_summary(), place.read_summary()
    return before["model_utility"], after["model_utility"], after["forget_efficacy"]


def score(found: tuple[float, float, float] | None) -> tuple[float, float] | None:
    """Of trials that keep model utility the one that forgets most; before any that does not, of which the one that
    keeps most."""
    if found is None:
        return None
    before, after, efficacy = found
    return (1.0, efficacy) if after >= KEPT_UTILITY * before else (0.0, after)


def value(found: tuple[float, float, float] | None) -> float:
    """The criterion as one number (`CRITERION`); 0 for a trial that failed."""
    kept, efficacy = score(found) or (0.0, 0.0)
    return max(0.0, efficacy) if kept else 0.0


def _outcome(cell: Cell) -> dict[str, Any]:
    names = ("model_utility_before", "model_utility", "forget_efficacy")
    found = figures(cell)
    return dict(zip(names, found, strict=True)) if found else {"error": cell.error}


def sentence(method: str, split: str, spread: Spread) -> str | None:
    """What a reader must know of a method that stands or falls with its setting; None where there is nothing."""
    if spread.trials < LEAST:
        return None
    if spread.best == 0:
        return f"{method} on {split}: none of {spread.trials} settings keeps {KEPT_UTILITY:.0%} of model utility."
    if spread.near > FEW * spread.trials:
        return None
    return (
        f"{method} on {split} does well at only {spread.near} of {spread.trials} settings, where it reaches "
        f"{spread.best:.2f}; the median setting reaches {spread.median:.2f}. Untuned, expect the latter."
    )
