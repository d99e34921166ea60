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
    from unlearner.evaluation.evaluate import evaluate
    from unlearner.training.builtin import resolve_model

    print_summary({Path(config.model).name: evaluate(config, path=resolve_model(config.model))})
    print_records(Path(config.output))
