"""The report's figures, drawn by matplotlib: as tiles that a page lays out and colours, and as PNG and SVG files.

A picture is a few tiles that share their scale. For the page every tile is an SVG of its own, its colours replaced by
the page's (`currentColor` and custom properties), so that it follows the theme and tiles restack on a phone. For papers
all tiles go into one file. Every figure is drawn in CSS pixels.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import StringIO
from itertools import pairwise
from math import floor
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.textpath import TextPath
from matplotlib.ticker import MaxNLocator, MultipleLocator

from unlearner.errors import UserError
from unlearner.evaluation.metrics import METRICS
from unlearner.files import atomic_directory, is_leftover
from unlearner.report.read import Column, Measurement, Part, Report, Retention, Run, columns, ordered

INK, MUTED, RULE, PAPER = "#1c1d20", "#5d6167", "#dcdcd8", "#ffffff"
COLOURS = ("#0b4f8f", "#b3360f", "#2f9c82", "#8f6be0", "#c08a00", "#333333")
"""Told apart under every common colour blindness (ΔE ≥ 20 between any two), 3:1 on white. The page has a lighter
sixfold for the dark theme, `--c0` to `--c5` in report.css."""
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "p")
DASHES: tuple[Any, ...] = ("solid", (0, (5, 2)), (0, (1, 1.6)), (0, (6, 2, 1, 2)))
SIDE = 320
"""Width of a tile: three of them stand side by side on a page, one on a phone."""
PLACES = ("ME+GD", "GA+GD", "IDK+AP", "NPO+GD", "DPO+GD", "IDK+GD")
"""The paper's methods have the same colour in every report; others take what is left."""

METRIC_TITLES = {
    "rouge": "ROUGE", "probability": "Probability", "truth_ratio": "Truth ratio", "token_entropy": "Token entropy",
    "cosine_similarity": "Cosine similarity", "entailment": "Entailment",
}  # fmt: skip
SET_TITLES = {
    "forget": "Forget set", "retain": "Retain set", "real_authors": "Real authors", "world_facts": "World facts",
}  # fmt: skip

FONT = 12  # CSS pixels; matplotlib's points are of the figure's own 72 dpi, see `_figure`
RC: dict[Any, Any] = {
    "font.family": "sans-serif", "font.size": FONT, "text.color": INK, "text.parse_math": False,
    "axes.edgecolor": MUTED, "axes.labelcolor": MUTED, "axes.linewidth": 0.8, "axes.titlesize": FONT,
    "axes.titlecolor": INK, "axes.titlelocation": "left", "axes.titlepad": 8, "axes.labelsize": FONT,
    "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True, "axes.unicode_minus": True,
    "xtick.color": MUTED, "ytick.color": MUTED, "xtick.labelsize": FONT - 1, "ytick.labelsize": FONT - 1,
    "xtick.major.size": 3, "ytick.major.size": 3, "xtick.major.width": 0.8, "ytick.major.width": 0.8,
    "grid.color": RULE, "grid.linewidth": 0.8, "lines.solid_capstyle": "round",
    "svg.fonttype": "none", "svg.hashsalt": "unlearner", "path.simplify": True, "figure.facecolor": PAPER,
    "axes.facecolor": "none",
}  # fmt: skip


@dataclass(frozen=True)
class Style:
    """How one run looks in every figure and beside its name."""

    colour: int
    marker: str
    dash: Any = "solid"

    @property
    def ink(self) -> str:
        return COLOURS[self.colour]


@dataclass(frozen=True)
class Tile:
    """One panel, or a few that stand above one another; sizes and margins (left, right, top, bottom) in pixels."""

    width: int
    height: int
    margins: tuple[int, int, int, int]
    draw: Callable[[list[Axes]], None]
    alt: str
    """What the panel shows, for those who cannot see it."""
    panels: int = 1
    narrow: "Tile | None" = None
    """What takes its place on a phone."""


@dataclass(frozen=True)
class Picture:
    """Tiles under one title; `name` is that of its files."""

    name: str
    title: str
    caption: str
    tiles: list[Tile]
    columns: int
    """Tiles side by side in the file."""
    legend: list[str] = field(default_factory=list)
    """Labels of the runs, where a legend names them rather than the tiles."""
    part: str = ""
    """Title of the part that it shows, where there are several."""


