"""Which of several processes this one is, as torchrun, `accelerate launch` or a cluster's own starter says."""

import os
import socket


def rank() -> int:
    return int(os.environ.get("RANK", 0))


def count() -> int:
    return int(os.environ.get("WORLD_SIZE", 1))


def local_rank() -> int:
    """The place among the processes of this machine; it is the number of the GPU too."""
    return int(os.environ.get("LOCAL_RANK", 0))


def local_count() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def is_main() -> bool:
    """Whether this is the process that writes and speaks."""
    return rank() == 0


def full_name() -> str:
    """This process as messages call it."""
    return f"rank {rank()} ({socket.gethostname()})"
