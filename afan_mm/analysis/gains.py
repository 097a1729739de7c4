"""The difference of two arms in several experiments, side by side: sizes of the data, or tasks."""

from typing import Any, Dict, List, NamedTuple, Sequence

import numpy as np

from ..experiments.report import interval, number, p_value, table
from ..experiments.statistics import Comparison, compare
from ..visualization.canvas import new_figure, render

LINE = 44  # pixels of height for each experiment


class Gain(NamedTuple):
    """One experiment.

    Attributes:
        label: What it is called.
        differences: One for each seed that both arms have.
        compared: Their mean and interval.
    """

    label: str
    differences: List[float]
    compared: Comparison


def find_gain(
    label: str, reports: Sequence[Dict[str, Any]], arm: str, reference: str, metric: str
) -> Gain:
    """An arm minus another, paired by seed.

    Args:
        label: What to call it.
        reports: Of one experiment, as ``report.json`` holds them: arms that were run at different
            times are read as one.
        arm, reference: Their names.
        metric: Full name.

    Raises:
        ValueError: If a report lacks the metric, the reports are of other images or differ in what
            they share, or the arms have no seed in common.
    """
    _check_images(label, reports)
    ours, theirs = (_figures(label, reports, name, metric) for name in (arm, reference))
    compared = compare(arm, reference, ours, theirs)
    if not compared.seeds:
        raise ValueError(
            f'{label} must have {arm} and {reference} with seeds in common, but {arm} has '
            f'{sorted(ours) or "none"} and {reference} has {sorted(theirs) or "none"}'
        )
    return Gain(label, [ours[seed] - theirs[seed] for seed in compared.seeds], compared)


def gain_table(gains: Sequence[Gain]) -> str:
    """In Markdown: difference, 95 % interval, p of the paired t-test, not corrected."""
    rows = [
        [
            gain.label,
            str(len(gain.differences)),
            number(gain.compared.mean, sign=True),
            interval(dict(zip(('low', 'high'), gain.compared.interval)), sign=True),
            p_value(gain.compared.p_t),
            number(gain.compared.detectable),
        ]
        for gain in gains
    ]
    head = ['', 'seeds', 'difference', '95 % interval', 'p (t)', 'detectable']
    return '\n'.join(table(head, rows))


def draw_gains(gains: Sequence[Gain], metric: str) -> np.ndarray:
    """A line for each experiment: a dot for each seed, the mean as a square with its 95 % interval,
    and a vertical line at no difference.

    Returns:
        (H, W, 3) RGB in uint8.
    """
    figure = new_figure(640, 110 + LINE * len(gains))
    axes = figure.subplots()
    for place, gain in enumerate(gains):
        axes.plot(gain.differences, [place] * len(gain.differences), 'o', color='C0', alpha=0.4)
        axes.plot(gain.compared.mean, place + 0.22, 's', color='k', markersize=5)
        axes.plot(gain.compared.interval, [place + 0.22] * 2, color='k')
    axes.axvline(0, color='gray', linestyle='--')
    axes.set_yticks(
        range(len(gains)), [f'{gain.label} ({len(gain.differences)} seeds)' for gain in gains]
    )
    axes.set_ylim(len(gains) - 0.4, -0.6)  # the first on top
    compared = {f'{gain.compared.arm} − {gain.compared.reference}' for gain in gains}
    axes.set_xlabel(f'{metric}, {compared.pop() if len(compared) == 1 else "differences"}')
    axes.grid(axis='x', alpha=0.3)
    figure.suptitle('a dot for each seed; mean and 95 % interval', fontsize=9)
    figure.tight_layout()
    return render(figure)


def _check_images(label: str, reports: Sequence[Dict[str, Any]]) -> None:
    measured = [(report['half'], ' and '.join(report['images'])) for report in reports]
    if len(set(measured)) > 1:
        words = '; '.join(f'{half} ({images})' for half, images in dict.fromkeys(measured))
        raise ValueError(f'the reports of {label} must be of the same images, but are of {words}')


def _figures(
    label: str, reports: Sequence[Dict[str, Any]], arm: str, metric: str
) -> Dict[int, float]:
    found: Dict[int, float] = {}
    for report in reports:
        if metric not in report['metrics']:
            names = ', '.join(report['metrics']) or 'none'
            raise ValueError(f'metric must be among {names} in {label}, but got {metric!r}')
        for seed, value in report['metrics'][metric]['values'].get(arm, {}).items():
            if found.setdefault(int(seed), value) != value:
                raise ValueError(
                    f'the reports of {label} must agree, but {arm} has {metric} '
                    f'{found[int(seed)]} and {value} with seed {seed}'
                )
    return found