def styles(report: Report) -> dict[str, Style]:
    """A style for every label: methods have colours, and runs of one method differ in marker and dash."""
    runs = {run.label: run for run in report.runs}
    subjects = list(dict.fromkeys(run.subject for run in runs.values()))
    fixed = {subject: PLACES.index(subject) for subject in subjects if subject in PLACES}
    free = [place for place in range(len(PLACES)) if place not in fixed.values()]
    places = dict(fixed)
    for number, subject in enumerate(s for s in subjects if s not in fixed):
        # With more subjects than colours, a colour comes again with another marker.
        places[subject] = free[number] if number < len(free) else len(PLACES) + number - len(free)
    found, times = {}, dict.fromkeys(subjects, 0)
    for label, run in runs.items():
        place, time = places[run.subject], times[run.subject]
        times[run.subject] += 1
        again = place // len(COLOURS) + time
        found[label] = Style(place % len(COLOURS), MARKERS[(place + again) % len(MARKERS)], DASHES[again % len(DASHES)])
    return found


def pictures(report: Report) -> list[Picture]:
    """The figures that a report has the data for."""
    looks = styles(report)
    made = [_tradeoff(report.parts, looks)]
    for part in report.parts:
        of_part = [*_retention(part, looks), *_metrics(part, looks), *_steps(part, looks)]
        if not part.seeds:
            of_part += _training(part, looks)
        made += [replace(p, name=f"{slug(part.title)}-{p.name}", part=part.title) if part.title else p for p in of_part]
    return [picture for picture in made if picture.tiles]


def slug(title: str) -> str:
    """A title as part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def save_figures(report: Report, folder: Path) -> None:
    """Every figure as NAME.svg and NAME.png in `folder`, which is written as a whole and takes the place of an older.

    Raises UserError where it holds anything else.
    """
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.suffix not in (".svg", ".png") and not is_leftover(path):
            raise UserError(f"{path} is in the way of the report's figures: give the report another name by --output.")
    looks = styles(report)
    with atomic_directory(folder) as fresh, matplotlib.rc_context(RC):
        for picture in pictures(report):
            figure = _assembled(picture, looks)
            for suffix, options in (
                ("svg", {"metadata": _NO_METADATA}),
                ("png", {"dpi": 3 * 72, "metadata": _NO_SOFTWARE}),
            ):
                figure.savefig(fresh / f"{picture.name}.{suffix}", **options)


def inline(tile: Tile, name: str) -> str:
    """A tile as SVG for the page; `name` keeps the ids inside it apart from those of other tiles."""
    with matplotlib.rc_context(RC):
        figure = _figure(tile.width, tile.height)
        figure.patch.set_visible(False)
        tile.draw(_axes(figure, tile, 0, 0, (tile.width, tile.height)))
        text = StringIO()
        figure.savefig(text, format="svg", metadata=_NO_METADATA)
    return _for_page(text.getvalue(), tile, name)


def swatch(style: Style, name: str) -> str:
    """A run's marker as SVG, to stand beside its name."""

    def draw(axes: list[Axes]) -> None:
        axes[0].set_axis_off()
        axes[0].plot([0, 1], [0, 0], color=style.ink, linestyle=style.dash, linewidth=1.5)
        axes[0].plot([0.5], [0], style.marker, color=style.ink, markersize=6.5)
        axes[0].set(xlim=(-0.1, 1.1), ylim=(-1, 1))

    return inline(Tile(26, 12, (0, 0, 0, 0), draw, ""), name)


# ---------------------------------------------------------------------------------------------------------- the figures


def _tradeoff(parts: Sequence[Part], looks: Mapping[str, Style]) -> Picture:
    """Model utility against forget efficacy, a tile a part: a path a run, from before over its steps to after."""
    low = _lowest(parts)
    tiles = [tile for part in parts if (tile := _paths(part, looks, len(parts) > 1, low)) is not None]
    step = next((part.step for part in parts for run in part.runs if run.steps), None)
    caption = (
        "Up and to the right is better: more is forgotten, more is kept. "
        + (f"Small marks are {step}s. " if step else "")
        + f"The open circle is the model before unlearning; thin lines are {_spread(parts[0])}."
        if parts
        else ""
    )
    if step == "task":
        caption += " Forget efficacy is the mean over the sets of all tasks so far."
    if low > 0:
        caption += f" The axis of model utility begins at {low:.1f}."
    return Picture("tradeoff", "Forgetting against utility", caption, tiles, 2 if len(tiles) > 1 else 1)


def _lowest(parts: Sequence[Part]) -> float:
    """Where the axis of model utility begins: at a fifth below everything that is drawn, the same in all tiles."""
    drawn = []
    for run in (run for part in parts for run in part.runs):
        points = (run.before, *run.steps.values(), run.after)
        drawn += [m.figure("model_utility") for m in points if m is not None and _point(m)]
        drawn += (run.after and _point(run.after) and run.after.interval("model_utility")) or ()
    return max(0.0, min(0.8, floor(5 * min((value for value in drawn if value is not None), default=0)) / 5))


