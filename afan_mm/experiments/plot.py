"""The picture of a report."""

import math
from typing import Any, Dict, List, Optional, Tuple

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .results import find_name

COLUMNS = 3
PANEL = (3.4, 3.1)  # inches

Curve = List[Tuple[int, Optional[float]]]  # None where it was not finite


def plot(results: Dict[str, Any], path: str) -> None:
    """A panel for each metric: a dot for each seed, lines that join the arms of a seed, and beside
    them the mean of each arm with its 95 % interval.

    Args:
        results: Of :func:`~afan_mm.experiments.results.collect`.
    """
    names = list(results['metrics'])
    rows, columns = -(-len(names) // COLUMNS) or 1, min(COLUMNS, len(names)) or 1
    figure = Figure(figsize=(PANEL[0] * columns, PANEL[1] * rows), layout='constrained')
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis, name in zip(axes, names):
        draw_metric(axis, results['metrics'][name], results['seeds'])
        primary = ', primary' if name == results['primary'] else ''
        better = 'larger' if results['metrics'][name]['larger_is_better'] else 'smaller'
        axis.set_title(f'{name}\n({better} is better{primary})', fontsize=9)
    for axis in axes[len(names) :]:
        axis.set_visible(False)
    legend = 'dots are seeds, lines join a seed;', 'mean and 95 % interval'
    figure.suptitle(
        '\n'.join((results['experiment'], (' ' if columns > 1 else '\n').join(legend))), fontsize=9
    )
    figure.savefig(path, dpi=120)


def draw_metric(axis: Axes, metric: Dict[str, Any], seeds: List[int]) -> None:
    """One panel."""
    arms = list(metric['values'])
    colors = colormaps['viridis']
    for index, seed in enumerate(seeds):
        points = [(x, metric['values'][arm].get(seed, math.nan)) for x, arm in enumerate(arms)]
        color = colors(index / max(1, len(seeds) - 1) * 0.9)
        axis.plot(*zip(*points), 'o-', color=color, alpha=0.6, linewidth=0.8, markersize=3.5)
    for x, arm in enumerate(arms):
        about = metric['summary'].get(arm)
        if about is None:
            continue
        axis.plot([x + 0.18], [about['mean']], 'ks', markersize=5)
        if not math.isnan(about['low']):
            axis.vlines(x + 0.18, about['low'], about['high'], colors='k', linewidth=1.5)
    axis.set_xticks(range(len(arms)), arms, rotation=35, ha='right', fontsize=8)
    axis.set_xlim(-0.4, len(arms) - 0.5)
    axis.tick_params(axis='y', labelsize=8)
    axis.grid(axis='y', alpha=0.3)


def curves(results: Dict[str, Any]) -> Dict[str, List[Curve]]:
    """By arm the primary metric over the iterations, a curve for each seed whose validations have
    it: it may be of another measure, which is taken at the end alone.
    """
    found: Dict[str, List[Curve]] = {}
    for arm, runs in results['training'].items():
        for training in runs.values():
            points = training.get('curve') or []
            name = find_name(results['primary'], list(points[0])) if points else None
            if name is not None:
                curve = [(each['iteration'], each.get(name)) for each in points]
                found.setdefault(arm, []).append(curve)
    return found


def plot_curve(results: Dict[str, Any], path: str) -> None:
    """The primary metric on the selection images over the iterations, a line for each seed."""
    figure = Figure(figsize=(5, 3.4), layout='constrained')
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    found = curves(results)
    for index, arm in enumerate(results['training']):
        for number, curve in enumerate(found.get(arm, [])):
            iterations, values = zip(*curve)
            label = None if number else arm
            axis.plot(iterations, values, color=f'C{index}', alpha=0.7, label=label)
    axis.set_xlabel('iteration')
    axis.set_ylabel(f'{results["primary"]}, selection images')
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=120)
