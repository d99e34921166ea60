"""`unlearner methods`: every unlearning method with its formula, and all about one."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unlearner.methods import Loss, Method, Surgery

SUMMARY = "every unlearning method with its formula, or all about one"


@dataclass(kw_only=True)
class MethodsConfig:
    """Every unlearning method with its formula, or all about one."""

    method: str | None = field(default=None, metadata={"leading": True})
    """A method, a loss or a surgery, such as NPO+GD, SIMNPO or GRU: its formula, source, needs, costs and defaults."""


OPTIONS = MethodsConfig
EXAMPLE = "unlearner methods SIMNPO+GD"


def run(config: MethodsConfig) -> None:
    """Print the table of all methods, or what is to be known of one."""
    if config.method is None:
        _table()
    else:
        _one(config.method)


def _table() -> None:
    """Every method's parts with formula, kind, needs and source."""
    from rich.markup import escape
    from rich.table import Table

    from unlearner.commands.tables import out
    from unlearner.methods import COMBINED_METHODS, Method, losses, surgeries
    from unlearner.methods.registry import ALIASES, RETAIN_ALIASES
    from unlearner.values import defaults

    console = out()
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("name", "formula", "kind", "needs", "options", "source"):
        table.add_column(heading, overflow="fold")
    for title, role in (("Forget losses", "forget"), ("Retain losses", "retain")):
        table.add_row(f"[bold]{title}[/]")
        for name, loss in losses(role).items():
            needs = ", ".join(_needs(Method(name, loss(), None))) or "–"
            # In formulas brackets are brackets.
            table.add_row(*map(escape, (name, loss.formula, _kind(loss), needs, defaults(loss), loss.source)))
        table.add_row()
    table.add_row("[bold]Both in one[/]")
    for name, (forget, retain) in COMBINED_METHODS.items():
        method = Method.parse(name)
        formula = f"{forget.formula}  with  {retain.formula}"
        table.add_row(*map(escape, (name, formula, _kind(method), ", ".join(_needs(method)), "", retain.source)))
    table.add_row()
    table.add_row("[bold]Surgeries[/]")
    for name, surgery in surgeries().items():
        needs = "retain loss" if surgery.both else "–"
        table.add_row(*map(escape, (name, surgery.formula, "", needs, defaults(surgery), surgery.source)))
    console.print(table)
    console.print(
        "\nA method is FORGET+RETAIN, any of the first with any of the second, or a forget loss alone: NPO+KL, GA.\n"
        "A surgery stands behind them and changes the step: NPO+GD+GRU.\n"
        "The paper's: ME+GD (untargeted), IDK+AP (targeted). Untargeted methods also forget plain text.\n"
        f"Other names: {', '.join(f'{alias} = {name}' for alias, name in (ALIASES | RETAIN_ALIASES).items())}.\n"
        "`unlearner methods NAME` tells what one needs and costs, and where its defaults come from.\n\n"
        "CE: mean negative log-likelihood of labelled tokens; NLL: its sum over a sequence; E: mean over sequences;\n"
        "mean_t: mean over labelled tokens; sg: taken without gradient; g_f, g_r: gradients of the two losses;\n"
        "U: uniform distribution over the vocabulary V; ref: the model before unlearning.",
        markup=False,
    )


