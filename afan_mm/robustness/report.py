"""Clean and robust figures side by side, and where the second evaluator writes."""

import copy
import json
import os
import os.path as osp
from io import StringIO
from typing import Any, Dict, List, Union

import numpy as np
import torch
from rich.console import Console
from rich.table import Table


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


def write_json(path: str, content: Dict[str, Any]) -> None:
    """The whole file or none of it."""
    with open(path + '.part', 'w') as file:
        json.dump(content, file, indent=2)
    os.replace(path + '.part', path)


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
