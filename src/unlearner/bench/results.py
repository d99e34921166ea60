"""What a bench ends with: results.csv and .parquet, a row for each cell (continual: for each task), and the tables."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from unlearner.bench.cells import Cell
from unlearner.config import BenchConfig
from unlearner.console import note
from unlearner.errors import install
from unlearner.evaluation.benchmarks import BENCHMARKS
from unlearner.evaluation.metrics import METRICS, metric_text
from unlearner.evaluation.result import markdown_table, three_digits
from unlearner.files import space_errors, write_text
from unlearner.report.titles import set_names
from unlearner.report.tuning import TUNING, TUNING_NOTE, tuning_lines, tuning_sentences
from unlearner.results.layout import BenchDirectory, EvaluationDirectory, RunDirectory
from unlearner.scenarios.real_world import GENERAL_ABILITY
from unlearner.workflows.presets import with_preset

DIGITS = 6
"""Digits behind the point in results.csv: below them two machines may differ."""
AGGREGATES = {
    "model_utility": "MU",
    "forget_efficacy": "FE",
    "forget_efficacy_tasks": "FE, all tasks",
    "forget_quality": "forget quality",
}

Row = dict[str, Any]


@dataclass(frozen=True)
class Results:
    """A bench whose cells have ended, well or not."""

    config: BenchConfig
    cells: Sequence[Cell]
    about: dict[str, Any]
    """bench.json."""
    tuning: dict[str, Any]
    """tuning.json."""

    @cached_property
    def tuned(self) -> list[str]:
        """The options that were tuned, of any method."""
        axes = [axis.partition("=")[0].replace("-", "_") for axis in self.config.tune]
        return list(dict.fromkeys([*axes, *(name for cell in self.cells for name in cell.chosen)]))

    @cached_property
    def rows(self) -> list[Row]:
        return [row for cell in self.cells for row in cell_rows(cell, self.config, self.tuned)]

    @property
    def columns(self) -> list[str]:
        """Of every row, in order: what was run, then all figures."""
        return list(dict.fromkeys(name for row in self.rows for name in row))


def cell_rows(cell: Cell, config: BenchConfig, tuned: Sequence[str] = ()) -> list[Row]:
    """The rows of a cell: one, or one for each task that has ended; `tuned` are options that have a column, too."""
    rows = []
    folders = [RunDirectory(Path(run.output)) for run in cell.runs]
    ended = [run for run, folder in zip(cell.runs, folders, strict=True) if folder.is_finished]
    for number, run in enumerate(ended if cell.continual else cell.runs[:1]):
        folder = folders[number]
        settings = with_preset(run)
        row: Row = {
            "scenario": config.scenario,
            "split": cell.split,
            "task": run.task if cell.continual else None,
            "method": cell.method,
            "seed": cell.seed,
            "status": "failed" if cell.error is not None else "finished",
            **{
                name: cell.chosen.get(name, getattr(settings, name, None))
                for name in dict.fromkeys(("learning_rate", "epochs", "forget_coeff", *tuned))
            },
        }
        if folder.is_finished:
            row |= _figures(cell, folder, number)
        rows.append(row)
    if cell.error is not None:
        if not rows:
            rows = [{
                "scenario": config.scenario, "split": cell.split, "task": None, "method": cell.method,
                "seed": cell.seed, "status": "failed",
            }]  # fmt: skip
        rows[-1]["error"] = cell.error
    return rows


def _figures(cell: Cell, run: RunDirectory, number: int) -> Row:
    before, after = run.before.read_summary(), run.read_summary()
    figures: Row = {
        "model_utility_before": before["model_utility"],
        "forget_efficacy_before": before["forget_efficacy"],
        "model_utility": after["model_utility"],
        "model_utility_retain": after["model_utility_retain"],
        "forget_efficacy": after["forget_efficacy"],
    }
    if cell.continual:
        earlier = [run.earlier(str(each.task)).read_summary() for each in cell.runs[:number]]
        values = [summary["forget_efficacy"] for summary in (*earlier, after)]
        figures["forget_efficacy_tasks"] = fmean(values)
    if "forget_quality" in after:
        figures["forget_quality"] = after["forget_quality"]
    figures |= _measured(run)
    return {name: None if value is None else round(value, DIGITS) for name, value in figures.items()}


def _measured(evaluation: EvaluationDirectory) -> Row:
    """Every metric on every set of an evaluation, of general ability, and benchmarks' figures: SET.METRIC,
    TASK.METRIC,FILTER and BENCHMARK.FIGURE → value."""
    summary = evaluation.read_summary()
    figures = {name: of["figures"] for name, of in summary.get("benchmarks", {}).items()}
    found = summary["sets"] | evaluation.read_ability() | figures
    return {f"{name}.{metric}": value for name, values in found.items() for metric, value in values.items()}


def write_results(results: Results, folder: Path) -> str:
    """Write results.csv, results.parquet, table.md and table.tex into `folder`; returns the Markdown."""
    rows, columns = results.rows, results.columns
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    bench = BenchDirectory(folder)
    write_text(bench.results("csv"), text.getvalue())
    if find_spec("pyarrow") is not None:
        import pyarrow
        from pyarrow import parquet

        file = bench.results("parquet")
        with space_errors(file):
            whole = [{name: row.get(name) for name in columns} for row in rows]
            parquet.write_table(pyarrow.Table.from_pylist(whole), file)
    else:
        note(f"results.parquet was not written because it needs pyarrow: {install('data')}")
    tables = make_tables(results)
    notes = make_notes(results)
    markdown = "\n\n".join([*(_markdown(table) for table in tables), *notes]) + "\n"
    write_text(bench.table("md"), markdown)
    write_text(bench.table("tex"), "\n\n".join([*(_latex(table) for table in tables), *map(_tex, notes)]) + "\n")
    return markdown


# -------------------------------------------------------------------------------------------------------------- tables


@dataclass(frozen=True)
class Table:
    title: str
    headings: list[str]
    rows: list[list[str]]


def make_tables(results: Results) -> list[Table]:
    """For each split: the aggregates, published numbers beside them; continual: the same after every task; then every
    metric on every set."""
    tables = []
    rows = results.rows
    columns = results.columns
    for split in results.config.splits:
        # Of a continual cell what holds after its last task.
        last = {(r["method"], r["seed"]): r for r in rows if r["split"] == split and r["status"] == "finished"}
        by_method = {m: [r for (name, _), r in last.items() if name == m] for m in results.config.methods}
        tables.append(_aggregates(results, split, by_method, columns))
        if any(r["task"] for r in rows):
            tables.append(_tasks(results, split))
        tables += _metrics(results, split, by_method, columns)
        if results.tuning:
            tables.append(_tuning(results, split))
    return tables


def _tuning(results: Results, split: str) -> Table:
    """The best setting of each method, and how much the criterion varies over the settings that were tried."""
    return Table(f"{_title(results, split)}: tuning", list(TUNING), tuning_lines(results.tuning, split))


def _aggregates(results: Results, split: str, by_method: dict[str, list[Row]], columns: Sequence[str]) -> Table:
    shown = [name for name in AGGREGATES if name in columns]
    about = results.about
    published = {m: found[split] for m, found in about["published"].items() if split in found}
    beside = f" published ({about['published_model']})"
    settings = list(dict.fromkeys(("learning_rate", *results.tuned)))
    headings = ["method", *settings, "runs", *(AGGREGATES[name] for name in shown)]
    if published:
        headings += [f"MU{beside}", f"FE{beside}"]
    lines = []
    first = next((r for r in results.rows if r["split"] == split and "model_utility_before" in r), None)
    if first is not None:  # continual: before the first task
        before = {name: first[f"{name}_before"] for name in ("model_utility", "forget_efficacy")}
        line = ["before", *("–" for _ in settings), "–", *(three_digits(before.get(name)) for name in shown)]
        lines.append(line + ["–", "–"] * bool(published))
    for method, rows in by_method.items():
        line = [method, *(_setting(rows[0][name]) if rows else "–" for name in settings)]
        line.append(f"{len(rows)} of {len(results.config.seeds)}")
        line += [_mean(rows, name) for name in shown]
        if published:
            line += [three_digits(published.get(method, {}).get(name)) for name in ("model_utility", "forget_efficacy")]
        lines.append(line)
    return Table(_title(results, split), headings, lines)


def _tasks(results: Results, split: str) -> Table:
    """Model utility and forget efficacy on all tasks so far, after each task."""
    rows = [r for r in results.rows if r["split"] == split and "model_utility" in r]
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    lines = []
    for method in results.config.methods:
        for name in ("model_utility", "forget_efficacy_tasks"):
            at = [[r for r in rows if (r["method"], r["task"]) == (method, task)] for task in tasks]
            lines.append([method, AGGREGATES[name], *(_mean(found, name) for found in at)])
    return Table(f"{_title(results, split)}: after each task", ["method", "", *tasks], lines)


def _metrics(results: Results, split: str, by_method: dict[str, list[Row]], columns: Sequence[str]) -> list[Table]:
    """Every metric on every set, and general ability where it was measured; first before anything was unlearned."""
    first = next((c for c in results.cells if c.split == split and c.finished), None)
    metrics = list(METRICS)
    summary: dict[str, Any] = {}
    if first is not None:
        before = RunDirectory(Path(first.runs[0].output)).before
        by_method = {"before": [_measured(before)], **by_method}
        summary = before.read_summary()
        metrics += [*summary.get("metrics", {})]
    by_method = {method: rows for method, rows in by_method.items() if rows}
    sets = list(dict.fromkeys(name.partition(".")[0] for name in columns if name.partition(".")[2] in metrics))
    called = set_names(vars(results.cells[0].runs[0]))
    lines = [
        [method, called.get(name, name), *(_mean(rows, f"{name}.{metric}") for metric in metrics)]
        for method, rows in by_method.items()
        for name in sets
    ]
    headings = ["method", "set", *(metric_text(name, "short", summary) for name in metrics)]
    tables = [Table(f"{_title(results, split)}: every metric", headings, lines)]
    # Of the paper's tasks the metric that it prints; of others all.
    abilities = [name for name in columns if "," in name and _printed(*name.split(".", 1))]
    figures = [name for name in columns if name.partition(".")[0] in BENCHMARKS]
    for title, shown in (("general ability", abilities), ("benchmarks, in their own units", figures)):
        if shown:
            lines = [[method, *(_mean(rows, name) for name in shown)] for method, rows in by_method.items()]
            tables.append(Table(f"{_title(results, split)}: {title}", ["method", *shown], lines))
    return tables


def _printed(task: str, metric: str) -> bool:
    return GENERAL_ABILITY.get(task, metric) == metric


def _title(results: Results, split: str) -> str:
    return f"{results.config.scenario}, {split}"


def make_notes(results: Results) -> list[str]:
    """What a reader must know beside the tables."""
    notes = ["Mean ± standard deviation over the seeds; MU model utility, FE forget efficacy."]
    about = results.about
    if about["published"]:
        model = str(about["published_model"])
        same = model.lower().replace("-", "") in str(results.config.model).lower().replace("-", "")
        whose = "" if same else ", another model than the one here"
        notes.append(f"Published: {model}{whose}, judged by the paper's models; {about['published_source']}.")
    judged = next((RunDirectory(Path(c.runs[0].output)).read_summary() for c in results.cells if c.finished), None)
    if judged:
        from unlearner.evaluation.judges import describe

        notes.append(describe(judged["embedding_model"], judged["judge"]))
    if results.tuning:
        notes.append(TUNING_NOTE)
    notes += tuning_sentences(results.tuning, results.config.splits)
    notes += [f"Failed: {cell.name}: {cell.error}" for cell in results.cells if cell.error is not None]
    return notes


def _mean(rows: Sequence[Row], name: str) -> str:
    values = [row[name] for row in rows if row.get(name) is not None]
    if not values:
        return "–"
    return f"{fmean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


def _setting(value: Any) -> str:
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _markdown(table: Table) -> str:
    return f"**{table.title}**\n\n{markdown_table(table.headings, table.rows)}"


def _latex(table: Table) -> str:
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{_tex(table.title)}}}",
            rf"\begin{{tabular}}{{ll{'r' * (len(table.headings) - 2)}}}",
            r"\hline",
            " & ".join(map(_tex, table.headings)) + r" \\",
            r"\hline",
            *(" & ".join(map(_tex, row)) + r" \\" for row in table.rows),
            r"\hline",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


_TEX = {"±": r"$\pm$", "–": "--", "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_TEX |= {sign: f"\\{sign}" for sign in "&%$#_{}"}


def _tex(text: str) -> str:
    return "".join(_TEX.get(letter, letter) for letter in text)
