"""The settings that a search tries, each in a run in memory, and the file of what came out."""

import copy
import gc
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain, zip_longest
from math import ceil
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from unlearner.config import ForgetConfig
from unlearner.console import quiet
from unlearner.errors import UserError
from unlearner.files import read_jsonl, write_jsonl
from unlearner.methods.grids import RATE, grid_of, rated, settings, usual_options
from unlearner.methods.options import split_pairs
from unlearner.results.subjects import label
from unlearner.search.halving import Tried
from unlearner.search.held_out import SEARCHED, Aim, Before, Figures, HeldOut, figures
from unlearner.workflows.forget import Forgetting

METHODS = ("NPO+GD", "IDK+AP", "ME+GD", "SIMNPO+GD")
"""What a search tries, in this order: of the paper's two and the two of the field that lead with tuning
(docs/guide/methods.md) first those that reached the aim on SmolLM2 at the rates that come first
(docs/lab/results.md)."""
USUAL = {"ME": 0.5}
"""Coefficients of forget losses with which a small real model forgot; others have the preset's."""
FACTORS = (0.2, 0.1, 0.4, 1.0)
"""Learning rates by their share of the one that fits the set without a search: that one forgets in a few epochs and
takes neighbours along. The first is tried first."""
LORA_RATE = 50.0
"""Adapters bear so many times the rate at which all weights keep neighbours; the first trial of a method is one,
because at the same leak they kept more of them (docs/lab/results.md)."""

Setting = dict[str, Any]
"""Options of a run by name; `method` is always among them."""


@dataclass(frozen=True)
class Trial:
    """One setting at one rung, and what it came to."""

    setting: Setting
    candidate: int
    rung: int
    epochs: float
    seconds: float
    found: Figures | None
    error: str | None = None

    def __str__(self) -> str:
        return label(self.setting, self.epochs)


def usual_coefficient(method: str, given: ForgetConfig) -> float | None:
    """The weight of the forget loss where a search does not vary it; None leaves it to the preset."""
    if given.forget_coeff is not None or given.preset is not None:
        return given.forget_coeff
    return USUAL.get(method.partition("+")[0])


def candidates(given: ForgetConfig, usual: ForgetConfig, methods: Sequence[str]) -> list[Setting]:
    """All settings in the order in which they are begun: of each method in turn, its usual one first, as an
    adapter, at the first rate of `FACTORS` where no preset is given.

    `usual` are the options `given` with what is not given filled in. What is given is not varied.
    """
    own = split_pairs(given.method_options)
    fixed = {*own} | {name for name, value in vars(given).items() if value is not None and name in vars(usual)}
    assert usual.learning_rate is not None
    grids = []
    for method in methods:
        grid = grid_of(method, own) | ({} if given.preset else {RATE: FACTORS})
        axes = rated(grid, usual.learning_rate)
        axes = {name: values for name, values in axes.items() if name not in fixed}
        axes["lora"] = (True,) if given.lora else (False, True)
        known = usual_options(method) | {n: v for n, v in vars(usual).items() if v is not None}
        known |= {"lora": True} | ({RATE: axes[RATE][0]} if RATE in axes and not given.preset else {})
        known["forget_coeff"] = usual_coefficient(method, given)
        points = [{"method": method, **point} for point in settings(axes, known, f"{method} {given.seed}")]
        grids.append([_with_rate(point) for point in points])
    return [point for point in chain.from_iterable(zip_longest(*grids)) if point is not None]


def _with_rate(point: Setting) -> Setting:
    if not point.get("lora") or RATE not in point:
        return point
    return point | {RATE: float(f"{point[RATE] * LORA_RATE:.6g}")}


def configured(usual: ForgetConfig, setting: Mapping[str, Any], epochs: float, output: str | None) -> ForgetConfig:
    """The options of a run with a setting; warm-up in proportion to its length. The weight of the forget loss is left
    open in `usual`, because each method has its own."""
    assert usual.epochs is not None
    known = {name: value for name, value in setting.items() if name in vars(usual)}
    options = [*usual.method_options, *(f"{name}={value}" for name, value in setting.items() if name not in known)]
    if "forget_coeff" not in known:
        known["forget_coeff"] = usual_coefficient(str(setting["method"]), usual)
    model = usual.model if isinstance(usual.model, str) or output is not None else copy.deepcopy(usual.model)
    return replace(
        usual, **known, method_options=options, epochs=epochs, model=model, output=output,  # type: ignore[arg-type]
        warmup_epochs=usual.warmup_epochs * epochs / usual.epochs, evaluate="none" if output is None else "end",
    )  # fmt: skip


class _FirstInTime(TrainerCallback):
    """Ends a trial that has used up all the time there is. Raises UserError."""

    def __init__(self, began: float, seconds: float, text: str) -> None:
        self.began, self.seconds, self.text = began, seconds, text

    def on_step_end(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
        took = time.monotonic() - self.began
        if took > self.seconds:
            whole = took * state.max_steps / max(1, state.global_step)
            raise TooShortError(
                f"--search {self.text} is too short for one trial, which takes about {ceil(whole / 60)} min and must "
                "then be measured: give more time; what was prepared is kept."
            )


class TooShortError(UserError):
    """The budget is over before the first trial is."""


def run_trial(
    config: ForgetConfig, held_out: HeldOut, before: Before, tokenizer: Any, limit: tuple[float, str] | None
) -> Figures:
    """Train in memory and measure. Raises UserError where it fails; TooShortError where it takes longer than `limit`,
    seconds and how they were written."""
    callbacks = [_FirstInTime(time.monotonic(), *limit)] if limit else []
    with quiet():
        job = Forgetting(config, tokenizer=tokenizer, callbacks=callbacks)
        job.before()
        job.unlearn()
        after = held_out.rates(job.subject, {name: before.counted[name] for name in SEARCHED})
    del job
    gc.collect()
    return figures(before, after)


class Journal:
    """Trials that have ended, in a file that is whole at any moment."""

    def __init__(self, file: Path, known: Sequence[Setting]) -> None:
        self.file, self.known = file, known
        self.trials: list[Trial] = []
        self.others: list[Any] = []
        """Rows of settings that are not among those to be tried now, such as other methods': kept, and not counted."""
        for row in read_jsonl(file) if file.is_file() else ():
            if row["setting"] not in known:
                self.others.append(row)
                continue
            found = None if row["found"] is None else Figures(**row["found"])
            self.trials.append(Trial(**{**row, "found": found, "candidate": known.index(row["setting"])}))

    def add(self, trial: Trial) -> None:
        self.trials.append(trial)
        write_jsonl(self.file, [*self.others, *(asdict(each) for each in self.trials)])

    def tried(self, aim: Aim) -> list[Tried]:
        """What the halving needs to know."""
        return [
            Tried(each.candidate, each.rung, None if each.found is None else aim.score(each.found), each.seconds)
            for each in self.trials
        ]

    @property
    def seconds(self) -> float:
        return sum(trial.seconds for trial in self.trials)

    def best(self, aim: Aim) -> Trial | None:
        """The best of all rungs: epochs are part of the setting. Of equals the shorter, then the first."""
        ended = [(aim.score(t.found), -t.rung, -t.candidate, t) for t in self.trials if t.found is not None]
        return max(ended, key=lambda each: each[:3])[3] if ended else None
