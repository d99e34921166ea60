"""The first figure: what was forgotten against what was kept, a path for each run."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import floor

from matplotlib.axes import Axes
from matplotlib.ticker import MultipleLocator

from unlearner.report.contents import Measurement, Part, Run
from unlearner.report.drawing import MUTED, PAPER, SIDE, Picture, Style, Tile, text_width


def tradeoff(parts: Sequence[Part], looks: Mapping[str, Style]) -> Picture:
    """Model utility against forget efficacy, a tile a part: a path a run, from before over its steps to after."""
    low = _lowest(parts)
    tiles = [tile for part in parts if (tile := _paths(part, looks, len(parts) > 1, low)) is not None]
    step = next((part.step for part in parts for run in part.runs if run.steps), None)
    caption = (
        "Up and to the right is better: more is forgotten, more is kept. "
        + (f"Small marks are {step}s. " if step else "")
        + f"The open circle is the model before unlearning; thin lines are {spread_words(parts[0])}."
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
        drawn += [m.figure("model_utility") for m in points if m is not None and position(m)]
        drawn += (run.after and position(run.after) and run.after.interval("model_utility")) or ()
    return max(0.0, min(0.8, floor(5 * min((value for value in drawn if value is not None), default=0)) / 5))


def _paths(part: Part, looks: Mapping[str, Style], one_of_many: bool, low: float) -> Tile | None:
    paths: list[tuple[Run, Style, list[Measurement]]] = []
    for run in part.runs:
        points = [m for m in (run.before, *run.steps.values(), run.after) if m is not None and position(m)]
        if len(points) > 1 and run.steps and run.after is not None and position(points[-1]) == position(points[-2]):
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
        ends, lines = [], [[position(m) or (0, 0) for m in points] for _, _, points in paths]
        for run, look, points in paths:
            x, y = zip(*(position(m) or (0, 0) for m in points), strict=True)
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
        starts = {(*point, "before", MUTED) for run, _, _ in paths if (point := position(run.before)) is not None}
        _place_labels(ax, [*ends, *sorted(starts)[:1]], lines)

    alt = f"Forget efficacy and model utility{', ' * one_of_many}{part.title}. " + "; ".join(
        f"{run.label}: " + " to ".join("{:.2f} and {:.2f}".format(*(position(m) or (0, 0))) for m in (p[0], p[-1]))
        for run, _, p in paths
    )
    narrow = Tile(SIDE, SIDE, (48, 14, 28 if one_of_many else 10, 44), draw, alt)
    return narrow if one_of_many else Tile(620, 430, (52, 24, 12, 46), draw, alt, narrow=narrow)


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
        width, height = text_width(text) + 8, 14
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


def position(measured: Measurement | None) -> tuple[float, float] | None:
    """Forget efficacy and model utility; None where one is undefined."""
    if measured is None:
        return None
    efficacy, utility = measured.figure("forget_efficacy"), measured.figure("model_utility")
    return None if efficacy is None or utility is None else (efficacy, utility)


def spread_words(part: Part) -> str:
    return f"one standard deviation over {len(part.seeds)} seeds" if part.means else "95% intervals"
