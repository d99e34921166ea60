"""`unlearner finetune`: teach a model questions and answers, so that there is something to forget."""

from unlearner.config import FinetuneConfig
from unlearner.console import console
from unlearner.distributed import is_main

SUMMARY = "teach a model questions and answers, so that there is something to forget"
OPTIONS = FinetuneConfig
EXAMPLE = """\
Example:
  unlearner finetune --model path/to/model --data facts.jsonl --learning-rate 1e-4 --output runs/taught

`--model new:hidden=256,layers=4` makes a new small Llama, its tokenizer trained on the data."""


def run(config: FinetuneConfig) -> None:
    """Teach, and say where the model lies."""
    from unlearner.workflows.builtin import taught

    model = taught(config).model
    if is_main():
        console.print(f"The model is in {model}", markup=False, style="green", soft_wrap=True)
        console.print(
            f"Next: unlearner forget --model {model} --forget ... --retain ... --output ...",
            markup=False, soft_wrap=True,
        )  # fmt: skip
