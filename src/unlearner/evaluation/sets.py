"""From the evaluation sources of a command to evaluation sets (arXiv 2410.08109)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from unlearner.config import EvalSources
from unlearner.console import warn
from unlearner.data.records import Record
from unlearner.data.sources import load_records, select_task
from unlearner.evaluation.examples import EvalSet
from unlearner.options import EvalOptions


def load_sets(
    options: EvalOptions, sources: EvalSources, *, forget: Sequence[Record] = (), retain: Sequence[Record] = ()
) -> list[EvalSet]:
    """The sets to evaluate, those to be kept cut to their first `eval_limit` rows."""
    kept = slice(options.eval_limit)
    sets = []
    if forget:
        sets.append(_made("forget", forget, generation_is_premise=True))
    if retain:
        made = _made("retain", retain[kept], generation_is_premise=options.entailment == "real-world")
        sets.append(replace(made, left_out=len(retain) - len(retain[kept])))
    for name in ("real_authors", "world_facts"):
        source = getattr(sources, name)
        if source is not None:
            records = tuple(load_records(source, sources.eval_columns, name=name))
            left_out = len(records) - len(records[kept])
            sets.append(EvalSet(name, records[kept], short_answers=True, left_out=left_out))
    return sets


def _made(name: str, records: Sequence[Record], *, generation_is_premise: bool) -> EvalSet:
    questions = [record for record in records if record.question is not None]
    if questions:
        if len(questions) < len(records):
            warn(
                f"{len(records) - len(questions)} plain texts of the set {name}, which has questions, are not evaluated"
            )
        return EvalSet(name, tuple(questions), generation_is_premise=generation_is_premise)
    halves = tuple(cut_in_two(record) for record in records)
    return EvalSet(name, halves, generation_is_premise=generation_is_premise, documents=True)


def cut_in_two(document: Record) -> Record:
    """A document as its first half, to be given, and its second, to be continued with: does the model know it by heart?

    The measure of verbatim memory in MUSE (Shi et al. 2024, arXiv 2407.06460). The cut falls before a word.
    """
    text = document.answer
    middle = text.find(" ", len(text) // 2)
    cut = middle if 0 < middle < len(text.rstrip()) else len(text) // 2
    return replace(document, question=text[:cut], answer=text[cut:])


def load_forget(source: Any, columns: Mapping[str, str], task: str | None, *, name: str = "forget") -> list[Record]:
    """A forget set, or its evaluation rows: one task of it where `task` is given. `name` is the option's."""
    records = load_records(source, columns, name=name)
    return records if task is None else select_task(records, task)
