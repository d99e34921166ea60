"""`builtin:NAME` as a source: the invented people and world facts, with their options, and general knowledge."""

import inspect

from unlearner.data.general import general_knowledge
from unlearner.data.records import Record
from unlearner.errors import UserError, did_you_mean


def read_builtin(spec: str) -> list[Record]:
    """The records of `builtin:SPEC`. Raises UserError for an unknown set or option."""
    from unlearner.data.profiles import builtin

    if spec == "general_knowledge":
        return list(general_knowledge())
    name, _, options = spec.partition(":")
    known = [option for option in inspect.signature(builtin).parameters if option != "name"]
    chosen: dict[str, int] = {}
    for option in filter(None, options.split(",")):
        key, _, value = option.partition("=")
        if key not in known:
            raise UserError(f"builtin:{spec}: there is no option {key!r}; {did_you_mean(key, known)}")
        try:
            chosen[key] = int(value)
        except ValueError:
            raise UserError(f"builtin:{spec}: {key} must be a whole number, as in {key}=10, not {value!r}.") from None
    return builtin(name, **chosen)
