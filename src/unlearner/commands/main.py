"""`unlearner COMMAND ...`: the command is found, its options are read, and an error becomes one sentence."""

import errno
import io
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from unlearner import distributed
from unlearner.commands import completion
from unlearner.commands.parse import parse
from unlearner.console import discard_output
from unlearner.errors import INTERRUPTED, UserError, did_you_mean

LATER_SECONDS = 0.2
"""So long an interrupt waits that came at a bad moment."""

COMMANDS: dict[str, ModuleType] = {**completion.OTHERS, "completion": completion}
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
            "`unlearner COMMAND --help` explains a command's main options, `--help-all` all of them. Options may also",
            "be set in a YAML file, `--config run.yaml`; those on the command line take precedence.",
            "",
        ]
    )


def script() -> None:
    """The command as a program of its own: once it has ended, a signal can only disturb the end of the process."""
    try:
        main()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        # Python remembers a KeyboardInterrupt that has passed through code made of a string, as dataclasses are, and
        # would end by the signal although it was caught. Running other such code makes it forget.
        exec("")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; exit code 0 if all went well, 1 for failed cells of a bench, 2 for what the user can mend."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115 - `>&-`
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that lacks a letter shows its code
            stream.reconfigure(errors="backslashreplace")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # imported by peft, it warns of 4-bit kernels
    warnings.simplefilter("ignore", FutureWarning)  # what libraries tell one another's programmers
    interrupted = _Interrupted()
    try:
        with interrupted:
            run(arguments)
            sys.stdout.flush()
        distributed.leave()
    except UserError as error:
        sentence = str(error).replace("\n", " ")  # what a library said may have come along
        distributed.fail(f"error: {sentence}", 2)
    except KeyboardInterrupt:
        distributed.fail(INTERRUPTED, 2, "yellow")
    except BrokenPipeError:  # `unlearner methods | head`: the reader has seen enough
        discard_output()
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO) or error.filename is not None:
            distributed.end_by(error)
            raise
        discard_output()
        distributed.fail(
            f"error: standard output cannot be written ({error.strerror}); the command's own files are complete.", 2
        )
    except Exception as error:
        if interrupted.pressed:  # a library that was being imported made another error of it
            distributed.fail(INTERRUPTED, 2, "yellow")
        distributed.end_by(error)  # a bug: it keeps its traceback
        raise


def run(arguments: Sequence[str]) -> None:
    """Run the command that `arguments` begin with. Raises UserError."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage(), end="")
        return
    if arguments[0] in ("--version", "-V"):
        from unlearner.version import __version__

        print(f"unlearner {__version__}")
        return
    name, *rest = arguments
    if name not in COMMANDS:
        raise UserError(f"unknown command {name!r}: {did_you_mean(name, COMMANDS)}")
    command = COMMANDS[name]
    if command.OPTIONS is not None:
        command.run(options(name, rest))
    elif rest and rest[0] not in ("-h", "--help", "--help-all"):
        raise UserError(f"unlearner {name} takes no options: leave out {rest[0]!r}.")
    else:
        command.run()


class _Interrupted:
    """Inside, Ctrl-C and SIGTERM are remembered beside the KeyboardInterrupt that they raise. While a library is
    imported or an object destroyed they wait: an exception there may be swallowed or replaced, or abort Python."""

    def __init__(self) -> None:
        self.pressed = False
        self._ended = threading.Event()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number, default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
                if signal.getsignal(number) is default:
                    self._before[number] = signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.pressed = True
        if not _at_a_bad_moment(frame):
            raise KeyboardInterrupt
        threading.Thread(target=self._later, args=(number,), daemon=True).start()

    def _later(self, number: int) -> None:
        if not self._ended.wait(LATER_SECONDS):
            signal.pthread_kill(threading.main_thread().ident or 0, number)  # also out of a call of the system

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for number, before in self._before.items():
            # A signal that came ends the process: a further one is no news.
            signal.signal(number, signal.SIG_IGN if self.pressed else before)


def _at_a_bad_moment(frame: FrameType | None) -> bool:
    """Whether an import, or a destructor, is under way in the command that `frame` belongs to."""
    while frame is not None and frame.f_code is not main.__code__:
        if frame.f_code.co_filename.startswith("<frozen importlib") or frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False


def options(name: str, arguments: Sequence[str]) -> Any:
    """The options of a command from its arguments. Raises UserError."""
    command = COMMANDS[name]
    return parse(command.OPTIONS, arguments, f"unlearner {name}", command.EXAMPLE)


if __name__ == "__main__":
    script()
