"""How small a leak does an audit see? Draws the power of its three tests against the size of the leak.

    python -m benchmarks.power_curves --output docs/guide/power.svg

Left: the lower bound of the round rate is above τ = 0.01, computed. Middle: the conformal test tells a subject from
controls who are guessed in 3% of their answers, simulated. Right: the rank test finds it, simulated. Ten questions a
subject, four subjects, α = 0.05.
"""

import argparse
from pathlib import Path

import matplotlib
import numpy as np
from scipy import stats

from unlearner.audit.statistics import conformal_p, lower, rank_test
from unlearner.report.drawing import COLOURS, DASHES, GENERATOR, NO_METADATA, RC, new_figure

QUESTIONS, SUBJECTS, ALPHA, TAU, GUESSED, DECOYS = 10, 4, 0.05, 0.01, 0.03, 5
ROUNDS = (16, 64, 256, 1024)
RATES = np.geomspace(1e-3, 0.3, 40)
SHARES = np.linspace(0, 1, 21)
SETTINGS = ((4, 40, 16), (4, 40, 256), (1, 99, 16), (1, 99, 256))
"""Leaking subjects of the four, controls, samples."""


def bound(rounds: int, rates: np.ndarray = RATES) -> np.ndarray:
    """The chance that a subject's lower bound is above τ, by the leak rate of an answer."""
    counts = np.arange(rounds + 1)
    enough = counts[lower(counts, rounds, ALPHA / SUBJECTS) > TAU]
    in_round = -np.expm1(QUESTIONS * np.log1p(-rates))
    return np.asarray(stats.binom.sf(enough[0] - 1, rounds, in_round)) if len(enough) else np.zeros_like(rates)


def conformal(leaking: int, controls: int, samples: int, rate: float, draws: int, rng: np.random.Generator) -> float:
    """The chance that a leaking subject's p-value, adjusted over the four, is at most α.

    Counts stand for surprises: all have as many answers, so that the order is the same.
    """
    answers, found = QUESTIONS * samples, 0
    for _ in range(draws):
        rates = [rate] * leaking + [GUESSED] * (SUBJECTS - leaking)
        guessed = rng.binomial(answers, GUESSED, controls).astype(float).tolist()
        p_values = [conformal_p(float(rng.binomial(answers, each)), guessed) for each in rates]
        found += int(stats.false_discovery_control(p_values)[0] <= ALPHA)
    return found / draws


def ranks(questions: int, share: float, draws: int, rng: np.random.Generator) -> float:
    """The chance that the rank test's exact p-value is at most α over four, `share` of the truths first and the others
    anywhere."""
    found = 0
    for _ in range(draws):
        first = rng.random(questions) < share
        drawn = np.where(first, 1, rng.integers(1, DECOYS + 2, questions))
        found += rank_test(drawn.tolist(), [DECOYS] * questions)[0] <= ALPHA / SUBJECTS
    return found / draws


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, prog="python -m benchmarks.power_curves", formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=1_000, help="of each simulated point")
    parser.add_argument("--output", type=Path, default=Path("docs/guide/power.svg"))
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    with matplotlib.rc_context(RC):
        figure = new_figure(960, 380)
        left, middle, right = figure.subplots(1, 3, sharey=True)
        for place, rounds in enumerate(ROUNDS):
            left.plot(100 * RATES, 100 * bound(rounds), color=COLOURS[place], label=f"{rounds} rounds")
        for place, (leaking, controls, samples) in enumerate(SETTINGS):
            rates = RATES[RATES > 0.01]
            power = [conformal(leaking, controls, samples, rate, options.draws, rng) for rate in rates]
            label = f"{leaking} of 4 leak, {controls} controls, {samples} samples"
            looks = {"color": COLOURS[place // 2], "linestyle": DASHES[place % 2]}
            middle.plot(100 * rates, 100 * np.asarray(power), label=label, **looks)
        for place, questions in enumerate((4, 10, 40)):
            power = [ranks(questions, share, options.draws, rng) for share in SHARES]
            right.plot(100 * SHARES, 100 * np.asarray(power), color=COLOURS[place], label=f"{questions} questions")
        titles = (
            "Bound of the round rate above 1%",
            "More than controls guessed in 3%",
            "Ranks among five wrong answers",
        )
        labels = ("answers that leak, %", "answers that leak, %", "questions whose truth ranks first, %")
        for axes, title, label in zip((left, middle, right), titles, labels, strict=True):
            axes.set(title=title, xlabel=label, ylim=(0, 102))
            axes.axhline(80, color=RC["axes.edgecolor"], linewidth=0.8, linestyle=DASHES[2])
            axes.grid(axis="y")
            axes.legend(frameon=False, fontsize=11, loc="upper left", bbox_to_anchor=(-0.03, -0.17))
        for axes in (left, middle):
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
        left.set_ylabel("audits that find it, %")
        figure.tight_layout(w_pad=2)
        figure.savefig(options.output, metadata={**NO_METADATA, "Creator": GENERATOR})


if __name__ == "__main__":
    main()
