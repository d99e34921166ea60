"""From the evaluation sources of a command to evaluation sets (PAPER section 5)."""

from collections.abc import Mapping, Sequence

from unlearner.config import EvalOptions, EvalSources
from unlearner.data.records import Record
from unlearner.data.sources import load_records, select_task
from unlearner.evaluation.examples import EvalSet


def load_sets(
    options: EvalOptions, sources: EvalSources, *, forget: Sequence[Record] = (), retain: Sequence[Record] = ()
) -> list[EvalSet]:
    """The sets to evaluate, those to be kept cut to their first `eval_limit` rows."""
    kept = slice(options.eval_limit)
    sets = []
    if forget:
        sets.append(EvalSet("forget", tuple(forget), generation_is_premise=True))
    if retain:
        premise = options.entailment == "real-world"
        sets.append(EvalSet("retain", tuple(retain)[kept], generation_is_premise=premise))
    for name in ("real_authors", "world_facts"):
        source = getattr(sources, name)
        if source is not None:
            records = load_records(source, sources.eval_columns)
            sets.append(EvalSet(name, tuple(records)[kept], short_answers=True))
    return sets


def load_forget(source: str, columns: Mapping[str, str], task: str | None) -> list[Record]:
    """A forget set, or its evaluation rows: one task of it where `task` is given."""
    records = load_records(source, columns)
    return records if task is None else select_task(records, task)
