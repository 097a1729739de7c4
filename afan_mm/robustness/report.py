"""How far an evaluation is; clean and robust figures side by side, and where the second evaluator
writes.
"""

import copy
import os.path as osp
import sys
import time
from contextlib import contextmanager
from datetime import timedelta
from io import StringIO
from typing import Any, Callable, Dict, Iterator, List, Union

import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.logging import MMLogger
from rich.console import Console
from rich.table import Table

from ..utils.bar import progress_bar


def merge(clean: Dict[str, Any], robust: Dict[str, Any]) -> Dict[str, Any]:
    """One dict of metrics: ``clean/<name>`` and ``robust/<name>``."""
    both = dict(clean=clean, robust=robust)
    return {
        f'{kind}/{name}': value for kind, metrics in both.items() for name, value in metrics.items()
    }


def scalars(metrics: Dict[str, Any]) -> Dict[str, float]:
    """The metrics that are single numbers, as plain floats."""
    plain = {
        name: np.asarray(value.detach().cpu() if torch.is_tensor(value) else value)
        for name, value in metrics.items()
    }
    return {
        name: float(value)
        for name, value in plain.items()
        if value.size == 1 and np.issubdtype(value.dtype, np.number)
    }


def render(clean: Dict[str, Any], robust: Dict[str, Any], title: str) -> str:
    """A table for the log."""
    clean, robust = scalars(clean), scalars(robust)
    table = Table('metric', title=title)
    for column in ('clean', 'robust', 'change'):
        table.add_column(column, justify='right')
    for name in clean:
        if name in robust:
            table.add_row(
                name,
                f'{clean[name]:.4g}',
                f'{robust[name]:.4g}',
                f'{robust[name] - clean[name]:+.4g}',
            )
    console = Console(file=StringIO(), width=100)
    console.print(table)
    return console.file.getvalue().rstrip()


def robust_names(evaluator: Union[dict, List[dict]]) -> List[dict]:
    """The config of the second evaluator: every path that a metric writes to (``out...``) gets
    '_robust' before its suffix.
    """
    metrics = evaluator if isinstance(evaluator, (list, tuple)) else [evaluator]
    if not all(isinstance(metric, dict) for metric in metrics):
        raise TypeError(
            'test_evaluator must be a dict or a list of dicts, since it is built twice, but got '
            f'{evaluator!r}'
        )
    return [
        {
            key: _renamed(value)
            if key.startswith('out') and isinstance(value, str)
            else copy.deepcopy(value)
            for key, value in metric.items()
        }
        for metric in metrics
    ]


def _renamed(path: str) -> str:
    stem, suffix = osp.splitext(path)
    return f'{stem}_robust{suffix}'


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
        with progress_bar() as bar:
            task = bar.add_task('robust evaluation, images', total=total, completed=done)
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
