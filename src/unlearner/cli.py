"""The command line. Options come from the dataclasses in `config.py`; each command is a function of one of them."""

import contextlib
import io
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from inspect import cleandoc
from pathlib import Path
from typing import Any, get_origin

import tyro
import yaml

from unlearner import distributed
from unlearner.config import (
    ALIASES,
    BenchConfig,
    DemoConfig,
    EvaluateConfig,
    FinetuneConfig,
    ForgetConfig,
    ReportConfig,
)
from unlearner.console import console
from unlearner.errors import UserError, did_you_mean

USAGE = """\
unlearner makes a language model forget chosen data, keeps the rest of its abilities, and shows both.

  unlearner demo        watch a tiny built-in model forget: no data, network or GPU needed
  unlearner finetune    teach a model questions and answers, so that there is something to forget
  unlearner forget      forget a forget set, keep a retain set, measure before and after
  unlearner evaluate    measure a model: six metrics, model utility, forget efficacy
  unlearner bench       a scenario of the paper: every method, split and seed, and the table of all
  unlearner report      one page about a run or several: verdict, figures, every answer before and after
  unlearner methods     every unlearning method with its formula
  unlearner metrics     every metric with its formula

`unlearner COMMAND --help` explains a command's options. All of them may stand in a YAML file, `--config run.yaml`;
options on the command line win.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; exit code 0 if all went well, 1 for failed cells of a bench, 2 for what the user can mend."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # imported by peft, it warns of 4-bit kernels
    warnings.simplefilter("ignore", FutureWarning)  # what libraries tell one another's programmers
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
        if config_type is not None:
            command(parse(config_type, rest, f"unlearner {name}"))
        elif rest and rest[0] not in ("-h", "--help"):
            raise UserError(f"unlearner {name} takes no options, so nothing is to follow it: leave out {rest[0]!r}.")
        else:
            command()
        distributed.leave()
    except UserError as error:
        sentence = str(error).replace("\n", " ")  # what a library said may have come along
        distributed.fail(f"error: {sentence}", 2)
    except KeyboardInterrupt:
        distributed.fail(
            "interrupted: what was finished is kept; repeat the same command to go on from there.", 2, "yellow"
        )
    except BrokenPipeError:  # `unlearner methods | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains as it ends
        raise SystemExit(1) from None


def parse(config_type: type, arguments: Sequence[str], program: str) -> Any:
    """A config from command-line arguments, those of a `--config` YAML file first. Raises UserError."""
    known = {_flag(f.name): f for f in fields(config_type)}
    switches = {f"--no-{flag[2:]}" for flag, f in known.items() if f.type is bool}
    if config_type is BenchConfig:
        own = set(known)
        known = {_flag(f.name): f for f in fields(ForgetConfig)} | known
        switches = {f"--no-{flag[2:]}" for flag, f in known.items() if f.type is bool}
    leading = [flag for flag, f in known.items() if "leading" in f.metadata]
    arguments = list(arguments)
    if leading and arguments and not arguments[0].startswith("-"):
        arguments.insert(0, leading[0])
    arguments = [_own_name(argument) for argument in _with_file(known, arguments)]
    for argument in arguments:
        option = argument.partition("=")[0].replace("_", "-")
        if option.startswith("--") and option not in {*known, *switches, "--help"}:
            raise UserError(f"unknown option {option}: {did_you_mean(option, [*known, '--config'])}")
    if config_type is BenchConfig:
        arguments = _in_pairs(arguments, own)
    _check_required(config_type, arguments)
    heard = io.StringIO()
    try:
        with contextlib.redirect_stderr(heard):
            return tyro.cli(config_type, args=arguments, prog=program, description=_teach(config_type, program))
    except SystemExit as ended:
        if not ended.code:
            raise
        raise UserError(_sentence(heard.getvalue())) from None


def _in_pairs(arguments: Sequence[str], own: Container[str]) -> list[str]:
    """Arguments of a bench, all that are not its `own` but belong to single runs as pairs after --options."""
    groups: list[list[str]] = []
    for argument in arguments:
        if argument.startswith("--") or not groups:
            groups.append([*argument.split("=", 1)] if argument.startswith("--") else [argument])
        else:
            groups[-1].append(argument)
    kept: list[str] = []
    pairs: list[str] = []
    for flag, *values in groups:
        name = flag.replace("_", "-")
        if name == "--options":
            pairs += values
        elif name in own or name == "--help":
            kept += [f"{flag}={values[0]}"] if len(values) == 1 else [flag, *values]
        elif name.startswith("--no-") and not values:
            pairs += [name.removeprefix("--no-"), "false"]
        else:
            pairs += [name.removeprefix("--"), " ".join(values) or "true"]
    return [*kept, "--options", *pairs] if pairs else kept


def _teach(config_type: type, program: str) -> str:
    return (
        cleandoc(config_type.__doc__ or "")
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
    "unlearner bench": (
        "\n\nExamples:\n  unlearner bench fictitious --output runs/bench"
        "\n  unlearner bench fictitious --data path/to/tofu --model path/to/model --methods ME+GD GA+GD --lora "
        "--output runs/tofu"
    ),
    "unlearner evaluate": (
        "\n\nExample:\n  unlearner evaluate --model path/to/model --forget forget.jsonl --retain retain.jsonl "
        "--output runs/scores"
    ),
    "unlearner report": (
        "\n\nExample:\n  unlearner report runs/me runs/npo --output compared.html"
        "\n\nThe page opens without a network, in any browser. A run that is not finished is shown as far as it is."
    ),
}


def _with_file(known: Mapping[str, Field[Any]], arguments: list[str]) -> list[str]:
    """Arguments with those of the `--config` file put before them, so that the command line wins."""
    if sum(argument.partition("=")[0] == "--config" for argument in arguments) > 1:
        raise UserError("--config may be given once: put all options into one file.")
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


def _file_arguments(file: Path, known: Mapping[str, Field[Any]]) -> list[str]:
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
        flag = _own_name(_flag(str(key)))
        if flag not in known:
            names = [f.name for f in known.values()]
            raise UserError(f"--config {file}: unknown option {key!r}, {did_you_mean(str(key), names)}")
        option = known[flag]
        if isinstance(value, dict | list) and get_origin(option.type) is not type(value):
            raise UserError(f"--config {file}: {key} takes one value, not {value!r}.")
        if option.type is bool and not isinstance(value, bool):
            raise UserError(f"--config {file}: {key} must be true or false, not {value!r}.")
        if (value is None and option.default in (None, MISSING)) or value in ([], {}):
            continue
        if option.type is bool:
            arguments.append(flag if value else f"--no-{flag[2:]}")
        elif isinstance(value, dict):
            arguments += [flag, *(str(part) for pair in value.items() for part in pair)]
        elif isinstance(value, list):
            arguments += [flag, *map(str, value)]
        else:
            arguments.append(f"{flag}={value}")  # so joined, a value may begin with a dash
    return arguments


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _own_name(argument: str) -> str:
    """An argument with our flag where it has that of transformers."""
    flag, equals, value = argument.partition("=")
    ours = {_flag(theirs): _flag(name) for theirs, name in ALIASES.items()}
    ours |= {f"--no-{theirs[2:]}": f"--no-{name[2:]}" for theirs, name in ours.items()}
    return ours.get(flag.replace("_", "-"), flag) + equals + value if flag.startswith("--") else argument


def _check_required(config_type: type, arguments: Sequence[str]) -> None:
    given = {argument.partition("=")[0].replace("_", "-") for argument in arguments}
    required = [f for f in fields(config_type) if f.default is MISSING and f.default_factory is MISSING]
    missing = [_flag(f.name) for f in required if _flag(f.name) not in given]
    if missing and not given & {"-h", "--help"}:
        raise UserError(f"{' and '.join(missing)} must be given: see --help.")


def _sentence(box: str) -> str:
    """The message inside one of tyro's boxes, in one sentence."""
    # Where the terminal knows no box characters, rules are dashes and the first line, the title, is underlined.
    lines = [line.strip(" │╭╮╰╯") for line in box.splitlines()][1:]
    rules = [not line.strip("─-") and "---" in line.replace("─", "-") for line in lines]
    body = [line for i, line in enumerate(lines) if not any(rules[1 : i + 1]) and not rules[i]]
    text = " ".join(" ".join(body).split()) or box.strip()
    if choice := re.match(r"invalid choice '(.*?)' for argument '(--\S+)'\. Expected one of \((.*?),?\)", text):
        options = [option.strip("' ") for option in choice[3].split(",")]
        return f"{choice[2]} cannot be {choice[1]!r}: {did_you_mean(choice[1], options)}"
    for pattern, sentence in SENTENCES.items():
        if found := re.match(pattern, text):
            return found.expand(sentence)
    return text


