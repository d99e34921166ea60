"""`unlearner methods`: every unlearning method with its formula."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unlearner.methods import Method

SUMMARY = "every unlearning method with its formula"
OPTIONS = None
EXAMPLE = ""


def run() -> None:
    """Every method's parts with formula, kind, needs and source."""
    from rich.table import Table

    from unlearner.commands.tables import out
    from unlearner.methods import COMBINED_METHODS, Method, losses
    from unlearner.methods.options import defaults

    console = out()
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("name", "formula", "kind", "needs", "options", "source"):
        table.add_column(heading, overflow="fold")
    for title, role in (("Forget losses", "forget"), ("Retain losses", "retain")):
        table.add_row(f"[bold]{title}[/]")
        for name, loss in losses(role).items():
            table.add_row(
                name,
                loss.formula,
                "targeted" if loss.targeted else "untargeted",
                _needs(Method(name, loss(), None)),
                defaults(loss),
                loss.source,
            )
        table.add_row()
    table.add_row("[bold]Both in one[/]")
    for name, (forget, retain) in COMBINED_METHODS.items():
        method = Method.parse(name)
        kind = "targeted" if method.targeted else "untargeted"
        table.add_row(name, f"{forget.formula}  with  {retain.formula}", kind, _needs(method), "", retain.source)
    console.print(table)
    console.print(
        "\nA method is FORGET+RETAIN, any of the first with any of the second, or a forget loss alone: NPO+KL, GA.\n"
        "The paper's: ME+GD (untargeted), IDK+AP (targeted). Untargeted methods also forget plain text.\n"
        "CE: mean negative log-likelihood of labelled tokens; NLL: its sum over a sequence; E: mean over sequences;\n"
        "U: uniform distribution over the vocabulary V; ref: the model before unlearning.",
        markup=False,
    )


def _needs(method: "Method") -> str:
    needs = []
    if method.needs_retain:
        needs.append("retain set")
    if any("refusal" in view for view in method.needs):
        needs.append("refusals")
    if method.reference_nll:
        needs.append("reference scores, once")
    if method.asked:
        needs.append("reference model")
    return ", ".join(needs) or "–"
