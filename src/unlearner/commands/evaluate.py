"""`unlearner evaluate`: measure a model: six metrics, model utility, forget efficacy."""

from pathlib import Path

from unlearner.config import EvaluateConfig

SUMMARY = "measure a model: six metrics, model utility, forget efficacy"
OPTIONS = EvaluateConfig
EXAMPLE = """\
Example:
  unlearner evaluate --model path/to/model --forget forget.jsonl --retain retain.jsonl --output runs/scores"""


def run(config: EvaluateConfig) -> None:
    """Measure, and print the table."""
    from unlearner.commands.tables import print_records, print_summary
    from unlearner.workflows.evaluate import evaluate

    print_summary({Path(config.model).name: evaluate(config).summary}, config)
    print_records(Path(config.output))
