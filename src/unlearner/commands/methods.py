"""`unlearner methods`: every unlearning method with its formula, and all about one."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from unlearner.methods import Loss, Method, Surgery
    from unlearner.methods.registry import Found

SUMMARY = "list the unlearning methods with their formulas, or describe one"


@dataclass(kw_only=True)
class MethodsConfig:
    """List the unlearning methods with their formulas, or describe one."""

    method: str | None = field(default=None, metadata={"leading": True})
    """A method, a loss or a surgery, such as NPO+GD, SIMNPO or GRU: its formula, source, needs, costs and defaults."""


OPTIONS = MethodsConfig
EXAMPLE = "unlearner methods SIMNPO+GD"


def run(config: MethodsConfig) -> None:
    """Print the table of all methods, or the details of one."""
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
        "\nA method is FORGET+RETAIN, any forget loss with any retain loss, or a forget loss alone: NPO+KL, GA.\n"
        "A surgery comes last and changes the step: NPO+GD+GRU.\n"
        "The paper's: ME+GD (untargeted), IDK+AP (targeted). Untargeted methods also forget plain text.\n"
        "Commands, not methods: negate (task vector), repselect.\n"
        f"Other names: {', '.join(f'{alias} = {name}' for alias, name in (ALIASES | RETAIN_ALIASES).items())}.\n"
        "`unlearner methods NAME` shows what one needs and costs, and where its defaults come from.\n\n"
        "CE: mean negative log-likelihood of labelled tokens; NLL: its sum over a sequence; E: mean over sequences;\n"
        "mean_t: mean over labelled tokens; sg: taken without gradient; g_f, g_r: gradients of the two losses;\n"
        "U: uniform distribution over the vocabulary V; ref: the model before unlearning.",
        markup=False,
    )


NEGATE = """\
negate

negate, a command on weights, which trains nothing (also: taskvector, tv)
  formula   θ_new = θ − α(θ_ft − θ), θ_ft the model fine-tuned on the forget set
  source    Ilharco et al. 2023, arXiv 2212.04089
  options   unlearner negate --help

needs
  the model, and the same model fine-tuned on the forget set, or its LoRA adapter; no retain set

costs
  once: one fine-tuning (unlearner finetune)
  then: each weight is read, changed in float32 and written, one at a time; of an adapter the scale alone

use it
  unlearner finetune --model MODEL --data FORGET --output runs/taught
  unlearner negate MODEL runs/taught/model --alpha 1 --output runs/negated"""
REPSELECT = """\
repselect

repselect, a command on weights, which trains an adapter only to drop it
  formula   W ← W − η·G_filtered, up to a budget of disruption; G = Σ over batches of ∇_W(−NLL(forget)) of each MLP
            matrix, with an adapter on that has learned the forget set; of its leading singular values s, the smallest
            m of them, filtered: m²/s (soft), m⁴/s³ (quadratic), 0 (hard)
  source    arXiv 2606.17168, filyp/RepSelect
  options   unlearner repselect --help
  defaults  the official code's; epochs and the batch size are ours

needs
  the forget set; a retain set, or general text, to measure the disruption on; the family of the model must be known

costs
  once: two forward and backward passes over the forget set, a singular value decomposition of each MLP matrix
  a step: forward passes over the forget set and 300 rows of the retain set, to measure
  memory: one more copy of the MLP weights