def _paths(part: Part, looks: Mapping[str, Style], one_of_many: bool, low: float) -> Tile | None:
    paths: list[tuple[Run, Style, list[Measurement]]] = []
    for run in part.runs:
        points = [m for m in (run.before, *run.steps.values(), run.after) if m is not None and _point(m)]
        if len(points) > 1 and run.steps and run.after is not None and _point(points[-1]) == _point(points[-2]):
            points.pop(-2)  # the last step's evaluation is the one after
        if points:
            paths.append((run, looks[run.label], points))
    if not paths:
        return None
    labels = {run.label: run.label for run, _, _ in paths}
    if len(paths) > 10:  # one label a method, at its first run
        named: set[str] = set()
        for run, _, _ in paths:
            labels[run.label] = "" if run.subject in named else run.subject
            named.add(run.subject)

    def draw(axes: list[Axes]) -> None:
        (ax,) = axes
        if one_of_many:
            ax.set_title(part.title)
        edge = 0.02 * (1 - low)
        ax.set(xlim=(-0.02, 1.02), ylim=(low - edge, 1 + edge), xlabel="forget efficacy →", ylabel="model utility →")
        ax.xaxis.set_major_locator(MultipleLocator(0.2))
        ax.yaxis.set_major_locator(MultipleLocator(0.2 if low < 0.7 else 0.1 if low < 0.8 else 0.05))
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_formatter(lambda value, _: f"{value:.2g}")
        ax.grid(True)
        ends, lines = [], [[_point(m) or (0, 0) for m in points] for _, _, points in paths]
        for run, look, points in paths:
            x, y = zip(*(_point(m) or (0, 0) for m in points), strict=True)
            ax.plot(x, y, color=look.ink, linestyle=look.dash, linewidth=1.6, zorder=3)
            ax.plot(x[1:-1], y[1:-1], look.marker, color=look.ink, markersize=3.5, zorder=4)
            if run.command == "forget" and run.before is not None:
                ax.plot(x[:1], y[:1], "o", color=MUTED, markerfacecolor=PAPER, markersize=8, zorder=5)
            last = points[-1]
            if last is run.after:
                for key, along in (("forget_efficacy", True), ("model_utility", False)):
                    interval = last.interval(key)
                    if interval:
                        lines.append([(end, y[-1]) if along else (x[-1], end) for end in interval])
                        ax.plot(*zip(*lines[-1], strict=True), color=look.ink, linewidth=1, alpha=0.55, zorder=2)
            ax.plot(x[-1:], y[-1:], look.marker, color=look.ink, markersize=8, markeredgecolor=PAPER, zorder=6)
            ends.append((x[-1], y[-1], labels[run.label], look.ink))
        starts = {(*point, "before", MUTED) for run, _, _ in paths if (point := _point(run.before)) is not None}
        _place_labels(ax, [*ends, *sorted(starts)[:1]], lines)

    alt = f"Forget efficacy and model utility{', ' * one_of_many}{part.title}. " + "; ".join(
        f"{run.label}: " + " to ".join("{:.2f} and {:.2f}".format(*(_point(m) or (0, 0))) for m in (p[0], p[-1]))
        for run, _, p in paths
    )
    narrow = Tile(SIDE, SIDE, (48, 14, 28 if one_of_many else 10, 44), draw, alt)
    return narrow if one_of_many else Tile(620, 430, (52, 24, 12, 46), draw, alt, narrow=narrow)


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


def _metrics(part: Part, looks: Mapping[str, Style]) -> list[Picture]:
    """Every metric before and after: a tile a set for one run, a tile a metric for several."""
    found = columns(part.runs)
    ends = [column for column in found if column.kind != "before"]
    if not ends:
        return []
    kinds = ""
    if any(column.before is not None for column in ends):
        kinds = "The open circle is before unlearning, the mark after it; "
    kinds += f"bars are {_spread(part)}. "

    def before(column: Column) -> Measurement | None:
        return None if column.before is None else found[column.before].measured

    def row(label: str, column: Column, key: str) -> Bells:
        was = before(column)
        return label, looks[column.run.label], None if was is None else was.figure(key), column.measured, key

    if len(part.runs) == 1:
        tiles = [
            _dumbbells(set_title(name), [row(METRIC_TITLES.get(m, m), ends[0], f"{name}.{m}") for m in METRICS])
            for name in ends[0].measured.sets
        ]
        caption = "What was forgotten should be low in the forget set; all other sets should stay as they were."
        return [Picture("metrics", "Every metric on every set", kinds + caption, tiles, 2)]
    sets = ordered({name for column in ends for name in column.measured.sets})
    made = []
    for name in [*(["forget"] if "forget" in sets else []), *[s for s in sets if s != "forget"][:1]]:
        tiles = []
        for metric in METRICS:
            key = f"{name}.{metric}"
            rows = [row(c.run.label, c, key) for c in ends if c.measured.figure(key) is not None]
            if rows:
                tiles.append(_dumbbells(METRIC_TITLES.get(metric, metric), rows))
        goal = "Nothing here should move."
        if name == "forget":
            goal = (
                "Low values, on the left, mean forgotten (token entropy apart: it tells language from repeated words)."
            )
            if part.step == "task":
                goal += " After: the sets of all tasks, when the last is done; before: the first task's."
        made.append(Picture(f"metrics-{name}", f"{set_title(name)}, by metric", kinds + goal, tiles, 3))
    return made


