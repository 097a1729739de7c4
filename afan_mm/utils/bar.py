"""The bar of long commands."""

import sys
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


def progress_bar(**options: Any) -> Progress:
    """How much is done, the time that passed, and what is left; on stderr.

    Args:
        options: Of rich's ``Progress``.
    """
    return Progress(
        TextColumn('{task.description}'),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn('passed,'),
        TimeRemainingColumn(),
        TextColumn('left'),
        console=Console(file=sys.stderr),
        **options,
    )
