"""`python -m unlearner`, and the program `unlearner`."""

import os
import signal
import sys

from unlearner.errors import INTERRUPTED


def start() -> None:
    """Run the command line; Ctrl-C ends it without a traceback also while its modules are imported."""
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, _end)
    from unlearner.commands.main import script

    try:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        script()
    except KeyboardInterrupt:  # before `script` looks after that itself
        _end()


def _end(*_: object) -> None:
    print(INTERRUPTED, file=sys.stderr, flush=True)
    os._exit(2)  # nothing has begun; an exception would have to pass through whatever is being imported


if __name__ == "__main__":
    start()
