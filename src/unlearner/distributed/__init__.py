"""Several processes of one run: who is who, what they agree on, and how the end of one is the end of all.

torchrun, `accelerate launch` or a cluster's own starter sets RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE,
MASTER_ADDR and MASTER_PORT. A process without them is alone, and everything here costs it nothing.
"""

from unlearner.distributed.collectives import agreed, any_of, barrier, gathered, make_group, shares
from unlearner.distributed.ranks import count, is_main, local_count, local_rank, rank
from unlearner.distributed.watch import end_by, fail, join, leave, met_by_all

__all__ = [
    "agreed", "any_of", "barrier", "count", "end_by", "fail", "gathered", "is_main", "join", "leave", "local_count",
    "local_rank", "make_group", "met_by_all", "rank", "shares",
]  # fmt: skip
