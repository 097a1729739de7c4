"""The figures of a robustness curve as a table and as a picture."""

from collections import defaultdict
from io import BytesIO
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..utils.errors import UsageError

FORMATS = tuple(sorted(FigureCanvasAgg.get_supported_filetypes()))
# told apart by the colour-blind, too
COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9')
MARKERS = 'osD^vP'

Entry = Dict[str, Any]  # of robust.json, with 'label' and 'epsilon' (in 1/255)
Curves = Dict[str, Dict[str, Any]]


def figures(entries: Sequence[Entry], metric: Optional[str] = None) -> Tuple[str, Curves]:
    """The values of one metric: its name, and for each label the clean values and the robust ones
    by epsilon.

    Args:
        entries: One for each evaluation. A figure that was not finite is None there, as JSON has no
            NaN, and NaN here.
        metric: Its name. Defaults to the first that ends in mIoU or mAP.

    Raises:
        UsageError: With the metrics there are, if the one asked for is not among them.
    """
    names = sorted(set.intersection(*(set(entry['robust']) for entry in entries)))
    if metric is None:
        metric = next(
            (name for name in names if name.endswith(('mIoU', 'mAP'))), names[0] if names else None
        )
    if metric not in names:
        raise UsageError(f'--metric must be one of {", ".join(names)}, but got {metric}')
    curves: Curves = defaultdict(lambda: dict(clean=[], robust=defaultdict(list)))
    for entry in entries:
        curve = curves[entry['label']]
        curve['robust'][entry['epsilon']].append(_number(entry['robust'][metric]))
        if entry['epsilon'] == entries[0]['epsilon']:  # once for each checkpoint
            curve['clean'].append(_number(entry['clean'][metric]))
    return metric, curves


def _number(value: Optional[float]) -> float:
    return float('nan') if value is None else value


def _finite(values: Sequence[float]) -> np.ndarray:
    return np.array([value for value in values if np.isfinite(value)])


def caption(metric: str, entries: Sequence[Entry]) -> str:
    """What the figures are and how the images were attacked. All entries but those of epsilon 0
    have the same number of steps.
    """
    protocol = entries[-1]['protocol']
    if protocol['attack'] == 'autoattack':  # chooses steps and their size itself
        attack = 'AutoAttack, standard, on the pixels'
    else:
        attack = f'{protocol["attack"].upper()}-{protocol["num_steps"]} on the pixels'
        if protocol['epsilon']:
            ratio = protocol['step_size'] / protocol['epsilon']
            attack += f", step {ratio:.4g} x epsilon (the ratio of the paper's protocol)"
    return f'{metric} on {entries[0]["num_images"]} images; {attack}'


def spread(values: Sequence[float]) -> str:
    """'mean', or 'mean ± standard deviation' of several seeds (n - 1); of those that have the
    figure, and '-' where none has it.
    """
    found = _finite(values)
    if not len(found):
        return '-'
    deviation = f' ± {np.std(found, ddof=1):.2g}' if len(found) > 1 else ''
    counted = f' ({len(found)} of {len(values)})' if len(found) < len(values) else ''
    return f'{np.mean(found):.4g}{deviation}{counted}'


def table(about: str, curves: Curves) -> str:
    """Markdown: a row for each label, a column for each strength."""
    epsilons = sorted({epsilon for curve in curves.values() for epsilon in curve['robust']})
    rows = [['', 'seeds', 'clean', *(f'{epsilon:g}/255' for epsilon in epsilons)]]
    for label, curve in curves.items():
        rows.append(
            [
                label,
                str(len(curve['clean'])),
                spread(curve['clean']),
                *(spread(curve['robust'][e]) for e in epsilons),
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [
        '| ' + ' | '.join(cell.ljust(width) for cell, width in zip(row, widths)) + ' |'
        for row in rows
    ]
    lines.insert(1, '|' + '|'.join('-' * (width + 2) for width in widths) + '|')
    if any(len(curve['clean']) > 1 for curve in curves.values()):
        about += '; mean ± standard deviation of the seeds'
    return '\n'.join([about, '', *lines])


def plot(metric: str, about: str, curves: Curves, file_format: str) -> bytes:
    """A line for each label, with a band of one standard deviation where there are several seeds
    and a gap where none has the figure; the file as bytes.
    """
    # The names stand beside the axes: the longer they are, the wider the picture.
    figure = Figure(figsize=(7 + 0.085 * max(map(len, curves)), 4.5), layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    labels = []
    for index, (label, curve) in enumerate(curves.items()):
        colour = COLOURS[index % len(COLOURS)]
        robust = {0.0: curve['clean'], **curve['robust']}
        epsilons = sorted(robust)
        found = [_finite(robust[e]) for e in epsilons]
        mean = np.array([each.mean() if len(each) else np.nan for each in found])
        axes.plot(epsilons, mean, color=colour, marker=MARKERS[index % len(MARKERS)])
        if len(curve['clean']) > 1:
            std = np.array([each.std(ddof=1) if len(each) > 1 else 0.0 for each in found])
            axes.fill_between(
                epsilons, mean - std, mean + std, color=colour, alpha=0.2, linewidth=0
            )
        labels.append(([0.0, *_finite(mean)][-1], label, colour))
    axes.set(xlabel='epsilon of the attack, in 1/255', ylabel=metric, ylim=(0, None))
    axes.set_title(about, fontsize=9, loc='left')
    axes.spines[['top', 'right']].set_visible(False)
    axes.grid(alpha=0.3)
    _label_ends(axes, labels)
    picture = BytesIO()
    figure.savefig(picture, format=file_format, dpi=120)
    return picture.getvalue()


def _label_ends(axes: Axes, labels: List[Tuple[float, str, str]]) -> None:
    """The name of each line at its right end, moved up where it would lie on another."""
    top = axes.get_ylim()[1]
    lowest = 0.0
    for height, label, colour in sorted(labels):
        height = max(height, lowest)
        lowest = height + 0.06 * top
        axes.annotate(
            label,
            (1.01, height),
            xycoords=('axes fraction', 'data'),
            color=colour,
            va='center',
            annotation_clip=False,
        )
