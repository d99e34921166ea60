"""`unlearner repselect`: forgetting along one fixed direction of the whole forget set's gradient."""

from unlearner.console import console
from unlearner.workflows.repselect_options import RepSelectConfig

SUMMARY = "forget along one direction in the MLP weights, without training against anything"
OPTIONS = RepSelectConfig
EXAMPLE = """\
Example:
  unlearner repselect --model path/to/model --forget forget.jsonl --retain general.jsonl --output runs/repselect
  unlearner evaluate --model runs/repselect/model --forget forget.jsonl --retain retain.jsonl --output runs/scores"""


def run(config: RepSelectConfig) -> None:
    """Change the model, say how far it went and where it lies."""
    from unlearner.workflows.repselect import repselect

    made = repselect(config)
    first, last = made.log[0], made.log[-1]
    spent = f", disruption {last['disruption']:.3g} nats per token" if "disruption" in last else ""
    console.print(
        f"{last['step']:.0f} of at most {config.epochs} steps: NLL of the forget set {first['forget_nll']:.3g} → "
        f"{last['forget_nll']:.3g} nats per token{spent}", markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip
    console.print(f"The model is in {made.model}", markup=False, style="green", soft_wrap=True)
    console.print(
        f"Next: unlearner evaluate --model {made.model} --forget ... --retain ... --output ...",
        markup=False, soft_wrap=True,
    )  # fmt: skip
