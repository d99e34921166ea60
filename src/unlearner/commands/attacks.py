"""`unlearner attacks`: every attack of an audit with its options."""

SUMMARY = "every attack of an audit with its options"
OPTIONS = None
EXAMPLE = ""


def run() -> None:
    """Every attack, of ours and of installed packages, with what the attacker must have, its options and source."""
    from rich.table import Table

    from unlearner.audit.attacks import attacks, find_attack
    from unlearner.commands.tables import out
    from unlearner.plugins import load_plugins
    from unlearner.values import defaults

    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("name", "what it is", "needs", "options", "source"):
        table.add_column(heading, overflow="fold")
    for name in [*attacks(), *load_plugins("unlearner.attacks")]:
        attack = find_attack(name)
        table.add_row(name, attack.title, attack.access, defaults(attack), attack.source)
    out().print(table)