def _steps(part: Part, looks: Mapping[str, Style]) -> list[Picture]:
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
            keys = [(f"{name}.{m}", METRIC_TITLES.get(m, m)) for m in METRICS]
            groups[f"{step}s-{name}"] = (f"{set_title(name)}, {step} by {step}", keys)
    made = []
    for file, (title, keys) in groups.items():
        tiles = [tile for key, heading in keys if (tile := _lines(heading, key, followed, looks, step)) is not None]
        if tiles:
            caption = f"{step.capitalize()} 0 is the model before unlearning; bands are {_spread(part)}."
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
    left = 14 + round(max(_width(label) for label, *_ in rows))
    return Tile(max(SIDE, left + 180), 54 + 21 * len(rows), (left, 44, 26, 24), draw, alt)


# ------------------------------------------------------------------------------------------------------------- drawing


def _figure(width: float, height: float) -> Figure:
    """A figure of so many pixels: at 72 dpi, matplotlib's point is the pixel."""
    figure = Figure(figsize=(width / 72, height / 72), dpi=72)
    FigureCanvasAgg(figure)
    return figure


def _axes(figure: Figure, tile: Tile, x: float, y: float, size: tuple[float, float]) -> list[Axes]:
    """The tile's axes in a figure of `size`, its upper left corner at (x, y)."""
    width, height = size
    left, right, top, bottom = tile.margins
    gap = 26 if tile.panels > 1 else 0
    each = (tile.height - top - bottom - gap * (tile.panels - 1)) / tile.panels
    made = []
    for panel in range(tile.panels):
        low = height - y - top - each - panel * (each + gap)
        made.append(
            figure.add_axes(((x + left) / width, low / height, (tile.width - left - right) / width, each / height))
        )
    return made


