"""One self-contained HTML page from runs: everything the template shows, as plain values.

Texts of models and files reach the page in two ways only: through jinja2's autoescape, and as JSON inside a script
element of a type that no browser runs, from which report.js puts them into text nodes. A content security policy
forbids every other script and every request, should either ever fail.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from unlearner.errors import UserError
from unlearner.evaluation.judges import describe
from unlearner.files import is_page, space_errors, write_text
from unlearner.options import NOTES
from unlearner.pages import script_hash, template
from unlearner.report.answers import RULES
from unlearner.report.audits import told_in_short
from unlearner.report.comparison import columns, list_questions
from unlearner.report.contents import Measurement, Part, Report, Run, clean, ordered, short_model
from unlearner.report.drawing import GENERATOR, Picture, inline, styles, swatch
from unlearner.report.figures import pictures, save_figures
from unlearner.report.provenance import commands, provenance, settings
from unlearner.report.questions import examples, group_title, question_data
from unlearner.report.searched import ASKED, TRIED
from unlearner.report.titles import Described, described, set_title
from unlearner.report.tuning import TUNING, TUNING_NOTE
from unlearner.report.verdict import verdict
from unlearner.report.wording import number_word
from unlearner.results.layout import RunDirectory
from unlearner.stopping import told
from unlearner.version import __version__


def write_page(report: Report, output: Path) -> Path:
    """The page, and its figures in a folder beside it; an existing file is replaced only where it is a report."""
    check_page(output)
    with space_errors(output):
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError, FileNotFoundError) as error:
            raise UserError(
                f"--output {output} cannot be made because a file is in the way: choose another."
            ) from error
    figures = output.with_name(f"{output.stem}-figures")
    drawn = pictures(report)
    save_figures(drawn, styles(report), figures)
    write_text(output, render(report, drawn, figures.name, output))
    return output


def check_page(output: Path) -> None:
    """Raises UserError for what is no report and would be replaced."""
    if output.is_dir():
        raise UserError(
            f"--output {output} is a directory: give the name of a file, such as {RunDirectory(output).report}."
        )
    if output.exists() and not is_page(output, GENERATOR):
        raise UserError(f"--output {output} already exists and is not a report: choose another name.")


def render(report: Report, drawn: Sequence[Picture], figures: str, output: Path) -> str:
    """The page as text, to be written to `output`, with the pictures `drawn`, whose files are in the folder called
    `figures` beside it. The same runs give the same text."""
    here = Path(__file__).parent
    script = "".join((here / name).read_text(encoding="utf-8") for name in ("theme.js", "report.js"))
    looks, metrics = styles(report), described(report.evaluations)
    found, listed = list_questions(report.parts, list(metrics))
    data, notes = question_data(listed, found, list(looks), metrics)
    if seeds := next((part.seeds for part in report.parts if part.means), []):
        notes.insert(0, f"Answers and values are those of seed {seeds[0]}, or of the first one that is there.")
    head = _glance_head(report.parts)
    audits = [told for run in report.runs if (told := told_in_short(run, output)) is not None]
    sheets = ["report.css", *(["audit.css"] if audits else [])]
    groups = dict.fromkeys((question.part, question.set) for question in listed)
    return template("unlearner.report", "report.html.jinja").render(
        generator=f"{GENERATOR} {__version__}",
        style=Markup("".join((here / name).read_text(encoding="utf-8") for name in sheets)), audits=audits,
        script=Markup(script),
        script_hash=script_hash(script),
        title=_title(report), about=_about(report),
        verdict=verdict(report.without_rows() if report.redacted else report), parts=report.parts,
        several=len(report.runs) > 1, missing=report.missing, head=head,
        glance=[_glance(part, head) for part in report.parts],
        swatches={label: Markup(swatch(look, f"s{place}")) for place, (label, look) in enumerate(looks.items())},
        tables=[_tables(part, metrics) for part in report.parts],
        examples=[] if report.redacted else examples(listed, found, metrics),
        searched=[(run.label, run.searched) for run in report.runs if run.searched], asked=ASKED, tried=TRIED,
        figures=figures, tuning=TUNING, tuning_note=TUNING_NOTE,
        pictures=[_inlined(picture) for picture in drawn],
        metrics=[(m.title, m.formula, m.source) for m in metrics.values()], faults=RULES,
        list_notes=notes, count=len(listed), sets=[group_title(*group) for group in groups],
        after=[(i, c.label) for i, c in enumerate(found) if c.kind != "before"],
        outcomes="entailment" in metrics and any(c.before is not None for c in found),
        metric_titles=[(m.title, m.short) for m in metrics.values()],
        data=Markup(data), commands=commands(report), provenance=provenance(report), settings=settings(report),
    )  # fmt: skip


def _title(report: Report) -> str:
    runs = report.runs
    if len(report.benches) == 1 and all(part.seeds for part in report.parts):
        return f"Bench: the {report.benches[0]['scenario']} scenario"
    if report.benches:
        return "Unlearning methods compared"
    forgets = [run for run in runs if run.command == "forget"]
    if len(runs) > 1:
        what = "unlearning runs" if len(forgets) == len(runs) else "runs" if forgets else "evaluations"
        return f"{number_word(len(runs)).capitalize()} {what} compared"
    return f"Unlearning by {runs[0].label}" if forgets else f"Evaluation of {runs[0].label}"


def _about(report: Report) -> list[tuple[str, str]]:
    """What the page is about: model, sources, judge; several values side by side where runs differ."""
    rows = []
    runs = report.runs
    for bench in report.benches:
        many = [(len(bench[key]), key) for key in ("methods", "splits", "seeds")]
        rows.append(("Bench", " × ".join(f"{n} {key if n > 1 else key[:-1]}" for n, key in many)))
    for title, key in (("Model", "model"), ("Forget set", "forget"), ("Retain set", "retain")):
        values = dict.fromkeys(_named(run, key) for run in runs)
        values.pop("", None)
        if values and not (key == "model" and all(run.command == "evaluate" for run in runs)):
            rows.append((title, _few(list(values))))
    for title in NOTES:
        if told := dict.fromkeys(str(run.config.get("note", {}).get(title, "")) for run in runs):
            told.pop("", None)
            rows += [(title.capitalize(), clean(_few(list(told))))] if told else []
    listened = [(run, sentence) for run in runs if (sentence := _kept(run)) is not None]
    if listened:
        rows.append(("Training", clean(_few([f"{run.label}: {s}" if len(runs) > 1 else s for run, s in listened]))))
    if report.redacted:
        rows.append(("Texts", "left out: questions and answers are identified by their ids"))
    counts: dict[str, None] = {}
    for run in runs:
        for measured in (run.after or run.before,):
            if measured is not None:
                counts[", ".join(f"{measured.count(s)} {set_title(s).lower()}" for s in measured.sets)] = None
    if counts:
        rows.append(("Questions", _few(list(counts))))
    judges = dict.fromkeys(describe(*j) for run in runs for m in (run.before, run.after) if m and (j := _judge(m)))
    if judges:
        rows.append(("Judges", _few([j.removeprefix("Judge: ").partition(". Not")[0] for j in judges])))
    return rows


def _kept(run: Run) -> str | None:
    """Which epoch was kept, where training listened."""
    text, epochs = run.config.get("stop_when"), run.config.get("epochs")
    if not isinstance(text, str) or not isinstance(epochs, int | float):
        return None
    try:
        return told(run.log, text, epochs)
    except (UserError, KeyError, TypeError, ValueError):  # a damaged log or run.json
        return None


def _named(run: Run, key: str) -> str:
    value = run.config.get(key)
    return "" if value is None else clean(short_model(value) if key == "model" else str(value))


def _few(values: list[str]) -> str:
    return "; ".join(values[:3]) + (f"; and {len(values) - 3} more" if len(values) > 3 else "")


def _judge(measured: Measurement) -> tuple[str, str] | None:
    found = measured.summary.get("embedding_model"), measured.summary.get("judge")
    return None if None in found else found  # type: ignore[return-value]


def _glance_head(parts: Sequence[Part]) -> dict[str, Any]:
    """Which columns the first table has, each with a note on its figures, and what its footnotes need."""
    spread = " or ".join(dict.fromkeys("± standard deviation" if part.means else "95% interval" for part in parts))
    runs = [run for part in parts for run in part.runs]
    share = any(run.utility_share is not None for run in runs)
    quality = any(run.after is not None and run.after.figure("forget_quality") is not None for run in runs)
    published = next((part.source for part in parts if part.published), "")
    other = any(part.other_model for part in parts if part.published)
    columns = [
        ("Forget-set questions answered correctly", ""), ("Forget efficacy", spread), ("Model utility", spread),
        *([("Utility kept", "")] if share else []), *([("Forget quality", "p-value")] if quality else []),
        *((f"Published {what}", "another model" if other else "") for what in ("efficacy", "utility") if published),
    ]  # fmt: skip
    tasks = any(part.step == "task" for part in parts)
    return {
        "columns": columns, "share": share, "quality": quality, "published": published, "other_model": other,
        "tasks": tasks,
    }  # fmt: skip


def _glance(part: Part, head: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row an evaluation: what is still answered, MU and FE with intervals, and the share of utility kept."""
    rows = []
    for column in columns(part.runs):
        measured = column.measured
        after = column.kind == "after"
        right, share = measured.right("forget"), column.run.utility_share if after else None
        quality = measured.figure("forget_quality")
        published = part.published.get(column.label, {}) if after else {}
        cells = [
            ("–" if right is None else f"{right} of {measured.count('forget')}", ""),
            _cell(measured, "forget_efficacy", part.means),
            _cell(measured, "model_utility", part.means),
        ]
        if head["share"]:
            cells.append(("" if not after else "–" if share is None else f"{share:.0%}", ""))
        if head["quality"]:
            told = "" if quality is None else f"{quality:.3f}" if quality >= 0.001 else f"{quality:.0e}"
            cells.append((told, ""))
        if head["published"]:
            figures = [published.get(key) for key in ("forget_efficacy", "model_utility")]
            cells += [("" if figure is None else f"{figure:.3f}", "") for figure in figures]
        look = None if column.kind == "before" else column.run.label
        rows.append({"label": column.label, "look": look, "cells": cells})
    return rows


