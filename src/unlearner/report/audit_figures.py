"""Figures of an audit's page: leak at k samples, what relearning brings back, what rounding undoes."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from unlearner.report.audit_tables import first_decoder
from unlearner.report.drawing import COLOURS, MUTED, SIDE, Tile

Summary = Mapping[str, Any]


def figures(summary: Summary) -> Iterable[tuple[str, str, str, Tile]]:
    """(name, title, caption, tile)."""
    curves = summary["leak_at_k"]
    if curves:
        yield (
            "leaks", "Leak at k samples", "How often one of k samples of a question leaks: the mean over "
            f"questions (line), and the mean of their own upper bounds (dotted).{first_decoder(summary)}",
            _leak_tile(curves),
        )  # fmt: skip
    taught = summary["relearning"].get("unlearned")
    if taught:
        yield (
            "relearning", "After relearning", "Share of the facts not taught that the model states, by steps of "
            "training on others. Controls show what such training brings by itself.", _taught_tile(taught),
        )  # fmt: skip
    if summary["unchanged_codes"]:
        yield (
            "codes", "What rounding undoes", "Share of rounded weights that are the same as in the original model, by "
            "layer: at 100% none of the unlearning survives.", _codes_tile(summary["unchanged_codes"]),
        )  # fmt: skip


def _tile(draw: Any, alt: str) -> Tile:
    return Tile(SIDE + 120, 250, (48, 112, 14, 40), draw, alt)


def _percent(ax: Axes, top: float = 1.02) -> None:
    ax.set_ylim(0, top)
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.grid(axis="y")


def _named(ax: Axes, lines: Sequence[tuple[str, float, str]]) -> None:
    """Names at the ends of lines, apart from one another."""
    low, high = ax.get_ylim()
    placed: list[float] = []
    for name, y, colour in sorted(lines, key=lambda line: line[1]):
        at = max([y, *(other + 0.08 * (high - low) for other in placed[-1:])])
        placed.append(at)
        ax.annotate(name, (1.02, at), xycoords=("axes fraction", "data"), color=colour, va="center")


def _leak_tile(curves: Mapping[str, Any]) -> Tile:
    names = {
        "unlearned.forget": "now", "before.forget": "before", "retrained.forget": "retrained",
        "unlearned.control": "controls",
    }  # fmt: skip
    shown = {key: curve for key, curve in curves.items() if key in names}

    def draw(axes: list[Axes]) -> None:
        (ax,) = axes
        _percent(ax)
        ax.set_xscale("log", base=2)
        ends = []
        for place, (key, curve) in enumerate(shown.items()):
            ks = [point["k"] for point in curve]
            ax.plot(ks, [p["rate"] for p in curve], color=COLOURS[place], marker="o", markersize=4)
            ax.plot(ks, [p["high"] for p in curve], color=COLOURS[place], linestyle=(0, (1, 1.6)))
            ends.append((names[key], curve[-1]["rate"], COLOURS[place]))
        ks = [point["k"] for point in max(shown.values(), key=len)]
        ax.set_xticks(ks, [str(k) for k in ks])
        ax.minorticks_off()
        ax.set_xlabel("samples of a question")
        _named(ax, ends)

    said = (f"{names[key]} {curve[-1]['rate']:.0%} of {curve[-1]['k']}" for key, curve in shown.items())
    return _tile(draw, "Leak at k samples, at the largest k: " + "; ".join(said))


def _taught_tile(found: Mapping[str, Any]) -> Tile:
    names = {"forgotten": "forgotten", "retained": "by retained rows", "unknown": "controls"}
    lines = {}
    for arm, curve in found["curves"].items():
        rate = found["arms"][arm]["rate"]
        lines[arm] = [(p["step"], p["leaks"][0] / p["leaks"][1]) for p in curve if p["rate"] == rate and p["leaks"][1]]

    def draw(axes: list[Axes]) -> None:
        (ax,) = axes
        _percent(ax)
        for place, points in enumerate(lines.values()):
            ax.plot(*zip(*points, strict=True), color=COLOURS[place], marker="os^"[place % 3], markersize=4)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        ax.set_xlabel("steps of training")
        _named(ax, [(names[arm], points[-1][1], COLOURS[place]) for place, (arm, points) in enumerate(lines.items())])

    said = (f"{names[arm]} {points[-1][1]:.0%} after {points[-1][0]}" for arm, points in lines.items())
    return _tile(draw, "Stated after relearning: " + "; ".join(said))


def _codes_tile(codes: Mapping[str, Mapping[str, float]]) -> Tile:
    def draw(axes: list[Axes]) -> None:
        (ax,) = axes
        _percent(ax)
        for place, shares in enumerate(codes.values()):
            ax.plot(list(shares.values()), color=COLOURS[place % 6], marker="o", markersize=4)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        ax.set_xlabel("layer")
        ends = [(name, list(s.values())[-1], COLOURS[p % 6]) for p, (name, s) in enumerate(codes.items())]
        _named(ax, ends)
        ax.axhline(1, color=MUTED, linewidth=0.8)

    said = (f"{name} {sum(s.values()) / len(s):.1%} on average" for name, s in codes.items())
    return _tile(draw, "Share of unchanged codes: " + "; ".join(said))
