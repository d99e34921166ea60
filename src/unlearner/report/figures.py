"""The report's figures, drawn by matplotlib: as tiles that a page lays out and colours, and as PNG and SVG files.

A picture is a few tiles that share their scale. For the page every tile is an SVG of its own, its colours replaced by
the page's (`currentColor` and custom properties), so that it follows the theme and tiles restack on a phone. For papers
all tiles go into one file. Every figure is drawn in CSS pixels.
"""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO, StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from unlearner.evaluation.metrics import METRICS
from unlearner.files import space_errors
from unlearner.report.read import Measurement, Run, columns

INK, MUTED, RULE, PAPER = "#1c1d20", "#5d6167", "#dcdcd8", "#ffffff"
COLOURS = ("#0b4f8f", "#b3360f", "#2f9c82", "#8f6be0", "#c08a00", "#333333")
"""Told apart under every common colour blindness (ΔE ≥ 20 between any two), 3:1 on white. The page has a lighter
sixfold for the dark theme, `--c0` to `--c5` in report.css."""
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "p")
DASHES: tuple[Any, ...] = ("solid", (0, (5, 2)), (0, (1, 1.6)), (0, (6, 2, 1, 2)))
PLACES = ("ME+GD", "GA+GD", "IDK+AP", "NPO+GD", "DPO+GD", "IDK+GD")
"""The paper's methods have the same colour in every report; others take what is left."""

METRIC_TITLES = {
    "rouge": "ROUGE", "probability": "Probability", "truth_ratio": "Truth ratio", "token_entropy": "Token entropy",
    "cosine_similarity": "Cosine similarity", "entailment": "Entailment",
}  # fmt: skip
SET_TITLES = {
    "forget": "Forget set", "retain": "Retain set", "real_authors": "Real authors", "world_facts": "World facts",
}  # fmt: skip

FONT = 11  # CSS pixels; matplotlib's points are of the figure's own 72 dpi, see `_figure`
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
    legend: bool = False
    """Whether the runs are named by a legend, rather than in the tiles."""


def styles(runs: Sequence[Run]) -> list[Style]:
    """A style for every run: methods have colours, and runs of one method differ in marker and dash."""
    subjects = list(dict.fromkeys(run.subject for run in runs))
    fixed = {subject: PLACES.index(subject) for subject in subjects if subject in PLACES}
    free = [place for place in range(len(PLACES)) if place not in fixed.values()]
    places = dict(fixed)
    for number, subject in enumerate(s for s in subjects if s not in fixed):
        # With more subjects than colours, a colour comes again with another marker.
        places[subject] = free[number] if number < len(free) else len(PLACES) + number - len(free)
    found, times = [], dict.fromkeys(subjects, 0)
    for run in runs:
        place, time = places[run.subject], times[run.subject]
        times[run.subject] += 1
        again = place // len(COLOURS) + time
        found.append(Style(place % len(COLOURS), MARKERS[(place + again) % len(MARKERS)], DASHES[again % len(DASHES)]))
    return found


def pictures(runs: Sequence[Run]) -> list[Picture]:
    """The figures that `runs` have the data for."""
    looks = styles(runs)
    made = [_tradeoff(runs, looks), *_metrics(runs, looks), *_epochs(runs, looks), _training(runs, looks)]
    return [picture for picture in made if picture is not None and picture.tiles]


def save_figures(runs: Sequence[Run], folder: Path) -> list[Path]:
    """Every figure as NAME.svg and NAME.png in `folder`; returns the paths."""
    with space_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    looks = styles(runs)
    paths = []
    for picture in pictures(runs):
        with matplotlib.rc_context(RC):
            figure = _assembled(picture, runs, looks)
            for suffix, options in (
                ("svg", {"metadata": _NO_METADATA}),
                ("png", {"dpi": 3 * 72, "metadata": _NO_SOFTWARE}),
            ):
                buffer = BytesIO()
                figure.savefig(buffer, format=suffix, **options)
                paths.append(folder / f"{picture.name}.{suffix}")
                _write(paths[-1], buffer.getvalue())
    return paths


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