use it
  unlearner repselect --model MODEL --forget FORGET --retain RETAIN --output runs/repselect"""
PAGES = {"NEGATE": NEGATE, "TASKVECTOR": NEGATE, "TV": NEGATE, "REPSELECT": REPSELECT}
"""What is to be known of what is asked for as a method and has no loss."""


def _one(name: str) -> None:
    from unlearner.commands.tables import out
    from unlearner.methods import Method, losses, surgeries
    from unlearner.methods.registry import RETAIN_ALIASES, find

    name = name.strip()
    alone = losses("retain").get(RETAIN_ALIASES.get(name.upper(), name.upper()))
    surgery = surgeries().get(name.upper())
    if name.upper() in PAGES:
        lines = [PAGES[name.upper()]]
    elif surgery is not None:
        costs = [f"  {each}" for each in _surgery_costs(surgery())]
        lines = [surgery.name, *_about(surgery), *_own_presets(surgery), "", "costs", *costs]
    elif alone is not None:
        lines = [alone.name, *_about(alone), *_own_presets(alone), *_needs_and_costs(Method(alone.name, alone(), None))]
    else:
        found, method = find(name), Method.parse(name)
        lines = [found.name, *(line for part in found.parts for line in _about(part, _title(part, found)))]
        lines += [*_presets(found), *_tuned(found.name), *_needs_and_costs(method)]
    out().print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def _about(part: "type[Loss] | type[Surgery]", title: str | None = None) -> list[str]:
    """A loss or a surgery: what it is, its formula, source, options, and where their defaults come from."""
    from unlearner.methods import Loss
    from unlearner.values import defaults

    what = f"surgery (after the losses: NPO+GD+{part.name})"
    if issubclass(part, Loss):
        what = f"{part.role} loss ({_kind(part)})"
    options = defaults(part)
    lines = ["", f"{title or part.name}, {what}", f"  formula   {part.formula}", f"  source    {part.source}"]
    lines += [f"  options   {options or 'none'}"]
    if options and part.defaults_from:
        lines += [f"  defaults  {part.defaults_from}"]
    return lines


def _title(part: "type[Loss] | type[Surgery]", found: "Found") -> str:
    """What a part is called: its own name, where that can be given, else the method's whose part it is."""
    from unlearner.methods import COMBINED_METHODS, Loss, losses

    if found.base not in COMBINED_METHODS or not issubclass(part, Loss) or part.name in losses(part.role):
        return part.name
    return f"{found.base}'s own"


def _presets(found: "Found") -> list[str]:
    """The published settings that can be taken with a method, and whose they are; of a loss alone, that lacks the
    options, those of the method to take."""
    from unlearner.methods import COMBINED_METHODS, Surgery
    from unlearner.workflows.presets import PUBLISHED, lacking, method_for, published, published_by

    lines = []
    for preset in PUBLISHED:
        if not (values := published(found, preset)):
            continue
        by, whose = published_by(found, preset), ""
        if lacking(found, preset):
            if len(found.parts) > 1:
                continue
            whose = f" (as {method_for(found, preset)})"
        elif issubclass(by[-1], Surgery):
            whose = f" ({by[-1].name}'s)"
        elif len(found.parts) > 1 and found.base not in COMBINED_METHODS:
            whose = f" ({' and '.join(part.name for part in reversed(by))}'s)"
        lines += [f"  --preset {preset}{whose}: {_settings(values)}"]
    return ["", "presets", *lines] if lines else []


def _own_presets(part: "type[Loss] | type[Surgery]") -> list[str]:
    """The published settings of a retain loss or a surgery by itself."""
    from unlearner.methods import Surgery

    only = f" (with {' or '.join(part.published_with)})" if issubclass(part, Surgery) else ""
    lines = [f"  --preset {preset}{only}: {_settings(values)}" for preset, values in part.presets.items()]
    return ["", "presets", *lines] if lines else []


def _settings(values: "Mapping[str, float | str]") -> str:
    """`learning_rate=1e-05 beta=0.1`, in the order of the presets."""
    rate = "" if "learning_rate" in values else " (without a learning rate)"
    return " ".join(f"{option}={_value(value)}" for option, value in values.items()) + rate


def _tuned(name: str) -> list[str]:
    from unlearner.methods.grids import grid_of

    axes = grid_of(name).items()
    return ["", "--tune tries", *(f"  {option} {_values(option, values)}" for option, values in axes)]


def _needs_and_costs(method: "Method") -> list[str]:
    needs = _needs(method) or ["the forget set alone"]
    return ["", "needs", *(f"  {each}" for each in needs), "", "costs", *(f"  {each}" for each in _costs(method))]


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
        needs.append("other answers to the forget questions: a column alternate_answer, or written by the model first")
    if method.reference_nll or method.reference_logp:
        needs.append("reference scores, once")
    if method.asked:
        needs.append("reference model")
    return needs


def _costs(method: "Method") -> list[str]:
    """Forward and backward passes and memory, by what the losses say they read."""
    from unlearner.scoring.views import layers_of, reads_output

    views = list(method.needs)
    costs = [f"a step: one forward and one backward pass over {len(views)} rows per item ({', '.join(views)})"]
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
        costs.append(f"once: a forward pass over {', '.join(method.reference_nll)}; one number per row is kept")
    if method.reference_logp:
        costs.append(
            f"once: a forward pass over {', '.join(method.reference_logp)}; 4 bytes per labelled token are kept"
        )
    if (how := method.alternates) is not None and how.samples:
        costs.append(
            f"once: the model writes {how.samples} other answers to every forget question without any, each of "
            f"at most {how.max_new_tokens} tokens"
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