def _tables(part: Part, metrics: Mapping[str, Described]) -> dict[str, Any]:
    """All figures: a group a set, a row a metric, a column an evaluation."""
    found = columns(part.runs)
    groups = []
    for name in ordered({name for column in found for name in column.measured.sets}):
        count = dict.fromkeys(column.measured.count(name) for column in found if name in column.measured.sets)
        goal = "low is forgotten" if name == "forget" else "to stay as it was"
        heading = f"{set_title(name)}, {' or '.join(map(str, count))} questions, {goal}"
        rows = [
            (about.title, [_cell(column.measured, f"{name}.{m}", part.means) for column in found])
            for m, about in metrics.items()
        ]
        groups.append((heading, rows))
    for kind, heading in (
        ("ability", "General ability, by lm-evaluation-harness, to stay as it was"),
        ("benchmark", "Benchmarks, each in its own units"),
    ):
        names = dict.fromkeys(name for column in found for name in column.measured.summary.get(kind, {}))
        if names:
            rows = [(name, [_cell(c.measured, f"{kind}.{name}", part.means) for c in found]) for name in names]
            groups.append((heading, rows))
    totals = [
        (title, [_cell(column.measured, key, part.means) for column in found])
        for title, key in (
            ("Forget efficacy", "forget_efficacy"), ("Model utility", "model_utility"),
            ("Model utility, retain set alone", "model_utility_retain"), ("Forget quality (p)", "forget_quality"),
        )
        if any(column.measured.figure(key) is not None for column in found)
    ]  # fmt: skip
    heads = [(column.label, None if column.kind == "before" else column.run.label) for column in found]
    groups = [("All sets together", totals), *groups] if totals else groups
    return {"title": part.title, "heads": heads, "groups": groups}


def _cell(measured: Measurement, key: str, means: bool) -> tuple[str, str]:
    """A figure, and its interval: from low to high, or the standard deviation of means that differ."""
    value, interval = measured.figure(key), measured.interval(key)
    if value is None:
        return ("–", "")
    if interval is None or (means and interval[1] - interval[0] < 1e-6):
        return (f"{value:.3f}", "")
    low, high = interval
    return (f"{value:.3f}", f"± {(high - low) / 2:.3f}" if means else f"{low:.3f}–{high:.3f}")


def _inlined(picture: Picture) -> dict[str, Any]:
    tiles = [
        (
            Markup(inline(tile, f"{picture.name}-{number}")),
            tile.narrow and Markup(inline(tile.narrow, f"{picture.name}-{number}n")),
        )
        for number, tile in enumerate(picture.tiles)
    ]
    return {"picture": picture, "tiles": tiles}
