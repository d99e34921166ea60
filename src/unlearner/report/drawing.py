"""How figures are drawn by matplotlib: tiles, their styles, and their way onto a page or into a file.

Every figure is drawn in CSS pixels. For the page every tile is an SVG of its own, its colours replaced by the page's
(`currentColor` and custom properties), so that it follows the theme and tiles restack on a phone. For papers all tiles
of a picture go into one file.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from io import StringIO
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.textpath import TextPath

from unlearner.report.contents import Report

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
FONT = 12  # CSS pixels; matplotlib's points are of the figure's own 72 dpi, see `figure`
RC: dict[Any, Any] = {
    "font.family": "sans-serif", "font.size": FONT, "text.color": INK, "text.parse_math": False,
    "axes.edgecolor": MUTED, "axes.labelcolor": MUTED, "axes.linewidth": 0.8, "axes.titlesize": FONT,
    "axes.titlecolor": INK, "axes.titlelocation": "left", "axes.titlepad": 8, "axes.titley": 1.0,
    "axes.labelsize": FONT, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
    "axes.unicode_minus": True,
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


def inline(tile: Tile, name: str) -> str:
    """A tile as SVG for the page; `name` keeps the ids inside it apart from those of other tiles."""
    with matplotlib.rc_context(RC):
        figure = new_figure(tile.width, tile.height)
        figure.patch.set_visible(False)
        tile.draw(axes(figure, tile, 0, 0, (tile.width, tile.height)))
        text = StringIO()
        figure.savefig(text, format="svg", metadata=NO_METADATA)
    return _for_page(text.getvalue(), tile, name)


def swatch(style: Style, name: str) -> str:
    """A run's marker as SVG, to stand beside its name."""

    def draw(axes: list[Axes]) -> None:
        axes[0].set_axis_off()
        axes[0].plot([0, 1], [0, 0], color=style.ink, linestyle=style.dash, linewidth=1.5)
        axes[0].plot([0.5], [0], style.marker, color=style.ink, markersize=6.5)
        axes[0].set(xlim=(-0.1, 1.1), ylim=(-1, 1))

    return inline(Tile(26, 12, (0, 0, 0, 0), draw, ""), name)


def new_figure(width: float, height: float) -> Figure:
    """A figure of so many pixels: at 72 dpi, matplotlib's point is the pixel."""
    figure = Figure(figsize=(width / 72, height / 72), dpi=72)
    FigureCanvasAgg(figure)
    return figure


def axes(figure: Figure, tile: Tile, x: float, y: float, size: tuple[float, float]) -> list[Axes]:
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


def assembled(picture: Picture, looks: Mapping[str, Style]) -> Figure:
    """All tiles of a picture in one figure, with a legend line where the tiles name no run."""
    width = max(tile.width for tile in picture.tiles)
    height = max(tile.height for tile in picture.tiles)
    lines = -(-len(picture.tiles) // picture.columns)
    head = 30 if picture.legend else 0
    size = (width * min(picture.columns, len(picture.tiles)) + 10, height * lines + head + 6)
    figure = new_figure(*size)
    for number, tile in enumerate(picture.tiles):
        line, column = divmod(number, picture.columns)
        tile.draw(axes(figure, tile, column * width, head + line * height, size))
    if picture.legend:
        handles = [
            Line2D([], [], color=look.ink, linestyle=look.dash, marker=look.marker, markersize=5, label=label)
            for label in picture.legend
            for look in (looks[label],)
        ]
        figure.legend(handles=handles, loc="upper left", ncols=6, frameon=False, borderaxespad=0.3, fontsize=FONT)
    return figure


@cache
def text_width(text: str) -> float:
    """Pixels that a text takes in matplotlib's own font, which is wider than most."""
    return float(TextPath((0, 0), text, size=FONT).get_extents().width)


NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}
GENERATOR = "unlearner report"
"""Told in every page and figure: what says so may be replaced."""
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
