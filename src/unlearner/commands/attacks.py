"""`unlearner attacks`: list the attacks of an audit with their options, or describe one."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unlearner.audit.attack import Attack

SUMMARY = "list the attacks of an audit with their options, or describe one"
QUESTIONS = 40
"""Of the four built-in people; the costs of other numbers are about in proportion."""


@dataclass(kw_only=True)
class AttacksConfig:
    """List the attacks of an audit with their options, or describe one."""

    attack: str | None = field(default=None, metadata={"leading": True})
    """An attack by name, or module:Name: what it needs and costs, its options and source."""


OPTIONS = AttacksConfig
EXAMPLE = "unlearner attacks relearning"


def run(config: AttacksConfig) -> None:
    """Print the table of all attacks, or the details of one."""
    if config.attack is None:
        _table()
    else:
        _one(config.attack)


def _table() -> None:
    """Every attack, of ours and of installed packages, with what it needs and costs, its options and source."""
    from rich.table import Table

    from unlearner.audit.attacks import attacks, find_attack
    from unlearner.commands.tables import out
    from unlearner.plugins import load_plugins
    from unlearner.values import defaults

    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("name", "what it is", "needs", "cost", "options", "source"):
        table.add_column(heading, overflow="fold")
    for name in [*attacks(), *load_plugins("unlearner.attacks")]:
        attack = find_attack(name)
        table.add_row(name, attack.title, attack.access, price(attack), defaults(attack), attack.source)
    out().print(table)
    out().print(
        f"Cost: in plain greedy answers, for {QUESTIONS} forgotten questions and as many about controls. "
        "`unlearner attacks NAME` describes one attack.",
        style="dim", soft_wrap=True,
    )  # fmt: skip


def _one(name: str) -> None:
    from unlearner.audit.attacks import find_attack
    from unlearner.commands.tables import out
    from unlearner.values import defaults

    attack = find_attack(name)
    costs = {
        "plain answers": "answers", "further samples": "samples", "questions scored": "scored",
        "rows trained on (a forward and a backward pass each)": "rows", "trainings begun": "trainings",
    }  # fmt: skip
    asked = attack.cost({"forget": QUESTIONS, "control": QUESTIONS})
    lines = [f"{attack.label}, {attack.title}", f"  needs    {attack.access}", f"  source   {attack.source}"]
    lines += [f"  asks of  {attack.asks_of}"] if attack.asks_of else []
    lines += [f"  options  {options}"] if (options := defaults(attack)) else []
    lines += [f"  chance   {attack.chance:.0%}"] if attack.chance else []
    lines += ["", f"costs, for {QUESTIONS} forgotten questions and as many about controls"]
    lines += [f"  {getattr(asked, key):,.0f} {what}" for what, key in costs.items() if getattr(asked, key)]
    lines += [f"  in total about {price(attack)} plain greedy answers"]
    out().print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def price(attack: "Attack") -> str:
    """What an attack on the unlearned model costs, in plain greedy answers."""
    from unlearner.audit.plan import cost
    from unlearner.audit.questions import Groups

    questions: list[Any] = [None] * QUESTIONS  # they are only counted
    return f"{cost('unlearned', attack, Groups(questions, questions, [], [], [])):,.0f}"
