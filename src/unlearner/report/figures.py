"""The report's figures: pictures of a few tiles that share their scale, for the page and as PNG and SVG files."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from unlearner.errors import UserError
from unlearner.files import atomic_directory, is_leftover
from unlearner.report.comparison import Column, columns
from unlearner.report.contents import Measurement, Part, Report, Retention, Run, ordered
from unlearner.report.drawing import (
    COLOURS,
    FONT,
    GENERATOR,
    INK,
    MUTED,
    NO_METADATA,
    PAPER,
    RC,
    SIDE,
    Picture,
    Style,
    Tile,
    assembled,
    styles,
    text_width,
)
from unlearner.report.titles import Described, described, set_title
from unlearner.report.tradeoff import spread_words, tradeoff


def pictures(report: Report) -> list[Picture]:
    """The figures that a report has the data for."""
    looks, metrics = styles(report), described(report.evaluations)
    made = [tradeoff(report.parts, looks)]
    for part in report.parts:
        of_part = [*_retention(part, looks), *_metrics(part, looks, metrics), *_steps(part, looks, metrics)]
        if not part.seeds:
            of_part += _training(part, looks)
        made += [replace(p, name=f"{slug(part.title)}-{p.name}", part=part.title) if part.title else p for p in of_part]
    return [picture for picture in made if picture.tiles]


def slug(title: str) -> str:
    """A title as part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def save_figures(drawn: Sequence[Picture], looks: Mapping[str, Style], folder: Path) -> None:
    """Every picture as NAME.svg and NAME.png in `folder`, which is written as a whole and takes the place of an older.

    Raises UserError where it holds anything that no report wrote.
    """
    for path in folder.iterdir() if folder.is_dir() else ():
        if not (is_leftover(path) or (path.is_file() and GENERATOR.encode() in path.read_bytes())):
            raise UserError(
                f"{path} is in the way of the report's figures: give the report another name with --output."
            )
    with atomic_directory(folder) as fresh, matplotlib.rc_context(RC):
        for picture in drawn:
            figure = assembled(picture, looks)
            for suffix, options in (
                ("svg", {"metadata": {**NO_METADATA, "Creator": GENERATOR}}),
                ("png", {"dpi": 3 * 72, "metadata": {"Software": GENERATOR}}),
            ):
                figure.savefig(fresh / f"{picture.name}.{suffix}", **options)


def _retention(part: Part, looks: Mapping[str, Style]) -> list[Picture]:
    """What stays forgotten: forget efficacy on every task's set after every task, a tile a run."""
    tiles = [_heat_map(run, run.retention) for run in part.runs if run.retention is not None]
    caption = (
        "Forget efficacy on the set of every task (across), just before its turn (first row), then after each task "
        "(down). Full colour is forgotten: a column that keeps it to the bottom stays forgotten."
    )
    return [Picture("retention", "What stays forgotten", caption, tiles, 3)]


