"""What a user should know about the data before training: counted, not guessed."""

from collections.abc import Mapping

from unlearner.console import warn
from unlearner.data.views import View


def warn_truncated(views: Mapping[str, View], max_length: int) -> None:
    """Say how many rows of each view were cut at max_length."""
    for name, view in views.items():
        cut = int((~view.table.closed).sum())
        if cut:
            warn(
                f"{cut} of {len(view.table)} {name} rows are longer than --max-length {max_length} tokens and were cut"
            )
