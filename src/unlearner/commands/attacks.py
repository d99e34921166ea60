"""`unlearner attacks`: every attack of an audit with its options."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unlearner.audit.attack import Attack

SUMMARY = "every attack of an audit with its options"
OPTIONS = None
EXAMPLE = ""
QUESTIONS = 40
"""Of the four built-in people; the costs of other numbers are about in proportion."""


def run() -> None:
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
        f"Cost: in plain greedy answers, for {QUESTIONS} forgotten questions and as many of controls.",
        style="dim", soft_wrap=True,
    )  # fmt: skip


def price(attack: "Attack") -> str:
    """What an attack on the unlearned model costs, in plain greedy answers."""
    from unlearner.audit.plan import cost
    from unlearner.audit.questions import Groups

    questions: list[Any] = [None] * QUESTIONS  # they are only counted
    return f"{cost('unlearned', attack, Groups(questions, questions, [], [], [])):,.0f}"