SENTENCES = {
    # An optional number is a union to tyro, which tells of every branch.
    r"Error parsing (--\S+): no type matching \{None\}\|INT could be instantiated from \[(.*?)\]": (
        r"\1 must be a whole number, not \2."
    ),
    r"Error parsing (--\S+): no type matching \{None\}\|FLOAT could be instantiated from \[(.*?)\]": (
        r"\1 must be a number, not \2."
    ),
    r"Error parsing (--\S+): invalid literal for int\(\) with base 10: (.*)": r"\1 must be a whole number, not \2.",
    r"Error parsing (--\S+): could not convert string to float: (.*)": r"\1 must be a number, not \2.",
    r"Error parsing (--\S+): Failed to parse key-value pairs": (
        r"\1 takes pairs, our field and your column: \1 question prompt answer reply."
    ),
    r"Missing value for argument '(--\S+)'": r"\1 needs a value: see --help.",
    r"Unrecognized options: (.*)": r"'\1' belongs to no option: every value follows the option it is for, see --help.",
}
"""What tyro says and how we say it."""


# ------------------------------------------------------------------------------------------------------------- commands


def _demo(config: DemoConfig) -> None:
    from unlearner.demo import demo

    demo(config)


def _finetune(config: FinetuneConfig) -> None:
    from unlearner.workflows.fine_tune import finetune

    model = finetune(config).model
    console.print(f"The model is in {model}", markup=False, style="green", soft_wrap=True)
    console.print(
        f"Next: unlearner forget --model {model} --forget ... --retain ... --output ...", markup=False, soft_wrap=True
    )


def _forget(config: ForgetConfig) -> None:
    from unlearner.report import add_report
    from unlearner.tables import print_forget
    from unlearner.workflows.forget import forget

    result = forget(config)
    print_forget(result, config.method, add_report([result.output]) if result.after else None)


def _evaluate(config: EvaluateConfig) -> None:
    from unlearner.tables import print_records, print_summary
    from unlearner.workflows.evaluate import evaluate

    print_summary({Path(config.model).name: evaluate(config).summary})
    print_records(Path(config.output))


def _bench(config: BenchConfig) -> None:
    from unlearner.bench.bench import bench
    from unlearner.tables import print_bench

    result = bench(config)
    print_bench(result)
    if result.failed:
        raise SystemExit(1)


def _report(config: ReportConfig) -> None:
    from unlearner.report import write_report
    from unlearner.tables import print_report

    runs = [Path(run) for run in config.runs]
    beside = runs[0] if len(runs) == 1 else Path()
    print_report(write_report(runs, Path(config.output or beside / "report.html")))


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
    "bench": (BenchConfig, _bench),
    "report": (ReportConfig, _report),
    "methods": (None, _methods),
    "metrics": (None, _metrics),
}

if __name__ == "__main__":
    main()
