"""How far an evaluation is, and how long it will take."""

import sys
import time
from contextlib import contextmanager
from datetime import timedelta
from typing import Callable, Iterator

from mmengine.dist import is_main_process
from mmengine.logging import MMLogger
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


@contextmanager
def progress(
    logger: MMLogger, total: int, done: int, interval: int
) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, elsewhere a line in the log every ``interval`` images; nothing in the
    other processes.

    Args:
        total: Images of this process.
        done: How many of them an interrupted run has done.

    Yields:
        Callable: To be called with the number of images done.
    """
    if not is_main_process():
        yield lambda count: None
    elif sys.stderr.isatty():
        columns = (
            TextColumn('robust evaluation'),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn('images,'),
            TimeElapsedColumn(),
            TextColumn('passed,'),
            TimeRemainingColumn(),
            TextColumn('left'),
        )
        with Progress(*columns, console=Console(file=sys.stderr)) as bar:
            task = bar.add_task('', total=total, completed=done)
            yield lambda count: bar.update(task, completed=count)
    else:
        yield _log_lines(logger, total, done, interval)


def _log_lines(logger: MMLogger, total: int, done: int, interval: int) -> Callable[[int], None]:
    begin, last = time.time(), [done]

    def update(count: int) -> None:
        if count < total and count // interval == last[0] // interval:
            return
        last[0] = count
        left = (time.time() - begin) / (count - done) * (total - count)
        logger.info(
            f'robust evaluation: {count}/{total} images, {timedelta(seconds=round(left))} left'
        )

    return update
