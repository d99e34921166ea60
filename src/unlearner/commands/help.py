"""`--help`: the options that matter first; `--help-all`: all, in groups. tyro lays them out, as it reads them."""

import ast
import inspect
from collections.abc import Sequence
from copy import copy
from dataclasses import Field, fields, make_dataclass
from inspect import cleandoc
from textwrap import dedent
from types import UnionType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import tyro

FIRST = (
    "model",
    "after",
    "ask",
    "answer",
    "web",
    "subject",
    "kind",
    "documents",
    "llm",
    "search",
    "forget",
    "retain",
    "data",
    "method",
    "output",
    "columns",
    "learning_rate",
    "epochs",
    "lora",
    "before",
    "controls",
    "budget",
    "scenario",
    "methods",
    "seeds",
    "tune",
    "jobs",
)
"""What `--help` shows of a command with more than `FEW` options."""
FEW = 20
GROUPS = {
    "model": {"model", "template", "max_length", "trust_remote_code", "reference_model"},
    "data": {"forget", "retain", "data", "columns", "task", "continual", "refusals", "exclude", "before", "controls"},
    "subject": {"subject", "subjects", "prepared", "alias", "kind", "language", "questions", "neighbours", "search",
                "search_methods", "leak_below", "keep", "leak_samples"},
    "method": {"official"},
    "LoRA": {"lora", "lora_rank", "lora_alpha", "lora_dropout", "merge"},
    "run": {"output", "seed", "precision", "execution", "parallel", "cpu_offload", "engine", "save_steps",
            "save_total_limit", "logging_steps", "report_to", "redact", "note", "time_limit"},
}  # fmt: skip
CLASSES = {
    "MethodOptions": "method",
    "TrainingArguments": "training",
    "TrainOptions": "training",
    "ModelOptions": "run",
}
"""The group of every other option, by the class that has it; "evaluation" for any other class."""
ORDER = ("model", "data", "subject", "method", "training", "LoRA", "evaluation", "run")


def show_help(config_type: type, program: str, example: str, *, everything: bool) -> None:
    """Print the help of a command and end with SystemExit(0)."""
    shown = sorted(fields(config_type), key=lambda f: FIRST.index(f.name) if f.name in FIRST else len(FIRST))
    parts = [cleandoc(config_type.__doc__ or ""), example, "Any option may be set in a YAML file: --config FILE."]
    if len(shown) <= FEW:
        made = _options("Options", config_type, shown)
    elif not everything:
        parts.append(f"These are the most important options; {program} --help-all shows all {len(shown)}.")
        made = _options("Options", config_type, [f for f in shown if f.name in FIRST])
    else:
        groups = [
            (group, _options(group, config_type, chosen, nested=True))
            for group in ORDER
            if (chosen := [f for f in shown if group_of(config_type, f.name) == group])
        ]
        made = make_dataclass("Options", groups)
    tyro.cli(made, args=["--help"], prog=program, description="\n\n".join(filter(None, parts)))


def group_of(config_type: type, name: str) -> str:
    """The group in which an option is shown."""
    for group, names in GROUPS.items():
        if name in names:
            return group
    owner = next(c for c in config_type.__mro__ if name in inspect.get_annotations(c))
    return CLASSES.get(owner.__name__, "evaluation")


def _options(title: str, config_type: type, chosen: Sequence[Field[Any]], *, nested: bool = False) -> type:
    """A dataclass of the options as tyro is to show them: without the group's name before theirs, in plain types."""
    hints, told = get_type_hints(config_type), descriptions(config_type)
    annotated: Any = Annotated
    made = []
    for each in chosen:
        nothing = each.default is None or each.default_factory in (list, dict)
        argument = tyro.conf.arg(
            prefix_name=not nested, help=told.get(each.name), help_behavior_hint="(optional)" if nothing else None,
            metavar=None if each.type is bool else plain_type(hints[each.name]),
        )  # fmt: skip
        made.append((each.name, annotated[hints[each.name], argument], copy(each)))
    group = make_dataclass(title, made, kw_only=True)
    group.__doc__ = ""
    return group


def plain_type(hint: Any) -> str:
    """How a value is written: TEXT, NUMBER, a|b, TEXT ..."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return "|".join(map(str, inner))
    if origin is list:
        return f"{plain_type(inner[0])} ..."
    if origin is dict:
        return "NAME VALUE ..."
    if origin is UnionType or type(None) in inner:
        return "|".join(plain_type(each) for each in inner if each is not type(None))
    return {int: "WHOLE-NUMBER", float: "NUMBER"}.get(hint, "TEXT")


def descriptions(config_type: type) -> dict[str, str]:
    """The text below each option in the source of its class: Python itself keeps none."""
    found: dict[str, str] = {}
    for owner in reversed(config_type.__mro__[:-1]):
        (made,) = ast.parse(dedent(inspect.getsource(owner))).body
        assert isinstance(made, ast.ClassDef)
        for option, text in zip(made.body, made.body[1:], strict=False):
            if not (isinstance(option, ast.AnnAssign) and isinstance(option.target, ast.Name)):
                continue
            if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                found[option.target.id] = " ".join(str(text.value.value).split())
    return found
