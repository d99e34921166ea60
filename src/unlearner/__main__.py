"""`python -m unlearner`, and the program `unlearner`."""

import signal
import sys


def start() -> None:
    """Run the command line; Ctrl-C ends it without a traceback also while its modules are imported."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _nothing_begun)
    from unlearner.commands.main import script

    if signal.getsignal(signal.SIGINT) is _nothing_begun:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    script()


def _nothing_begun(number: int, frame: object) -> None:
    print("interrupted: nothing had begun.", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    start()
