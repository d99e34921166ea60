"""What several commands print, on standard output."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from unlearner.console import discard_output, warn
from unlearner.distributed import is_main
from unlearner.errors import plural
from unlearner.evaluation.judges import describe
from unlearner.evaluation.metrics import metric_text
from unlearner.evaluation.result import interval, measured_metrics, three_digits
from unlearner.report.audit_tables import decoder_of, p_value, rank_p, untested_sentences, weak_sentence
from unlearner.report.titles import renamed, set_names
from unlearner.results.layout import AuditDirectory, EvaluationDirectory
from unlearner.terminal import Plain


def out() -> Console:
    # Wide enough for the tables where nobody looks (a pipe, a file): there they are not cut.
    quiet = not is_main()
    terminal = _Output(quiet=quiet)
    return terminal if terminal.is_terminal else _Output(width=160, quiet=quiet)


class _Output(Plain):
    def on_broken_pipe(self) -> None:
        """A reader that has seen enough (`| head`) is no failure, as rich would have it."""
        self.quiet = True
        discard_output()


DETECTOR = {
    "False alarms": {
        "false_alarms": "wrong answers", "false_alarms_on_others": "answers about others",
        "false_alarms_on_controls": "answers about controls",
    },
    "Misses": {"misses": "paraphrases", "misses_before": "whole answers of the original model"},
}  # fmt: skip
TOTALS = {"model_utility": "model utility", "forget_efficacy": "forget efficacy"}


def summary_table(summaries: Mapping[str, dict[str, Any]], console: Console) -> Table:
    """All figures of some evaluations, by label, in the first shape that fits the console: no number is ever cut."""
    shapes = [_a_line_a_set(summaries), _a_column_a_model(summaries)]
    unlimited = console.options.update(width=10_000)
    fitting = (table for table in shapes if console.measure(table, options=unlimited).maximum <= console.width)
    return next(fitting, None) or _a_line_a_figure(summaries)


def _new_table(*headings: str, left: int) -> Table:
    """`left` columns of texts, the others of numbers; none of them wraps."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for place, heading in enumerate(headings):
        table.add_column(heading, no_wrap=True, justify="left" if place < left else "right")
    return table


def _metrics(summaries: Mapping[str, dict[str, Any]]) -> dict[str, str]:
    """All metrics of some evaluations by name, with their headings."""
    found = measured_metrics(*summaries.values())
    return {name: metric_text(name, "short", *summaries.values()) for name in found}


def _a_line_a_set(summaries: Mapping[str, dict[str, Any]]) -> Table:
    """One line a set and model; MU and FE with their intervals in the model's first line."""
    headings = _metrics(summaries)
    table = _new_table("", "set", *headings.values(), *TOTALS.values(), left=2)
    for label, summary in summaries.items():
        totals = [_with_interval(summary, key) for key in TOTALS]
        for place, (name, metrics) in enumerate(summary["sets"].items()):
            first = place == 0
            table.add_row(
                escape(label) if first else "", name, *(three_digits(metrics.get(m)) for m in headings),
                *(totals if first else ["", ""]), end_section=place == len(summary["sets"]) - 1,
            )  # fmt: skip
    return table


def _a_column_a_model(summaries: Mapping[str, dict[str, Any]]) -> Table:
    """One line a set and metric, for narrow terminals."""
    table = _new_table("", *map(escape, summaries), left=1)
    for key, title in TOTALS.items():
        table.add_row(title, *(three_digits(summary[key]) for summary in summaries.values()))
        table.add_row("", *(interval(summary, key) for summary in summaries.values()), style="dim")
    for name in dict.fromkeys(name for summary in summaries.values() for name in summary["sets"]):
        table.add_row(f"[bold]{name}[/]")
        for metric, heading in _metrics(summaries).items():
            found = (summary["sets"].get(name, {}).get(metric) for summary in summaries.values())
            table.add_row(f"  {escape(heading)}", *map(three_digits, found))
    return table


def _a_line_a_figure(summaries: Mapping[str, dict[str, Any]]) -> Table:
    """One line a model, set and metric, where even the models do not fit side by side."""
    table = _new_table("", "", left=1)
    for label, summary in summaries.items():
        table.add_row(f"[bold]{escape(label)}[/]")
        for key, title in TOTALS.items():
            table.add_row(f"  {title}", three_digits(summary[key]))
            table.add_row("", interval(summary, key), style="dim")
        for name, metrics in summary["sets"].items():
            table.add_row(f"  {name}")
            for metric, heading in _metrics(summaries).items():
                table.add_row(f"    {escape(heading)}", three_digits(metrics.get(metric)))
    return table


def print_summary(summaries: Mapping[str, dict[str, Any]], config: Any) -> None:
    """The table of evaluations, and who judged them; `config` are the options they were made with."""
    console, names = out(), set_names(vars(config))
    summaries = {label: renamed(summary, names) for label, summary in summaries.items()}
    last = list(summaries.values())[-1]
    if last["sets"]:
        console.print(summary_table(summaries, console))
        console.print(describe(last["embedding_model"], last["judge"]), style="dim", markup=False)
    for note in last["notes"]:
        console.print(note, style="dim", markup=False)
    for name in last.get("benchmarks", {}):
        console.print(_of_benchmark(summaries, name))


def _of_benchmark(summaries: Mapping[str, dict[str, Any]], name: str) -> Table:
    """A benchmark's own figures, in its own units: one line each."""
    table = _new_table(name, *map(escape, summaries), left=1)
    found = [summary.get("benchmarks", {}).get(name, {}).get("figures", {}) for summary in summaries.values()]
    for figure in dict.fromkeys(figure for figures in found for figure in figures):
        table.add_row(figure.replace("_", " "), *(three_digits(figures.get(figure)) for figures in found))
    return table


