"""`unlearner demo --real`: SmolLM2-135M-Instruct, a real language model, forgets a subject that it knows."""

import math
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from unlearner.config import DemoConfig, ForgetConfig, PrepareConfig

if TYPE_CHECKING:
    from rich.table import Table

    from unlearner.workflows.forget import ForgetResult

SUBJECT = "William Shakespeare"
ALIASES = ["Shakespeare"]
METRICS = ["rouge", "probability"]


def preparation(options: DemoConfig) -> PrepareConfig:
    """What is forgotten, kept and measured."""
    return PrepareConfig(
        model="builtin:smollm2", subject=SUBJECT, alias=ALIASES, kind="author", seed=options.seed,
        output=str(Path(options.output) / "data"), general_count=90, samples=0,
    )  # fmt: skip


def config(options: DemoConfig) -> ForgetConfig:
    """The `unlearner forget` options of the demo."""
    data = Path(options.output) / "data"
    return ForgetConfig(
        model="builtin:smollm2", forget=f"{data}:forget", retain=f"{data}:retain", method="ME+GD",
        forget_eval=f"{data}:subject", retain_eval=f"{data}:neighbours_held_out",
        world_facts=f"{data}:general_held_out", metrics=METRICS, judge=options.judge, seed=options.seed,
        output=str(Path(options.output) / "ME+GD"), batch_size=4, gradient_accumulation_steps=1, max_new_tokens=40,
        learning_rate=1e-4, forget_coeff=0.5, epochs=6,
    )  # fmt: skip


def run(options: DemoConfig) -> None:
    """Prepare, forget, measure; print before and after by group of questions, and three answers."""
    from unlearner.commands.tables import out
    from unlearner.console import note
    from unlearner.prepare.prepare import prepare
    from unlearner.workflows.forget import forget

    prepared = prepare(preparation(options))
    note(f"SmolLM2-135M-Instruct forgets {SUBJECT}, using {prepared.rows['forget']} questions with its own answers")
    result = forget(config(options))
    console = out()
    console.print(_figures(prepared.folder, result))
    console.print(
        "Answers are compared with the model's own answers before: the share of their words that recur (ROUGE-L), and "
        "how likely they are (geometric mean over tokens).",
        style="dim", markup=False,
    )  # fmt: skip
    console.print(_answers(prepared.folder, result))
    console.print(f"\nEverything is in {options.output}", style="green", markup=False, soft_wrap=True)
    console.print('Next: unlearner probe --model YOUR_MODEL --subject "A NAME"', markup=False, soft_wrap=True)


def _rows(folder: Path) -> dict[str, dict[str, Any]]:
    """The rows of an evaluation by question."""
    from unlearner.results.layout import EvaluationDirectory

    return {row["question"]: row for row in EvaluationDirectory(folder).read_records()}


def _figures(data: Path, result: "ForgetResult") -> "Table":
    """One line a group of questions: ROUGE-L and probability of the earlier answers, before and after."""
    from rich.table import Table

    from unlearner.files import read_jsonl
    from unlearner.results.prepared import PreparedDirectory

    groups = {
        "forget": "questions trained on", "unseen_wordings": "other wordings of them", "unseen_facts": "other facts",
        "neighbours_held_out": "other authors", "general_held_out": "general knowledge",
    }  # fmt: skip
    before, after = _rows(result.output / "before"), _rows(result.output)
    table = Table(title=f"\n{SUBJECT}: before and after", title_justify="left", title_style="bold", box=None)
    table.add_column("", no_wrap=True)
    for heading in ("rows", "ROUGE-L before", "after", "probability before", "after"):
        table.add_column(heading, justify="right")
    for name, title in groups.items():
        source = PreparedDirectory(data).source(name)
        if not source.is_file():  # no fact was left that the trained answers do not state
            continue
        asked = [row["question"] for row in read_jsonl(source)]
        figures = [
            fmean(figure(rows[question]) for question in asked)
            for figure in (_repeated, _likelihood)
            for rows in (before, after)
        ]
        table.add_row(title, str(len(asked)), *(f"{value:.2f}" for value in figures))
    return table


def _repeated(row: dict[str, Any]) -> float:
    return float(row["rouge"])


def _likelihood(row: dict[str, Any]) -> float:
    return math.exp(-row["answer_nll"] / row["answer_tokens"])


def _answers(data: Path, result: "ForgetResult") -> "Table":
    """One question trained on, one in another wording, one about a neighbour, with the answers."""
    from rich.table import Table

    from unlearner.files import read_jsonl
    from unlearner.results.prepared import PreparedDirectory

    before, after = _rows(result.output / "before"), _rows(result.output)
    table = Table(title="\nThree answers", title_justify="left", title_style="bold", box=None, show_header=False)
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    for name in ("forget", "unseen_wordings", "neighbours_held_out"):
        question = read_jsonl(PreparedDirectory(data).source(name))[0]["question"]
        table.add_row("question", question)
        for label, rows in (("before", before), ("after", after)):
            # Text of a model goes to the terminal unmarked: brackets in it are no styles.
            text = " ".join(rows[question]["generation"].split()).replace("[", r"\[")
            table.add_row(label, text, end_section=label == "after")
    return table
