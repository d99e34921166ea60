"""The work that baseline and `unlearner` both do: the same texts, the same tiny Llama, the same tokens and pairs."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unlearner.config import FinetuneConfig
from unlearner.data.prompts import TEMPLATES
from unlearner.data.records import Record
from unlearner.data.refusals import load_refusals
from unlearner.data.sources import load_records
from unlearner.evaluation.examples import EvalSet
from unlearner.files import cache_directory
from unlearner.models.load import load_model, load_tokenizer
from unlearner.models.new import new_model
from unlearner.training.setup import make_accelerator
from unlearner.workflows.fine_tune import fine_tune, lessons_of
from unlearner.workflows.subject import Subject

MODEL = "new:hidden=192,layers=5,heads=4,vocabulary=4096"
"""3.8 M parameters. Its vocabulary is 21 times its hidden size (Llama-2-7B: 8, Llama-3-8B: 31, Llama-3.2-1B: 63), and
with it TOFU's rows are 70 tokens long on average, near what they are for the large models' tokenizers."""
TEMPLATE = TEMPLATES["llama2"]
SHARED_TOFU = Path(__file__).resolve().parents[2] / "shared" / "data" / "tofu"
BUILTIN_PEOPLE = "people=80,forget=4"


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
    """TOFU's forget01 (its first task, 40 rows) and retain90; built-in rows, as many, where TOFU is not here."""
    tofu = SHARED_TOFU if tofu is None else tofu
    refusals = load_refusals(None)
    if tofu.is_dir():
        sources = {
            "forget": "forget01[:40]", "retain": "retain90", "forget_eval": "forget01_perturbed[:40]",
            "retain_eval": "retain_perturbed[:300]", "real_authors": "real_authors_perturbed",
            "world_facts": "world_facts_perturbed",
        }  # fmt: skip
        rows = {name: load_records(f"{tofu}:{source}") for name, source in sources.items()}
        return Texts("TOFU forget01", refusals=refusals, **rows)
    print("TOFU is not here (../shared/data/tofu is no folder, see --tofu): built-in rows stand in for it", flush=True)
    forget = load_records(f"builtin:forget:{BUILTIN_PEOPLE}")
    retain = load_records(f"builtin:retain:{BUILTIN_PEOPLE}")
    neighbours, facts = load_records("builtin:neighbours"), load_records("builtin:world_facts")
    return Texts(
        "built-in people (TOFU is not here)", forget, retain, refusals, forget, retain[:300], neighbours, facts
    )


def taught_model(texts: Texts) -> tuple[Any, Any]:
    """A tiny Llama that has learned to answer, badly, and its tokenizer; made once and kept in the cache."""
    key = hashlib.sha256(repr((MODEL, texts)).encode()).hexdigest()[:16]
    folder = cache_directory() / "benchmarks" / key
    if not (folder / "model" / "config.json").is_file():
        print(f"teaching a tiny Llama, once; it is kept in {folder}", flush=True)
        rows = [*texts.forget, *texts.retain[:100]]
        rows += [row for eval_set in texts.sets(60)[1:] for row in eval_set.records]
        everything = (f"{r.question}\n {r.answer}" for r in (*texts.forget, *texts.retain))
        model, tokenizer = new_model(MODEL, everything, seed=0)
        subject = Subject(model, tokenizer, TEMPLATE, None)
        options = FinetuneConfig(
            model="", data=[], output=str(folder), learning_rate=2e-3, epochs=8, batch_size=16,
            gradient_accumulation_steps=1, max_length=500, seed=0,
        )  # fmt: skip
        lessons = lessons_of(subject, rows, options)
        options = replace(options, save_steps=lessons.plan.steps)
        folder.mkdir(parents=True, exist_ok=True)
        fine_tune(
            subject, lessons, options, accelerator=make_accelerator(options), folder=folder, made=folder / "model"
        )  # fmt: skip
    return load_model(str(folder / "model")), load_tokenizer(str(folder / "model"))
