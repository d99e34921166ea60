"""Which losses and surgeries there are: those of this folder, those of installed packages, and `module:Name` for any
other."""

from collections.abc import Iterable
from difflib import get_close_matches
from functools import cache
from types import ModuleType
from typing import Any, NamedTuple

from unlearner.console import warn
from unlearner.errors import UserError, did_you_mean
from unlearner.methods.altpo import AltPO
from unlearner.methods.ap import AP
from unlearner.methods.base import Loss
from unlearner.methods.circuit_breakers import Hold, Reroute
from unlearner.methods.dpo import DPO
from unlearner.methods.dual_optim import DualOptim
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
from unlearner.methods.projection import BLUR, GRU
from unlearner.methods.rep import REP
from unlearner.methods.rmu import RMU, AdaptiveRMU
from unlearner.methods.sam import SAM
from unlearner.methods.seps import MixedIDK, MixedME
from unlearner.methods.simnpo import SimNPO
from unlearner.methods.surgery import Surgery, is_surgery
from unlearner.methods.tnpo import TNPO, WTNPO
from unlearner.methods.undial import UNDIAL
from unlearner.methods.unlikelihood import CEU, Unilogit, Unlikelihood
from unlearner.methods.wga import WGA, SatImp
from unlearner.plugins import load_object, load_plugins

FORGET_LOSSES: tuple[type[Loss], ...] = (
    *(GA, NPO, ME, DPO, AltPO, IDK),
    *(SimNPO, TNPO, WTNPO, WGA, SatImp, Unlikelihood, CEU, Unilogit, UNDIAL, JensUn, PDU, FLAT),
    *(RMU, AdaptiveRMU, Reroute),
)
RETAIN_LOSSES: tuple[type[Loss], ...] = (
    *(GD, KL, AP),
    *(JS, Dual),
    *(REP, Hold),
)
SURGERY: dict[str, type[Surgery]] = {surgery.name: surgery for surgery in (GRU, BLUR, SAM, DualOptim)}
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
    "CB": "RR",
}
"""OpenUnlearning's names of methods, and ours. Its NPO, SimNPO, ... are ours with +GD. A retain loss that is named
takes the place of the usual one: GRADDIFF+KL is GA+KL."""
NOT_TRAINED = {
    "NEGATE": "it is a command: unlearner negate BASE FINETUNED",
    "REPSELECT": "it is a command: unlearner repselect --model MODEL --forget SOURCE",
}
NOT_TRAINED |= {"TASKVECTOR": NOT_TRAINED["NEGATE"], "TV": NOT_TRAINED["NEGATE"]}
"""What is asked for as a method and is none that trains, and what to do about it."""
RETAIN_ALIASES = {"EMBED_DIFF": "REP", "NLL": "GD"}
"""OpenUnlearning's names of retain losses, and ours."""


class Found(NamedTuple):
    """What a method's name says."""

    name: str
    losses: list[type[Loss]]
    """The forget loss first."""
    surgery: type[Surgery] | None

    @property
    def parts(self) -> "list[type[Loss] | type[Surgery]]":
        """All that has options."""
        return [*self.losses, *([] if self.surgery is None else [self.surgery])]

    @property
    def base(self) -> str:
        """The name without the surgery."""
        return self.name if self.surgery is None else self.name.rpartition("+")[0]


def losses(role: str) -> dict[str, type[Loss]]:
    """All forget or all retain losses by name, those of installed packages behind our own."""
    own = FORGET if role == "forget" else RETAIN
    return own | {
        name: loss
        for name, loss in _plugged_in().items()
        if issubclass(loss, Loss) and loss.role == role and name not in own
    }


def surgeries() -> dict[str, type[Surgery]]:
    """All surgeries by name, those of installed packages behind our own."""
    return {n: surgery for n, surgery in _plugged_in().items() if issubclass(surgery, Surgery)} | SURGERY


def method_names() -> list[str]:
    """Every name that `Method.parse` takes, `module:Name` and surgeries aside."""
    forget, retain = losses("forget"), losses("retain")
    return [*forget, *(f"{f}+{r}" for f in forget for r in retain), *COMBINED_METHODS]


