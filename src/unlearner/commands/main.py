"""`unlearner COMMAND ...`: the command is found, its options are read, and an error becomes one sentence."""

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from unlearner import distributed
from unlearner.commands import bench, demo, evaluate, finetune, forget, methods, metrics, report
from unlearner.commands.parse import parse
from unlearner.errors import UserError, did_you_mean

COMMANDS: dict[str, ModuleType] = {
    module.__name__.rpartition(".")[2]: module
    for module in (demo, finetune, forget, evaluate, bench, report, methods, metrics)
}
"""Every command by name. A module has `SUMMARY`, `OPTIONS` (a dataclass, or None), `EXAMPLE` and `run`."""


def usage() -> str:
    """What `unlearner` alone prints."""
    lines = [f"  unlearner {name:<12}{module.SUMMARY}" for name, module in COMMANDS.items()]
    return "\n".join(
        [
            "unlearner makes a language model forget chosen data, keeps the rest of its abilities, and shows both.",
            "",
            *lines,
            "",
            "`unlearner COMMAND --help` explains a command's options. All of them may stand in a YAML file, "
            "`--config run.yaml`;",
            "options on the command line win.",
            "",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; exit code 0 if all went well, 1 for failed cells of a bench, 2 for what the user can mend."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # imported by peft, it warns of 4-bit kernels
    warnings.simplefilter("ignore", FutureWarning)  # what libraries tell one another's programmers
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage(), end="")
        return
    if arguments[0] in ("--version", "-V"):
        from unlearner import __version__

        print(f"unlearner {__version__}")
        return
    try:
        name, *rest = arguments
        if name not in COMMANDS:
            raise UserError(f"unknown command {name!r}: {did_you_mean(name, COMMANDS)}")
        command = COMMANDS[name]
        if command.OPTIONS is not None:
            command.run(options(name, rest))
        elif rest and rest[0] not in ("-h", "--help"):
            raise UserError(f"unlearner {name} takes no options, so nothing is to follow it: leave out {rest[0]!r}.")
        else:
            command.run()
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
    except Exception as error:  # a bug: it keeps its traceback
        distributed.end_by(error)
        raise


def options(name: str, arguments: Sequence[str]) -> Any:
    """The options of a command from its arguments. Raises UserError."""
    command = COMMANDS[name]
    return parse(command.OPTIONS, arguments, f"unlearner {name}", command.EXAMPLE)


if __name__ == "__main__":
    main()