def _heat_map(run: Run, retention: Retention) -> Tile:
    rows = [("before", retention.before)]
    rows += [(f"after {task}", row) for task, row in zip(retention.tasks, retention.efficacy, strict=True)]
    side = max(26, min(44, (SIDE - 72) // len(retention.tasks)))

    def draw(axes: list[Axes]) -> None:
        (ax,) = axes
        ax.set_title(run.label)
        ax.set(xlim=(0, len(retention.tasks)), ylim=(len(rows), 0), xlabel="set of task")
        ax.set_xticks([place + 0.5 for place in range(len(retention.tasks))], retention.tasks)
        ax.set_yticks([place + 0.5 for place in range(len(rows))], [name for name, _ in rows])
        ax.tick_params(length=0)
        for spine in ax.spines.values():
            spine.set_visible(False)
        for y, (_, values) in enumerate(rows):
            for x, value in enumerate(values):
                shade = min(max(value, 0), 1)
                ax.add_patch(
                    Rectangle(
                        (x, y), 1, 1, facecolor=COLOURS[0], alpha=0.05 + 0.95 * shade, edgecolor=PAPER, linewidth=1
                    )
                )
                ax.text(
                    x + 0.5, y + 0.5, f"{value:.2f}".removeprefix("0"), ha="center", va="center_baseline",
                    fontsize=FONT - 1, color=PAPER if shade > 0.62 else INK,
                )  # fmt: skip

    alt = f"{run.label}. Forget efficacy by task. " + "; ".join(
        f"{name}: " + ", ".join(f"{value:.2f}" for value in values) for name, values in rows
    )
    left = 64
    return Tile(left + side * len(retention.tasks) + 8, 70 + side * len(rows), (left, 8, 28, 42), draw, alt)


def _metrics(part: Part, looks: Mapping[str, Style], metrics: Mapping[str, Described]) -> list[Picture]:
    """Every metric before and after: a tile a set for one run, a tile a metric for several."""
    found = columns(part.runs)
    ends = [column for column in found if column.kind != "before"]
    if not ends or not metrics:
        return []
    kinds = ""
    if any(column.before is not None for column in ends):
        kinds = "The open circle is before unlearning, the mark after it; "
    kinds += f"bars are {spread_words(part)}. "

    def before(column: Column) -> Measurement | None:
        return None if column.before is None else found[column.before].measured

    def row(label: str, column: Column, key: str) -> Bells:
        was = before(column)
        return label, looks[column.run.label], None if was is None else was.figure(key), column.measured, key

    if len(part.runs) == 1:
        tiles = [
            _dumbbells(set_title(name), [row(metrics[m].title, ends[0], f"{name}.{m}") for m in metrics])
            for name in ends[0].measured.sets
        ]
        caption = "What was forgotten should be low in the forget set; all other sets should stay as they were."
        return [Picture("metrics", "Every metric on every set", kinds + caption, tiles, 2)]
    sets = ordered({name for column in ends for name in column.measured.sets})
    made = []
    for name in [*(["forget"] if "forget" in sets else []), *[s for s in sets if s != "forget"][:1]]:
        tiles = []
        for metric in metrics:
            key = f"{name}.{metric}"
            rows = [row(c.run.label, c, key) for c in ends if c.measured.figure(key) is not None]
            if rows:
                tiles.append(_dumbbells(metrics[metric].title, rows))
        goal = "Nothing here should move."
        if name == "forget":
            goal = "Low values, on the left, mean forgotten (but low token entropy means repeated words)."
            if part.step == "task":
                goal += " After: the sets of all tasks, when the last is done; before: the first task's."
        made.append(Picture(f"metrics-{name}", f"{set_title(name)}, by metric", kinds + goal, tiles, 3))
    return made


def _steps(part: Part, looks: Mapping[str, Style], metrics: Mapping[str, Described]) -> list[Picture]:
    """Forget efficacy, utility and every metric of forget and retain set, epoch after epoch or task after task."""
    followed = [run for run in part.runs if run.steps]
    if not followed:
        return []
    kept = next((s for run in followed for m in run.steps.values() for s in m.sets if s != "forget"), None)
    step = part.step
    totals = [("forget_efficacy", "Forget efficacy"), ("model_utility", "Model utility")]
    groups = {f"{step}s": (f"{step.capitalize()} by {step}", totals)}
    for name in ("forget", kept):
        if name is not None:
            keys = [(f"{name}.{m}", metrics[m].title) for m in metrics]
            groups[f"{step}s-{name}"] = (f"{set_title(name)}, {step} by {step}", keys)
    made = []
    for file, (title, keys) in groups.items():
        tiles = [tile for key, heading in keys if (tile := _lines(heading, key, followed, looks, step)) is not None]
        if tiles:
            caption = f"{step.capitalize()} 0 is the model before unlearning; bands are {spread_words(part)}."
            if file in ("tasks", "tasks-forget"):
                caption += " What is forgotten is the mean over the sets of all tasks so far."
            legend = [run.label for run in followed]
            made.append(Picture(file, title, caption, tiles, min(3, len(tiles)), legend))
    return made


def _lines(
    heading: str, key: str, followed: Sequence[Run], looks: Mapping[str, Style], step: str
) -> Tile | None:  # fmt: skip
    curves = []
    for run in followed:
        points = {0: run.before} | run.steps if run.before is not None else run.steps
        values = [
            (number, v, *(m.interval(key) or (v, v)))
            for number, m in points.items()
            if m is not None and (v := m.figure(key)) is not None
        ]
        if values:
            curves.append((run.label, looks[run.label], values))
    if not curves:
        return None
    last = max(number for _, _, values in curves for number, *_ in values)

    def draw(axes: list[Axes]) -> None:
        (ax,) = axes
        ax.set_title(heading)
        ax.set(xlim=(-0.03 * last, 1.03 * last), ylim=(-0.03, 1.03), xlabel=step)
        ax.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
        ax.set_xticks(sorted({0, last, *range(0, last + 1, max(1, -(-last // 5)))}))
        ax.grid(True, axis="y")
        for _, look, values in curves:
            x, y, low, high = zip(*values, strict=True)
            ax.fill_between(x, low, high, color=look.ink, alpha=0.14, linewidth=0)
            ax.plot(x, y, look.marker, color=look.ink, linestyle=look.dash, markersize=4, linewidth=1.5, clip_on=False)

    alt = f"{heading} by {step}. " + "; ".join(
        f"{label}: " + ", ".join(f"{value:.2f}" for _, value, *_ in values) for label, _, values in curves
    )
    return Tile(SIDE, 215, (32, 12, 28, 40), draw, alt)


def _training(part: Part, looks: Mapping[str, Style]) -> list[Picture]:
    """The losses over training, a tile a run: their scales differ from method to method."""
    tiles = []
    for run in part.runs:
        curves = [
            (f"{kind} loss", _thinned([(row["epoch"], row[kind]) for row in run.log if _both(row, kind)]))
            for kind in ("forget", "retain")
        ]
        curves = [(name, points) for name, points in curves if any(value for _, value in points)]
        if curves:
            tiles.append(_losses(run.label, looks[run.label], curves))
    caption = "The losses of every step, each on its own scale, before their coefficients."
    return [Picture("training", "Training", caption, tiles, min(3, len(tiles)))]


def _losses(label: str, look: Style, curves: list[tuple[str, list[tuple[float, float]]]]) -> Tile:
    def draw(axes: list[Axes]) -> None:
        for place, (ax, (name, points)) in enumerate(zip(axes, curves, strict=True)):
            x, y = zip(*points, strict=True)
            ax.plot(x, y, color=look.ink, linewidth=1.2, marker="o" if len(points) == 1 else None)
            ax.set_title(f"{label}, {name}" if place == 0 else name)
            ax.locator_params(axis="y", nbins=3)
            ax.grid(True, axis="y")
            ax.margins(x=0.02)
            if place < len(axes) - 1:
                ax.tick_params(axis="x", labelbottom=False)
        axes[-1].xaxis.set_major_locator(MaxNLocator(5, integer=curves[0][1][-1][0] >= 2))
        axes[-1].set_xlabel("epoch")

    alt = f"Losses of {label}. " + "; ".join(f"{n}: from {p[0][1]:.3g} to {p[-1][1]:.3g}" for n, p in curves)
    return Tile(SIDE, 50 + 100 * len(curves), (46, 12, 28, 40), draw, alt, panels=len(curves))


Bells = tuple[str, Style, float | None, Measurement, str]


def _dumbbells(heading: str, rows: Sequence[Bells]) -> Tile:
    """A line a row: from the value before (open circle) to the value after, with its interval and its number."""
    rows = [(_cut(label), *rest) for label, *rest in rows]  # type: ignore[misc]

    def draw(axes: list[Axes]) -> None:
        (ax,) = axes
        ax.set_title(heading, x=0)
        ax.set(xlim=(-0.03, 1.03), ylim=(len(rows) - 0.4, -0.6))
        ax.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        ax.set_yticks(range(len(rows)), [label for label, *_ in rows])
        ax.tick_params(axis="y", length=0, labelcolor=INK)
        ax.spines["left"].set_visible(False)
        ax.grid(True, axis="x")
        for y, (_, look, before, after, key) in enumerate(rows):
            value, interval = after.figure(key), after.interval(key)
            if value is None:
                ax.annotate("–", (1, y), (10, 0), textcoords="offset points", va="center_baseline", color=MUTED)
                continue
            if interval is not None:
                ax.plot(interval, (y, y), color=look.ink, linewidth=5, alpha=0.25, solid_capstyle="butt", zorder=2)
            if before is not None:
                ax.plot((before, value), (y, y), color=look.ink, linewidth=1.1, zorder=3)
                ax.plot([before], [y], "o", color=MUTED, markerfacecolor=PAPER, markersize=5.5, zorder=4, clip_on=False)
            ax.plot([value], [y], look.marker, color=look.ink, markersize=6, zorder=5, clip_on=False)
            ax.annotate(
                f"{value:.2f}", (1, y), (10, 0), textcoords="offset points", va="center_baseline", fontsize=FONT - 1,
                annotation_clip=False,
            )  # fmt: skip

    def told(before: float | None, after: Measurement, key: str) -> str:
        value = after.figure(key)
        text = "undefined" if value is None else f"{value:.2f}"
        return text if before is None else f"{before:.2f} to {text}"

    alt = f"{heading}. " + "; ".join(f"{label}: {told(b, after, key)}" for label, _, b, after, key in rows)
    left = 14 + round(max(text_width(label) for label, *_ in rows))
    return Tile(max(SIDE, left + 180), 54 + 21 * len(rows), (left, 44, 26, 24), draw, alt)


def _both(row: dict[str, Any], part: str) -> bool:
    return isinstance(row.get("epoch"), int | float) and isinstance(row.get(part), int | float)


def _thinned(points: list[tuple[float, float]], most: int = 300) -> list[tuple[float, float]]:
    """At most `most` points: means of as many neighbours as that takes."""
    size = -(-len(points) // most) if points else 1
    groups = [points[first : first + size] for first in range(0, len(points), size)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]


def _cut(label: str, longest: int = 30) -> str:
    return label if len(label) <= longest else label[: longest - 1] + "…"
