"""From the words of a command line and a YAML file to a command's options."""

import contextlib
import difflib
import io
import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import MISSING, Field, fields, replace
from pathlib import Path
from typing import Any, get_origin

import tyro
import yaml

from unlearner.commands.help import show_help
from unlearner.config import TUNE_BUDGET, BenchConfig, ForgetConfig
from unlearner.console import warn
from unlearner.errors import UserError, did_you_mean
from unlearner.option_names import ALIASES, own_name


def parse(config_type: type, arguments: Sequence[str], program: str, example: str = "") -> Any:
    """A config from command-line arguments, those of a `--config` YAML file first. Raises UserError."""
    known = {_flag(f.name): f for f in fields(config_type)}
    switches = {f"--no-{flag[2:]}" for flag, f in known.items() if f.type is bool}
    if config_type is BenchConfig:
        own = set(known)
        known = {_flag(f.name): f for f in fields(ForgetConfig)} | known
        switches = {f"--no-{flag[2:]}" for flag, f in known.items() if f.type is bool}
    leading = [flag for flag, f in known.items() if "leading" in f.metadata]
    arguments = list(arguments)
    if asked := {"-h", "--help", "--help-all"} & set(arguments):
        show_help(config_type, program, example, everything="--help-all" in asked)
    for place, flag in enumerate(leading):
        if len(arguments) <= 2 * place or arguments[2 * place].startswith("-"):
            break
        arguments.insert(2 * place, flag)
    arguments = _joined(arguments, {flag for flag, f in known.items() if "repeat" in f.metadata})
    _warn_of_repeated(arguments)
    arguments = [_own_name(argument) for argument in _with_file(known, arguments)]
    for argument in arguments:
        option = argument.partition("=")[0].replace("_", "-")
        if option.startswith("--") and option not in {*known, *switches}:
            others = ["--" + name.replace("_", "-") for name, ours in ALIASES.items() if _flag(ours) in known]
            names = [*known, *switches, *others, "--config", "--help-all"]
            near = difflib.get_close_matches(option, names, n=1, cutoff=0.7)
            remedy = f"did you mean {near[0]!r}?" if near else f"{program} --help-all names them all."
            raise UserError(f"unknown option {option}: {remedy}")
        if "=" in argument and option in known and known[option].type is bool:
            raise UserError(f"{option} takes no value: write {option}, or --no-{option[2:]}.")
    if config_type is BenchConfig:
        arguments = _in_pairs(arguments, own)
    _check_required(config_type, arguments)
    heard = io.StringIO()
    try:
        with contextlib.redirect_stderr(heard):
            made: Any = tyro.cli(config_type, args=arguments, prog=program)
    except SystemExit as ended:
        if not ended.code:
            raise
        raise UserError(_sentence(heard.getvalue())) from None
    return replace(made, **{f.name: _at_home(getattr(made, f.name)) for f in fields(made)})


def _joined(arguments: Sequence[str], repeated: Container[str]) -> list[str]:
    """`--subject A --subject B` as `--subject A B`."""
    groups: dict[object, list[str]] = {}
    key: object = None
    for place, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if argument.startswith("--"):
            key = flag if flag in repeated else place
            start = [flag, *([value] if equals else [])] if flag in repeated else [argument]
            groups[key] = [*groups[key], *start[1:]] if key in groups else start
        else:
            groups.setdefault(key, []).append(argument)
    return [argument for group in groups.values() for argument in group]


def _warn_of_repeated(arguments: Sequence[str]) -> None:
    given = [argument.partition("=")[0] for argument in arguments if argument.startswith("--")]
    for option in dict.fromkeys(option for option in given if given.count(option) > 1 and option != "--config"):
        warn(f"{option} is given {given.count(option)} times: the last one counts.")


def _at_home(value: Any) -> Any:
    """Paths that begin with `~`, which a shell leaves as it is after a colon or an equals sign, and YAML always."""
    if isinstance(value, list):
        return [_at_home(item) for item in value]
    if isinstance(value, dict):
        return {key: _at_home(item) for key, item in value.items()}
    return str(Path(value).expanduser()) if isinstance(value, str) and value.startswith("~/") else value


