"""`python -m unlearner`, and the program `unlearner`."""

import signal
import sys

from unlearner.errors import INTERRUPTED


def start() -> None:
    """Run the command line; Ctrl-C ends it without a traceback also while its modules are imported."""
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, _end)
    from unlearner.commands.main import script

    if ours:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    script()


def _end(number: int, frame: object) -> None:
    print(INTERRUPTED, file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    start()