def _tradeoff(runs: Sequence[Run], looks: Sequence[Style]) -> Picture | None:
    """Model utility against forget efficacy: a path a run, from before over its epochs to after."""
    paths: list[tuple[Run, Style, list[Measurement]]] = []
    for run, look in zip(runs, looks, strict=True):
        points = [m for m in (run.before, *run.epochs.values(), run.after) if m is not None and _point(m)]
        if len(points) > 1 and run.epochs and run.after is not None and _point(points[-1]) == _point(points[-2]):
            points.pop(-2)  # the last epoch's evaluation is the one after
        if points:
            paths.append((run, look, points))
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
        ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="forget efficacy →", ylabel="model utility →")
        ax.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
        ax.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
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

    alt = "Forget efficacy and model utility. " + "; ".join(
        f"{run.label}: " + " to ".join("{:.2f} and {:.2f}".format(*(_point(m) or (0, 0))) for m in (p[0], p[-1]))
        for run, _, p in paths
    )
    followed = any(len(points) > 2 for _, _, points in paths)
    return Picture(
        "tradeoff", "Forgetting against utility",
        "Up and to the right is better: more is forgotten, more is kept. "
        + ("Small marks are epochs. " if followed else "")
        + "The open circle is the model before unlearning, thin lines are 95% intervals.",
        [
            Tile(620, 430, (52, 24, 12, 46), draw, alt, narrow=Tile(330, 330, (46, 14, 10, 44), draw, alt)),
        ],
        1,
    )  # fmt: skip


def _metrics(runs: Sequence[Run], looks: Sequence[Style]) -> list[Picture]:
    """Every metric before and after: a tile a set for one run, a tile a metric for several."""
    found = columns(runs)
    if not any(column.kind != "before" for column in found):
        return []
    sets = list(dict.fromkeys(name for column in found for name in column.measured.sets))
    kinds = "The open circle is before unlearning, the mark after it; bars are 95% intervals. "
    if len(runs) == 1:
        tiles = []
        column, look = found[-1], looks[0]
        before = None if column.before is None else found[column.before].measured
        for name in column.measured.sets:
            rows = [
                (
                    METRIC_TITLES.get(m, m),
                    look,
                    None if before is None else before.figure(f"{name}.{m}"),
                    column.measured,
                    f"{name}.{m}",
                )
                for m in METRICS
            ]
            tiles.append(_dumbbells(_set_title(name), rows))
        caption = "What was forgotten should be low in the forget set; all other sets should stay as they were."
        return [Picture("metrics", "Every metric on every set", (kinds if before else "") + caption, tiles, 2)]
    made = []
    for name in ["forget", *[s for s in sets if s != "forget"][:1]]:
        if name not in sets:
            continue
        tiles = []
        for metric in METRICS:
            key = f"{name}.{metric}"
            shown = [c for c in found if c.kind != "before" and c.measured.figure(key) is not None]
            rows = [
                (
                    c.label,
                    looks[c.run],
                    None if c.before is None else found[c.before].measured.figure(key),
                    c.measured,
                    key,
                )
                for c in shown
            ]
            if rows:
                tiles.append(_dumbbells(METRIC_TITLES.get(metric, metric), rows))
        goal = (
            "Low values, on the left, mean forgotten (token entropy apart: it tells fluent text from repeated words)."
            if name == "forget"
            else "Nothing here should move."
        )
        made.append(Picture(f"metrics-{name}", f"{_set_title(name)}, by metric", kinds + goal, tiles, 3))
    return made