class _Loader(yaml.SafeLoader):
    """YAML as ever, but a key that stands twice is an error, not the loss of the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value!r} occurs twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _in_pairs(arguments: Sequence[str], own: Container[str]) -> list[str]:
    """Arguments of a bench, all that are not its `own` but belong to single runs as pairs after --options."""
    groups: list[list[str]] = []
    for argument in arguments:
        if argument.startswith("--") or not groups:
            groups.append([*argument.split("=", 1)] if argument.startswith("--") else [argument])
        else:
            groups[-1].append(argument)
    if ["--tune"] in groups and not any(flag.replace("_", "-") == "--tune-budget" for flag, *_ in groups):
        groups.append(["--tune-budget", TUNE_BUDGET])  # each method's own grid
    kept: list[str] = []
    pairs: list[str] = []
    for flag, *values in groups:
        name = flag.replace("_", "-")
        if name == "--options":
            pairs += values
        elif name in own:
            kept += [f"{flag}={values[0]}"] if len(values) == 1 else [flag, *values]
        elif name.startswith("--no-") and not values:
            pairs += [name.removeprefix("--no-"), "false"]
        else:
            pairs += [name.removeprefix("--"), " ".join(values) or "true"]
    return [*kept, "--options", *pairs] if pairs else kept


def _with_file(known: Mapping[str, Field[Any]], arguments: list[str]) -> list[str]:
    """Arguments with those of the `--config` file put before them, so that the command line wins."""
    if sum(argument.partition("=")[0] == "--config" for argument in arguments) > 1:
        raise UserError("--config may be given only once: put all options into one file.")
    for i, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if option != "--config":
            continue
        if not equals and i + 1 == len(arguments):
            raise UserError("--config needs the name of a YAML file.")
        file = Path(value if equals else arguments[i + 1]).expanduser()
        rest = arguments[:i] + arguments[i + (1 if equals else 2) :]
        return [*_file_arguments(file, known), *rest]
    return arguments


def _file_arguments(file: Path, known: Mapping[str, Field[Any]]) -> list[str]:
    try:
        values = yaml.load(file.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise UserError(f"--config {file} cannot be read ({error.strerror}): check the path.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        if isinstance(error, yaml.MarkedYAMLError) and "twice" in (error.problem or ""):
            raise UserError(f"--config {file}{line}: {error.problem}: leave one out.") from error
        raise UserError(f"--config {file}{line} is not YAML: write one `option: value` per line.") from error
    if not isinstance(values, dict):
        raise UserError(f"--config {file} holds no options: write one `option: value` per line.")
    arguments: list[str] = []
    for key, value in values.items():
        flag = _own_name(_flag(str(key)))
        if flag not in known:
            names = [f.name for f in known.values()]
            raise UserError(f"--config {file}: unknown option {key!r}, {did_you_mean(str(key), names)}")
        option = known[flag]
        if isinstance(value, dict) and option.name.endswith("_options"):
            value = _pairs(value)
        if isinstance(value, dict | list) and get_origin(option.type) is not type(value):
            raise UserError(f"--config {file}: {key} needs one value, not {value!r}.")
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


def _pairs(values: dict[str, Any], within: str = "") -> list[str]:
    """Options in a mapping as the command line has them: NAME=VALUE, of a metric or attack NAME.OPTION=VALUE."""
    found: list[str] = []
    for name, value in values.items():
        if isinstance(value, dict):
            found += _pairs(value, f"{within}{name}.")
        else:
            text = ",".join(map(str, value)) if isinstance(value, list) else value
            found.append(f"{within}{name}={text}")
    return found


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _own_name(argument: str) -> str:
    """An argument with the option's own name where it has another."""
    flag, equals, value = argument.partition("=")
    if not flag.startswith("--"):
        return argument
    prefix, name = ("--no-", flag[5:]) if flag.startswith("--no-") else ("--", flag[2:])
    own = own_name(name)
    return (prefix + own.replace("_", "-") if own != name.replace("-", "_") else flag) + equals + value


def _check_required(config_type: type, arguments: Sequence[str]) -> None:
    given = {argument.partition("=")[0].replace("_", "-") for argument in arguments}
    required = [f for f in fields(config_type) if f.default is MISSING and f.default_factory is MISSING]
    missing = [_flag(f.name) for f in required if _flag(f.name) not in given]
    if missing:
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
    r"Error parsing (--note): Failed to parse key-value pairs": (
        r"\1 needs pairs: \1 operator 'A. Smith' request 17/2026."
    ),
    r"Error parsing (--\S+): Failed to parse key-value pairs": (
        r"\1 needs pairs, our field and your column: \1 question prompt answer reply."
    ),
    r"Missing value for argument '(--\S+)'": r"\1 needs a value: see --help.",
    r"Unrecognized options: (.*)": r"'\1' belongs to no option: put every value after its option, see --help.",
}
"""What tyro says and how we say it."""