def _one(name: str) -> None:
    from unlearner.commands.tables import out
    from unlearner.methods import Method, losses, surgeries
    from unlearner.methods.grids import grid_of
    from unlearner.methods.registry import RETAIN_ALIASES, find

    alone = losses("retain").get(RETAIN_ALIASES.get(name.upper(), name.upper()))
    surgery = surgeries().get(name.upper())
    if surgery is not None:
        lines = [surgery.name, *_about(surgery), "", "costs", *(f"  {each}" for each in _surgery_costs(surgery()))]
    else:
        parts = [alone] if alone is not None else find(name).parts
        method = Method(alone.name, alone(), None) if alone is not None else Method.parse(name)
        needs = _needs(method) or ["the forget set alone"]
        lines = [method.name, *(line for part in parts for line in _about(part))]
        if alone is None:
            axes = grid_of(method.name).items()
            lines += ["", "--tune tries", *(f"  {option} {_values(option, values)}" for option, values in axes)]
        lines += ["", "needs", *(f"  {each}" for each in needs), "", "costs", *(f"  {each}" for each in _costs(method))]
    out().print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def _about(part: "type[Loss] | type[Surgery]") -> list[str]:
    """A loss or a surgery: what it is, its formula, source, options, and where their defaults come from."""
    from unlearner.methods import Loss
    from unlearner.values import defaults

    what = f"surgery (behind the losses: NPO+GD+{part.name})"
    if issubclass(part, Loss):
        what = f"{part.role} loss ({_kind(part)})"
    lines = ["", f"{part.name}, {what}", f"  formula   {part.formula}", f"  source    {part.source}"]
    if options := defaults(part):
        lines += [f"  options   {options}"]
    if part.defaults_from:
        lines += [f"  defaults  {part.defaults_from}"]
    for preset, values in part.presets.items():
        settings = " ".join(f"{option}={_value(value)}" for option, value in values.items())
        only = "" if issubclass(part, Loss) else f" (with {' or '.join(part.published_with)})"
        rate = "" if "learning_rate" in values else " (it names no learning rate)"
        lines += [f"  --preset {preset}{only}: {settings}{rate}"]
    return lines


def _values(option: str, values: "Sequence[Any]") -> str:
    """`0.05, 0.1`; of the learning rate factors: `× 0.5, 1`."""
    told = ", ".join(map(_value, values))
    return f"× {told}" if option == "learning_rate" else told


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _kind(loss: "Loss | type[Loss] | Method") -> str:
    return "targeted" if loss.targeted else "untargeted"


def _needs(method: "Method") -> list[str]:
    needs = []
    if method.needs_retain:
        needs.append("retain set")
    if any("refusal" in view for view in method.needs):
        needs.append("refusals")
    if method.alternates is not None:
        needs.append("other answers to the forget questions: a column alternate_answer, or the model writes them first")
    if method.reference_nll or method.reference_logp:
        needs.append("reference scores, once")
    if method.asked:
        needs.append("reference model")
    return needs


def _costs(method: "Method") -> list[str]:
    """Forward and backward passes and memory, by what the losses say they read."""
    from unlearner.scoring.views import layers_of, reads_output

    views = list(method.needs)
    costs = [f"a step: one forward and one backward pass over {len(views)} rows an item ({', '.join(views)})"]
    if method.surgery is not None:
        costs = _surgery_costs(method.surgery, method)
    if not reads_output(method.needs):
        costs[0] += f", as far as layer {max(layers_of(method.needs))}"
    if method.asked:
        asked = ", ".join(method.asked)
        costs.append(f"a step: one forward pass of the reference, without gradient ({asked})")
        copied = "copies of the weights that are trained" if method.trains else "a second copy of the weights"
        costs.append(f"memory: {copied}; none with --lora")
    if method.reference_nll:
        costs.append(f"once: a forward pass over {', '.join(method.reference_nll)}; a number a row is kept")
    if method.reference_logp:
        costs.append(f"once: a forward pass over {', '.join(method.reference_logp)}; 4 bytes a labelled token are kept")
    if (how := method.alternates) is not None and how.samples:
        costs.append(
            f"once: the model writes {how.samples} answers to every forget question without other answers, each at "
            f"most {how.max_new_tokens} tokens"
        )
    if method.trains:
        costs.append(f"trained: only parameters named {' or '.join(method.trains)}")
    if own := _with_state(method):
        costs.append(f"state: tensors of {', '.join(own)}, kept in checkpoints")
    return costs


def _surgery_costs(surgery: "Surgery", method: "Method | None" = None) -> list[str]:
    """The passes of a step, of a method over which views, and what else is in memory."""
    costs = []
    for role, count in surgery.passes.items():
        loss = None if method is None else getattr(method, role)
        if method is None or loss is not None:
            views = "" if loss is None else f" ({', '.join(loss.needs)})"
            passes = f"{count} forward and backward pass{'es' * (count > 1)}"
            costs.append(f"a step: {passes} over the {role} loss's rows{views}")
    return [*costs, f"memory: {surgery.memory}"]


def _with_state(method: "Method") -> list[str]:
    from unlearner.methods import Loss

    setup: Any = Loss.setup
    return [part.name for part in method.parts if type(part).setup is not setup]