def _epochs(runs: Sequence[Run], looks: Sequence[Style]) -> list[Picture]:
    """Forget efficacy, utility and every metric of forget and retain set, epoch after epoch."""
    followed = [(run, look) for run, look in zip(runs, looks, strict=True) if run.epochs]
    if not followed:
        return []
    kept = next((s for run, _ in followed for m in run.epochs.values() for s in m.sets if s != "forget"), None)
    groups = {
        "epochs": ("Epoch by epoch", [("forget_efficacy", "Forget efficacy"), ("model_utility", "Model utility")])
    }
    for name in ("forget", kept):
        if name is not None:
            title = f"{_set_title(name)}, epoch by epoch"
            groups[f"epochs-{name}"] = (title, [(f"{name}.{m}", METRIC_TITLES.get(m, m)) for m in METRICS])
    made = []
    for file, (title, keys) in groups.items():
        tiles = [tile for key, heading in keys if (tile := _lines(heading, key, followed)) is not None]
        if tiles:
            made.append(
                Picture(file, title, "Epoch 0 is the model before unlearning.", tiles, min(3, len(tiles)), True)
            )
    return made


def _lines(heading: str, key: str, followed: Sequence[tuple[Run, Style]]) -> Tile | None:
    curves = []
    for run, look in followed:
        points = {0: run.before} | run.epochs if run.before is not None else run.epochs
        values = [(epoch, v) for epoch, m in points.items() if m is not None and (v := m.figure(key)) is not None]
        if values:
            curves.append((run.label, look, values))
    if not curves:
        return None
    last = max(epoch for _, _, values in curves for epoch, _ in values)

    def draw(axes: list[Axes]) -> None:
        (ax,) = axes
        ax.set_title(heading)
        ax.set(xlim=(-0.03 * last, 1.03 * last), ylim=(-0.03, 1.03), xlabel="epoch")
        ax.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
        ax.set_xticks(sorted({0, last, *range(0, last + 1, max(1, -(-last // 5)))}))
        ax.grid(True, axis="y")
        for _, look, values in curves:
            x, y = zip(*values, strict=True)
            ax.plot(
                x,
                y,
                color=look.ink,
                linestyle=look.dash,
                marker=look.marker,
                markersize=4,
                linewidth=1.5,
                clip_on=False,
            )

    alt = f"{heading} by epoch. " + "; ".join(
        f"{label}: " + ", ".join(f"{value:.2f}" for _, value in values) for label, _, values in curves
    )
    return Tile(300, 205, (30, 12, 28, 40), draw, alt)


def _training(runs: Sequence[Run], looks: Sequence[Style]) -> Picture | None:
    """The losses over training, a tile a run: their scales differ from method to method."""
    tiles = []
    for run, look in zip(runs, looks, strict=True):
        curves = [
            (f"{part} loss", _thinned([(row["epoch"], row[part]) for row in run.log if _both(row, part)]))
            for part in ("forget", "retain")
        ]
        curves = [(name, points) for name, points in curves if any(value for _, value in points)]
        if curves:
            tiles.append(_losses(run.label, look, curves))
    if not tiles:
        return None
    caption = "The losses of every step, each on its own scale, before their coefficients."
    return Picture("training", "Training", caption, tiles, min(3, len(tiles)))


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
    return Tile(310, 50 + 100 * len(curves), (46, 10, 28, 40), draw, alt, panels=len(curves))


Bells = tuple[str, Style, float | None, Measurement, str]


def _dumbbells(heading: str, rows: Sequence[Bells]) -> Tile:
    """A line a row: from the value before (open circle) to the value after, with its interval and its number."""
    rows = [(_cut(label), *rest) for label, *rest in rows]  # type: ignore[misc]
    longest = max(len(label) for label, *_ in rows)

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
    left = 14 + round(6.2 * longest)
    return Tile(left + 216, 54 + 21 * len(rows), (left, 42, 26, 24), draw, alt)


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


def _assembled(picture: Picture, runs: Sequence[Run], looks: Sequence[Style]) -> Figure:
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
            Line2D([], [], color=look.ink, linestyle=look.dash, marker=look.marker, markersize=5, label=run.label)
            for run, look in zip(runs, looks, strict=True)
            if run.epochs
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
        width, height = 7.2 * len(text), 13
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


def _set_title(name: str) -> str:
    return SET_TITLES.get(name, name.replace("_", " ").capitalize())


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


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with space_errors(path):
        try:
            temporary.write_bytes(content)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
