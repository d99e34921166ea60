"""`unlearner negate`: forgetting by arithmetic on weights, without training against anything."""

from unlearner.config import NegateConfig
from unlearner.console import console

SUMMARY = "forget by subtracting from a model's weights what fine-tuning added"
OPTIONS = NegateConfig
EXAMPLE = """\
Example:
  unlearner finetune --model path/to/model --data forget.jsonl --learning-rate 1e-4 --epochs 10 --output runs/taught
  unlearner negate path/to/model runs/taught/model --alpha 1 --output runs/negated
  unlearner evaluate --model runs/negated/model --forget forget.jsonl --retain retain.jsonl --output runs/scores"""


def run(config: NegateConfig) -> None:
    """Negate, and say where the model lies."""
    from unlearner.workflows.negate import negate

    model = negate(config).model
    console.print(f"The model is in {model}", markup=False, style="green", soft_wrap=True)
    console.print(
        f"Next: unlearner evaluate --model {model} --forget ... --retain ... --output ...", markup=False, soft_wrap=True
    )
