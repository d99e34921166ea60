"""The work that baseline and `unlearner` both do: texts, a tiny Llama, tokens, pairs."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unlearner.data.prompts import TEMPLATES
from unlearner.data.records import Record
from unlearner.data.refusals import load_refusals
from unlearner.data.sources import load_records
from unlearner.evaluation.examples import EvalSet
from unlearner.modeling.new import new_model

MODEL = "new:"+os.environ.get("SPEC","hidden=192,layers=5,heads=4,vocabulary=4096")
TEMPLATE = TEMPLATES["llama2"]
SHARED_TOFU = Path(__file__).resolve().parents[2] / "shared" / "data" / "tofu"
BUILTIN_PEOPLE = "people=80,forget=4"
SHORT_SETS = ("real_authors", "world_facts")


@dataclass(frozen=True)
class Texts:
    """What is forgotten, kept and evaluated."""

    name: str
    forget: list[Record]
    retain: list[Record]
    refusals: list[str]
    forget_eval: list[Record]
    retain_eval: list[Record]
    real_authors: list[Record]
    world_facts: list[Record]

    def sets(self, rows: int) -> list[EvalSet]:
        """The four evaluation sets, `rows` of each."""
        return [
            EvalSet("forget", tuple(self.forget_eval[:rows]), generation_is_premise=True),
            EvalSet("retain", tuple(self.retain_eval[:rows])),
            EvalSet("real_authors", tuple(self.real_authors[:rows]), short_answers=True),
            EvalSet("world_facts", tuple(self.world_facts[:rows]), short_answers=True),
        ]


def load_texts(tofu: Path | None) -> Texts:
    """TOFU's forget01 (its first task, 40 rows) and retain90, or built-in rows of like numbers where TOFU is not here."""
    tofu = SHARED_TOFU if tofu is None else tofu
    refusals = load_refusals(None)
    if tofu.is_dir():
        read = {
            "forget": "forget01[:40]", "retain": "retain90", "forget_eval": "forget01_perturbed[:40]",
            "retain_eval": "retain_perturbed[:300]", "real_authors": "real_authors_perturbed",
            "world_facts": "world_facts_perturbed",
        }  # fmt: skip
        sets = {name: load_records(f"{tofu}:{source}") for name, source in read.items()}
        return Texts("TOFU forget01", refusals=refusals, **sets)
    forget = load_records(f"builtin:forget:{BUILTIN_PEOPLE}")
    retain = load_records(f"builtin:retain:{BUILTIN_PEOPLE}")
    neighbours, facts = load_records("builtin:neighbours"), load_records("builtin:world_facts")
    return Texts("built-in people (no TOFU here)", forget, retain, refusals, forget, retain[:300], neighbours, facts)


def tiny_model(texts: Texts) -> tuple[Any, Any]:
    """An untrained Llama of 3 to 4 million parameters and its tokenizer, learned from the texts."""
    rows = (*texts.forget, *texts.retain)
    return new_model(MODEL, [f"{r.question}\n {r.answer}" for r in rows], seed=0)
