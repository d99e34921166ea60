"""`unlearner metrics`: every metric with its formula."""

SUMMARY = "list the metrics with their formulas"
OPTIONS = None
EXAMPLE = ""


def run() -> None:
    """Every metric, of ours and of installed packages, with formula and source, and the two aggregates."""
    from rich.table import Table

    from unlearner.commands.tables import out
    from unlearner.evaluation.metrics import METRICS, MORE_METRICS, find_metric
    from unlearner.plugins import load_plugins
    from unlearner.values import defaults

    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("name", "formula", "options", "source"):
        table.add_column(heading, overflow="fold")
    for name in [*METRICS, *MORE_METRICS, *load_plugins("unlearner.metrics")]:
        metric = find_metric(name)
        table.add_row(name, metric.formula, defaults(metric), metric.source)
    table.add_row(
        "model_utility",
        "harmonic mean of the paper's six over all sets but forget; 0 if any is 0",
        "",
        "arXiv 2410.08109",
    )
    table.add_row(
        "forget_efficacy", "1 − mean(rouge, probability, truth_ratio, cosine_similarity, entailment) on forget",
        "", "arXiv 2410.08109",
    )  # fmt: skip
    out().print(table)
