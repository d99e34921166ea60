"""The command line. Options come from the dataclasses in `config.py`; each command is a function of one of them."""

import contextlib
import io
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import tyro
import yaml

from unlearner.config import DemoConfig, EvaluateConfig, FinetuneConfig, ForgetConfig
from unlearner.console import console
from unlearner.errors import UserError, did_you_mean

USAGE = """\
unlearner makes a language model forget chosen data, keeps the rest of its abilities, and shows both.

  unlearner demo        watch a tiny built-in model forget: no data, network or GPU needed
  unlearner finetune    teach a model questions and answers, so that there is something to forget
  unlearner forget      forget a forget set, keep a retain set, measure before and after
  unlearner evaluate    measure a model: six metrics, model utility, forget efficacy
  unlearner methods     every unlearning method with its formula
  unlearner metrics     every metric with its formula

`unlearner COMMAND --help` explains a command's options. All of them may stand in a YAML file, `--config run.yaml`;
options on the command line win.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; exit code 0 if it went well, 2 for anything the user can mend."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return
    if arguments[0] in ("--version", "-V"):
        from unlearner import __version__

        print(f"unlearner {__version__}")
        return
    try:
        name, *rest = arguments
        if name not in COMMANDS:
            raise UserError(f"unknown command {name!r}: {did_you_mean(name, COMMANDS)}")
        config_type, command = COMMANDS[name]
        command() if config_type is None else command(parse(config_type, rest, f"unlearner {name}"))
    except UserError as error:
        console.print(f"error: {error}", markup=False, style="bold red", soft_wrap=True)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        console.print(
            "interrupted: what was finished is kept; repeat the same command to go on from there.",
            style="yellow", soft_wrap=True,
        )  # fmt: skip
        raise SystemExit(2) from None


def parse(config_type: type, arguments: Sequence[str], program: str) -> Any:
    """A config from command-line arguments, those of a `--config` YAML file first. Raises UserError."""
    known = {_flag(f.name): f.name for f in fields(config_type)}
    arguments = _with_file(known, list(arguments))
    for argument in arguments:
        option = argument.partition("=")[0].replace("_", "-")
        if option.startswith("--") and option not in known and f"--{option[5:]}" not in known and option != "--help":
            raise UserError(f"unknown option {option}: {did_you_mean(option, known)}")
    _check_required(config_type, arguments)
    heard = io.StringIO()
    try:
        with contextlib.redirect_stderr(heard):
            return tyro.cli(config_type, args=arguments, prog=program, description=_teach(config_type, program))
    except SystemExit as ended:
        if not ended.code:
            raise
        raise UserError(_sentence(heard.getvalue())) from None


def _teach(config_type: type, program: str) -> str:
    return (
        (config_type.__doc__ or "")
        + EXAMPLES.get(program, "")
        + "\n\nAny option may stand in a YAML file: --config FILE."
    )


EXAMPLES = {
    "unlearner forget": (
        "\n\nExample:\n  unlearner forget --model path/to/model --forget forget.jsonl --retain retain.jsonl "
        "--method ME+GD --output runs/me"
    ),
    "unlearner finetune": (
        "\n\nExample:\n  unlearner finetune --model path/to/model --data facts.jsonl --lr 1e-4 --output runs/taught"
        "\n\n`--model new:hidden=256,layers=4` makes a new small Llama, its tokenizer trained on the data."
    ),
    "unlearner evaluate": (
        "\n\nExample:\n  unlearner evaluate --model path/to/model --forget forget.jsonl --retain retain.jsonl "
        "--output runs/scores"
    ),
}


def _with_file(known: dict[str, str], arguments: list[str]) -> list[str]:
    """Arguments with those of the `--config` file put before them, so that the command line wins."""
    for i, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if option != "--config":
            continue
        if not equals and i + 1 == len(arguments):
            raise UserError("--config needs the name of a YAML file.")
        file = Path(value if equals else arguments[i + 1])
        rest = arguments[:i] + arguments[i + (1 if equals else 2) :]
        return [*_file_arguments(file, known), *rest]
    return arguments


def _file_arguments(file: Path, known: dict[str, str]) -> list[str]:
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--config {file} cannot be read ({error.strerror}): check the path.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        raise UserError(f"--config {file}{line} is not YAML: write one `option: value` a line.") from error
    if not isinstance(values, dict):
        raise UserError(f"--config {file} holds no options: write one `option: value` a line.")
    arguments: list[str] = []
    for key, value in values.items():
        flag = _flag(str(key))
        if flag not in known:
            raise UserError(f"--config {file}: unknown option {key!r}, {did_you_mean(str(key), known.values())}")
        if value is None or value == [] or value == {}:
            continue
        if isinstance(value, bool):
            arguments.append(flag if value else f"--no-{flag[2:]}")
        elif isinstance(value, dict):
            arguments += [flag, *(str(part) for pair in value.items() for part in pair)]
        else:
            arguments += [flag, *map(str, value if isinstance(value, list) else [value])]
    return arguments


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _check_required(config_type: type, arguments: Sequence[str]) -> None:
    given = {argument.partition("=")[0].replace("_", "-") for argument in arguments}
    required = [f for f in fields(config_type) if f.default is MISSING and f.default_factory is MISSING]
    missing = [_flag(f.name) for f in required if _flag(f.name) not in given]
    if missing and not given & {"-h", "--help"}:
        raise UserError(f"{' and '.join(missing)} must be given: see --help.")


def _sentence(box: str) -> str:
    """The message inside one of tyro's boxes, on one line."""
    lines = [line.strip(" │╭╮╰╯") for line in box.splitlines()]
    message: list[str] = []
    for line in lines[1:]:
        if line.startswith("───"):
            break
        message.append(line)
    text = re.sub(r"\s+", " ", " ".join(message)).strip() or box.strip()
    # An optional number is a union to tyro, which tells of every branch.
    optional = re.match(
        r"Error parsing (--\S+): no type matching \{None\}\|(\w+) could be instantiated from \['(.*?)'\]", text
    )
    return f"{optional[1]} must be of type {optional[2].lower()}, not {optional[3]!r}." if optional else text


# ------------------------------------------------------------------------------------------------------------- commands


def _demo(config: DemoConfig) -> None:
    from unlearner.demo import demo

    demo(config)


def _finetune(config: FinetuneConfig) -> None:
    from unlearner.training.finetune import finetune

    model = finetune(config)
    console.print(f"The model is in {model}", markup=False, style="green", soft_wrap=True)
    console.print(f"Next: unlearner forget --model {model} --forget ... --retain ... --output ...", markup=False)


def _forget(config: ForgetConfig) -> None:
    from unlearner.tables import print_forget
    from unlearner.training.forget import forget

    print_forget(forget(config), config.method)


def _evaluate(config: EvaluateConfig) -> None:
    from unlearner.evaluation.evaluate import evaluate
    from unlearner.tables import print_records, print_summary
    from unlearner.training.builtin import resolve_model

    print_summary({Path(config.model).name: evaluate(config, path=resolve_model(config.model))})
    print_records(Path(config.output))


def _methods() -> None:
    from unlearner.tables import print_methods

    print_methods()


def _metrics() -> None:
    from unlearner.tables import print_metrics

    print_metrics()


COMMANDS: dict[str, tuple[type | None, Callable[..., None]]] = {
    "demo": (DemoConfig, _demo),
    "finetune": (FinetuneConfig, _finetune),
    "forget": (ForgetConfig, _forget),
    "evaluate": (EvaluateConfig, _evaluate),
    "methods": (None, _methods),
    "metrics": (None, _metrics),
}

if __name__ == "__main__":
    main()