def print_verdict(runs: Sequence[Path]) -> None:
    """What the runs, or a bench, show, in the sentences of their page; what to beware of, on standard error."""
    if not is_main():
        return
    from unlearner.report.read import read
    from unlearner.report.verdict import verdict

    found, console = verdict(read(runs)), out()
    console.print()
    for sentence in found.sentences:
        console.print(sentence, style="bold", markup=False, soft_wrap=not console.is_terminal)
    for warning in found.warnings:
        warn(warning)


def print_records(folder: Path) -> None:
    """Where the records lie that all figures come from."""
    out().print(
        f"Every question with its answers and values: {EvaluationDirectory(folder).records}",
        markup=False,
        soft_wrap=True,
    )


def print_report(page: Path) -> None:
    """Where the page lies, to be opened."""
    out().print(f"The report, to be opened in a browser: {page}", style="green", markup=False, soft_wrap=True)


def _with_interval(summary: dict[str, Any], key: str) -> str:
    return f"{three_digits(summary[key])} [dim]{interval(summary, key)}[/]".strip()


def show_audit(summary: Mapping[str, Any], folder: Path) -> None:
    """What was found, and the page about it."""
    from unlearner.report import add_audit_page

    page = add_audit_page(folder)
    print_audit(summary, folder)
    if page is not None:
        print_report(page)


def print_audit(summary: Mapping[str, Any], folder: Path) -> None:
    """A line a subject: verdict, leak rate of a round with bounds before and after, worst attack, tests."""
    console = out()
    table = _new_table("subject", "verdict", "worst attack", "before", "after", "controls", "p", "rank p", left=3)
    for verdict in summary["verdicts"]:
        rounds = verdict["rounds"]
        rates = [_rate(rounds.get(name)) for name in ("before", "unlearned", "control")]
        numbers = [p_value(verdict["p_value"]), rank_p(verdict, summary)]
        table.add_row(
            escape(verdict["subject"]), verdict["verdict"], escape(verdict["worst_attack"] or "-"), *rates, *numbers
        )
    console.print(table)
    if any(verdict["rank_p"] <= summary["thresholds"]["alpha"] for verdict in summary["verdicts"]):
        said = "rank p: exact, of ranks among wrong values; it counts only if they are also beyond the controls' ranks."
        console.print(said, soft_wrap=True)
    for verdict in summary["verdicts"]:
        decoder = decoder_of(verdict, summary)
        said = f" Its rates are those of {decoder}." if decoder else ""
        console.print(escape(f"{verdict['subject']}: {verdict['why']}.{said}"), soft_wrap=True)
    if group_test := summary.get("group_test"):
        console.print(
            f"All {group_test['subjects']} forgotten subjects against all {group_test['controls']} controls: "
            f"p {p_value(group_test['p_value'])}.",
            soft_wrap=True,
        )
    if (worst := summary.get("worst_case", {}).get("unlearned.forget")) is not None:
        console.print(
            f"Under at least one prompt template, the fact came out for {worst[0]} of {worst[1]} questions.",
            soft_wrap=True,
        )
    for group, told in summary["knowledge"]["told"].items():
        title = "Retained questions, trained on" if group == "retain" else "Neighbours, not trained on"
        console.print(
            f"{title}: {told['before']} of {told['of']} answered before, {told['now']} now, {told['lost']} lost.",
            soft_wrap=True,
        )
    for model, found in summary["relearning"].items():
        if "excess" in found:
            console.print(
                f"Relearning ({model}): {found['excess']:+.0%} of the facts that were not taught come back, compared "
                f"with controls, p {p_value(found['p_value'])}.",
                soft_wrap=True,
            )
    for subject, taught in summary["relearning"].get("unlearned", {}).get("subjects", {}).items():
        when = "not within its steps" if taught.get("half") is None else f"at step {taught['half']}"
        console.print(escape(f"{subject}: relearning brings back half of what was known {when}."), soft_wrap=True)
    for said in detector_lines(summary):
        console.print(said, soft_wrap=True)
    if summary["dropped"]:
        console.print(
            escape(f"Left out because controls leak under them too: {', '.join(summary['dropped'])}."), soft_wrap=True
        )
    for said in untested_sentences(summary):
        console.print(escape(said), soft_wrap=True)
    if weak := weak_sentence(summary):
        console.print(escape(weak), soft_wrap=True)
    console.print(escape(f"{summary['caveat']}\nAll outcomes: {AuditDirectory(folder).rows}"), soft_wrap=True)


def detector_lines(summary: Mapping[str, Any]) -> list[str]:
    """How often the detector itself was wrong, and the rows that it cannot judge."""
    lines = []
    for title, keys in DETECTOR.items():
        counted = [
            f"{found['wrong']} of {found['of']} {where}"
            for key, where in keys.items()
            if (found := summary["detector"].get(key)) and found["of"]
        ]
        lines += [f"{title} of the detector: {', '.join(counted)}."] if counted else []
    if without := summary["rows_without_fact"]:
        lines.append(f"Not judged, because no fact was found in them: {plural(without, 'row')} of the forget set.")
    return lines


def _rate(rate: Mapping[str, Any] | None) -> str:
    """A leak rate of rounds with its one-sided bounds."""
    return "-" if not rate or not rate["of"] else f"{rate['rate']:.0%} [{rate['low']:.1%}, {rate['high']:.1%}]"
