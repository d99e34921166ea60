"""What is the whole process's, as a program of a test: `state()` gives it."""

STATE = """
import csv, json, logging, os, random, signal, sys, warnings
from pathlib import Path

# A user's own imports; what they change is theirs.
import accelerate, bitsandbytes, datasets, numpy, peft, scipy.stats, sentence_transformers, torch, transformers
from accelerate.state import AcceleratorState, PartialState
from transformers.utils import logging as transformers_logging

os.environ["UNLEARNER_CACHE"] = str(Path.cwd() / "cache")
users_own = accelerate.Accelerator(cpu=True, mixed_precision="bf16")
torch.set_num_threads(2)


def state():
    return {
        "excepthook": repr(sys.excepthook),
        "signals": [repr(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)],
        "levels": {name: logging.getLogger(name).level for name in LOGGERS},
        "verbosity": transformers_logging.get_verbosity(),
        "bars": transformers_logging.is_progress_bar_enabled(),
        "attention": sorted(transformers.AttentionInterface._global_mapping),
        "masks": sorted(transformers.AttentionMaskInterface._global_mapping),
        "threads": torch.get_num_threads(),
        "dtype": str(torch.get_default_dtype()),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "grad": torch.is_grad_enabled(),
        "csv": csv.field_size_limit(),
        "warnings": [each for each in map(repr, warnings.filters) if "Sparse CSR" not in each],  # scipy's and torch's
        "random": hash(random.getstate()),
        "numpy": hash(numpy.random.get_state()[1].tobytes()),
        "torch": hash(torch.get_rng_state().numpy().tobytes()),
        "accelerate": users_own.mixed_precision,
        "accelerate_state": id(users_own.state._shared_state) == id(AcceleratorState._shared_state),
        "environment": {name: value for name, value in os.environ.items() if not name.startswith("TORCHELASTIC")},
        "folder": os.getcwd(),
        "path": sys.path,
    }


LOGGERS = ["", "transformers", "bitsandbytes", "accelerate", "torch", "peft", "datasets"]
"""
