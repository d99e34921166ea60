"""Which losses there are: those of this folder, those of installed packages, and `module:Name` for any other."""

from collections.abc import Iterable
from types import ModuleType
from typing import Any

from unlearner.console import warn
from unlearner.errors import UserError, did_you_mean
from unlearner.methods.ap import AP
from unlearner.methods.base import Loss
from unlearner.methods.circuit_breakers import Hold, Reroute
from unlearner.methods.dpo import DPO
from unlearner.methods.flat import FLAT
from unlearner.methods.ga import GA
from unlearner.methods.gd import GD
from unlearner.methods.idk import IDK
from unlearner.methods.jensun import JS, JensUn
from unlearner.methods.kl import KL
from unlearner.methods.llmu import Mismatch
from unlearner.methods.me import ME
from unlearner.methods.npo import NPO
from unlearner.methods.pdu import PDU, Dual
from unlearner.methods.rep import REP
from unlearner.methods.rmu import RMU, AdaptiveRMU
from unlearner.methods.seps import MixedIDK, MixedME
from unlearner.methods.simnpo import SimNPO
from unlearner.methods.tnpo import TNPO, WTNPO
from unlearner.methods.undial import UNDIAL
from unlearner.methods.unlikelihood import CEU, Unilogit, Unlikelihood
from unlearner.methods.wga import WGA, SatImp
from unlearner.plugins import load_object, load_plugins

FORGET_LOSSES: tuple[type[Loss], ...] = (
    *(GA, NPO, ME, DPO, IDK),
    *(SimNPO, TNPO, WTNPO, WGA, SatImp, Unlikelihood, CEU, Unilogit, UNDIAL, JensUn, PDU, FLAT),
    *(RMU, AdaptiveRMU, Reroute),
)
RETAIN_LOSSES: tuple[type[Loss], ...] = (
    *(GD, KL, AP),
    *(JS, Dual),
    *(REP, Hold),
)
FORGET: dict[str, type[Loss]] = {loss.name: loss for loss in FORGET_LOSSES}
RETAIN: dict[str, type[Loss]] = {loss.name: loss for loss in RETAIN_LOSSES}
COMBINED_METHODS: dict[str, tuple[type[Loss], type[Loss]]] = {
    "LLMU": (GA, Mismatch),
    "RR": (Reroute, Hold),
    "MP-ME": (ME, MixedME),
    "MP-IDK": (IDK, MixedIDK),
}
"""Methods of two losses with one name."""


ALIASES = {
    "GRADASCENT": "GA",
    "GRADDIFF": "GA+GD",
    "IDKNLL": "IDK+GD",
    "IDKDPO": "DPO+GD",
    "UNLIKELIHOOD": "UL",
}
"""OpenUnlearning's names of methods, and ours. Its NPO, SimNPO, ... are ours with +GD."""


def losses(role: str) -> dict[str, type[Loss]]:
    """All forget or all retain losses by name, those of installed packages behind our own."""
    own = FORGET if role == "forget" else RETAIN
    return own | {name: loss for name, loss in _plugged_in().items() if loss.role == role and name not in own}


def method_names() -> list[str]:
    """Every name that `Method.parse` takes, `module:Name` aside."""
    forget, retain = losses("forget"), losses("retain")
    return [*forget, *(f"{f}+{r}" for f in forget for r in retain), *COMBINED_METHODS]


def find(name: str) -> tuple[str, list[type[Loss]]]:
    """A method's canonical name and its losses, the forget loss first. Raises UserError with the nearest name."""
    parts = [part if ":" in part else part.upper() for part in name.split("+")]
    if len(parts) == 2 and parts[1] == "NONE":
        del parts[1]
    canonical = "+".join(parts)
    if canonical in ALIASES:
        return find(ALIASES[canonical])
    if canonical in COMBINED_METHODS:
        return canonical, list(COMBINED_METHODS[canonical])
    found = []
    for part, role in zip(parts, ("forget", "retain"), strict=False):
        loss = _imported(part, role) if ":" in part else losses(role).get(part)
        if loss is None or len(parts) > 2:
            raise UserError(f"unknown method {name!r}: {did_you_mean(name, method_names())}")
        found.append(loss)
    return canonical, found


def _imported(reference: str, role: str) -> type[Loss]:
    loss = load_object(reference)
    if not _is_loss(loss):
        raise UserError(f"{reference} is no loss: name a subclass of unlearner.methods.base.Loss.")
    if loss.role != role:
        raise UserError(f"{reference} is a {loss.role} loss: methods are named FORGET+RETAIN.")
    found: type[Loss] = loss
    return found


def _plugged_in() -> dict[str, type[Loss]]:
    """The losses of entry points, each a loss, several, or a module that holds some; by the losses' own names."""
    found: dict[str, type[Loss]] = {}
    for point, thing in load_plugins("unlearner.methods").items():
        each = [loss for loss in _members(thing) if _is_loss(loss)]
        if not each:
            warn(f"the plug-in {point} (unlearner.methods) is left out, because it holds no loss")
        found |= {loss.name.upper(): loss for loss in each}
    return found


def _members(thing: Any) -> Iterable[Any]:
    if isinstance(thing, ModuleType):
        return [each for each in vars(thing).values() if getattr(each, "__module__", None) == thing.__name__]
    return thing if isinstance(thing, Iterable) else [thing]


def _is_loss(thing: Any) -> bool:
    return isinstance(thing, type) and issubclass(thing, Loss)