def find(name: str) -> Found:
    """A method's canonical name, its losses and its surgery. Raises UserError with the nearest name."""
    parts = _own_names([part if ":" in part else part.upper() for part in name.split("+")])
    if len(parts) > 1 and parts[1] == "NONE":
        del parts[1]
    whole, surgery = list(parts), None
    if len(parts) > 1 and (surgery := _surgery(parts[-1])):
        parts.pop()
        if len(parts) > 1 and _surgery(parts[-1]):
            raise UserError(f"{parts[-1]} and {whole[-1]} are two surgeries, and a method has one: leave one out.")
    if "+".join(parts) in COMBINED_METHODS:
        return Found("+".join(whole), list(COMBINED_METHODS[parts[0]]), surgery)
    found = []
    for part, role in zip(parts, ("forget", "retain"), strict=False):
        loss = _imported(part, role) if ":" in part else losses(role).get(part)
        if loss is None or len(parts) > 2:
            raise UserError(f"unknown method {name!r}: {_instead(name, part, parts, surgery)}")
        found.append(loss)
    return Found("+".join(whole), found, surgery)


def _own_names(parts: list[str]) -> list[str]:
    """The parts of a name without aliases."""
    first, *rest = parts
    forget, *usual = ALIASES.get(first, first).split("+")
    rest = [RETAIN_ALIASES.get(part, part) for part in rest]
    if usual and (not rest or _surgery(rest[0])):
        rest = [*usual, *rest]
    return [forget, *rest]


def _surgery(part: str) -> type[Surgery] | None:
    """The surgery of this name, `module:Name` too; None for the name of anything else."""
    if ":" not in part:
        return surgeries().get(part)
    thing = load_object(part)
    return thing if is_surgery(thing) else None


def _instead(name: str, part: str, parts: list[str], surgery: type[Surgery] | None) -> str:
    """What to write in the place of a name that is not known, of which `part` is the part in question."""
    alone = surgery is None and len(parts) == 1
    if alone and part in NOT_TRAINED:
        return f"{NOT_TRAINED[part]}."
    if alone and part in losses("retain"):
        return f"it is a retain loss, which comes after a forget loss: NPO+{part}."
    if alone and part in surgeries():
        return f"it is a surgery, which comes after the losses: NPO+GD+{part}."
    single = [*losses("forget"), *losses("retain"), *COMBINED_METHODS, *surgeries()]
    if alone:
        like = single
    elif surgery is not None or len(parts) < 3:
        like = [each if surgery is None else f"{each}+{surgery.name}" for each in method_names()]
    else:  # what is behind two losses can only be a surgery
        like = ["+".join([*parts[:2], each]) for each in surgeries()]
    if get_close_matches(name.upper(), [each.upper() for each in like], n=1, cutoff=0.5):
        return did_you_mean(name, like)
    near = get_close_matches(part.upper(), single, n=5, cutoff=0)
    return f"the nearest are {', '.join(near)}; `unlearner methods` lists all."


def _imported(reference: str, role: str) -> type[Loss]:
    loss = load_object(reference)
    if not _is_loss(loss):
        raise UserError(f"{reference} is not a loss: name a subclass of unlearner.methods.base.Loss.")
    if loss.role != role:
        raise UserError(f"{reference} is a {loss.role} loss: methods are named FORGET+RETAIN.")
    found: type[Loss] = loss
    return found


def _plugged_in() -> "dict[str, type[Loss] | type[Surgery]]":
    """The losses and surgeries of entry points, each one, several, or a module that holds some; by their own names."""
    found: dict[str, type[Loss] | type[Surgery]] = {}
    for point, thing in load_plugins("unlearner.methods").items():
        each = [part for part in _members(thing) if _is_loss(part) or is_surgery(part)]
        if not each:
            _warn_once(f"the plug-in {point} (unlearner.methods) is left out, because it contains no loss")
        found |= {part.name.upper(): part for part in each}
    return found


@cache
def _warn_once(sentence: str) -> None:
    warn(sentence)


def _members(thing: Any) -> Iterable[Any]:
    if isinstance(thing, ModuleType):
        return [each for each in vars(thing).values() if getattr(each, "__module__", None) == thing.__name__]
    return thing if isinstance(thing, Iterable) else [thing]


def _is_loss(thing: Any) -> bool:
    return isinstance(thing, type) and issubclass(thing, Loss)
