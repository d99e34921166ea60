"""What every process pays at its first command, paid once: by the server that `forked.py` forks from, which imports
this. Nothing here runs a model, whose threads would not be there after a fork."""

import importlib
import io
import pkgutil

import matplotlib.backends.backend_svg
import matplotlib.figure
import peft
import rouge_score.rouge_scorer
import sentence_transformers.models
import torch.distributed.checkpoint.state_dict
import torch.distributed.fsdp
import transformers.models.bert.modeling_bert
import transformers.models.bert.tokenization_bert
import transformers.models.llama.modeling_llama
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

import unlearner

__all__ = ["matplotlib", "peft", "rouge_score", "sentence_transformers", "torch", "transformers"]

for _name in ("audit", "bench", "commands", "evaluation", "prepare", "report", "search", "training", "workflows"):
    _package = importlib.import_module(f"{unlearner.__name__}.{_name}")
    for _module in pkgutil.walk_packages(_package.__path__, f"{_package.__name__}."):
        importlib.import_module(_module.name)
get_checkpoint_conversion_mapping("llama")  # two thousand regular expressions
for _format in ("svg", "png"):
    _figure = matplotlib.figure.Figure()
    _figure.add_subplot().set_title("fonts")
    _figure.savefig(io.BytesIO(), format=_format)
