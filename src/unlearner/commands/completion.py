"""`unlearner completion`: a script with which a shell completes commands and options."""

from dataclasses import dataclass, field
from types import ModuleType
from typing import Literal

from unlearner.commands import (
    attacks,
    audit,
    bench,
    compare,
    demo,
    evaluate,
    finetune,
    forget,
    methods,
    metrics,
    negate,
    prepare,
    probe,
    purge,
    report,
    repselect,
)


@dataclass(kw_only=True)
class CompletionConfig:
    """Print a script with which a shell completes the commands of unlearner and their options."""

    shell: Literal["bash", "zsh", "fish"] = field(metadata={"leading": True})
    """The shell; also given without the flag, as the first argument."""


SUMMARY = "print a script that completes commands and options in bash, zsh or fish"
OPTIONS = CompletionConfig
EXAMPLE = """\
Examples:
  unlearner completion bash > ~/.local/share/bash-completion/completions/unlearner
  unlearner completion zsh > ~/.zfunc/_unlearner
  unlearner completion fish > ~/.config/fish/completions/unlearner.fish"""
OTHERS: dict[str, ModuleType] = {
    module.__name__.rpartition(".")[2]: module
    for module in (
        demo, probe, prepare, finetune, forget, negate, repselect, compare, evaluate, audit, bench, report, purge,
        methods, metrics, attacks,
    )
}  # fmt: skip
"""Every command but this one, by name."""


def run(config: CompletionConfig) -> None:
    """Print the script that tyro makes of the options of all commands."""
    import tyro

    commands = {name: module.OPTIONS or module.run for name, module in OTHERS.items()}
    try:
        tyro.extras.subcommand_cli_from_dict(
            commands, prog="unlearner", args=["--tyro-print-completion", config.shell]
        )  # fmt: skip
    except SystemExit as ended:
        if ended.code:
            raise
