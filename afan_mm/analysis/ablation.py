"""Ablation figures from the report of an experiment: Figures 4 to 6 of the paper."""

from typing import Any, Dict, List, NamedTuple, Optional, Sequence

import numpy as np

from ..visualization.canvas import new_figure, render

STOCK = 'stock'
BEST = '#D55E00'
TITLES = dict(
    steps='PGD steps n',
    strengths='number of strengths k',
    location='location',
    step_size=r'step size $\alpha$ x 255',
    length="length, of the feature's own",
)


class Point(NamedTuple):
    """A setting of a panel.

    Attributes:
        setting: As the axis shows it.
        values: The metric by seed.
    """

    setting: str
    values: Dict[str, float]


def find_panels(results: Dict[str, Any], metric: Optional[str] = None) -> Dict[str, List[Point]]:
    """The panels of an experiment, by what they vary.

    An arm ``<panel>-<setting>`` that is no reference is a point of a panel; so are the arms of a
    grid over one key, ``<arm>-<key>=<setting>``. Settings keep the order of the arms.

    Args:
        results: Of :func:`~afan_mm.experiments.results.collect`, as ``report.json`` holds it.
        metric: Full name. Defaults to None, the primary one.

    Raises:
        ValueError: If there is no such metric, or no panel.
    """
    values = _values(results, metric)
    panels: Dict[str, List[Point]] = {}
    for arm, by_seed in values.items():
        panel, sign, setting = arm.partition('-')
        if sign and results['arms'][arm]['reference'] is None and by_seed:
            setting = setting.rpartition('=')[2]
            panels.setdefault(panel, []).append(Point(setting, by_seed))
    if not panels:
        raise ValueError(
            "arms must be named '<panel>-<setting>' and have a stored run, but got "
            f'{", ".join(values) or "none"}'
        )
    return panels


def draw_ablation(results: Dict[str, Any], metric: Optional[str] = None) -> np.ndarray:
    """A panel for each factor: the mean over the seeds as a line, its standard deviation as bars,
    each seed as a dot, the best setting in red, by the seeds that all of the panel have; the stock
    model as a dashed line with its standard deviation as a band. All panels have one vertical axis.

    Args:
        results, metric: See :func:`find_panels`.

    Returns:
        (H, W, 3) RGB in uint8.
    """
    panels = find_panels(results, metric)
    metric = metric or results['primary']
    larger = results['metrics'][metric]['larger_is_better']
    stock = list(_values(results, metric).get(STOCK, {}).values())
    figure = new_figure(300 * len(panels) + 80, 380)
    columns = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (panel, points) in zip(columns, panels.items()):
        _draw_panel(axes, points, larger)
        axes.set_xlabel(TITLES.get(panel, panel))
        if stock:
            spread = float(np.std(stock, ddof=1)) if len(stock) > 1 else 0.0
            axes.axhline(np.mean(stock), color='gray', linestyle='--', label=STOCK)
            axes.axhspan(np.mean(stock) - spread, np.mean(stock) + spread, color='gray', alpha=0.15)
        axes.grid(alpha=0.3)
    columns[0].set_ylabel(f'{metric} ({results["half"]} images)')
    if stock:
        columns[0].legend(fontsize=8)
    seeds = ', '.join(map(str, results['seeds']))
    figure.suptitle(
        f'{results["experiment"]}: mean and standard deviation over seeds {seeds}', fontsize=9
    )
    figure.tight_layout()
    return render(figure)


def _draw_panel(axes: Any, points: List[Point], larger: bool) -> None:
    places = range(len(points))
    figures = [list(point.values.values()) for point in points]
    means = [float(np.mean(each)) for each in figures]
    spreads = [float(np.std(each, ddof=1)) if len(each) > 1 else 0.0 for each in figures]
    axes.errorbar(places, means, spreads, marker='o', capsize=3, color='C0')
    for place, each in zip(places, figures):
        axes.plot([place] * len(each), each, '.', color='C0', alpha=0.4, markersize=4)
    best = best_of(points, larger)
    if best is not None:
        axes.plot(best, means[best], 'o', color=BEST, zorder=3)
    settings = [point.setting for point in points]
    slant = dict(rotation=30, ha='right') if max(map(len, settings)) > 4 else {}
    axes.set_xticks(list(places), settings, fontsize=8, **slant)
    axes.margins(x=0.1)


def best_of(points: Sequence[Point], larger: bool) -> Optional[int]:
    """The place of the best mean over the seeds that all points have, since seeds differ by more
    than settings do; None where there is no such seed.
    """
    seeds = set.intersection(*(set(point.values) for point in points))
    if not seeds:
        return None
    means = [np.mean([point.values[seed] for seed in seeds]) for point in points]
    return int(np.argmax(means) if larger else np.argmin(means))


def _values(results: Dict[str, Any], metric: Optional[str]) -> Dict[str, Dict[str, float]]:
    name = metric or results['primary']
    if name not in results['metrics']:
        raise ValueError(
            f'metric must be among {", ".join(results["metrics"]) or "none"}, but got {name!r}'
        )
    return results['metrics'][name]['values']
