"""What the server process of `workers` imports once, for every cell that it forks."""

import logging
from contextlib import suppress
from importlib import import_module

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # as in commands/main.py, which does not run here
for name in ("unlearner.bench.cells", "unlearner.evaluation.metrics.rouge", "sentence_transformers", "scipy.stats"):
    with suppress(ImportError):  # an extra; who needs it says so
        import_module(name)
