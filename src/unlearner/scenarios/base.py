"""What a scenario is: which files are forgotten, kept and measured, in which order, with which settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

BUILTIN = "builtin:"


@dataclass(frozen=True)
class Preset:
    """Settings of the official code; everything else is the same in all scenarios (`config.TrainOptions`)."""

    lr: Mapping[str, float]
    """Learning rate by method; "" for all others."""
    forget_coeff: Mapping[str, float] = field(default_factory=dict)
    """Weight of the forget loss by its name; 1 for all others."""


@dataclass(frozen=True)
class Split:
    """The sources of one forgetting, each by its name in the data folder, or by what follows `builtin:`."""

    forget: str
    retain: str
    forget_eval: str | None = None
    retain_eval: str | None = None
    real_authors: str | None = None
    world_facts: str | None = None
    tasks: tuple[str, ...] = ()
    """The task_ids that are unlearned one after another. A task's retain set has also the tasks that follow it in the
    file. Without any, all rows are unlearned at once."""

    def sources(self, data: str) -> dict[str, str]:
        """The options of `unlearner forget` that name sources, for a data folder, `builtin:`, or "" where the split
        names whole sources."""
        prefix = data if data in (BUILTIN, "") else f"{data.rstrip('/')}:"
        names = ("forget", "retain", "forget_eval", "retain_eval", "real_authors", "world_facts")
        return {name: prefix + getattr(self, name) for name in names if getattr(self, name) is not None}


def tofu(forget: str, retain: str, tasks: tuple[str, ...]) -> Split:
    """A split of TOFU's files."""
    return Split(
        forget, retain, f"{forget}_perturbed", "retain_perturbed", "real_authors_perturbed", "world_facts_perturbed",
        tasks=tasks,
    )  # fmt: skip


@dataclass(frozen=True)
class Published:
    """Numbers printed elsewhere, to stand beside."""

    source: str
    model: str
    figures: Mapping[str, Mapping[str, tuple[float, float]]]
    """Method → split → model utility and forget efficacy."""


@dataclass(frozen=True)
class Scenario:
    """One of the paper's experiments."""

    preset: Preset
    splits: Mapping[str, Split]
    """By name, in the files that the paper used."""
    builtin: Mapping[str, Split]
    """The same on the built-in data."""
    methods: tuple[str, ...] = ("GA+GD", "NPO+GD", "ME+GD", "DPO+GD", "IDK+GD", "IDK+AP")
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of `unlearner forget` on the paper's files, where they are not the same in all scenarios."""
    builtin_options: Mapping[str, Any] = field(default_factory=dict)
    """The same on the built-in data, whose model is too small for the paper's settings."""
    builtin_lr: Mapping[str, float] = field(default_factory=dict)
    """Learning rate by method on the built-in data; "" for all others."""
    continual: bool = False
    """Whether a cell is a sequence of tasks; otherwise it is one run, of the first task if there are tasks."""
    published: Published | None = None


BUILTIN_LR = {"": 3e-4, "GA+GD": 1e-4, "ME+GD": 1e-3, "DPO+GD": 1e-3, "IDK+GD": 1e-3}
"""Chosen by `bench fictitious --splits people4 --tune learning_rate=1e-4,3e-4,1e-3`, the same grid for every method;
not tuned again for other splits and scenarios (docs/lab/results.md)."""
BUILTIN_OPTIONS = {"epochs": 10.0, "batch_size": 4, "gradient_accumulation_steps": 1, "max_new_tokens": 48}
