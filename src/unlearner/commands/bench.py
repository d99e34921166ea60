"""`unlearner bench`: a scenario of the paper: every method, split and seed, and the table of all."""

from unlearner.config import BenchConfig
from unlearner.errors import plural

SUMMARY = "run a scenario of the paper: every method, split and seed, with a table of the results"
OPTIONS = BenchConfig
EXAMPLE = """\
Examples:
  unlearner bench fictitious --output runs/bench
  unlearner bench fictitious --data path/to/tofu --model path/to/model --methods ME+GD GA+GD --lora \\
    --output runs/tofu"""


def run(config: BenchConfig) -> None:
    """Run what is left; print the table, what failed, where everything is. Exit code 1 where cells failed."""
    from unlearner.bench.bench import bench
    from unlearner.commands.tables import out, print_verdict
    from unlearner.results.layout import BenchDirectory

    result = bench(config)
    console = out()
    console.print(result.table, markup=False, soft_wrap=True)
    if len(result.failed) < result.cells:
        print_verdict([result.output])
    made = BenchDirectory(result.output)
    for what, file in (("Results", made.results("csv")), ("Table", made.table("tex")), ("Report", made.report)):
        if file.is_file():
            console.print(f"{what}: {file}", style="green", markup=False, soft_wrap=True)
    if result.failed:
        console.print(
            f"{plural(len(result.failed), 'cell')} failed; fix the cause and repeat the command, which runs only "
            "what is left.",
            style="red", markup=False, soft_wrap=True,
        )  # fmt: skip
        raise SystemExit(1)