def _assembled(picture: Picture, looks: Mapping[str, Style]) -> Figure:
    """All tiles of a picture in one figure, with a legend line where the tiles name no run."""
    width = max(tile.width for tile in picture.tiles)
    height = max(tile.height for tile in picture.tiles)
    lines = -(-len(picture.tiles) // picture.columns)
    head = 30 if picture.legend else 0
    size = (width * min(picture.columns, len(picture.tiles)) + 10, height * lines + head + 6)
    figure = _figure(*size)
    for number, tile in enumerate(picture.tiles):
        line, column = divmod(number, picture.columns)
        tile.draw(_axes(figure, tile, column * width, head + line * height, size))
    if picture.legend:
        handles = [
            Line2D([], [], color=look.ink, linestyle=look.dash, marker=look.marker, markersize=5, label=label)
            for label in picture.legend
            for look in (looks[label],)
        ]
        figure.legend(handles=handles, loc="upper left", ncols=6, frameon=False, borderaxespad=0.3, fontsize=FONT)
    return figure


Spot = tuple[float, float]


def _place_labels(ax: Axes, wanted: Sequence[tuple[float, float, str, str]], lines: Sequence[Sequence[Spot]]) -> None:
    """Write labels beside their points: of the places around a point, the one that hides least."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    box, size = ax.get_position(), figure.get_size_inches() * 72
    (x0, x1), (y0, y1) = ax.get_xlim(), ax.get_ylim()
    across, up = box.width * size[0] / (x1 - x0), box.height * size[1] / (y1 - y0)
    points = [(x * across, y * up) for x, y, *_ in wanted]
    inked = [
        ((x + (u - x) * t / 40) * across, (y + (v - y) * t / 40) * up)
        for line in lines
        for (x, y), (u, v) in pairwise(line)
        for t in range(41)
    ]
    taken: list[tuple[float, float, float, float]] = []
    for (px, py), (x, y, text, colour) in zip(points, wanted, strict=True):
        if not text:
            continue
        width, height = _width(text) + 8, 14
        places = []
        for distance in (11, 15, 22, 34, 48, 64, 84):
            for dx, dy in ((1, 0), (0, 1), (0, -1), (1, 0.8), (1, -0.8), (-1, 0), (-1, 0.8), (-1, -0.8)):
                left = px + dx * distance - (width if dx < 0 else width / 2 if dx == 0 else 0)
                low = py + dy * distance - height / 2
                here = (left, low, left + width, low + height)
                outside = here[0] < x0 * across or here[1] < y0 * up or here[2] > x1 * across + 18 or here[3] > y1 * up
                cost = (
                    distance / 4
                    + 400 * outside
                    + 100 * sum(_overlap(here, other) for other in taken)
                    + 30 * sum(_within(here, point, 6) for point in points)
                    + 4 * sum(_within(here, point, 2) for point in inked)
                )
                places.append((cost, here, distance))
        _, here, distance = min(places, key=lambda place: place[0])
        taken.append(here)
        middle = ((here[0] + here[2]) / 2 - px, (here[1] + here[3]) / 2 - py)
        leader = {"arrowstyle": "-", "color": MUTED, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 5}
        ax.annotate(
            text, (x, y), middle, textcoords="offset points", ha="center", va="center_baseline", color=colour, zorder=8,
            arrowprops=leader if distance > 22 else None, annotation_clip=False,
        )  # fmt: skip


def _width(text: str) -> float:
    """Pixels that a text takes in matplotlib's own font, which is wider than most."""
    return float(TextPath((0, 0), text, size=FONT).get_extents().width)


def _within(box: tuple[float, float, float, float], point: Spot, margin: float) -> bool:
    return box[0] - margin < point[0] < box[2] + margin and box[1] - margin < point[1] < box[3] + margin


def _overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _point(measured: Measurement | None) -> tuple[float, float] | None:
    """Forget efficacy and model utility; None where one is undefined."""
    if measured is None:
        return None
    efficacy, utility = measured.figure("forget_efficacy"), measured.figure("model_utility")
    return None if efficacy is None or utility is None else (efficacy, utility)


def _both(row: dict[str, Any], part: str) -> bool:
    return isinstance(row.get("epoch"), int | float) and isinstance(row.get(part), int | float)


def _thinned(points: list[tuple[float, float]], most: int = 300) -> list[tuple[float, float]]:
    """At most `most` points: means of as many neighbours as that takes."""
    size = -(-len(points) // most) if points else 1
    groups = [points[first : first + size] for first in range(0, len(points), size)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]


def _spread(part: Part) -> str:
    return f"one standard deviation over {len(part.seeds)} seeds" if part.means else "95% intervals"


def set_title(name: str) -> str:
    """How a set is called on the page: `forget, task 2` is "Forget set, task 2"."""
    known, comma, task = name.partition(",")
    return SET_TITLES.get(known, known.replace("_", " ").capitalize()) + comma + task


def _cut(label: str, longest: int = 30) -> str:
    return label if len(label) <= longest else label[: longest - 1] + "…"


# --------------------------------------------------------------------------------------------------------------- output

_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}
_NO_SOFTWARE = {"Software": None}

_THEME = {INK: "currentColor", MUTED: "var(--muted)", RULE: "var(--rule)", PAPER: "var(--paper)"} | {
    colour: f"var(--c{place})" for place, colour in enumerate(COLOURS)
}


def _for_page(svg: str, tile: Tile, name: str) -> str:
    """The SVG without what a page has no use for, in the page's colours and type, its ids its own."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"\bfont: ((?:\w+ )*[\d.]+px) [^;\"]*", r"font: \1 var(--sans)", svg)
    svg = re.sub(r"#[0-9a-f]{6}\b", lambda found: _THEME.get(found[0], found[0]), svg)
    used = set(re.findall(r"#([\w-]+)[\")]", svg))
    svg = re.sub(r' id="([\w-]+)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", svg)
    svg = re.sub(r'(href="|url\()#([\w-]+)', rf"\1#{name}-\2", svg)
    svg = re.sub(r"<defs>\s*</defs>", "", svg)
    svg = re.sub(r"\s*\n\s*", "\n", svg)
    role = f'role="img" aria-label="{_attribute(tile.alt)}"' if tile.alt else 'aria-hidden="true"'
    size = f'viewBox="0 0 {tile.width} {tile.height}" width="{tile.width}" height="{tile.height}"'
    head = f'<svg class="chart" {size} {role}'
    return re.sub(r"<svg\b[^>]*", lambda _: head, svg, count=1).strip()


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
