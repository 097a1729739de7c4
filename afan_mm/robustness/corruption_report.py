"""The table and the picture of a corruption benchmark."""

from io import StringIO
from typing import Dict, List

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from .corruptions import Performance, headline, summarize

COLUMNS = 5


def plot(metric: str, clean: Dict[str, float], corrupted: Performance, path: str) -> None:
    """Write a panel for each corruption: the metric over the severity, from clean (0) on, beside
    the mean of all corruptions in grey.
    """
    names = list(dict.fromkeys(name for name, _ in corrupted))
    severities = sorted({severity for _, severity in corrupted})
    rows = -(-len(names) // COLUMNS)
    columns = min(COLUMNS, len(names))
    figure = Figure(figsize=(2.4 * columns + 0.6, 2.0 * rows + 0.9), layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat
    mean = [np.mean([corrupted[name, s][metric] for name in names]) for s in severities]
    start: List[float] = [clean[metric]]
    for axis, name in zip(axes, names):
        values = [corrupted[name, severity][metric] for severity in severities]
        axis.plot([0, *severities], start + mean, color='0.75')
        axis.plot([0, *severities], start + values, 'o-', color='tab:red', markersize=3)
        axis.set_title(name.replace('_', ' '), fontsize=9)
        axis.grid(alpha=0.3)
        axis.set_xticks([0, *severities])
    for axis in list(axes)[len(names) :]:
        axis.set_visible(False)
    figure.supxlabel('severity (0: clean); grey: mean of all corruptions', fontsize=9)
    figure.supylabel(metric, fontsize=9)
    figure.suptitle(headline(metric, summarize(clean, corrupted, metric)), fontsize=10)
    figure.savefig(path, dpi=120)


def render(clean: Dict[str, float], corrupted: Performance, metric: str) -> str:
    """A table for the log: a row for each corruption, a column for each severity."""
    figures = summarize(clean, corrupted, metric)
    title = headline(metric, figures)
    severities = sorted({severity for _, severity in corrupted})
    table = Table('corruption', title=title)
    for name in (*map(str, severities), 'mean'):
        table.add_column(name, justify='right')
    for corruption in dict.fromkeys(name for name, _ in corrupted):
        values = [corrupted[corruption, severity][metric] for severity in severities]
        table.add_row(corruption, *(f'{v:.4g}' for v in (*values, figures[corruption])))
    console = Console(file=StringIO(), width=100)
    console.print(table)
    return console.file.getvalue().rstrip()
